"""`choose`, from a pilot to a gateway that asks whom it has learned to ask; and who tries to deceive it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from click.testing import Result

from isthmus.gateway.mirrors import MOST_AT_ONCE
from isthmus.store.feedback import SqliteFeedback
from isthmus.store.keys import SqliteKeys
from isthmus.testing import Fault, Refusal, Script, Simulator
from isthmus.testing.simulator import SimulatorThread
from isthmus.testing.wire import Asked

from .gateway import DIALECTS, Answer, Served, config_text
from .learning import CHEAP, SMALL, STRONG, run, save, served, working_in, working_in_copy

BY = "learned/support.router"
CHOICE: dict[str, Any] = {"choose": {"from": [SMALL, STRONG], "quality_at_least": 0.8}}
COUNT = 210
EASY = ("add the numbers {} and two", "name a colour for room {}", "say hello to guest {}")
HARD = ("prove the theorem of order {}", "derive the field equations of case {}", "factor polynomial {} here")


def text_of(number: int) -> str:
    """Every second text is hard."""
    return (HARD if number % 2 else EASY)[number % 3].format(number)


@pytest.fixture(scope="module")
def upstream() -> Iterator[SimulatorThread]:
    with Simulator.thread() as thread:
        yield thread


@pytest.fixture(scope="module")
def learned(upstream: SimulatorThread, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which both models were asked all there is, and a router was learned from it."""
    folder = tmp_path_factory.mktemp("learned")
    with working_in(folder):
        script(upstream)
        prepare(upstream.url)
        before = len(upstream.requests)
        command = ("calibrate", "support", "--dataset", "work.jsonl", "--scorer", "contains", "--no-vectors")
        found = run(*command, "--max-usd", "5", "--max-tokens", "16")
        assert found.exit_code == 0, found.output
        assert "Choose: with a chance of at least 0.9" in found.stdout
        assert Path(BY).exists()
        assert len(upstream.requests) - before == 2 * COUNT
    return folder


@pytest.fixture
def sim(upstream: SimulatorThread, learned: Path, tmp_path: Path) -> Iterator[SimulatorThread]:
    """The simulator, in a folder where the router is."""
    with working_in_copy(learned, tmp_path):
        script(upstream)
        yield upstream


def script(sim: SimulatorThread) -> None:
    sim.simulator.scripts["small"] = _small
    sim.simulator.scripts["strong"] = lambda asked: Script(text=("good",))


def _small(asked: Asked) -> Script:
    """Right about what is easy."""
    hard = any(word in asked.text for word in ("prove", "derive", "factor"))
    return Script(text=("bad" if hard else "good",))


def prepare(url: str, plan: Any = CHOICE, count: int = COUNT, small: Any = None, **sections: Any) -> None:
    document = json.loads(config_text(url, {"support": plan}, **sections))
    document["models"][SMALL] |= {"price": CHEAP, **(small or {})}
    sample = {"target": "good", "label": "internal"}
    save(document, ({"id": f"s{n}", "input": text_of(n), **sample} for n in range(count)))


def by(**more: Any) -> dict[str, Any]:
    """The choice, by what was learned."""
    return {"choose": {**CHOICE["choose"], "by": BY, **more}}


async def _ask(gateway: Served, text: str, status: int = 200, **headers: str) -> Answer:
    body = {"model": "support", "max_tokens": 16, "messages": [{"role": "user", "content": text}]}
    answer = await gateway.post("/v1/chat/completions", body, headers)
    assert answer.status == status, answer.body
    return answer


