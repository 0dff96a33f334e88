"""Laws 3 and 6: no budget is ever overdrawn, whatever runs at once, crashes or fails; counters are what was
charged."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from isthmus.accounting.bounds import Bound, dearest
from isthmus.accounting.budgets import PORTIONS, Account, Budget, Caller, Period, window
from isthmus.accounting.charge import charge
from isthmus.catalog.prices import Period as PricePeriod
from isthmus.catalog.prices import Price, PriceList, Rates
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.usage import Charge, Usage
from isthmus.gateway.treasury import Held, Treasury
from isthmus.store.counters import Count, Name
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

    def draw(self, counts: Mapping[Name, Count]) -> None:
        if self.full:
            raise unavailable("disk full")
        super().draw(counts)


class _Call:
    """A call that was let through: for how much, and from which accounts."""

    def __init__(self, held: Held, names: Sequence[tuple[Budget, Name]], most: int) -> None:
        self.held = held
        self.names = names
        self.most = most


class Spending(RuleBasedStateMachine):
    """Requests come, wait, run, end and are cut off, while the process crashes and the disk fills."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.counters = FailingCounters()
        self.treasury = Treasury(self.counters)
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
        )
    )
    def ask(self, asked: list[tuple[str, str, int, bool]]) -> None:
        """Several at once; some of their clients leave before they know."""

        async def one(key: str, model: str, most: int) -> _Call:
            purse = self.treasury.purse(BUDGETS, Caller(key_id=key, key=key, route="r"), self.now_us)
            held = await purse.hold(model, lambda: Bound(most, most))
            caller = Caller(key_id=key, key=key, route="r", model=model)
            subjects = [(budget, budget.subject(caller)) for budget in BUDGETS]
            hour = window("hour", self.now_us)
            names = [
                (budget, Name(budget.name, subject, hour.start_us, hour.end_us))
                for budget, subject in subjects
                if subject is not None
            ]
            return _Call(held, names, most)

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

    @rule()
    def crash(self) -> None:
        """All that was in memory is gone; what was asked goes on to cost."""
        self.treasury._thread.shutdown(wait=True)
        self.running.clear()
        self.treasury = Treasury(self.counters)

    @precondition(lambda self: not self.running)
    @rule()
    def restart(self) -> None:
        self.loop.run_until_complete(self.treasury.close())
        self.treasury._thread.shutdown(wait=True)
        self.treasury = Treasury(self.counters)

    @rule(hours=st.integers(-2, 2))
    def jump(self, hours: int) -> None:
        """The clock goes on, or is set back."""
        self.now_us += hours * HOUR_US

    @rule(full=st.booleans())
    def fill_disk(self, full: bool) -> None:
        self.counters.full = full

    @rule()
    def tell(self) -> None:
        with contextlib.suppress(IsthmusError):
            self.loop.run_until_complete(self.treasury.tell())
        self.treasury.forget(self.now_us)

    @invariant()
    def nothing_is_overdrawn(self) -> None:
        for (budget, name), billed in self.billed.items():
            assert billed <= budget.amount, f"{budget.name} of {name.subject!r}"

    @invariant()
    def all_that_may_be_billed_is_on_the_accounts(self) -> None:
        for (budget, name), billed in self.billed.items():
            account = self.treasury._accounts.get(name)
            (durable,) = self.counters.drawn([name])
            assert billed <= (durable if account is None else account.used), budget.name
            assert billed <= durable, "what is spent was made durable first"

    def teardown(self) -> None:
        self.treasury._thread.shutdown(wait=True)
        self.loop.close()


TestSpending = Spending.TestCase
TestSpending.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.integers(1, 10**12), st.lists(st.tuples(st.integers(0, 10**10), st.floats(0, 1)), max_size=30))
def test_what_is_settled_is_what_is_counted(amount: int, calls: list[tuple[int, float]]) -> None:
    account, cost = Account(0), 0
    for most, share in calls:
        if account.used + most > amount:
            continue
        account.hold(most)
        drawn = account.to_draw(amount)
        if drawn is not None:
            assert account.drawn < drawn <= amount
            assert drawn <= account.used + amount // PORTIONS
            account.drawn = drawn
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
