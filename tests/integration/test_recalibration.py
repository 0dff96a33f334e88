"""New weights behind a calibrated route: `isthmus models promote` calibrates for them before they serve.

Each of the two weights is a simulator of its own; a third model, the strong one, is behind the first of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from isthmus import bootstrap
from isthmus.catalog.weights import find_weights
from isthmus.core.portfolio import EngineSettings, Model
from isthmus.core.record import Record
from isthmus.core.rollout import Reempanelled
from isthmus.providers.http1 import Http1Transport
from isthmus.providers.transport import Origin
from isthmus.store.rollouts import SqliteRollouts
from isthmus.testing import Script, Simulator
from isthmus.testing.simulator import SimulatorThread
from isthmus.testing.wire import Asked

from .gateway import Served, config_text, eventually
from .learning import STRONG, run, save, served, working_in, working_in_copy

OLD, NEW = "qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct"
COUNT = 220
LEDGER = Path("state/ledger.db")


def version_of(weights: str) -> str:
    row = find_weights(weights)
    assert row is not None
    return row.sha256[:12]


NAME = f"student@{version_of(NEW)}"


class Sims(NamedTuple):
    """Who answers for the old weights, and for the strong model, and who for the new ones."""

    old: SimulatorThread
    new: SimulatorThread


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Sims]:
    with Simulator.thread() as old, Simulator.thread() as new, pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "HostedEngine", _engine_of({OLD: old.url, NEW: new.url}))
        yield Sims(old, new)


@pytest.fixture(scope="module")
def calibrated(upstreams: Sims, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a calibrated cascade from `student`."""
    folder = tmp_path_factory.mktemp("calibrated")
    script(upstreams)
    with working_in(folder):
        prepare(upstreams.old.url)
        told = run(
            *("calibrate", "support", "--dataset", "work.jsonl", "--scorer", "contains"),
            *("--max-usd", "5", "--max-tokens", "16", "-o", "c.json"),
        )
        assert told.exit_code == 0, told.output
        prepare(upstreams.old.url, {"calibration": "c.json"})
    return folder


@pytest.fixture
def sims(upstreams: Sims, calibrated: Path, tmp_path: Path) -> Iterator[Sims]:
    """Who answers, in a copy of that folder."""
    with working_in_copy(calibrated, tmp_path):
        script(upstreams)
        yield upstreams


def script(sims: Sims) -> None:
    sims.old.simulator.script = _answers(sure=-0.01, unsure=-2.0, right=6)
    sims.old.simulator.scripts["strong"] = lambda _: Script(text=("good",))
    sims.new.simulator.script = _answers(sure=-3.0, unsure=-6.0, right=8)


def _engine_of(urls: Mapping[str, str]) -> type:
    """An engine that is ready at once, and answers as the server does that stands for its weights."""

    class Engine:
        state = "ready"
        verified = None

        def __init__(self, model: Model, settings: EngineSettings, **_: Any) -> None:
            self.name = model.name
            self.transport = Http1Transport(Origin.from_url(urls[model.weights or OLD]))

        async def ready(self) -> None:
            pass

        def unready(self) -> None:
            return None

        async def stop(self, _: float) -> None:
            self.transport.retire()

    return Engine


def _answers(*, sure: float, unsure: float, right: int) -> Callable[[Asked], Script]:
    """Right and sure on so many of ten, wrong and unsure on the others, which are all alike: whoever keeps
    one of them keeps them all, and no promise allows that, however the samples are parted."""

    def answer(asked: Asked) -> Script:
        words = asked.text.split()
        number = int(words[-1]) if words and words[-1].isdigit() else 0
        good = number % 10 < right
        how = sure - number % 7 / 1000 if good else unsure
        return Script(text=("good" if good else "bad", "."), logprobs=(how, how), finish="stop")

    return answer


def prepare(url: str, accept: dict[str, Any] | None = None, **more: Any) -> None:
    document = json.loads(config_text(url, {"strong": STRONG}))
    document["providers"]["mine"] = {"engine": "builtin"}
    document["models"]["student"] = {"provider": "mine", "kind": "local"}
    first = {"model": "student", "retries": 0, **({"accept": accept} if accept else {})}
    document["routes"]["support"] = {"cascade": [first, {"model": STRONG, "retries": 0}]}
    document["rollouts"] = [{"model": "student", "canary": [0.4]}]
    save(document | more, ({"id": f"s{n}", "input": f"say {n:03}", "target": "good"} for n in range(COUNT)))


def promote(*more: str) -> Any:
    return run("models", "promote", "student", NEW, "--max-usd", "5", *more)


async def _asked(gateway: Served, number: int) -> Record:
    body = {"model": "support", "messages": [{"role": "user", "content": f"say {number:03}"}]}
    answer = await gateway.post("/v1/chat/completions", body)
    assert answer.status == 200, answer.body
    return await gateway.record(answer)


