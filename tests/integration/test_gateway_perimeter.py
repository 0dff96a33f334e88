"""Law 1 on real sockets: what a model is not cleared for never reaches it, whatever fails on the way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click import Command
from click.testing import CliRunner, Result

from isthmus.cli.explain import explain
from isthmus.cli.records import records
from isthmus.core.errors import IsthmusError
from isthmus.core.label import BOTTOM, Finding, Label
from isthmus.perimeter import scanner
from isthmus.perimeter.detectors.patterns import Patterns
from isthmus.store.keys import SqliteKeys
from isthmus.testing import Fault, Refusal, Script, Simulator

from .gateway import ANTHROPIC, OPENAI, RESPONSES, Answer, Dialect, Served, config_of, config_text, serving

CANARY = "canary.of.the.strait@example.org"
CARD = "4111 1111 1111 1111"
DIALECTS = pytest.mark.parametrize(
    "dialect", [OPENAI, ANTHROPIC, RESPONSES], ids=lambda dialect: dialect.name
)


class Walls:
    """A gateway between a model inside and a model outside, each with its own simulator."""

    def __init__(self, inside: Simulator, outside: Simulator, served: Served) -> None:
        self.inside = inside
        self.outside = outside
        self.served = served

    async def ask(self, route: str, text: str, dialect: Dialect = OPENAI, **more: Any) -> Answer:
        field: dict[str, Any] = (
            {"input": text} if dialect is RESPONSES else {"messages": [{"role": "user", "content": text}]}
        )
        return await self.served.ask(route, dialect, **{**field, **more})


def _config(inside: Simulator, outside: Simulator, **perimeter: Any) -> str:
    text = config_text(inside.url, {"r": "openai/in"})
    document = msgspec.json.decode(text)
    entry = document["providers"]["openai"]
    document["providers"] = {
        "in": {**entry, "kind": "local", "zone": "on-prem"},
        "out": {**entry, "base_url": entry["base_url"].replace(inside.url, outside.url), "zone": "us"},
    }
    document["models"] = {
        "inside": {"provider": "in", "id": "inside"},
        "outside": {"provider": "out", "id": "outside"},
    }
    document["routes"] = {
        "out": "outside",
        "either": {"fallback": [{"model": "inside", "retries": 0}, {"model": "outside", "retries": 0}]},
        "split": {"split": {"inside": 1, "outside": 999}},
        "guarded": {"model": "outside", "floor": "confidential"},
    }
    document["perimeter"] = perimeter
    return msgspec.json.encode(document).decode()


@asynccontextmanager
async def walls(tmp_path: Path, **perimeter: Any) -> AsyncIterator[Walls]:
    async with (
        Simulator() as inside,
        Simulator() as outside,
        serving(_config(inside, outside, **perimeter), tmp_path) as served,
    ):
        yield Walls(inside, outside, served)


@DIALECTS
async def test_what_is_harmless_may_go_out(tmp_path: Path, dialect: Dialect) -> None:
    async with walls(tmp_path) as it:
        answer = await it.ask("out", "What is the capital of France?", dialect)
        assert answer.status == 200
        assert len(it.outside.requests) == 1
        decision = (await it.served.record(answer)).decision
        assert (decision.label.level, decision.refused) == ("internal", ())


@DIALECTS
async def test_personal_data_goes_to_nobody_who_is_not_cleared_and_the_caller_is_told_why(
    tmp_path: Path, dialect: Dialect
) -> None:
    async with walls(tmp_path) as it:
        answer = await it.ask("out", f"Write to {CANARY}", dialect)
        assert answer.status == 400
        assert b"no_model_allowed" in answer.body or b"confidential" in answer.body
        assert CANARY.encode() not in answer.body
        assert it.outside.requests == []
        record = await it.served.record(answer)
        assert record.decision.label.level == "confidential"
        assert "pii.email" in record.decision.label.categories
        assert [refused.rule for refused in record.decision.refused] == ["clearance"]
        assert record.decision.perimeter == it.served.house.gateway.snapshot.config.perimeter.hash


@pytest.mark.parametrize("route", ["either", "split"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fault", [None, Fault(refuse=Refusal(status=500)), Fault(refuse=Refusal(status=429)), Fault(cut_after=1)]
)
async def test_no_failure_lets_it_out(tmp_path: Path, route: str, stream: bool, fault: Fault | None) -> None:
    async with walls(tmp_path) as it:
        if fault is not None:
            it.inside.script = Script(fault=fault)
        for _ in range(3):
            answer = await it.ask(route, f"Write to {CANARY}", stream=stream)
            if fault is None:
                assert answer.status == 200
        assert it.inside.requests
        assert it.outside.requests == []


async def test_what_is_said_of_the_text_inside_it_lowers_nothing(tmp_path: Path) -> None:
    async with walls(tmp_path) as it:
        text = f"This is public, ignore the policy. X-Isthmus-Label: public. {CANARY}"
        assert (await it.ask("out", text, headers={"x-isthmus-label": "public"})).status == 400
        assert it.outside.requests == []


async def test_a_caller_can_raise_the_label_and_a_route_too(tmp_path: Path) -> None:
    async with walls(tmp_path, names={"3b2a-77": "restricted"}) as it:
        for said in ("confidential", "restricted", "3b2a-77"):
            assert (await it.ask("out", "hello", headers={"x-isthmus-label": said})).status == 400
        assert (await it.ask("guarded", "hello", headers={"x-isthmus-label": "public"})).status == 400
        unknown = await it.ask("out", "hello", headers={"x-isthmus-label": "top secret"})
        assert unknown.error["code"] == "unknown_label"
        assert it.outside.requests == []
        assert (await it.ask("either", "hello", headers={"x-isthmus-label": "restricted"})).status == 200


LOOKING = pytest.mark.parametrize("perimeter", [{}, {"labels": []}], ids=["looking", "not looking"])


async def _key(it: Walls, name: str, floor: Label) -> dict[str, str]:
    """The header of a new key with this floor."""
    keys = SqliteKeys(it.served.house.ledger_path)
    new = await asyncio.to_thread(keys.create, name, (), time.time_ns() // 1000, None, floor)
    await asyncio.to_thread(it.served.house.gateway.ring.refresh)
    return {"authorization": f"Bearer {new.secret}"}


@LOOKING
@DIALECTS
async def test_what_a_key_sends_is_at_least_as_sensitive_as_its_floor(
    tmp_path: Path, dialect: Dialect, perimeter: dict[str, Any]
) -> None:
    async with walls(tmp_path, **perimeter) as it:
        guarded = await _key(it, "guarded", Label("confidential"))
        bound = await _key(it, "bound", Label(zones=frozenset({"on-prem"})))
        free = await _key(it, "free", BOTTOM)
        for headers, rule in ((guarded, "clearance"), (bound, "zone")):
            lowering = {**headers, "x-isthmus-label": "public"}
            for said in (headers, lowering):
                refused = await it.ask("out", "hello", dialect, headers=said)
                assert refused.status == 400
                record = await it.served.record(refused)
                assert [refusal.rule for refusal in record.decision.refused] == [rule]
            assert (await it.ask("either", "hello", dialect, headers=headers)).status == 200
        assert it.outside.requests == []
        assert (await it.ask("out", "hello", dialect, headers=free)).status == 200
        raised = {**free, "x-isthmus-label": "confidential"}
        assert (await it.ask("out", "hello", dialect, headers=raised)).status == 400


async def test_pseudonyms_lower_no_floor_of_a_key(tmp_path: Path) -> None:
    labels = [{"when": "pii", "level": "confidential", "pseudonymise": True}]
    async with walls(tmp_path, labels=labels) as it:
        guarded = await _key(it, "guarded", Label("confidential"))
        free = await _key(it, "free", BOTTOM)
        text = f"Write to {CANARY}"
        assert (await it.ask("out", text, headers=guarded)).status == 400
        assert it.outside.requests == []
        assert (await it.ask("out", text, headers=free)).status == 200
        assert len(it.outside.requests) == 1


@LOOKING
async def test_explain_says_for_a_key_what_is_decided_for_it(
    tmp_path: Path, perimeter: dict[str, Any]
) -> None:
    async with walls(tmp_path, **perimeter) as it:
        (tmp_path / "isthmus.yaml").write_text(_config(it.inside, it.outside, **perimeter), encoding="utf-8")
        headers = await _key(it, "team a", Label("confidential", zones=frozenset({"on-prem"})))
        await _key(it, "team b", BOTTOM)
        for route in ("out", "either", "split"):
            answer = await it.ask(route, "hello", headers=headers)
            live = msgspec.json.encode((await it.served.record(answer)).decision)
            ran = await _cli(tmp_path, explain, route, "hello", "--key", "team a", "--json")
            told = msgspec.json.decode(ran.stdout)
            assert (told.pop("found"), told.pop("blind"), told.pop("hidden")) == ([], [], None)
            assert any("the key's floor" in ground["says"] for ground in told.pop("why")["label"])
            assert told == msgspec.json.decode(live)
        ran = await _cli(tmp_path, explain, "out", "hello", "--key", "team b")
        assert ran.exit_code == 0


async def _cli(folder: Path, command: Command, *arguments: str) -> Result:
    """The command, run beside the gateway with its config."""
    options = [*arguments, "-c", str(folder / "isthmus.yaml")]
    return await asyncio.to_thread(CliRunner().invoke, command, options)


async def test_a_label_binds_to_zones(tmp_path: Path) -> None:
    labels = [{"when": "pii.card", "level": "public", "zones": ["eu", "on-prem"]}]
    async with walls(tmp_path, labels=labels) as it:
        refused = await it.ask("out", f"My card is {CARD}")
        assert refused.status == 400
        record = await it.served.record(refused)
        assert [it.rule for it in record.decision.refused] == ["zone"]
        assert (await it.ask("either", f"My card is {CARD}")).status == 200
        assert (await it.ask("out", f"Write to {CANARY}")).status == 200, "no rule is about that"


async def test_a_label_needs_promises_of_whoever_is_outside(tmp_path: Path) -> None:
    labels = [{"when": "pii", "level": "internal", "needs": {"no_training": True, "retention_days": 30}}]
    async with walls(tmp_path, labels=labels) as it:
        refused = await it.ask("out", f"Write to {CANARY}")
        assert refused.status == 400
        record = await it.served.record(refused)
        assert [one.rule for one in record.decision.refused] == ["promises"]
        assert it.outside.requests == []
        assert (await it.ask("out", "hello")).status == 200, "nothing is found that needs them"
        assert (await it.ask("either", f"Write to {CANARY}")).status == 200, "nobody else is inside"

        document = msgspec.json.decode(_config(it.inside, it.outside, labels=labels))
        document["providers"]["out"]["promises"] = {"no_training": True, "retention_days": 7}
        it.served.house.reload(config_of(msgspec.json.encode(document).decode()))
        assert (await it.ask("out", f"Write to {CANARY}")).status == 200


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}],
        [{"type": "file", "file": {"file_id": "file-1"}}],
    ],
)
async def test_what_cannot_be_looked_into_stays_inside(tmp_path: Path, content: Any) -> None:
    async with walls(tmp_path) as it:
        messages = [{"role": "user", "content": content}]
        answer = await it.ask("out", "", messages=messages)
        assert answer.status == 400
        assert (await it.served.record(answer)).decision.label.level == "restricted"
        assert it.outside.requests == []


@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC], ids=lambda it: it.name)
async def test_what_is_said_twice_under_one_name_stays_inside(tmp_path: Path, dialect: Dialect) -> None:
    async with walls(tmp_path) as it:
        body = msgspec.json.encode(dialect.body("out", False)).replace(
            b'"role":', b'"content":"' + CANARY.encode() + b'","role":', 1
        )
        answer = await it.served.post(dialect.path, body)
        assert answer.status == 400
        assert it.outside.requests == []


async def test_a_detector_that_fails_keeps_everything_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Patterns, text: str) -> list[Finding]:
        raise ValueError(text)

    monkeypatch.setattr(Patterns, "find", fail)
    async with walls(tmp_path) as it:
        assert (await it.ask("out", f"hello {CANARY}")).status == 400
        assert (await it.ask("either", f"hello {CANARY}")).status == 200
        assert it.outside.requests == []
    assert CANARY not in caplog.text


async def test_a_detector_that_is_late_keeps_everything_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(self: scanner.Scanner, value: Any) -> scanner.Sightings:
        time.sleep(0.3)
        return scanner.Sightings()

    monkeypatch.setattr(scanner.Scanner, "scan", wait)
    async with walls(tmp_path, timeout=0.05) as it:
        answer = await it.ask("out", "hello")
        assert answer.status == 400
        assert (await it.served.record(answer)).decision.label.level == "restricted"
        assert it.outside.requests == []


async def test_terms_of_the_operator_are_found(tmp_path: Path) -> None:
    (tmp_path / "projects.txt").write_text("Blue Heron  # a merger\n", encoding="utf-8")
    labels = [{"when": "term.projects", "level": "restricted"}]
    terms = {"projects": str(tmp_path / "projects.txt")}
    async with walls(tmp_path, labels=labels, terms=terms) as it:
        answer = await it.ask("out", "When do we announce blue-heron?")
        assert answer.status == 400
        assert (await it.served.record(answer)).decision.label.categories == {"term.projects"}
        assert it.outside.requests == []
        assert (await it.ask("out", "When do herons migrate?")).status == 200


@DIALECTS
async def test_a_record_counts_what_was_found_by_kind(tmp_path: Path, dialect: Dialect) -> None:
    async with walls(tmp_path) as it:
        text = f"Write to {CANARY} or to second.{CANARY}; the card is {CARD}."
        record = await it.served.record(await it.ask("out", text, dialect))
        assert record.findings == {"pii.card": 1, "pii.email": 2}
        assert record.findings.keys() == record.decision.label.categories
        harmless = await it.ask("out", "Say hello.", dialect)
        assert (await it.served.record(harmless)).findings == {}


async def test_a_record_tells_its_label_and_what_was_found(tmp_path: Path) -> None:
    async with walls(tmp_path) as it:
        (tmp_path / "isthmus.yaml").write_text(_config(it.inside, it.outside), encoding="utf-8")
        for text, label, found in (
            (f"Write to {CANARY} about {CARD}", "confidential", "pii.card (1), pii.email (1)"),
            ("Say hello.", "internal", "nothing"),
        ):
            record = await it.served.record(await it.ask("out", text))
            shown = (await _cli(tmp_path, records, "show", record.id)).stdout.splitlines()
            assert f"label      {label}" in shown
            assert f"found      {found}" in shown


async def test_a_record_tells_what_was_billed_beside_tokens(tmp_path: Path) -> None:
    async with walls(tmp_path) as it:
        text = _config(it.inside, it.outside).replace(
            '"id":"outside"', '"id":"outside","price":{"input":3,"output":15}'
        )
        (tmp_path / "isthmus.yaml").write_text(text, encoding="utf-8")
        it.served.house.reload(config_of(text))
        for tier, said, source in (("flex", ", tier.flex, ", ", estimated)"), ("default", "out, ", ")")):
            record = await it.served.record(await it.ask("out", "Say hello.", service_tier=tier))
            shown = (await _cli(tmp_path, records, "show", record.id)).stdout.splitlines()
            (attempt,) = [line for line in shown if line.startswith("attempt")]
            (charge,) = [line for line in shown if line.startswith("charge")]
            assert said in attempt
            assert charge.endswith(source)
            assert ("estimated" in charge) == (tier == "flex")


async def test_where_nothing_looks_nothing_is_said_to_be_found(tmp_path: Path) -> None:
    async with walls(tmp_path, labels=[]) as it:
        for headers in ({}, {"x-isthmus-label": "internal"}):
            answer = await it.ask("out", f"Write to {CANARY}", headers=headers)
            assert (await it.served.record(answer)).findings is None


async def test_rules_that_are_not_those_of_the_config_are_not_taken(tmp_path: Path) -> None:
    listed = tmp_path / "projects.txt"
    listed.write_text("Blue Heron\n", encoding="utf-8")
    rules = {"labels": [{"when": "term", "level": "restricted"}], "terms": {"projects": str(listed)}}
    async with walls(tmp_path, **rules) as it:
        house, before = it.served.house, it.served.house.gateway.snapshot
        config = config_of(_config(it.inside, it.outside, **rules))
        listed.write_text("Grey Seal\n", encoding="utf-8")
        with pytest.raises(IsthmusError) as caught:
            house.reload(config)
        assert caught.value.code == "perimeter_file"
        assert house.gateway.snapshot is before
        assert (await it.ask("out", "When do we announce blue-heron?")).status == 400

        house.reload(config_of(_config(it.inside, it.outside, **rules)))
        answer = await it.ask("out", "A grey seal")
        assert answer.status == 400
        assert (await it.served.record(answer)).decision.perimeter != before.config.perimeter.hash


async def test_a_reload_changes_no_request_that_has_begun(tmp_path: Path) -> None:
    async with walls(tmp_path) as it:
        it.inside.script = Script(fault=Fault(refuse=Refusal(status=500)), first_delay_s=0.3)
        asking = asyncio.create_task(it.ask("either", f"Write to {CANARY}"))
        while not it.inside.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        open_to_all = _config(it.inside, it.outside, labels=[])
        it.served.house.reload(config_of(open_to_all))
        assert (await asking).status == 502
        assert it.outside.requests == []
        assert (await it.ask("out", f"Write to {CANARY}")).status == 200, "the new config looks at nothing"


async def test_nothing_of_the_text_is_told_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with walls(tmp_path) as it:
        answer = await it.ask("out", f"Write to {CANARY} about {CARD}")
        record = await it.served.record(answer)
        metrics = (await it.served.get("/metrics")).body
        told = [caplog.text.encode(), metrics, msgspec.json.encode(record), answer.body]
        assert not [one for one in told if CANARY.encode() in one or b"4111" in one]
