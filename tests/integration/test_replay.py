"""`isthmus replay` over ledgers that a real gateway has written."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from click.testing import CliRunner, Result

from isthmus.bootstrap import replayer_of
from isthmus.cli import main
from isthmus.config.load import read
from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.core.feedback import Feedback
from isthmus.core.label import Label
from isthmus.store.feedback import SqliteFeedback
from isthmus.store.history import SqliteHistory
from isthmus.store.keys import SqliteKeys
from isthmus.store.records import Where
from isthmus.store.runs import Candidate, Kept, Place, Run, SqliteRuns
from isthmus.testing import Fault, Refusal, Script, Simulator

from .gateway import Served, serving

CANARY = "canary.of.the.strait@example.org"


def config_text(inside: str, outside: str, **sections: Any) -> str:
    """A portfolio with a model inside, one on rented machines, and two of providers."""
    providers = {
        "in": {"dialect": "openai", "base_url": inside + "/v1", "kind": "local", "zone": "on-prem"},
        "rented": {"dialect": "openai", "base_url": outside + "/v1", "kind": "open", "zone": "eu"},
        "out": {"dialect": "openai", "base_url": outside + "/v1", "kind": "closed", "zone": "us"},
    }
    price = {"input": 3, "output": 15}
    document = {
        "providers": providers,
        "models": {
            "inside": {"provider": "in", "price": {"input": 0, "output": 0}},
            "rented": {"provider": "rented", "price": {"input": 1, "output": 2}},
            "outside": {"provider": "out", "price": price},
        },
        # Patient, so that a busy machine does not make everything restricted.
        "perimeter": {"timeout": 60},
        "routes": {
            "safe": {"fallback": [{"model": "inside", "retries": 0}, {"model": "rented", "retries": 0}]},
            "cheap": "outside",
            "trial": {"split": {"rented": 1, "outside": 3}},
            "sticky": {"split": {"rented": 1, "outside": 1}, "sticky": "user"},
            "gpt-*": {"model": "rented", "floor": "internal"},
            "kept": {"model": "outside", "record_bodies": True},
        },
        **sections,
    }
    return json.dumps(document)


class Desk:
    """A gateway that has served, and a command line beside its ledger."""

    def __init__(self, folder: Path, served: Served, inside: Simulator, outside: Simulator, key: str) -> None:
        self.key = key
        self.folder = folder
        self.served = served
        self.inside = inside
        self.outside = outside

    def text(self, change: Callable[[dict[str, Any]], None] = lambda _: None) -> str:
        document = json.loads(config_text(self.inside.url, self.outside.url))
        change(document)
        return json.dumps(document)

    async def replay(self, change: Callable[[dict[str, Any]], None], *options: str) -> Result:
        (self.folder / "new.yaml").write_text(self.text(change))
        (self.folder / "isthmus.yaml").write_text(self.text())
        await self.served.house.ledger.flush()
        named = ["--config", str(self.folder / "isthmus.yaml"), "--policy", str(self.folder / "new.yaml")]
        return await asyncio.to_thread(CliRunner().invoke, main, ["replay", *named, *options])

    async def data(self, change: Callable[[dict[str, Any]], None] = lambda _: None, *options: str) -> Any:
        result = await self.replay(change, "--json", *options)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest_asyncio.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.delenv("ISTHMUS_HOME", raising=False)
    # One time in thirty, chance would draw nobody for the arm of a quarter.
    monkeypatch.setattr("isthmus.gateway.exchange.random", Random(1).random)
    async with (
        Simulator() as inside,
        Simulator() as outside,
        serving(config_text(inside.url, outside.url), tmp_path) as served,
    ):
        keys = SqliteKeys(served.house.ledger_path)
        now_us = time.time_ns() // 1000
        plain = keys.create("plain", (), now_us)
        floored = keys.create("floored", ("safe", "cheap"), now_us, floor=Label("confidential"), team="blue")
        await asyncio.to_thread(served.house.gateway.ring.refresh)

        async def ask(route: str, text: str, key: str = plain.secret, label: str = "", **more: Any) -> None:
            headers = {"authorization": f"Bearer {key}", **({"x-isthmus-label": label} if label else {})}
            await served.ask(route, headers=headers, messages=[{"role": "user", "content": text}], **more)

        for number in range(12):
            await ask("trial", "What is the capital of France?")
            await ask("sticky", "And of Spain?", user=f"user-{number}")
        for _ in range(2):
            await ask("safe", "Hello")
            await ask("safe", f"Write to {CANARY}")
            await ask("cheap", f"Write to {CANARY}")
            await ask("cheap", "Hello")
            await ask("gpt-4o", "Hello", label="confidential")
            await ask("cheap", "Hello", key=floored.secret)
            await ask("trial", "Hello", key=floored.secret)
            await ask("no-such-route", "Hello")
            await ask("kept", "All about Project Canary")
        inside.script = Script(fault=Fault(refuse=Refusal(status=500)))
        await ask("safe", "This one falls back")
        yield Desk(tmp_path, served, inside, outside, plain.secret)


REQUESTS = 24 + 2 * 9 + 1


async def test_the_same_config_replays_to_the_same_decisions(desk: Desk) -> None:
    found = await desk.data()
    assert found["requests"] == REQUESTS
    assert (found["changes"], found["crossings"], found["unknown"]) == ([], [], [])
    assert found["same"] == REQUESTS - 4
    assert found["undecided"] == {"route_not_allowed": 2, "unknown_route": 2}
    assert found["cost"]["then_nanousd"] == found["cost"]["now_nanousd"] > 0
    assert (await desk.replay(lambda _: None, "--fail-on-crossing")).exit_code == 0


async def test_decisions_made_while_it_reads_are_found(desk: Desk) -> None:
    await desk.served.house.ledger.flush()
    (desk.folder / "new.yaml").write_text(desk.text())
    policy = read(desk.folder / "new.yaml")[0]
    assert policy is not None
    path = desk.served.house.ledger_path
    with_path = msgspec.structs.replace(policy, ledger=msgspec.structs.replace(policy.ledger, path=str(path)))
    replayer = replayer_of(policy, with_path, None, Where())
    # Nobody had asked by this label before.
    headers = {"x-isthmus-label": "restricted", "authorization": f"Bearer {desk.key}"}
    await desk.served.ask("safe", headers=headers, messages=[{"role": "user", "content": "Hello"}])
    await desk.served.house.ledger.flush()
    *_, last = [past for some in SqliteHistory(path).requests() for past in some]
    judgement = replayer.take(last)
    assert (judgement.undecided, judgement.stays) == (None, 1.0)


async def test_the_same_rules_under_another_hash_change_nothing_either(desk: Desk) -> None:
    # Another timeout is another config and another policy: everything is decided anew.
    found = await desk.data(lambda it: it["perimeter"].update(timeout=61, names={"x": "public"}))
    assert (found["changes"], found["crossings"], found["unknown"]) == ([], [], [])
    assert found["same"] == REQUESTS - 4


async def test_what_would_newly_cross_the_boundary_is_counted_first(desk: Desk) -> None:
    def trusting(document: dict[str, Any]) -> None:
        document["perimeter"]["clearance"] = {"closed": "confidential"}

    found = await desk.data(trusting)
    out = [it for it in found["crossings"] if it["direction"] == "out"]
    # Two with an address in them, two with a key whose floor is confidential.
    assert {(it["route"], it["level"], tuple(it["categories"]), it["was"], it["goes"]) for it in out} == {
        ("cheap", "confidential", ("pii.email",), "nowhere", "closed in us at 127.0.0.1"),
        ("cheap", "confidential", (), "nowhere", "closed in us at 127.0.0.1"),
    }
    assert sum(it["requests"] for it in out) == 4
    assert {(it["change"], it["reason"]) for it in found["changes"]} == {
        ("newly allowed", "outside no longer by clearance")
    }
    shown = await desk.replay(trusting, "--fail-on-crossing")
    assert shown.exit_code == 1
    assert shown.stdout.index("4 requests WOULD NEWLY CROSS") < shown.stdout.index("What changes")
    assert CANARY not in shown.output


async def test_a_route_that_goes_elsewhere_is_priced_and_its_boundary_told(desk: Desk) -> None:
    def outward(document: dict[str, Any]) -> None:
        document["routes"]["safe"] = {"fallback": ["inside", "outside"]}

    found = await desk.data(outward)
    # Only the one that fell back would have gone out; the others may, except where an address forbids it.
    assert [(it["direction"], it["was"], it["goes"], it["requests"]) for it in found["crossings"]] == [
        ("out", "local in on-prem, open in eu at 127.0.0.1", "closed in us at 127.0.0.1", 1),
        ("perhaps out", "local in on-prem", "closed in us at 127.0.0.1", 2),
    ]


async def test_weights_that_move_move_exactly_their_share(desk: Desk) -> None:
    records = [it for it in await desk.served.records() if it.route == "trial" and it.decision]
    outside = sum(it.model == "outside" for it in records)
    found = await desk.data(lambda it: it["routes"].update(trial={"split": {"rented": 1, "outside": 1}}))
    [moved] = found["changes"]
    # Three of four went outside, and two of four would: of those that went there, a third comes back.
    assert moved["requests"] == pytest.approx(outside / 3)
    assert found["same"] == pytest.approx(REQUESTS - 4 - outside / 3)
    [back] = found["crossings"]
    assert (back["direction"], back["route"]) == ("out", "trial")


async def test_a_sticky_split_is_redone_for_each_user(desk: Desk) -> None:
    def weigh(document: dict[str, Any]) -> None:
        document["routes"]["sticky"] = {"split": {"rented": 1, "outside": 9}, "sticky": "user"}

    records = [it for it in await desk.served.records() if it.route == "sticky"]
    found = await desk.data(weigh)
    moved = sum(it["requests"] for it in found["changes"])
    assert moved == int(moved)
    assert 0 < moved <= sum(it.model == "rented" for it in records)


async def test_a_model_that_is_another_one_under_its_name_is_seen(desk: Desk) -> None:
    found = await desk.data(lambda it: it["models"]["inside"].update(provider="out"))
    out = sum(it["requests"] for it in found["crossings"] if it["direction"] == "out")
    # The two harmless ones that the local model answered; the third fell back, and to a rented one.
    assert out >= 2
    assert any("inside is another model now" in it["reason"] for it in found["changes"])


async def test_where_a_config_was_not_kept_that_of_today_stands_for_it(desk: Desk) -> None:
    with sqlite3.connect(desk.served.house.ledger_path) as ledger:
        ledger.execute("DELETE FROM configs")
    found = await desk.data(lambda it: it["models"]["inside"].update(provider="out"))
    # The model that is tried under the old name is not taken for the one that answered then.
    assert {(it["was"], it["goes"]) for it in found["crossings"]} == {
        ("local in on-prem", "open in eu at 127.0.0.1"),
        ("local in on-prem", "closed in us at 127.0.0.1"),
        ("local in on-prem, open in eu at 127.0.0.1", "closed in us at 127.0.0.1"),
    }


async def test_stricter_rules_refuse_and_bring_back(desk: Desk) -> None:
    found = await desk.data(lambda it: it["perimeter"].update(default="restricted"))
    refused = sum(it["requests"] for it in found["changes"] if it["change"] == "newly refused")
    assert refused == 24 + 2 + 2 + 2
    assert {it["direction"] for it in found["crossings"]} == {"back"}


async def test_kinds_that_nobody_looked_for_may_cross(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "terms.txt").write_text("Project Canary\n")

    def terms(document: dict[str, Any]) -> None:
        document["perimeter"] |= {
            "terms": {"projects": str(tmp_path / "terms.txt")},
            "labels": [{"when": "pii", "level": "public"}, {"when": "term", "level": "restricted"}],
        }

    found = await desk.data(terms)
    assert {it["why"] for it in found["unknown"]} == {"not everything was looked for: term"}
    perhaps = [it for it in found["crossings"] if it["direction"] == "perhaps out"]
    # The addresses are public now: whether these requests go out depends on what nobody looked for.
    assert {(it["route"], it["was"]) for it in perhaps} >= {("cheap", "nowhere")}
    assert (await desk.replay(terms, "--fail-on-crossing")).exit_code == 1


async def test_texts_that_were_kept_can_be_looked_at_again(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "terms.txt").write_text("Project Canary\n")

    def terms(document: dict[str, Any]) -> None:
        document["perimeter"] |= {
            "terms": {"projects": str(tmp_path / "terms.txt")},
            "labels": [{"when": "term", "level": "restricted"}],
        }

    unread = await desk.data(terms, "--route", "kept")
    assert [it["requests"] for it in unread["unknown"]] == [2]
    read = await desk.data(terms, "--route", "kept", "--rescan")
    assert read["unknown"] == []
    assert [(it["change"], it["reason"], it["requests"]) for it in read["changes"]] == [
        ("newly refused", "outside by clearance", 2)
    ]
    assert [it["direction"] for it in read["crossings"]] == ["back"]


async def test_a_route_that_is_new_may_let_out_what_nobody_looked_at(desk: Desk) -> None:
    def new(document: dict[str, Any]) -> None:
        document["routes"]["no-such-route"] = "outside"

    found = await desk.data(new)
    assert found["undecided"] == {"route_not_allowed": 2}
    assert [(it["why"], it["requests"]) for it in found["unknown"]] == [("nobody looked for anything", 2)]
    assert [(it["direction"], it["goes"]) for it in found["crossings"]] == [
        ("perhaps out", "closed in us at 127.0.0.1")
    ]


async def test_stored_runs_tell_how_good_the_models_are(desk: Desk) -> None:
    runs = SqliteRuns(desk.served.house.ledger_path)
    models = tuple(
        Candidate(name=name, id=name, provider=provider, kind=kind)
        for name, provider, kind in (("outside", "out", "closed"), ("rented", "another", "open"))
    )
    run = Run(
        id="run_1",
        identity="i",
        at_us=1,
        dataset="d",
        dataset_hash="h",
        sample_ids=("s", "t"),
        models=models,
        scorers=("exact",),
        config_hash="c",
    )
    runs.begin(run, [Sample(id=it, request={}) for it in run.sample_ids])
    for sample, value in (("s", 1.0), ("t", 0.0)):
        place = Place("outside", sample)
        answered = Answered(model="outside")
        runs.keep(Kept(id=sample, key=None, at_us=1, run=run.id, answered=answered), place)
        runs.mark(run.id, "exact", {place: (sample, Score(value=value))})
    found = await desk.data(lambda it: it["routes"].update(trial="outside"), "--quality", "run_1")
    [trial] = [it for it in found["quality"] if it["route"] == "trial"]
    assert trial["now"]["value"] == trial["then"]["value"] == 0.5
    assert trial["now"]["low"] < 0.5 < trial["now"]["high"]
    assert "run_1" in trial["now"]["source"]
    # The run asked another provider for `rented`: it says nothing of this one.
    [search] = [it for it in found["quality"] if it["route"] == "gpt-*"]
    assert (search["now"], search["unknown"]) == (None, 2)
    other = await desk.replay(lambda _: None, "--quality", "run_1", "--scorer", "nice")
    assert other.exit_code == 1
    assert "exact" in other.stderr


async def test_models_are_asked_where_the_record_does_not_tell(desk: Desk) -> None:
    desk.inside.script = Script(text="A strait.")
    before = len(desk.inside.requests)

    def inward(document: dict[str, Any]) -> None:
        document["routes"]["kept"] = "inside"

    found = await desk.data(inward, "--call", "--samples", "1")
    [called] = found["called"]
    assert (called["route"], called["model"], called["drawn"], called["answered"]) == ("kept", "inside", 1, 1)
    assert (called["then_nanousd"] > 0, called["now_nanousd"]) == (True, 0)
    assert len(desk.inside.requests) == before + 1
    assert "Asked now" in (await desk.replay(inward, "--call")).stdout


async def test_a_config_that_is_only_tried_lets_nothing_out(desk: Desk) -> None:
    before = len(desk.outside.requests)
    found = await desk.data(lambda it: it["routes"].update(kept="rented"), "--call", "--max-usd", "1")
    assert [it["direction"] for it in found["crossings"]] == ["out"]
    assert found["called"] == []
    assert len(desk.outside.requests) == before


async def test_a_call_that_costs_needs_a_cap_and_keeps_it(desk: Desk) -> None:
    def dearer(document: dict[str, Any]) -> None:
        document["models"]["other"] = {
            "provider": "out",
            "price": {"input": 1, "output": 1},
            "max_output": 100,
        }
        document["routes"]["kept"] = "other"

    result = await desk.replay(dearer, "--call")
    assert result.exit_code == 2
    assert "--max-usd" in result.stderr
    before = len(desk.outside.requests)
    found = await desk.data(dearer, "--call", "--max-usd", "0.000000001")
    assert found["called"][0]["failed"] == {"budget_spent": 2}
    assert len(desk.outside.requests) == before


async def test_feedback_tells_how_good_other_weights_would_be(desk: Desk) -> None:
    feedbacks = SqliteFeedback(desk.served.house.ledger_path)
    trial = [it for it in await desk.served.records() if it.route == "trial" and it.model]
    for number, record in enumerate(trial):
        score = float(record.model == "outside")
        feedbacks.add(Feedback(id=f"f{number}", record_id=record.id, at_us=record.at_us, score=score))
    mean = sum(it.model == "outside" for it in trial) / len(trial)
    found = await desk.data(lambda it: it["perimeter"].update(timeout=61), "--feedback")
    [told] = found["by_feedback"]
    assert (told["route"], told["judged"], told["unseen"]) == ("trial", len(trial), 0)
    assert told["now"] == pytest.approx(mean) == told["then"]
    assert told["low"] < mean < told["high"] or mean == 1
    # What was never done may be worth anything.
    never = await desk.data(lambda it: it["routes"].update(trial="inside"), "--feedback")
    [told] = never["by_feedback"]
    assert (told["now"], told["low"], told["high"], told["unseen"]) == (None, 0, 1, 1)


async def test_what_is_wrong_is_said(desk: Desk) -> None:
    result = await desk.replay(lambda it: it["routes"].update(cheap="no-such-model"))
    assert result.exit_code == 1
    assert "no-such-model" in result.stderr
    gone = await asyncio.to_thread(
        CliRunner().invoke, main, ["replay", "--policy", str(desk.folder / "none.yaml")]
    )
    assert gone.exit_code == 1
    assert "cannot be read" in gone.stderr
    nothing = await desk.replay(lambda _: None, "--route", "none-such")
    assert nothing.exit_code == 0
    assert "nothing to replay" in nothing.stderr
    for wrong in (("--max-usd", "1"), ("--scorer", "exact"), ("--since", "yesterday")):
        assert (await desk.replay(lambda _: None, *wrong)).exit_code == 2
    bare = await asyncio.to_thread(CliRunner().invoke, main, ["replay"])
    assert bare.exit_code == 2


async def test_a_page_is_written_beside_the_text(desk: Desk) -> None:
    page = desk.folder / "page.html"
    result = await desk.replay(lambda it: it["perimeter"].update(default="restricted"), "--html", str(page))
    assert result.exit_code == 0
    assert "<h2>The boundary</h2>" in page.read_text()


async def test_a_ledger_that_is_not_there_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path / "home"))
    (tmp_path / "new.yaml").write_text(config_text("http://127.0.0.1:9", "http://127.0.0.1:9"))
    named = ["--config", str(tmp_path / "new.yaml"), "--policy", str(tmp_path / "new.yaml")]
    result = CliRunner().invoke(main, ["replay", *named])
    assert result.exit_code == 1
    assert "There is no ledger" in result.stderr
    assert not (tmp_path / "home").exists()
