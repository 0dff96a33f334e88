"""Laws 3 and 6: no budget is ever overdrawn, whatever runs at once, in however many processes, crashes or
fails; counters are what was charged."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from isthmus.accounting.bounds import Bound, dearest
from isthmus.accounting.budgets import PORTIONS, Account, Budget, Caller, Draw, Period, window
from isthmus.accounting.charge import charge
from isthmus.catalog.prices import Period as PricePeriod
from isthmus.catalog.prices import Price, PriceList, Rates
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.usage import Charge, Usage
from isthmus.gateway.treasury import Held, Treasury
from isthmus.store.counters import Drawn, Name, Settlement
from isthmus.store.memory import MemoryCounters
from isthmus.store.schema import unavailable

PERIODS: tuple[Period, ...] = ("minute", "hour", "day", "week", "month")
HOUR_US = 3_600_000_000
BUDGETS = (
    Budget(amount=1_000, unit="usd", per="hour"),
    Budget(amount=300, unit="usd", per="hour", each="key"),
    Budget(amount=40, unit="usd", per="hour", model="dear"),
    Budget(amount=25, unit="requests", per="hour", model="*"),
)


class FailingCounters(MemoryCounters):
    """Counters on a disk that may be full."""

    full = False

    def draw(self, draws: Mapping[Name, Draw]) -> dict[Name, Drawn]:
        if self.full:
            raise unavailable("disk full")
        return super().draw(draws)

    def settle(self, settlements: Mapping[Name, Settlement]) -> None:
        if self.full:
            raise unavailable("disk full")
        super().settle(settlements)


class _Call:
    """A call that a process let through: for how much, and from which accounts."""

    def __init__(self, by: Treasury, held: Held, names: Sequence[tuple[Budget, Name]], most: int) -> None:
        self.by = by
        self.held = held
        self.names = names
        self.most = most


PROCESSES = st.integers(0, 1)


class Spending(RuleBasedStateMachine):
    """Requests come to two processes, wait, run, end and are cut off, while processes crash and the disk
    fills."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.counters = FailingCounters()
        self.treasuries = [Treasury(self.counters) for _ in range(2)]
        self.now_us = 1_000_000 * HOUR_US
        self.running: list[_Call] = []
        # The truth, which knows no accounts: what providers will bill.
        self.billed: dict[tuple[Budget, Name], int] = defaultdict(int)

    @rule(
        asked=st.lists(
            st.tuples(
                st.sampled_from("ab"), st.sampled_from(["dear", "cheap"]), st.integers(0, 60), st.booleans()
            ),
            min_size=1,
            max_size=6,
        ),
        process=PROCESSES,
    )
    def ask(self, asked: list[tuple[str, str, int, bool]], process: int) -> None:
        """Several at once; some of their clients leave before they know."""
        treasury = self.treasuries[process]

        async def one(key: str, model: str, most: int) -> _Call:
            purse = treasury.purse(BUDGETS, Caller(key=key, route="r"), self.now_us)
            held = await purse.hold(model, lambda: Bound(most, most))
            caller = Caller(key=key, route="r", model=model)
            subjects = [(budget, budget.subject(caller)) for budget in BUDGETS]
            hour = window("hour", self.now_us)
            names = [
                (budget, Name(budget.name, subject, hour.start_us, hour.end_us))
                for budget, subject in subjects
                if subject is not None
            ]
            return _Call(treasury, held, names, most)

        async def all_at_once() -> list[Any]:
            tasks = [asyncio.ensure_future(one(key, model, most)) for key, model, most, _ in asked]
            await asyncio.sleep(0)
            for task, (*_, leaves) in zip(tasks, asked, strict=True):
                if leaves:
                    task.cancel()
            return await asyncio.gather(*tasks, return_exceptions=True)

        for told in self.loop.run_until_complete(all_at_once()):
            if isinstance(told, _Call):
                self.running.append(told)
                for budget, name in told.names:
                    # Until it has ended, it may cost all that was held for it.
                    self.billed[budget, name] += 1 if budget.unit == "requests" else told.most
            elif isinstance(told, IsthmusError):
                assert told.fault is Fault.BUDGET_SPENT or self.counters.full
            else:
                assert isinstance(told, asyncio.CancelledError), told

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        call = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        cost = data.draw(st.one_of(st.none(), st.integers(0, call.most)))
        call.held.settle(Usage(input=1), Charge(nanousd=cost, basis="test", snapshot=""))
        for budget, name in call.names:
            if budget.unit == "usd" and cost is not None:
                self.billed[budget, name] -= call.most - cost

    @rule(process=PROCESSES)
    def crash(self, process: int) -> None:
        """All that was in its memory is gone; what was asked goes on to cost."""
        crashed = self.treasuries[process]
        crashed._thread.shutdown(wait=True)
        self.running = [call for call in self.running if call.by is not crashed]
        self.treasuries[process] = Treasury(self.counters)

    @rule(process=PROCESSES)
    def restart(self, process: int) -> None:
        """A clean end, which waits for the calls that run."""
        ending = self.treasuries[process]
        if any(call.by is ending for call in self.running):
            return
        self.loop.run_until_complete(ending.close())
        ending._thread.shutdown(wait=True)
        self.treasuries[process] = Treasury(self.counters)

    @rule(hours=st.integers(-2, 2))
    def jump(self, hours: int) -> None:
        """The clock goes on, or is set back."""
        self.now_us += hours * HOUR_US

    @rule(full=st.booleans())
    def fill_disk(self, full: bool) -> None:
        self.counters.full = full

    @rule(process=PROCESSES)
    def tell(self, process: int) -> None:
        with contextlib.suppress(IsthmusError):
            self.loop.run_until_complete(self.treasuries[process].tell())
            self.treasuries[process].forget(self.now_us)

    @invariant()
    def nothing_is_overdrawn(self) -> None:
        for (budget, name), billed in self.billed.items():
            assert billed <= budget.amount, f"{budget.name} of {name.subject!r}"

    @invariant()
    def all_that_may_be_billed_is_on_the_accounts(self) -> None:
        for (_, name), billed in self.billed.items():
            (durable,) = self.counters.drawn([name])
            assert billed <= durable, "what is spent was made durable first"
            for treasury in self.treasuries:
                known = treasury._accounts.get(name)
                assert known is None or known.spent + known.held <= known.drawn

    @invariant()
    def no_more_is_drawn_than_there_is(self) -> None:
        for name, count in self.counters.list(self.now_us):
            assert count.spent <= count.drawn <= next(it.amount for it in BUDGETS if it.name == name.budget)

    def teardown(self) -> None:
        for treasury in self.treasuries:
            treasury._thread.shutdown(wait=True)
        self.loop.close()


