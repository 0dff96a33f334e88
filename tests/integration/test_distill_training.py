"""Training of a tiny model with real parts: it goes on after a kill to the same bits, and engines agree."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import aiohttp
import msgspec
import pytest
from bench.distill.run import adapted
from tests.integration.distill.laboratory import Laboratory, needs_training, open_laboratory, samples

from isthmus.distill.parity import PROBES, Reader, probe
from isthmus.distill.recipe import PROJECTIONS, OnPolicy, Recipe, Training
from isthmus.distill.training.events import Failed, Finished, Note, Step
from isthmus.distill.training.job import Ask, Lesson, Prepared, Workplace
from isthmus.distill.training.run import parity_of
from isthmus.distill.training.schedule import shared_prefix
from isthmus.distill.training.student import EVIDENCE, GGUF, SAFETENSORS, Evidence

pytestmark = needs_training

TRAIN = Training(learning_rate=5e-3, epochs=4, batch=4, checkpoint_every=5)

TOKENS = 4


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    with open_laboratory(tmp_path_factory.mktemp("laboratory")) as opened:
        yield opened


@pytest.fixture(scope="module")
def unbroken(laboratory: Laboratory) -> Workplace:
    """A training that nothing disturbed."""
    work = laboratory.begin(
        Recipe(name="tiny", student="qwen2.gguf", dataset="-", train=TRAIN), to="unbroken"
    )
    laboratory.copy(work, "begun")
    status, events = laboratory.run("train", work)
    assert (status, events[-1]) == (0, Finished()), events[-1]
    losses = [event.loss for event in events if isinstance(event, Step)]
    assert len(losses) == 24
    assert losses[-1] < losses[0] / 2
    return work


def test_the_student_says_how_it_was_made(unbroken: Workplace) -> None:
    evidence = unbroken.read(unbroken.student / EVIDENCE, Evidence)
    assert evidence.steps == len(evidence.losses) == 24
    assert evidence.lessons == 24
    assert set(evidence.files) == {it.name for it in unbroken.student.iterdir()} - {EVIDENCE}
    assert str(unbroken.folder.parent) not in (unbroken.student / "adapter_config.json").read_text()


def test_a_training_that_is_killed_goes_on_to_the_same_bits(
    laboratory: Laboratory, unbroken: Workplace
) -> None:
    work = Workplace(laboratory.folder / "begun")
    # Between two checkpoints, and then again right after it has gone on.
    for step in (8, 9):
        status, events = laboratory.run("train", work, kill_at=step)
        assert status == -9
        assert not work.student.exists()
    status, events = laboratory.run("train", work, kill_at=11)
    assert Note("Going on behind step 5 of 24.") in events
    newest = max(work.checkpoints.iterdir())
    assert newest.name == "step-0000010"
    damaged = newest / "tensors.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    status, events = laboratory.run("train", work)
    assert status == 0
    assert Note("Going on behind step 5 of 24.") in events, "the damaged one is passed over"
    for name in (SAFETENSORS, GGUF):
        assert (work.student / name).read_bytes() == (unbroken.student / name).read_bytes()
    losses = [it.read(it.student / EVIDENCE, Evidence).losses for it in (work, unbroken)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
async def test_llama_cpp_says_what_peft_says(laboratory: Laboratory, kind: str) -> None:
    train = msgspec.structs.replace(TRAIN, targets=PROJECTIONS)
    work = laboratory.begin(Recipe(name=kind, student=kind, dataset="-", train=train), to=f"all-of-{kind}")
    assert laboratory.run("train", work)[0] == 0
    conversations = [sample["input"] for sample in samples(6)]
    for adapter in (None, work.student):
        theirs = laboratory.speak(kind, conversations, TOKENS, adapter)
        with adapted(laboratory.folder / f"{kind}.gguf", adapter and adapter / GGUF) as address:
            ours = [await _asked(address, messages) for messages in conversations]
        for said, other in zip(ours, theirs, strict=True):
            assert said["tokens"] == other["tokens"]
            # The engine is silent on tokens that are a piece of a letter, and keeps keys and values in half
            # precision.
            probable = dict(zip(other["tokens"], other["logprobs"], strict=True))
            for token, logprob in said["logprobs"].items():
                assert logprob == pytest.approx(probable[token], abs=0.02)
    # The adapter is what makes the difference.
    assert theirs != laboratory.speak(kind, conversations, TOKENS, None)


async def _asked(address: str, messages: list[dict[str, str]]) -> dict[str, Any]:
    async with aiohttp.ClientSession(address) as session:

        async def post(path: str, body: dict[str, Any]) -> Any:
            async with session.post(path, json=body) as answer:
                return await answer.json()

        prompt = (await post("/apply-template", {"messages": messages}))["prompt"]
        asked = {"prompt": prompt, "temperature": 0, "n_predict": TOKENS, "ignore_eos": True}
        said = await post("/completion", {**asked, "n_probs": 1, "return_tokens": True})
    told = said["completion_probabilities"]
    assert told
    return {"tokens": said["tokens"], "logprobs": {it["id"]: it["logprob"] for it in told}}


@pytest.mark.parametrize("differ", [False, True])
async def test_an_engine_that_reads_otherwise_is_found(
    laboratory: Laboratory, unbroken: Workplace, differ: bool
) -> None:
    """A blank in place of a line's end, in the template."""
    said, instead = b"<|im_start|>assistant\n' }}", b"<|im_start|>assistant ' }}"
    content = (laboratory.folder / "qwen2.gguf").read_bytes()
    assert said in content
    other = laboratory.folder / "other.gguf"
    other.write_bytes(content.replace(said, instead) if differ else content)
    parity = await parity_of(unbroken, unbroken.read_lines(unbroken.asks, Ask), other)
    assert parity.compared == 24 + len(PROBES)
    assert len(parity.differing) == (parity.compared if differ else 0)
    probes = unbroken.read(unbroken.student / EVIDENCE, Evidence).probes
    assert [it.id for it in probes] == list(PROBES)
    with adapted(other, unbroken.student / GGUF) as address:
        parity = await probe(Reader(address, ""), probes)
    assert len(parity.differing) == (len(PROBES) if differ else 0)


