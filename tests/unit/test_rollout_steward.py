"""Who leads rollouts: what is told, what is tried again, and who comes first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

import msgspec
import pytest

from isthmus.config.config import Config, RolloutRule
from isthmus.config.load import parse
from isthmus.config.rollouts import Pair, pair_of
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.portfolio import SecretRef
from isthmus.core.record import Record
from isthmus.core.rollout import Stage, Turn, Version
from isthmus.evals.rollout import steward
from isthmus.evals.rollout.steward import Steward, UnfitError
from isthmus.store.memory import MemoryRollouts
from isthmus.store.rollouts import Opinion

OLD, NEW = (Version(f"/weights/{it}", it * 64) for it in "ab")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steward, "EVERY_S", 0.001)


class Store(MemoryRollouts):
    """Turns in memory, and nobody who says anything."""

    def opinions(self, config_hash: str, models: Collection[str], after: int) -> Sequence[Opinion]:
        return ()


class Gateway:
    """What serves, as far as a steward sees it."""

    def __init__(self, take: Callable[[Sequence[Turn]], object] = lambda _: None) -> None:
        parsed = parse("ledger: {path: ledger.db}", "isthmus.yaml")
        assert parsed.config is not None
        webhook = SecretRef("env", "HOOK")
        rules = tuple(RolloutRule(model=name, webhook=webhook) for name in ("student", "other"))
        self.config: Config = msgspec.structs.replace(parsed.config, rollouts=rules)
        self.config_hash = "now"
        self.taken: list[list[Stage]] = []
        self.failed: str | None = None
        self._take = take

    def names(self, turn: Turn) -> Pair:
        return pair_of(turn, OLD)

    async def take(self, turns: Sequence[Turn]) -> None:
        self.taken.append([turn.stage for turn in turns])
        if isinstance(pending := self._take(turns), asyncio.Event):
            await pending.wait()

    def given_up(self, turn: Turn) -> str | None:
        return self.failed if turn.stage != "rolled back" else None


def turn(model: str = "student", stage: Stage = "canary") -> Turn:
    return Turn(
        model=model, stage=stage, share=0.5, ground=OLD, old=OLD, new=NEW, why="a test", who="tester", at_us=1
    )


def led(
    store: Store,
    gateway: Gateway,
    posted: list[str] | None = None,
    recall: Callable[[int], Sequence[Record]] = lambda _: (),
) -> Steward:
    async def post(_: RolloutRule, body: bytes) -> None:
        if posted is None:
            raise IsthmusError(Fault.UNAVAILABLE, "The webhook is ill.", code="webhook_failed")
        posted.append(msgspec.json.decode(body)["text"])

    told = max((turn.number for turn in store.history()), default=0)
    return Steward(store, gateway, recall, post, lambda: 7, told=told)


async def test_each_new_turn_is_told_once_whoever_added_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "isthmus.rollout")
    store, posted = Store(), list[str]()
    store.append(turn("other"), 0)
    watch = led(store, Gateway(), posted)
    await watch.look()
    assert not posted, "what was there before has been told by whoever was there"
    store.append(turn(), 0)
    for _ in range(3):
        await watch.look()
    await asyncio.sleep(0)
    told = f"student@{NEW.id} is canary (50%) (1970-01-01 00:00 UTC, by tester): a test"
    assert posted == [told]
    assert [it.getMessage() for it in caplog.records] == [f"rollout: {told}"]
    assert watch.stages() == {
        ("student", NEW.id, "canary"): 1.0,
        ("other", NEW.id, "canary"): 1.0,
    }


async def test_a_webhook_that_is_ill_keeps_nothing(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    watch = led(store, Gateway())
    await watch.look()
    store.append(turn(), 0)
    await watch.look()
    await asyncio.sleep(0)
    assert "was not taken by the webhook: The webhook is ill." in caplog.text


async def test_weights_that_cannot_serve_are_sent_back_and_who_has_none_left_is_tried_less_often() -> None:
    def refuse(turns: Sequence[Turn]) -> None:
        if turns:
            raise UnfitError("student", "They do not load.")

    store, gateway = Store(), Gateway(refuse)
    store.append(turn(), 0)
    watch = led(store, gateway)
    await watch.look()
    last = store.current()[0]
    assert (last.stage, last.why, last.who, last.at_us) == (
        "rolled back",
        "They do not load.",
        "the gateway",
        7,
    )
    for _ in range(40):
        await watch.look()
    assert len(store.history()) == 2
    assert 3 <= gateway.taken.count(["rolled back"]) < 12


async def test_an_engine_that_gives_up_sends_its_weights_back() -> None:
    store, gateway = Store(), Gateway()
    store.append(turn(stage="full"), 0)
    watch = led(store, gateway)
    await watch.look()
    assert store.current()[0].stage == "full"
    gateway.failed = "The engine has crashed too often."
    await watch.look()
    assert (store.current()[0].stage, store.current()[0].why) == ("rolled back", gateway.failed)


async def test_whoever_is_sent_back_does_not_wait_for_an_engine_that_starts() -> None:
    starting = asyncio.Event()

    def start(turns: Sequence[Turn]) -> object:
        return starting if turns[0].stage == "canary" else None

    store, gateway = Store(), Gateway(start)
    first = store.append(turn(), 0)
    watch = led(store, gateway)
    for _ in range(3):
        await watch.look()
    assert gateway.taken == [["canary"]], "it is under way, and not begun again"
    store.append(turn(stage="rolled back"), first.number)
    await watch.look()
    assert gateway.taken == [["canary"], ["rolled back"]]
    await watch.close()


async def test_what_is_sent_back_comes_first_and_waits_for_nobody() -> None:
    never = asyncio.Event()

    def start(turns: Sequence[Turn]) -> object:
        return never if "shadow" in {it.stage for it in turns} else None

    store, gateway = Store(), Gateway(start)
    bad = store.append(turn("other"), 0)
    watch = led(store, gateway)
    await watch.look()
    store.append(turn(stage="shadow"), 0)
    await watch.look()
    store.append(turn("other", "rolled back"), bad.number)
    await watch.look()
    assert gateway.taken == [["canary"], ["canary", "shadow"], ["rolled back"]]
    await watch.look()
    assert gateway.taken[-1] == ["rolled back", "shadow"], "and then the other is begun again"
    await watch.close()


async def test_who_has_nothing_to_go_back_to_keeps_nobody_else_from_it() -> None:
    def refuse(turns: Sequence[Turn]) -> None:
        if any(it.model == "student" and it.stage == "rolled back" for it in turns):
            raise UnfitError("student", "The old ones are gone.")

    store, gateway = Store(), Gateway(refuse)
    stuck, bad = store.append(turn(), 0), store.append(turn("other"), 0)
    watch = led(store, gateway)
    for _ in range(2):
        await watch.look()
    store.append(turn(stage="rolled back"), stuck.number)
    await watch.look()
    store.append(turn("other", "rolled back"), bad.number)
    for _ in range(2):
        await watch.look()
    # By the models' names: the other is back, and the student where it was.
    assert ["rolled back", "canary"] in gateway.taken
    await watch.close()


async def test_of_two_who_decide_at_once_the_second_gives_way() -> None:
    store, gateway = Store(), Gateway()
    first = store.append(turn(stage="full"), 0)
    watch = led(store, gateway)
    gateway.failed = "It has crashed."

    def faster(turns: Sequence[Turn]) -> None:
        if store.current()[0] == first:
            store.append(turn(stage="rolled back"), first.number)

    gateway._take = faster
    await watch.look()
    assert [it.who for it in store.history()] == ["tester", "tester"]


async def test_what_could_not_be_recalled_is_recalled_later() -> None:
    asked = []

    def recall(since_us: int) -> Sequence[Record]:
        asked.append(since_us)
        if len(asked) == 1:
            raise IsthmusError(Fault.UNAVAILABLE, "The ledger is busy.", code="ledger_busy")
        return ()

    store = Store()
    store.append(turn(), 0)
    watch = led(store, Gateway(), recall=recall)
    for _ in range(5):
        await watch.look()
    assert asked == [1, 1]


async def test_a_store_that_is_ill_is_complained_of_once(caplog: pytest.LogCaptureFixture) -> None:
    class Ill(Store):
        def current(self) -> Sequence[Turn]:
            raise IsthmusError(Fault.UNAVAILABLE, "The disk is gone.", code="ledger_unavailable")

    watch = led(Ill(), Gateway())
    for _ in range(3):
        await watch.look()
    assert [it.getMessage() for it in caplog.records] == ["rollouts stay as they are: The disk is gone."]
