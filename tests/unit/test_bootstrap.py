"""The house is closed in good order, and what runs in it in the background does not end in silence."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

import isthmus
from isthmus.accounting.charge import charge
from isthmus.bootstrap import House, Workshop, in_background, open_house, prices_of
from isthmus.config.config import Config
from isthmus.config.load import parse
from isthmus.config.rollouts import version_of
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.portfolio import Model
from isthmus.core.rollout import Version
from isthmus.core.usage import Usage
from isthmus.gateway.snapshot import Snapshot
from isthmus.store.ledger import SqliteLedger

TEXT = """
providers: {p: {dialect: openai, kind: open, base_url: "http://127.0.0.1:9/v1"}}
models: {m: {provider: p}, n: {provider: p}}
routes: {r: m, s: n}
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config, faults = parse(f"{TEXT}\nledger: {{path: {tmp_path / 'ledger.db'}}}", "isthmus.yaml")
    assert config is not None, faults
    return config


def gauge(house: House, name: str) -> float:
    _, _, read = house.gateway.tally.gauges[name]
    return read()[()]


async def test_the_ledger_is_closed_whatever_else_will_not(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: object) -> NoReturn:
        raise RuntimeError("hush")

    monkeypatch.setattr("isthmus.bootstrap.Workshop.close", fail)
    with pytest.raises(RuntimeError):
        async with open_house(config):
            pass
    reopened = SqliteLedger(tmp_path / "ledger.db", "batched")
    await reopened.close()


async def test_a_version_has_no_engine_that_was_started_with_other_weights_from_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Model] = []
    monkeypatch.setattr("isthmus.bootstrap.HostedEngine", partial(_HostedEngine, made))
    (tmp_path / "old.gguf").touch()
    (tmp_path / "new.gguf").touch()
    text = f"""
providers: {{mine: {{engine: builtin}}}}
models: {{m: {{provider: mine, weights: {tmp_path}/old.gguf}}}}
routes: {{r: m}}
"""
    config, faults = parse(text, "isthmus.yaml")
    assert config is not None, faults
    workshop = Workshop(tmp_path)

    def serving(model: Model) -> Snapshot:
        return workshop.snapshot(
            msgspec.structs.replace(config, models={"m": config.models["m"], model.name: model})
        )

    first, second = (
        version_of(config.models["m"], Version(f"{tmp_path}/new.gguf", digest * 64)) for digest in "ab"
    )
    draining, current = serving(first), serving(second)
    assert [it.sha256 for it in made] == [None, "a" * 64, "b" * 64], "the old weights have one engine"
    # The config follows: its own weights are those that were started last from there.
    followed = serving(msgspec.structs.replace(config.models["m"], weights=f"{tmp_path}/new.gguf"))
    assert len(made) == 3
    for snapshot in (draining, current, followed):
        snapshot.release()
    await workshop.close()


class _HostedEngine:
    """Counts what engines were made for, and runs none."""

    def __init__(self, made: list[Model], model: Model, settings: object, **_: object) -> None:
        made.append(model)
        self.transport = None
        self.unready = self.verified = None

    async def stop(self, grace_s: float) -> None:
        pass


async def test_a_transport_that_will_not_close_keeps_nothing_open(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> NoReturn:
        raise RuntimeError("hush")

    monkeypatch.setattr("isthmus.bootstrap.Http1Transport.retire", fail)
    async with open_house(config):
        pass
    assert [record.getMessage() for record in caplog.records] == ["transport p was not closed: RuntimeError"]


async def test_the_chores_have_ended_when_the_house_is_closed(config: Config) -> None:
    before = asyncio.all_tasks()
    async with open_house(config):
        assert asyncio.all_tasks() > before
    assert asyncio.all_tasks() == before


async def test_stale_keys_are_seen_in_the_metrics(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_house(config) as house:
        assert gauge(house, "keys_stale") == 0
        monkeypatch.setattr(house.gateway.ring, "_keys", None)
        with pytest.raises(AttributeError):
            house.gateway.ring.refresh()
        assert gauge(house, "keys_stale") == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("hush"), "the work has failed: RuntimeError"),
        (IsthmusError(Fault.INTERNAL, "It broke.", code="c"), "the work has failed: It broke."),
    ],
)
async def test_work_in_the_background_never_dies_silently(
    caplog: pytest.LogCaptureFixture, error: Exception, told: str
) -> None:
    async def work() -> None:
        raise error

    await asyncio.wait([in_background(work(), "the work")])
    await asyncio.sleep(0)
    assert [record.getMessage().strip() for record in caplog.records] == [told]


async def test_cancelled_work_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    task = in_background(asyncio.sleep(60), "the work")
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert not caplog.records


def test_an_engine_of_ones_own_costs_nothing_but_for_what_the_config_says() -> None:
    text = """
providers: {own: {engine: builtin}, bought: {preset: openai, key: env:KEY}}
models:
  free: {provider: own, weights: qwen2.5-coder-0.5b-instruct}
  reckoned:
    provider: own
    weights: qwen2.5-coder-1.5b-instruct
    price: {input: 0.5, output: 2, valid_from: 2026-01-01}
  unlisted: {provider: bought, id: nobody-knows-it}
routes: {r: free}
"""
    config, faults = parse(text, "isthmus.yaml", check_secrets=False)
    assert config is not None, faults
    prices, used = prices_of(config), Usage(input=1000, output=500)
    before, since = (1_767_225_600_000_000 + days * 86_400_000_000 for days in (-1, 0))  # 2026-01-01
    charges = {
        name: [charge(prices[name], used, at_us) for at_us in (before, since)]
        for name in ("free", "reckoned", "unlisted")
    }
    assert [(it.nanousd, it.basis) for it in charges["free"]] == [(0, "own engine"), (0, "own engine")]
    # 1,000 tokens at 0.5 USD a million and 500 at 2: 0.0015 USD.
    assert [(it.nanousd, it.basis) for it in charges["reckoned"]] == [
        (0, "own engine"),
        (1_500_000, "config"),
    ]
    assert [it.basis for it in charges["unlisted"]] == ["unknown", "unknown"]


def test_only_the_composition_root_names_the_stores() -> None:
    source = Path(isthmus.__file__).parent
    elsewhere = [
        file.relative_to(source).as_posix()
        for file in sorted(source.rglob("*.py"))
        if file.parent.name != "store" and re.search(r"\bSqlite[A-Z]", file.read_text("utf-8"))
    ]
    assert elsewhere == ["bootstrap.py"]