TestSpending = Spending.TestCase
TestSpending.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


async def test_a_client_that_leaves_while_it_is_drawn_for_it_takes_nothing_along() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class SlowCounters(MemoryCounters):
        def draw(self, draws: Mapping[Name, Draw]) -> dict[Name, Drawn]:
            begun.set()
            go_on.wait(10)
            return super().draw(draws)

    treasury = Treasury(SlowCounters())
    purse = treasury.purse([Budget(amount=640, unit="usd", per="ever")], Caller(route="r"), 0)
    asking = asyncio.ensure_future(purse.hold("m", lambda: Bound(30, 30)))
    await asyncio.to_thread(begun.wait, 10)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    go_on.set()
    held = await purse.hold("m", lambda: Bound(640, 640))
    held.settle(None, None)
    await treasury.close()


@given(st.integers(1, 10**12), st.lists(st.tuples(st.integers(0, 10**10), st.floats(0, 1)), max_size=30))
def test_what_is_settled_is_what_is_counted(amount: int, calls: list[tuple[int, float]]) -> None:
    account, cost = Account(0), 0
    for most, share in calls:
        if account.used + most > amount:
            continue
        account.hold(most)
        draw = account.to_draw(amount)
        if draw is not None:
            granted = draw.granted(account.drawn)
            assert 0 < draw.needed <= granted <= draw.needed + amount // PORTIONS
            account.draw(granted, account.drawn + granted)
        account.settle(most, paid := int(most * share))
        cost += paid
    assert (account.spent, account.held) == (cost, 0)
    assert account.spent <= account.drawn <= amount


@given(st.sampled_from(PERIODS), st.integers(0, 4_102_444_800_000_000))
def test_windows_follow_each_other(per: Period, at_us: int) -> None:
    here = window(per, at_us)
    assert here.start_us <= at_us < here.end_us
    assert window(per, here.start_us) == window(per, here.end_us - 1) == here
    assert window(per, here.end_us).start_us == here.end_us


rates = st.builds(
    Rates,
    **{
        name: st.integers(0, 10**6)
        for name in (
            "input",
            "output",
            "cache_read",
            "cache_write_5m",
            "cache_write_1h",
            "input_audio",
            "output_audio",
            "reasoning",
            "request",
        )
    },
    scale=st.sampled_from([1, 10, 1000]),
)
prices = st.builds(
    lambda base, tiers: Price(
        (PriceList(basis="t", snapshot="", periods=(PricePeriod(base=base, tiers=tiers),)),)
    ),
    rates,
    st.dictionaries(st.integers(0, 3000), rates, max_size=2).map(lambda tiers: tuple(sorted(tiers.items()))),
)
tokens = st.integers(0, 1000)


@given(prices, *[tokens] * 5, st.floats(0, 1), st.floats(0, 1), tokens, tokens)
def test_no_charge_is_beyond_its_bound(
    price: Price,
    fresh: int,
    read: int,
    brief: int,
    long: int,
    said: int,
    thought: float,
    heard: float,
    more: int,
    longer: int,
) -> None:
    usage = Usage(
        input=fresh,
        cache_read=read,
        cache_write_5m=brief,
        cache_write_1h=long,
        output=said,
        reasoning=int(said * thought),
        input_audio=int(fresh * heard),
    )
    most = dearest(price, usage.prompt + more, usage.output + longer, 0)
    charged = charge(price, usage, 0).nanousd
    assert most is not None
    assert charged is not None
    assert charged <= most