def test_a_full_disk_keeps_the_last_checkpoint(laboratory: Laboratory, unbroken: Workplace) -> None:
    work = laboratory.copy(unbroken, "full")
    (work.student / EVIDENCE).unlink()
    for path in work.checkpoints.iterdir():
        if path.name == "step-0000024":
            (path / "state.json").unlink()
    status, events = laboratory.run("train", work, file_bytes=10_000)
    assert status == 1
    assert isinstance(events[-1], Failed)
    assert events[-1].code == "disk_full"
    assert "step 24" in events[-1].message
    assert Note("Going on behind step 20 of 24.") in events
    assert laboratory.run("train", work)[0] == 0
    assert (work.student / SAFETENSORS).read_bytes() == (unbroken.student / SAFETENSORS).read_bytes()


def test_a_loss_that_is_no_number_stops_it(laboratory: Laboratory) -> None:
    train = msgspec.structs.replace(TRAIN, learning_rate=1e38)
    work = laboratory.begin(Recipe(name="wild", student="qwen2", dataset="-", train=train), to="wild")
    status, events = laboratory.run("train", work)
    assert status == 1
    assert isinstance(events[-1], Failed)
    assert events[-1].code == "loss_not_finite"
    assert not work.student.exists()


def test_a_limit_stops_it_with_a_checkpoint(laboratory: Laboratory, unbroken: Workplace) -> None:
    work = laboratory.begin(
        Recipe(
            name="limited",
            student="qwen2.gguf",
            dataset="-",
            train=msgspec.structs.replace(
                TRAIN, limits=msgspec.structs.replace(TRAIN.limits, memory_gb=0.01)
            ),
        ),
        to="limited",
    )
    status, events = laboratory.run("train", work)
    assert status == 1
    assert isinstance(events[-1], Failed)
    assert events[-1].code == "memory_limit"
    assert [path.name for path in work.checkpoints.iterdir()] == ["step-0000001"]


def test_a_student_learns_from_a_teachers_probabilities(laboratory: Laboratory, unbroken: Workplace) -> None:
    """Its own answers are judged, so that the loss is the distance from the teacher."""
    gkd = OnPolicy(teacher="taught", share=0.5, beta=0.5, max_answer=4)
    train = msgspec.structs.replace(TRAIN, method="gkd", gkd=gkd)
    laboratory.merge(unbroken.student, "taught")
    work = laboratory.begin(Recipe(name="pupil", student="qwen2", dataset="-", train=train), to="pupil")
    copy = laboratory.copy(work, "pupil-broken")
    status, events = laboratory.run("train", work)
    assert status == 0, events[-1]
    losses = [event.loss for event in events if isinstance(event, Step)]
    assert losses[-1] < losses[0] / 2
    assert all(loss >= 0 for loss in losses)
    assert laboratory.run("train", copy, kill_at=12)[0] == -9
    assert laboratory.run("train", copy)[0] == 0
    assert (copy.student / SAFETENSORS).read_bytes() == (work.student / SAFETENSORS).read_bytes()


