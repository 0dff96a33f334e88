"""What serves while rollouts change it: what of an engine counts as fit, and how a gateway begins."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from isthmus.config.config import Config
from isthmus.config.digests import Digests
from isthmus.config.load import parse
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.rollout import Stage, Turn
from isthmus.gateway import rollover
from isthmus.gateway.rollover import Hosted, Rollover, first_standing
from isthmus.gateway.snapshot import Snapshot
from isthmus.store.memory import MemoryRollouts


class Engine:
    """What was started for a model, ready when it is told to be."""

    def __init__(self, *, ready: bool = True) -> None:
        self.state = "ready" if ready else "starting"
        self._ready = asyncio.Event()
        if ready:
            self.be_ready()

    def be_ready(self) -> None:
        self.state = "ready"
        self._ready.set()

    async def ready(self) -> None:
        await self._ready.wait()

    def unready(self) -> IsthmusError | None:
        failed = self.state == "failed"
        return IsthmusError(Fault.UNAVAILABLE, "It has crashed.", code="engine_failed") if failed else None


class Workshop:
    """Makes snapshots of nothing but a config, and has whatever engines it was given."""

    def __init__(self) -> None:
        self.engines: dict[str, Engine] = {}

    def snapshot(self, config: Config) -> Snapshot:
        upstreams = dict.fromkeys(config.models)
        return Snapshot(config, None, upstreams, None, None, lambda: None)  # type: ignore[arg-type]

    def hosted(self) -> dict[str, Hosted]:
        return dict(self.engines)


@pytest.fixture(autouse=True)
def warm_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def warm(_: object) -> None:
        pass

    monkeypatch.setattr(rollover, "warm", warm)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    text = "providers: {builtin: {engine: builtin}}\nmodels:\n"
    for name in ("one", "two"):
        (tmp_path / f"{name}.gguf").write_bytes(name.encode())
        text += f"  {name}: {{provider: builtin, weights: {tmp_path}/{name}.gguf}}\n"
    parsed = parse(text + "routes: {one: one, two: two}\n", "isthmus.yaml")
    assert parsed.config is not None, parsed.faults
    return parsed.config


def turn(config: Config, model: str, stage: Stage = "canary", content: bytes = b"new") -> Turn:
    """A turn to weights that lie beside the config's own."""
    own = Digests().version(config.models[model])
    path = Path(own.weights).with_name(f"{model}-new.gguf")
    path.write_bytes(content)
    new = Digests().version(msgspec.structs.replace(config.models[model], weights=str(path)))
    share = 0.5 if stage == "canary" else 0.0
    return Turn(
        model=model, stage=stage, share=share, ground=own, old=own, new=new, why="", who="tester", at_us=1
    )


class Gateway:
    """A rollover, and what serves by it."""

    def __init__(self, config: Config, turns: Sequence[Turn] = ()) -> None:
        store = MemoryRollouts()
        for it in turns:
            store.append(it, 0)
        digests = Digests()
        standing = first_standing(config, store, digests, 5)
        self.serving = standing.serving
        self.workshop = Workshop()
        self.rollover = Rollover(standing, digests, self.workshop, lambda: self.serving, self._adopt)

    def _adopt(self, snapshot: Snapshot) -> None:
        self.serving = snapshot.config


async def test_the_patience_with_an_engine_begins_when_its_weights_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rollover, "LOOK_S", 0.001)
    engine = Engine(ready=False)
    engine.state = "fetching"
    waiting = asyncio.create_task(rollover.until_ready(engine, 0.002))
    await asyncio.wait([waiting], timeout=0.05)
    assert not waiting.done()
    engine.state = "starting"
    async with asyncio.timeout(5):
        with pytest.raises(TimeoutError):
            await waiting


def test_of_two_gateways_that_start_at_once_both_do(config: Config) -> None:
    class Crowded(MemoryRollouts):
        def append(self, turn: Turn, after: int) -> Turn:
            super().append(turn, after)
            return super().append(turn, after)

    store = Crowded()
    MemoryRollouts.append(store, turn(config, "one"), 0)
    turn(config, "one", content=b"others")
    assert first_standing(config, store, Digests(), 5).serving is config
    assert [it.stage for it in store.history()] == ["canary", "rolled back"]


async def test_after_a_start_the_old_version_serves_alone_until_the_new_one_is_ready(config: Config) -> None:
    trial = turn(config, "one")
    gateway = Gateway(config, [trial])
    assert gateway.serving is config
    name = f"one@{trial.new.id}"
    engine = gateway.workshop.engines[name] = Engine(ready=False)
    taking = asyncio.create_task(gateway.rollover.take([trial]))
    await asyncio.wait([taking], timeout=0.05)
    assert gateway.serving is config
    engine.be_ready()
    await taking
    assert gateway.serving.models.keys() == {"one", "two", name}


def test_once_new_weights_have_taken_over_nobody_needs_the_file_of_the_old_ones(config: Config) -> None:
    full = turn(config, "one", "full")
    Path(full.old.weights).unlink()
    assert Gateway(config, [full]).serving.models.keys() == {f"one@{full.new.id}", "two"}


def test_where_the_older_weights_are_gone_the_file_wins(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    back = turn(config, "one", "rolled back")
    models = {**config.models, "one": msgspec.structs.replace(config.models["one"], weights=back.new.weights)}
    follows = msgspec.structs.replace(config, models=models)
    assert Gateway(follows, [back]).serving.models.keys() == {f"one@{back.old.id}", "two"}
    Path(back.old.weights).unlink()
    assert Gateway(follows, [back]).serving is follows
    assert "The config's own weights serve." in caplog.text