def test_a_choice_is_learned_and_serves_as_it_was_judged(sim: SimulatorThread) -> None:
    found = run("calibrate", "support", "--run", "", "--no-vectors", "--html", "out.html", "--json")
    assert found.exit_code == 0, found.output
    trial = json.loads(found.stdout)
    assert (trial["samples"], trial["learned"], trial["verdict"]) == (COUNT, COUNT // 2, "choose")
    assert trial["reference"] == STRONG
    assert trial["label"]["level"] == "internal"
    policies = {it["name"]: it for it in trial["policies"]}
    assert policies["choice"]["quality"] > 0.97
    assert policies[f"{SMALL} alone"]["quality"] < 0.65
    assert policies["oracle"]["usd_per_thousand"] <= policies["choice"]["usd_per_thousand"]
    assert policies["choice"]["usd_per_thousand"] < policies["random"]["usd_per_thousand"] * 1.3
    assert 0.2 < trial["saving"]["low"] <= trial["saving"]["high"] < 0.8
    assert "<table" in Path("out.html").read_text()
    prepare(sim.url, by())
    checked = run("check")
    assert checked.exit_code == 0, checked.output
    assert "C10" not in checked.output
    told = run("explain", "support", text_of(1000)).stdout
    assert f"choose: {SMALL}, the cheapest of those expected to score 0.8" in told
    assert f"because   {STRONG} is expected to score 1.00 for 0.0000" in told

    async def as_learned(gateway: Served) -> None:
        for number in range(1000, 1006):
            answer = await _ask(gateway, text_of(number))
            asked = STRONG if number % 2 else SMALL
            assert answer.headers["x-isthmus-model"] == asked
            decision = (await gateway.record(answer)).decision
            assert decision is not None
            (foresight,) = decision.foreseen
            assert foresight.supported
            assert [it.output for it in foresight.outlooks] == [1, 1]
            assert text_of(number) not in repr(decision)
        odd = await _ask(gateway, "zyx wvu tsr qpo")
        assert odd.headers["x-isthmus-model"] == STRONG
        decision = (await gateway.record(odd)).decision
        assert decision is not None
        assert any("the best on the whole, as it is like nothing" in it for it in decision.reasons)
        # What cannot be foreseen is no reason to fail.
        for body in ({"messages": []}, {"messages": 3}, {"messages": [{"role": "user", "content": None}]}):
            said = await gateway.post("/v1/chat/completions", {"model": "support", **body})
            assert said.status in (200, 400)

    served(as_learned)


def test_explain_says_the_live_decision(sim: SimulatorThread) -> None:
    prepare(sim.url, by())
    explained = json.loads(run("explain", "support", text_of(3), "--json", "--task", "sums").stdout)
    for more in ("found", "blind", "hidden", "why"):
        explained.pop(more)

    async def live(gateway: Served) -> None:
        body = {"model": "support", "messages": [{"role": "user", "content": text_of(3)}]}
        answer = await gateway.post("/v1/chat/completions", body, {"x-isthmus-task": "sums"})
        decision = (await gateway.record(answer)).decision
        assert json.loads(msgspec.json.encode(decision)) == explained
        assert "x-isthmus-task" not in str(sim.requests[-1].headers).lower()

    served(live)


@pytest.mark.parametrize("stream", [False, True])
def test_where_the_chosen_one_fails_the_next_best_answers(sim: SimulatorThread, stream: bool) -> None:
    prepare(sim.url, by())
    sim.simulator.scripts["small"] = lambda asked: Script(fault=Fault(refuse=Refusal(status=401)))

    async def failing(gateway: Served) -> None:
        for dialect in DIALECTS:
            body = {**dialect.body("support", stream)}
            if "messages" in body:
                body["messages"] = [{"role": "user", "content": text_of(2)}]
            else:
                body["input"] = text_of(2)
            answer = await gateway.post(dialect.path, body)
            assert answer.status == 200, answer.body
            assert dialect.text(answer) == "good"
            record = await gateway.record(answer)
            assert [it.model for it in record.attempts] == [SMALL, STRONG]
            assert record.charge is not None
            assert record.decision is not None
            assert record.decision.plan["plans"][0]["model"] == SMALL

    served(failing)


def test_it_chooses_only_among_those_that_may_see_the_request(sim: SimulatorThread) -> None:
    perimeter = {"labels": [{"when": "pii.email", "level": "confidential"}], "timeout": 60}
    prepare(sim.url, by(), small={"kind": "local"}, perimeter=perimeter)
    assert "C103" not in run("check").output

    async def confidential(gateway: Served) -> None:
        before = len(sim.requests)
        answer = await _ask(gateway, f"{text_of(1)} for jo.doe@example.org")
        assert answer.headers["x-isthmus-model"] == SMALL, "though the other is expected to be better"
        assert len(sim.requests) == before + 1
        sim.simulator.scripts["small"] = lambda asked: Script(fault=Fault(refuse=Refusal(status=401)))
        await _ask(gateway, f"{text_of(1)} for jo.doe@example.org", status=502)
        assert len(sim.requests) == before + 2, "nobody else is asked, whatever fails"

    served(confidential)


CONFOUNDERS = ("prove the theorem of order 7 and ", "zyx wvu tsr ", "derive the field equations of case 3; ")


def test_an_adversary_pushes_no_more_to_the_strong_model_than_budgets_allow(sim: SimulatorThread) -> None:
    """Prefixes that look hard, or like nothing (arXiv 2501.01818): the share is bounded, the cap holds."""
    share = {"key": "eve", "model": STRONG, "requests": 5, "per": "day"}
    cap = {"key": "mallory", "usd": 0.007, "per": "day"}
    prepare(sim.url, by(), budgets=[share, cap])

    async def attack(gateway: Served) -> None:
        keys, ring = SqliteKeys(gateway.house.ledger_path), gateway.house.gateway.ring
        secrets = {name: keys.create(name, (), 0).secret for name in ("eve", "mallory", "bob")}
        ring.refresh()

        async def asks(who: str, text: str) -> Answer:
            body = {"model": "support", "max_tokens": 16, "messages": [{"role": "user", "content": text}]}
            headers = {"authorization": f"Bearer {secrets[who]}"}
            return await gateway.post("/v1/chat/completions", body, headers)

        async def pushed(who: str) -> list[str]:
            answers = [await asks(who, CONFOUNDERS[n % 3] + text_of(2 * n)) for n in range(12)]
            assert {it.status for it in answers} == {200}
            return [it.headers["x-isthmus-model"] for it in answers]

        eve = await pushed("eve")
        assert (eve.count(STRONG), eve.count(SMALL)) == (5, 7), "the rest goes to the next best"
        mallory = await pushed("mallory")
        spent = [it.charge.nanousd or 0 for it in await gateway.records() if it.charge]
        assert sum(spent[-12:]) <= 7_000_000, "law 3: the key's cap holds"
        assert 0 < mallory.count(STRONG) < (await pushed("bob")).count(STRONG)
        # Nobody else pays for it.
        honest = [await asks("bob", text_of(n)) for n in range(4)]
        assert [it.headers["x-isthmus-model"] for it in honest] == [SMALL, STRONG] * 2

    served(attack)


@pytest.mark.parametrize(("on_stale", "model"), [("best", STRONG), ("warn", SMALL)])
def test_another_model_makes_a_router_stale(sim: SimulatorThread, on_stale: str, model: str) -> None:
    sim.simulator.scripts["smaller"] = _small
    prepare(sim.url, by(on_stale=on_stale), small={"id": "smaller"})
    checked = run("check")
    assert checked.exit_code == 0, checked.output
    assert "C103" in checked.output
    assert f"{SMALL} is another model than it was" in checked.output
    assert "is stale" in run("explain", "support", text_of(2)).output

    async def as_stale(gateway: Served) -> None:
        answer = await _ask(gateway, text_of(2))
        assert answer.headers["x-isthmus-model"] == model
        metrics = await gateway.metrics()
        assert metrics['isthmus_calibration_stale{route="support"}'] == 1

    served(as_stale)


def test_a_replay_decides_as_it_was_decided_and_moves_with_a_price(sim: SimulatorThread) -> None:
    prepare(sim.url, by())

    async def traffic(gateway: Served) -> None:
        for number in range(8):
            await _ask(gateway, text_of(number))
        await gateway.house.ledger.flush()

    served(traffic)

    def replay(*more: str) -> Any:
        found = run("replay", "--policy", "isthmus.yaml", "--json", *more)
        assert found.exit_code == 0, found.output
        return json.loads(found.stdout)

    same = replay()
    assert (same["requests"], same["same"], same["changes"], same["unknown"]) == (8, 8, [], [])
    shutil.copy("isthmus.yaml", "old.yaml")
    prepare(sim.url, by(quality_at_least=0.0), small={"price": {"input": 100, "output": 100}})
    dear = replay()
    assert dear["same"] == 4
    assert [(it["change"], it["requests"]) for it in dear["changes"]] == [("moved", 4)]
    shutil.copy("old.yaml", "isthmus.yaml")


def test_what_is_not_to_be_advised_writes_nothing(sim: SimulatorThread) -> None:
    dear = {"price": {"input": 5, "output": 25}}
    prepare(sim.url, small=dear)
    found = run("calibrate", "support", "--run", "", "--no-vectors", "-o", "out.router")
    assert found.exit_code == 3, found.output
    assert not Path("out.router").exists()
    prepare(sim.url)
    strict = run("calibrate", "support", "--run", "", "--no-vectors", "--max-risk", "0.001", "--json")
    assert strict.exit_code == 3
    assert json.loads(strict.stdout)["verdict"] == "no guarantee"
    told = {
        ("support",): "--run or --dataset",
        ("support", "--run", "nope"): "no run whose id begins with",
        ("support", "--run", "", "--scorer", "exact"): "has no scores by 'exact'",
    }
    for arguments, words in told.items():
        refused = run("calibrate", *arguments)
        assert refused.exit_code in (1, 2), (arguments, refused.output)
        assert words in refused.stderr, (arguments, refused.stderr)
    prepare(sim.url, {"cascade": [SMALL, STRONG]})
    assert "--named is of a choice" in run("calibrate", "support", "--run", "", "--named").stderr
    prepare(sim.url, small={"id": "smaller"})
    assert "is another model now" in run("calibrate", "support", "--run", "").stderr


def test_a_router_that_is_none_is_refused(sim: SimulatorThread) -> None:
    good = Path(BY).read_bytes()
    prepare(sim.url, by())
    for content in (b"", b"\x00" * 100, good[:-5], good + b"x", b"{}" * 50):
        Path(BY).write_bytes(content)
        checked = run("check")
        assert checked.exit_code == 1, content[:20]
        assert "C020" in checked.output
    Path(BY).unlink()
    missing = run("check")
    assert missing.exit_code == 1
    assert "isthmus calibrate" in missing.output
    prepare(sim.url)
    unlearned = run("check")
    assert unlearned.exit_code == 0
    assert "C104" in unlearned.output


# From records


SPLIT: dict[str, Any] = {"split": [{"model": SMALL}, {"model": STRONG}]}
SHADOW: dict[str, Any] = {"shadow": SMALL, "of": {"model": STRONG}, "judge": "openai/judge"}

Marking = Callable[[Served, Answer, int], Awaitable[None]]


def _recorded(url: str, plan: Any, mark: Marking, rounds: int, **more: Any) -> None:
    """The route answers so by this plan, and its answers are marked; then it is the choice again."""
    prepare(url, {"plan": plan, "record_bodies": True, **more})

    async def used(gateway: Served) -> None:
        # One after the other, so that each request has the same draw every time.
        for number in range(rounds):
            answer = await _ask(gateway, text_of(number))
            await mark(gateway, answer, number)

    served(used)
    prepare(url)


async def _by_a_person(gateway: Served, answer: Answer, number: int) -> None:
    good = answer.json["choices"][0]["message"]["content"] == "good"
    body = {"request_id": answer.headers["x-request-id"], "thumb": "up" if good else "down"}
    assert (await gateway.post("/v1/feedback", body)).status == 200


def _learn(*more: str) -> Result:
    return run("calibrate", "support", "--records", "1d", "--no-vectors", "--json", *more)


def test_a_choice_learns_from_what_a_split_dealt_out_and_people_said(
    sim: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.gateway.exchange.random", Random(7).random)
    # By their ids requests are parted into those that teach and those that judge.
    numbers = count()
    monkeypatch.setattr("isthmus.gateway.story.request_id", lambda *_: f"req_{next(numbers):032x}")
    Path(BY).unlink()
    _recorded(sim.url, SPLIT, _by_a_person, 280)
    found = _learn("--max-risk", "0.15", "--html", "out.html")
    assert found.exit_code == 0, found.output
    trial = json.loads(found.stdout)
    assert (trial["verdict"], trial["recorded"], trial["judged"]) == ("choose", 280, 0)
    assert trial["reference"] == STRONG
    policies = {it["name"]: it for it in trial["policies"]}
    assert policies[f"{SMALL} alone"]["quality"] == pytest.approx(0.5, abs=0.12)
    assert policies[f"{STRONG} alone"]["quality"] == 1
    assert "oracle" not in policies
    assert "280 are people" in Path("out.html").read_text().replace("&#x27;", "'")
    assert not any(word in Path(BY).read_bytes() for word in (b"theorem", b"guest"))
    prepare(sim.url, by())

    async def as_learned(gateway: Served) -> None:
        for number in range(1000, 1006):
            answer = await _ask(gateway, text_of(number))
            assert answer.headers["x-isthmus-model"] == (STRONG if number % 2 else SMALL)

    served(as_learned)
    # Who was chosen by what was learned was not drawn, and such requests teach nothing more.
    again = json.loads(_learn("--max-risk", "0.15").stdout)
    assert (again["recorded"], again["left_out"]) == (280, {"nobody scored the answer": 6})


async def _all_is_done(gateway: Served) -> None:
    """What was begun aside has been recorded, and every grade is kept."""
    feedback, asked = SqliteFeedback(gateway.house.ledger_path), gateway.house.gateway.tally.mirrors["asked"]
    async with asyncio.timeout(300):
        while True:
            copies = [it for it in await gateway.records() if it.mirrors is not None]
            grades = [it for it in copies if it.attempts[0].purpose == "judge" and it.attempts[0].confidence]
            if len(copies) == asked and len(feedback.list(limit=asked)) == len(grades):
                return
            await asyncio.sleep(0.01)


def test_a_choice_learns_from_a_shadow_and_a_judge(sim: SimulatorThread) -> None:
    def judge(asked: Asked) -> Script:
        if "Grade its answer" in asked.text:
            return Script(text=("5",))
        return Script(text=("B" if 'Answer A, as JSON: "bad"' in asked.text else "A",))

    rounds = 208

    async def when_done(gateway: Served, answer: Answer, number: int) -> None:
        assert answer.headers["x-isthmus-model"] == STRONG
        # A shadow and a grade of each: what would be more than may be under way is left out.
        if number % (MOST_AT_ONCE // 4) == 0 or number == rounds - 1:
            await _all_is_done(gateway)

    sim.simulator.scripts["judge"] = judge
    plan = {"grade": "openai/judge", "of": SHADOW}
    _recorded(sim.url, plan, when_done, rounds)
    found = _learn()
    assert found.exit_code == 0, found.output
    trial = json.loads(found.stdout)
    assert trial["verdict"] == "choose"
    assert 200 <= trial["recorded"] == trial["judged"] <= rounds
    # Worse than what is worth 1 is taken for 0.5, and half of the requests are hard.
    policies = {it["name"]: it for it in trial["policies"]}
    assert policies[f"{SMALL} alone"]["quality"] == pytest.approx(0.75, abs=0.08)


def test_records_that_teach_nothing_are_told_of(
    sim: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the first draws some fall on either arm.
    monkeypatch.setattr("isthmus.gateway.exchange.random", Random(7).random)
    none = _learn()
    assert none.exit_code == 1
    assert "No recorded request of support teaches its choice." in none.stderr
    assert "record_bodies: true" in none.stderr
    _recorded(sim.url, {"fallback": [STRONG, SMALL]}, _by_a_person, 2)
    several = _learn()
    assert "answered by more than one call of one model (2)" in several.stderr
    _recorded(sim.url, {**SHADOW, "share": 1e-9}, _by_a_person, 2)
    undrawn = _learn()
    assert "no draw chose who was asked, and no shadow answered (2)" in undrawn.stderr
    _recorded(sim.url, SPLIT, _by_a_person, 2, record_bodies=False)
    assert "the texts were not kept (record_bodies) (2)" in _learn().stderr
    _recorded(sim.url, SPLIT, _by_a_person, 4)
    few = _learn()
    assert few.exit_code == 3
    assert "at least 100 samples are needed to learn from" in few.stderr
    prepare(sim.url, small={"id": "smaller"})
    assert "answered by a model that is another one now" in _learn().stdout
    for arguments, words in {
        ("--run", ""): "one of them",
        ("--named",): "go with runs",
        ("--scorer", "contains"): "go with runs",
        ("--max-usd", "1"): "nobody else is asked",
    }.items():
        assert words in _learn(*arguments).stderr, arguments
    prepare(sim.url, {"cascade": [SMALL, STRONG]})
    assert "no log-probabilities" in _learn().stderr