@pytest.mark.parametrize("method", ["sft", "gkd"])
def test_two_that_train_together_come_to_what_one_comes_to(
    laboratory: Laboratory, unbroken: Workplace, method: Literal["sft", "gkd"]
) -> None:
    """The last batch of an epoch is of one lesson: one of the two has nothing to do then."""
    laboratory.merge(unbroken.student, "strong")
    gkd = OnPolicy(teacher="strong", max_answer=4) if method == "gkd" else None
    train = msgspec.structs.replace(TRAIN, batch=4, epochs=2, method=method, gkd=gkd)
    alone = laboratory.begin(
        Recipe(name="team", student="qwen2", dataset="-", train=train), 21, to=f"alone-{method}"
    )
    team = laboratory.copy(alone, f"team-{method}")
    assert laboratory.run("train", alone)[0] == 0
    status, events = laboratory.run("team", team)
    assert status == 0, events[-1]
    one, two = (it.read(it.student / EVIDENCE, Evidence) for it in (alone, team))
    assert two.losses == pytest.approx(one.losses, rel=1e-4)
    assert (two.tokens, two.steps) == (one.tokens, one.steps)
    numbers = [laboratory.numbers(it.student / SAFETENSORS) for it in (alone, team)]
    assert numbers[1] == pytest.approx(numbers[0], abs=1e-3 * max(map(abs, numbers[0])))


def test_what_is_read_once_counts_for_every_lesson(laboratory: Laboratory, unbroken: Workplace) -> None:
    assert shared_prefix(unbroken.read_lines(unbroken.lessons, Lesson)) > 10
    together, alone = laboratory.told("gradients", unbroken.folder)
    assert together["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    largest = max(map(abs, alone["gradients"]))
    assert largest > 0
    assert together["gradients"] == pytest.approx(alone["gradients"], abs=1e-4 * largest)


@pytest.mark.parametrize("beta", [0, 0.1, 0.5, 0.9, 1])
def test_the_divergence_is_that_of_the_paper(laboratory: Laboratory, beta: float) -> None:
    teacher, student = [[1.0, 0.0, -2.0], [0.5, 0.5, 3.0]], [[0.0, 1.0, 0.0], [-1.0, 2.0, 0.1]]
    measured = laboratory.told("weigh", laboratory.folder, teacher=teacher, student=student, beta=beta)
    expected = 0.0
    for p, q in zip(map(_softmax, teacher), map(_softmax, student), strict=True):
        mean = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
        if beta in (0, 1):
            expected += _kl(p, q) if beta == 0 else _kl(q, p)
        else:
            expected += beta * _kl(p, mean) + (1 - beta) * _kl(q, mean)
    assert measured == pytest.approx(expected, rel=1e-5)


def _softmax(logits: list[float]) -> list[float]:
    powers = [math.exp(it) for it in logits]
    return [it / sum(powers) for it in powers]


def _kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_what_was_prepared_is_told(unbroken: Workplace) -> None:
    prepared = unbroken.read(unbroken.prepared, Prepared)
    assert prepared.device == "cpu"
    assert prepared.left_out == {}
    assert Path(prepared.model).is_dir()


def test_trl_trains_the_same_lessons(laboratory: Laboratory) -> None:
    """Its way is for GPUs; that it fits TRL's interface shows on a CPU, too."""
    work = laboratory.begin(Recipe(name="tiny", student="qwen2", dataset="-", train=TRAIN), to="by-trl")
    assert laboratory.run("trl", work, kill_at=12)[0] == -9
    status, events = laboratory.run("trl", work)
    assert status == 0, events[-1]
    assert Note("Going on from checkpoint-10.") in events
    losses = work.read(work.student / EVIDENCE, Evidence).losses
    assert losses[10:] == [event.loss for event in events if isinstance(event, Step)]
    assert len(losses) == 24
    assert losses[-1] < losses[0] / 2
