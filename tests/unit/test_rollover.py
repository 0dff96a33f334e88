"""What serves while rollouts change it: what of an engine counts as fit, and how a gateway begins."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from isthmus.config.config import CalibrationFile, Config, Watch
from isthmus.config.digests import Digests
from isthmus.config.load import parse
from isthmus.core.alarm import Alarm
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.rollout import Stage, Turn
from isthmus.gateway import rollover
from isthmus.gateway.rollover import Hosted, Rollover, first_standing
from isthmus.gateway.snapshot import Snapshot
from isthmus.store.memory import MemoryRollouts
from isthmus.strategies.plan import CallModel, Cascade
from isthmus.strategies.plan.cascade import Step
from isthmus.strategies.plan.node import Calibrated


class Engine:
    """What was started for a model, ready when it is told to be."""

    def __init__(self, *, ready: bool = True) -> None:
        self.waited_for = False
        self.state = "ready" if ready else "starting"
        self._ready = asyncio.Event()
        if ready:
            self.be_ready()

    def be_ready(self) -> None:
        self.state = "ready"
        self._ready.set()

    async def ready(self) -> None:
        self.waited_for = True
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
        standing = first_standing(config, store, (), digests, 5)
        self.serving = standing.serving
        self.workshop = Workshop()
        self.rollover = Rollover(standing, digests, self.workshop, lambda: self.serving, self._adopt)

    def _adopt(self, snapshot: Snapshot) -> None:
        self.serving = snapshot.config


@pytest.fixture
def watched(config: Config) -> Config:
    """The config with a calibrated cascade on a route that is watched."""
    watch = Watch(route="one", since=dt.date(2026, 11, 2))
    steps = (Step(plan=CallModel(model="one")), Step(plan=CallModel(model="two")))
    plan = Cascade(stages=steps).calibrated(Calibrated(file="c.json", sha256="c", asked_at_us=1))
    routes = config.routes | {"one": msgspec.structs.replace(config.routes["one"], plan=plan)}
    files = (CalibrationFile(route="one", path="c.json", sha256="c", stale=False),)
    return msgspec.structs.replace(config, routes=routes, drift=(watch,), calibrations=files)


def alarm(config: Config) -> Alarm:
    return Alarm(route="one", quantity="quality", watch=config.drift[0].identity, at_us=2)


async def test_an_alarm_is_heeded_at_once_and_through_reloads_until_it_is_settled(watched: Config) -> None:
    gateway = Gateway(watched)
    before = gateway.serving
    gateway.rollover.heed("one", [])
    assert gateway.serving is before, "nothing is made anew while nothing has changed"
    gateway.rollover.heed("one", [alarm(watched)])
    gateway.rollover.heed("two", [])
    assert gateway.serving.stale_calibrations == {("one",): 1}
    cheaper = msgspec.structs.replace(watched, hash="cheaper")
    gateway.rollover.reload(cheaper)
    assert gateway.serving.stale_calibrations == {("one",): 1}
    (watch,) = watched.drift
    settled = msgspec.structs.replace(watch, since=dt.date(2026, 11, 28))
    gateway.rollover.reload(msgspec.structs.replace(cheaper, drift=(settled,)))
    assert gateway.serving.stale_calibrations == {("one",): 0}


async def test_an_alarm_that_comes_while_an_engine_starts_is_not_lost(watched: Config) -> None:
    gateway = Gateway(watched)
    promoted = turn(watched, "two")
    name = f"two@{promoted.new.id}"
    engine = gateway.workshop.engines[name] = Engine(ready=False)
    taking = asyncio.create_task(gateway.rollover.take([promoted]))
    while not engine.waited_for:  # noqa: ASYNC110
        await asyncio.sleep(0)
    gateway.rollover.heed("one", [alarm(watched)])
    engine.be_ready()
    await taking
    assert gateway.serving.stale_calibrations == {("one",): 1}
    assert name not in gateway.serving.models, "it is taken with the next look"
    await gateway.rollover.take([promoted])
    assert gateway.serving.stale_calibrations == {("one",): 1}
    assert name in gateway.serving.models


async def test_a_gateway_that_cannot_heed_an_alarm_says_so_and_tries_again(
    watched: Config, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway(watched)

    def failing(_: Config) -> Snapshot:
        raise IsthmusError(Fault.INTERNAL, "A secret is gone.", code="secret_missing")

    with monkeypatch.context() as broken:
        broken.setattr(gateway.workshop, "snapshot", failing)
        gateway.rollover.heed("one", [alarm(watched)])
    assert "not heeded yet: A secret is gone." in caplog.text
    assert gateway.serving.stale_calibrations == {("one",): 0}
    gateway.rollover.heed("one", [alarm(watched)])
    assert gateway.serving.stale_calibrations == {("one",): 1}


def test_a_gateway_begins_with_the_alarms_that_stand(watched: Config) -> None:
    begun = first_standing(watched, MemoryRollouts(), (alarm(watched),), Digests(), 5)
    assert begun.serving.stale_calibrations == {("one",): 1}


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
    assert first_standing(config, store, (), Digests(), 5).serving is config
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
