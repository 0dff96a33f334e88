"""A training from the outside: its folder, weights, samples and processes, and what goes wrong with them."""

from __future__ import annotations

import fcntl
import stat
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from isthmus.cli import main
from isthmus.core.errors import IsthmusError
from isthmus.core.evaluation import Sample
from isthmus.distill.parity import Parity, compare, require
from isthmus.distill.recipe import Cluster, Recipe, Training
from isthmus.distill.training.curve import Curve
from isthmus.distill.training.events import Event, Failed, Phase, Step
from isthmus.distill.training.job import Base, Job, imprint_of
from isthmus.distill.training.run import Place, asks_of, base_of, train

LINE = '{"input": "the canary", "target": "sings"}\n'


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder that looks like a model's, for whoever does not load it."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def _python(folder: Path, script: str) -> str:
    """What stands in for the Python that trains."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\n{script}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def _train(folder: Path, python: str, **changes: Any) -> list[Event]:
    (folder / "data.jsonl").write_text(LINE)
    recipe = Recipe(name="tiny", student="base", dataset="data.jsonl", train=Training(**changes))
    events: list[Event] = []
    place = Place(out=folder / "out", weights=folder, cache=folder, python=python, threads=1)
    train(recipe, folder, place, events.append, lambda _: None)
    return events


def test_what_a_process_says_of_its_failure_is_told(base: Path, tmp_path: Path) -> None:
    told = b"".join(
        msgspec.json.encode(it) + b"\n"
        for it in (Phase("Reading"), Failed("odd", "It is odd.", "Make it even."))
    )
    python = _python(tmp_path, f"import sys; sys.stdout.buffer.write({told!r})")
    with pytest.raises(IsthmusError) as failed:
        _train(tmp_path, python)
    assert (failed.value.code, failed.value.message, failed.value.hint) == (
        "odd",
        "It is odd.",
        "Make it even.",
    )


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("raise SystemExit(3)", "training_died", "ended with status 3"),
        ("", "training_died", "ended with status 0"),
        ("import os; os.kill(os.getpid(), 9)", "training_died", "signal 9"),
        ("import isthmus_of_elsewhere", "missing_extra", "isthmus_of_elsewhere"),
    ],
)
def test_a_process_that_ends_without_a_word(
    base: Path, tmp_path: Path, script: str, code: str, said: str
) -> None:
    with pytest.raises(IsthmusError, match=said) as failed:
        _train(tmp_path, _python(tmp_path, script))
    assert failed.value.code == code


def test_a_python_without_the_extra_is_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(IsthmusError, match="torch") as failed:
        _train(tmp_path, sys.executable)
    assert failed.value.code == "missing_extra"
    assert "isthmus[train]" in failed.value.hint


def test_no_python_at_all(base: Path, tmp_path: Path) -> None:
    with pytest.raises(IsthmusError) as failed:
        _train(tmp_path, str(tmp_path / "none"))
    assert failed.value.code == "no_python"


def test_the_process_sees_no_secret_of_ours(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    python = _python(
        tmp_path, f"import os; open({str(tmp_path / 'seen')!r}, 'w').write(repr(dict(os.environ)))"
    )
    with pytest.raises(IsthmusError):
        _train(tmp_path, python)
    seen = (tmp_path / "seen").read_text()
    assert "PATH" in seen
    assert "canary" not in seen


def test_a_folder_is_of_one_training_at_a_time(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with (out / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(IsthmusError) as refused:
            _train(tmp_path, sys.executable)
    assert refused.value.code == "training_in_progress"


def test_a_folder_of_another_training_is_left_alone(base: Path, tmp_path: Path) -> None:
    python = _python(tmp_path, "raise SystemExit(1)")
    with pytest.raises(IsthmusError, match="status 1"):
        _train(tmp_path, python)
    with pytest.raises(IsthmusError) as refused:
        _train(tmp_path, python, seed=1)
    assert refused.value.code == "another_training"
    # How long it may take is no part of what it comes to.
    with pytest.raises(IsthmusError, match="status 1"):
        _train(tmp_path, python, checkpoint_every=7)


@pytest.mark.parametrize("changed", ["model.safetensors", "tokenizer.json", "config.json"])
def test_other_weights_are_another_training(base: Path, tmp_path: Path, changed: str) -> None:
    before = base_of("base", tmp_path, tmp_path, lambda _: None)
    (base / "README.md").write_text("nothing that is loaded")
    assert base_of("base", tmp_path, tmp_path, lambda _: None) == before
    (base / changed).write_text('{"model_type": "other"}')
    assert base_of("base", tmp_path, tmp_path, lambda _: None).sha256 != before.sha256


def test_weights_that_bring_code_along_are_refused(base: Path, tmp_path: Path) -> None:
    (base / "config.json").write_text('{"auto_map": {"AutoModelForCausalLM": "model.Model"}}')
    with pytest.raises(IsthmusError) as refused:
        base_of("base", tmp_path, tmp_path, lambda _: None)
    assert refused.value.code == "unsafe_weights"


def test_a_folder_of_pickles_is_no_model(base: Path, tmp_path: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(IsthmusError) as refused:
        base_of("base", tmp_path, tmp_path, lambda _: None)
    assert refused.value.code == "incomplete_weights"


@pytest.mark.parametrize("said", ["qwen-of-elsewhere", "data.jsonl", "all-minilm-l6-v2"])
def test_unknown_weights_are_refused(tmp_path: Path, said: str) -> None:
    (tmp_path / "data.jsonl").write_text(LINE)
    with pytest.raises(IsthmusError) as refused:
        base_of(said, tmp_path, tmp_path, lambda _: None)
    assert refused.value.code == "unknown_weights"


def _sample(id: str, target: tuple[str, ...] = ("yes",), **request: Any) -> Sample:
    messages = [{"role": "user", "content": "a question"}]
    return Sample(id=id, request={"messages": messages, **request}, target=target)


def test_samples_that_cannot_be_taught_are_counted() -> None:
    parts = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
    asks, left_out = asks_of(
        [
            _sample("d"),
            _sample("c", target=()),
            _sample("b", tools=[{"type": "function"}]),
            _sample("e", messages=parts),
            _sample("a", target=("no", "never")),
        ]
    )
    assert [(ask.id, ask.answer) for ask in asks] == [("a", "no"), ("d", "yes")]
    assert sum(left_out.values()) == 3
    with pytest.raises(IsthmusError) as refused:
        asks_of([_sample("c", target=())])
    assert refused.value.code == "no_answers"


def test_what_an_adapter_depends_on_makes_another_fingerprint() -> None:
    job = Job(
        name="tiny",
        recipe_sha256="a",
        dataset_sha256="b",
        base=Base(name="base", form="folder", path="/here", sha256="c"),
        teacher=None,
        train=Training(),
        threads=1,
        cache="/cache",
    )
    change = msgspec.structs.replace
    for same in (
        change(job, name="x"),
        change(job, base=change(job.base, path="/there")),
        change(job, threads=2),
        change(job, train=Training(ray=Cluster(workers=2))),
    ):
        assert same.fingerprint == job.fingerprint
    for other in (
        change(job, dataset_sha256="x"),
        change(job, base=change(job.base, sha256="x")),
        change(job, teacher=job.base),
        change(job, train=Training(rank=4)),
    ):
        assert other.fingerprint != job.fingerprint


def test_tokens_that_differ_are_refused_by_name() -> None:
    imprints = [imprint_of("a", [1, 2, 3]), imprint_of("b", [1, 2]), imprint_of("c", [12])]
    parity = compare(imprints, ["a", "b", "c"], [[1, 2, 3], [2, 1], [1, 2]])
    assert parity == Parity(3, ("b", "c"))
    with pytest.raises(IsthmusError, match=r"2 of 3 .* b, c") as refused:
        require(parity)
    assert refused.value.code == "tokens_differ"
    require(compare(imprints, ["a"], [[1, 2, 3]]))


def _step(step: int, loss: float = 1.0) -> Step:
    return Step(step=step, steps=9, loss=loss, learning_rate=0.1, tokens=10, seconds=0.5)


def test_the_curve_goes_on_where_steps_are_done_again(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    with Curve(path) as curve:
        for step in (1, 2, 3):
            curve.add(_step(step))
    # A kill in the midst of a line.
    path.write_bytes(path.read_bytes()[:-5])
    with Curve(path) as curve:
        curve.add(_step(2, 0.5))
        curve.add(_step(3, 0.25))
        assert "0.250" not in curve.page("tiny")
        # A worker of a cluster was lost, and the others with it are two steps back.
        curve.add(_step(2, 0.5))
        curve.add(_step(3, 0.25))
    steps = [msgspec.json.decode(line, type=Step) for line in path.read_bytes().splitlines()]
    assert [(it.step, it.loss) for it in steps] == [(1, 1.0), (2, 0.5), (3, 0.25)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\n", "does not say `dataset`"),
        ("name: x\nstudent: a\ndataset: none.jsonl\n", "none.jsonl"),
        ("name: x\nstudent: a\ndataset: data.jsonl\nby: people\n", "The weights a cannot be taken"),
        ("name: x\nstudent: a\ndataset: data.jsonl\n", "may not teach"),
        ("name: x\nstudent: a\ndataset: data.jsonl\ntrain: {device: tpu}\n", "tpu"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    (tmp_path / "data.jsonl").write_text(LINE)
    done = CliRunner().invoke(main, ["distill", "train", str(tmp_path / "recipe.yaml")])
    assert done.exit_code == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "students").exists()


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["distill", "train", str(tmp_path / "none.yaml")])
    assert done.exit_code == 1
    assert "none.yaml" in done.stderr
    assert list(tmp_path.iterdir()) == []
