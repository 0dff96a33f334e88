"""What records carry, so that another config can be asked about them later."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec

from isthmus.cli.records import _story
from isthmus.config.archive import unarchive
from isthmus.core.label import Label
from isthmus.core.record import NO_GROUNDS, Features, Grounds
from isthmus.store.configs import SqliteConfigs
from isthmus.store.keys import SqliteKeys
from isthmus.testing import Simulator

from .gateway import PROMPT, config_of, config_text, eventually, serving, simulated


async def test_a_record_says_what_the_request_looked_like_and_what_its_label_was_made_of(
    tmp_path: Path,
) -> None:
    routes = {"gpt-*": "openai/m", "plain": "openai/m"}
    perimeter = {"clearance": {"closed": "restricted"}, "names": {"3b2a": "confidential"}}
    async with simulated(routes, tmp_path, perimeter=perimeter) as (_, served):
        keys = SqliteKeys(served.house.ledger_path)
        floor = Label("internal", zones=frozenset({"eu"}))
        new = keys.create("ci", (), time.time_ns() // 1000, floor=Label("confidential"), team="blue")
        zoned = keys.create("zoned", (), time.time_ns() // 1000, floor=floor)
        await asyncio.to_thread(served.house.gateway.ring.refresh)

        said = {"authorization": f"Bearer {new.secret}", "x-isthmus-label": "public, 3b2a,public"}
        answer = await served.ask("gpt-4o", headers=said, max_tokens=7, temperature=0)
        record = await served.record(answer)
        assert (record.route, record.team, record.key_id) == ("gpt-*", "blue", new.key.id)
        assert record.features is not None
        assert msgspec.structs.replace(record.features, size=0) == Features(
            size=0, turns=1, max_output=7, temperature=0.0
        )
        assert record.features.size > len(PROMPT)
        assert record.grounds is not None
        assert msgspec.structs.replace(record.grounds, unlooked=()) == Grounds(
            asked="gpt-4o", floor=Label("confidential"), said=("public", "3b2a")
        )
        # The label was confidential at once, and that is what names would have made of it.
        assert "pii.name" in record.grounds.unlooked
        assert any("as the caller says" in line for line in _story(record))

        answer = await served.ask("plain", headers={"authorization": f"Bearer {zoned.secret}"})
        other = await served.record(answer)
        assert (other.team, other.grounds) == (None, Grounds(floor=floor))


async def test_what_could_not_be_looked_into_is_said(tmp_path: Path) -> None:
    async with simulated({"plain": "openai/m"}, tmp_path, perimeter={}) as (_, served):
        picture = [{"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}]
        answer = await served.ask("plain", messages=[{"role": "user", "content": picture}])
        record = await served.record(answer)
        assert record.grounds is not None
        assert record.grounds.blind
        assert record.features is not None
        assert record.features.pictures


async def test_a_request_that_nobody_vouches_for_and_nobody_looks_into_rests_on_nothing_else(
    tmp_path: Path,
) -> None:
    async with simulated({"plain": "openai/m"}, tmp_path) as (_, served):
        assert (await served.record(await served.ask("plain"))).grounds == NO_GROUNDS
        lost = await served.record(await served.ask("no-such-route"))
        assert lost.grounds == Grounds(asked="no-such-route")


async def test_every_config_that_was_in_force_is_kept(tmp_path: Path) -> None:
    async with Simulator() as sim, serving(config_text(sim.url, {"one": "openai/m"}), tmp_path) as served:
        first = served.house.gateway.snapshot.config
        second = config_of(config_text(sim.url, {"two": "openai/m"}))
        served.house.reload(second)
        configs = SqliteConfigs(served.house.ledger_path)
        await eventually(lambda: second.hash in configs.all())
        kept = {hash: unarchive(body) for hash, body in configs.all().items()}
        assert [list(it.routes) for it in kept.values() if it] == [["one"], ["two"]]
        assert list(kept) == [first.hash, second.hash]