def test_each_version_is_judged_by_a_calibration_of_its_own(
    sims: Sims, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.gateway.exchange.random", Random(7).random)
    before = (len(sims.old.requests), len(sims.new.requests))
    told = promote("--stage", "canary")
    assert told.exit_code == 0, told.output
    assert len(sims.new.requests) == before[1] + COUNT, "the new weights are asked all there is"
    assert len(sims.old.requests) == before[0], "what the strong model has said is not paid for again"
    place = Path(f"c.{version_of(NEW)}.json").absolute()
    assert f"Written: {place}" in told.stderr
    assert "on_stale" not in told.stderr
    assert {it.file for it in SqliteRollouts(LEDGER).current()[0].anew} == {str(place)}

    async def side_by_side(gateway: Served) -> None:
        await eventually(lambda: NAME in gateway.house.gateway.snapshot.config.models, within_s=20)
        records = [await _asked(gateway, number) for number in range(60)]
        seen = {"student": 0, NAME: 0}
        for number, record in enumerate(records):
            drafted = record.attempts[0]
            seen[drafted.model] += 1
            right = number % 10 < (6 if drafted.model == "student" else 8)
            assert (drafted.verdict == "accepted") == right, (
                drafted,
                "by the other one's it would not be so",
            )
        assert min(seen.values()) > 10, seen
        assert (await gateway.metrics())['isthmus_calibration_stale{route="support"}'] == 0
        assert json.loads(run("explain", "support", "say 001", "--json").stdout)["config_hash"] in {
            record.config_hash for record in records
        }
        assert run("models", "promote", "student", NEW, "--stage", "full").exit_code == 0
        await eventually(lambda: "student" not in gateway.house.gateway.snapshot.config.models, within_s=20)
        assert (await _asked(gateway, 7)).attempts[0].verdict == "accepted"
        assert run("models", "rollback", "student").exit_code == 0
        await eventually(lambda: "student" in gateway.house.gateway.snapshot.config.models, within_s=20)
        again = await _asked(gateway, 1)
        assert (again.model, again.attempts[0].verdict) == ("student", "accepted")
        assert not run("check").stdout.count("C103")

    served(side_by_side)
    document = json.loads(Path("isthmus.yaml").read_text())
    document["models"]["student"]["weights"] = NEW
    document["routes"]["support"]["cascade"][0]["accept"]["calibration"] = str(place)
    Path("isthmus.yaml").write_text(json.dumps(document))
    assert "C103" not in run("check").output, "what was written holds for the config that follows"


def test_without_a_promise_nothing_is_promoted(sims: Sims) -> None:
    sims.new.simulator.script = _answers(sure=-1.0, unsure=-1.0, right=0)
    told = promote()
    assert told.exit_code == 1
    assert "Nothing was promoted" in told.stderr
    assert "no guarantee" in told.stderr
    assert "--uncalibrated" in told.stderr
    assert SqliteRollouts(LEDGER).history() == []
    assert not list(Path().glob("c.*.json"))
    anyway = promote("--uncalibrated", "--stage", "full")
    assert anyway.exit_code == 0, anyway.output
    assert "`on_stale` decides" in anyway.stderr
    assert SqliteRollouts(LEDGER).current()[0].anew == ()


def test_what_cannot_be_learned_again_is_told_before_anybody_is_asked(sims: Sims) -> None:
    asked = len(sims.new.requests)
    capless = run("models", "promote", "student", NEW)
    assert (capless.exit_code, "Say --max-usd" in capless.stderr) == (2, True)
    calibration = json.loads(Path("c.json").read_bytes())
    for evidence, words in (
        (None, "does not say what it was made from"),
        (calibration["evidence"] | {"run": "run_0"}, "is gone"),
    ):
        Path("c.json").write_text(json.dumps(calibration | {"evidence": evidence}))
        told = promote()
        assert told.exit_code == 1
        assert words in told.stderr
        assert "isthmus calibrate support" in told.stderr
    assert len(sims.new.requests) == asked
    assert SqliteRollouts(LEDGER).history() == []


def test_a_version_votes_by_a_panel_of_its_own(sims: Sims) -> None:
    sims.old.simulator.scripts["strong"] = _answers(sure=-0.01, unsure=-2.0, right=7)
    sims.new.simulator.script = _answers(sure=-0.01, unsure=-2.0, right=10)
    vote: dict[str, Any] = {"ensemble": ["student", STRONG]}
    prepare(sims.old.url)
    _bind(vote)
    options = ("--scorer", "contains", "--max-usd", "5", "--max-tokens", "16", "-o", "p.json")
    told = run("calibrate", "support", "--dataset", "work.jsonl", *options)
    assert told.exit_code == 0, told.output
    assert f"The best alone, {STRONG}" in told.stdout
    _bind({**vote, "by": "p.json"})
    promoted = promote("--stage", "full")
    assert promoted.exit_code == 0, promoted.output
    file = f"p.{version_of(NEW)}.json"
    assert json.loads(Path(file).read_text())["panel"]["weights"] == {"student": 1.0}
    (anew,) = SqliteRollouts(LEDGER).current()[0].anew
    assert isinstance(anew, Reempanelled)

    async def by_its_own(gateway: Served) -> None:
        record = await _asked(gateway, 9)
        assert record.model == NAME, "which is the best by now"
        assert record.decision is not None
        assert not any("stale" in it for it in record.decision.reasons)

    served(by_its_own)


def _bind(plan: dict[str, Any]) -> None:
    """The route has this plan."""
    document = json.loads(Path("isthmus.yaml").read_text())
    document["routes"]["support"] = plan
    Path("isthmus.yaml").write_text(json.dumps(document))
