"""The money box: holds what calls may cost against every budget that is about them, and settles what they
did."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import msgspec

from isthmus.accounting.bounds import Bound
from isthmus.accounting.budgets import Account, Budget, Caller, window
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.usage import Charge, Usage
from isthmus.store.counters import Count, Counters, Name

log = logging.getLogger("isthmus.budgets")

TOLD_EVERY_S = 2.0
"""So often it is told what is spent, for whoever looks from outside."""

T = TypeVar("T")


class _Share(NamedTuple):
    """A part of what is held: so much on one account of a budget."""

    budget: Budget
    account: Account
    amount: int


class Held:
    """What is held for one call, until it is settled once."""

    __slots__ = ("_shares",)

    def __init__(self, shares: Sequence[_Share]) -> None:
        self._shares = shares

    def settle(self, usage: Usage | None, charge: Charge | None, *, worked: bool) -> None:
        """The call has ended; a cost that nobody knows counts as all that was held.

        `worked` is False where the endpoint refused, or was never heard.
        """
        shares, self._shares = self._shares, ()
        for budget, account, amount in shares:
            cost = _cost(budget, usage, charge) if worked else _refused(budget)
            if cost is not None and cost > amount:
                log.error(
                    "a call cost %s, and %s was held for it", budget.in_words(cost), budget.in_words(amount)
                )
            account.settle(amount, amount if cost is None else cost)


NOTHING_HELD = Held(())


class Treasury:
    """The accounts of all budgets, in memory, over counters that outlive the process.

    One thread keeps the counters, so that they change in the order in which it was asked for. It is for one
    event loop.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._accounts: dict[Name, Account] = {}
        self._keeping = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="isthmus-budgets")

    def purse(self, budgets: Sequence[Budget], caller: Caller, at_us: int) -> Purse:
        """What one request may spend from; it belongs to the windows in which it came."""
        return Purse(self, budgets, caller, at_us)

    async def hold(self, wanted: Sequence[tuple[Budget, Name, int]], at_us: int) -> Held:
        """Hold all of it for a request of that time, or nothing.

        Raises IsthmusError(BUDGET_SPENT) where a budget has not so much left, and UNAVAILABLE where it cannot
        be made durable: what may not be written down may not be spent.
        """
        await self.open(name for _, name, _ in wanted)
        shares = [_Share(budget, self._accounts[name], more) for budget, name, more in wanted]
        for (budget, account, more), (_, name, _) in zip(shares, wanted, strict=True):
            if account.used + more > budget.amount:
                raise _spent(budget, name, budget.amount - account.used, more, at_us)
        for _, account, more in shares:
            account.hold(more)
        try:
            await self._draw(wanted)
        except BaseException:
            for _, account, more in shares:
                account.settle(more, 0)
            raise
        return Held(shares)

    async def open(self, names: Iterable[Name]) -> None:
        """Know these accounts: how far earlier processes have drawn them."""
        if not self._unknown(names := list(names)):
            return
        async with self._keeping:
            unknown = self._unknown(names)
            drawn = await self._keep(lambda: self._counters.drawn(unknown))
            self._accounts |= {name: Account(it) for name, it in zip(unknown, drawn, strict=True)}

    def share_spent(self, budget: Budget, name: Name) -> float:
        """The share of a budget that is used on an account."""
        account = self._accounts.get(name)
        return budget.share(account.used) if account is not None else 0.0

    async def tell(self) -> None:
        """Write down what is spent."""
        async with self._keeping:
            # There may be very many accounts, and few that change.
            changed = [(name, it) for name, it in self._accounts.items() if it.told != (it.drawn, it.spent)]
            counts = {name: Count(it.drawn, it.spent) for name, it in changed}
            if counts:
                await self._keep(lambda: self._counters.draw(counts))
            for name, account in changed:
                account.told = (counts[name].drawn, counts[name].spent)

    def used(self, budgets: Sequence[Budget]) -> dict[tuple[str, ...], float]:
        """The share that is used of each budget, by its name: of its fullest account."""
        fullest: dict[tuple[str, ...], float] = {(budget.name,): 0.0 for budget in budgets}
        named = {budget.name: budget for budget in budgets}
        for name, account in self._accounts.items():
            budget = named.get(name.budget)
            if budget is not None:
                fullest[name.budget,] = max(fullest[name.budget,], budget.share(account.used))
        return fullest

    def forget(self, at_us: int) -> None:
        """Forget the accounts whose windows are long over, and of which nothing is held."""
        for name in [
            it for it, account in self._accounts.items() if not account.held and _is_over(it, at_us)
        ]:
            del self._accounts[name]

    async def keep_told(self, now_us: Callable[[], int]) -> None:
        """Tell and forget for ever. While nothing can be written, the log says so once."""
        failing = False
        while True:
            await asyncio.sleep(TOLD_EVERY_S)
            try:
                await self.tell()
                self.forget(now_us())
                failing = False
            except IsthmusError as error:
                if not failing:
                    log.error("the budgets' counters cannot be kept: %s", error.text)
                failing = True

    async def close(self) -> None:
        """Give back what is drawn and not used."""
        for account in self._accounts.values():
            account.drawn = account.used
        try:
            await self.tell()
        except IsthmusError as error:
            log.error("what was drawn of the budgets and not used is lost to them: %s", error.text)
        finally:
            self._thread.shutdown(wait=False)

    def _unknown(self, names: Iterable[Name]) -> list[Name]:
        return [name for name in names if name not in self._accounts]

    async def _draw(self, wanted: Sequence[tuple[Budget, Name, int]]) -> None:
        if not self._to_draw(wanted):
            return
        async with self._keeping:
            counts = self._to_draw(wanted)
            for name, count in counts.items():
                # Whoever leaves now does not know whether it is written: it has to be told again.
                self._accounts[name].told = (count.drawn, count.spent)
            if counts:
                await self._keep(lambda: self._counters.draw(counts))
            for name, count in counts.items():
                self._accounts[name].drawn = count.drawn

    def _to_draw(self, wanted: Sequence[tuple[Budget, Name, int]]) -> dict[Name, Count]:
        counts = {}
        for budget, name, _ in wanted:
            account = self._accounts[name]
            drawn = account.to_draw(budget.amount)
            if drawn is not None:
                counts[name] = Count(drawn, account.spent)
        return counts

    def _keep(self, work: Callable[[], T]) -> Awaitable[T]:
        # Who asked may leave; the thread goes on, and what it has begun comes before whatever follows.
        return asyncio.get_running_loop().run_in_executor(self._thread, work)


class Purse:
    """What one request spends from: the accounts of the budgets that are about it."""

    __slots__ = ("_at_us", "_budgets", "_caller", "_own", "_treasury")

    def __init__(self, treasury: Treasury, budgets: Sequence[Budget], caller: Caller, at_us: int) -> None:
        self._treasury = treasury
        self._budgets = budgets
        self._caller = caller
        self._at_us = at_us
        # Those that are about the request whatever model it asks.
        self._own = tuple(self._accounts(caller))

    async def enter(self) -> None:
        """Count the request. Raises IsthmusError(BUDGET_SPENT) where there have been as many as there may."""
        await self._treasury.open(name for _, name in self._own)
        counting = [(budget, name, 1) for budget, name in self._own if not budget.counts_attempts]
        held = await self._treasury.hold(counting, self._at_us)
        held.settle(None, None, worked=True)

    async def hold(self, model: str, bound: Callable[[], Bound]) -> Held:
        """Hold what a call of a model may cost; `bound` is asked only where a budget needs it.

        Raises IsthmusError(BUDGET_SPENT), also where nobody can tell what the call may cost.
        """
        caller = msgspec.structs.replace(self._caller, model=model)
        accounts = [it for it in self._accounts(caller) if it[0].counts_attempts]
        if not accounts:
            return NOTHING_HELD
        limit = None if all(budget.unit == "requests" for budget, _ in accounts) else bound()
        wanted = [(budget, name, _most(budget, limit)) for budget, name in accounts]
        return await self._treasury.hold(wanted, self._at_us)

    def spent(self, share: float) -> bool:
        """True where a budget that is about the request, whatever model it asks, is used to that share."""
        return any(self._treasury.share_spent(*it) >= share for it in self._own)

    @property
    def warnings(self) -> list[str]:
        """The budgets that are used so far that their callers are to be warned, in words."""
        told = []
        for budget, name in self._own:
            share = self._treasury.share_spent(budget, name)
            if share >= budget.warn_at:
                told.append(f"{budget.name} is used to {share:.0%}")
        return told

    def _accounts(self, caller: Caller) -> Iterator[tuple[Budget, Name]]:
        for budget in self._budgets:
            subject = budget.subject(caller)
            if subject is not None:
                held = window(budget.per, self._at_us)
                yield budget, Name(budget.name, subject, held.start_us, held.end_us)


def _most(budget: Budget, limit: Bound | None) -> int:
    if limit is None or budget.unit == "requests":
        return 1
    most = limit.nanousd if budget.unit == "usd" else limit.tokens
    if most is None:
        raise IsthmusError(
            Fault.BUDGET_SPENT,
            f"Nobody can tell what this call may cost at most, and the budget {budget.name!r} is never to be "
            f"overdrawn: {limit.why}.",
            code="cost_unbounded",
            hint="Send `max_tokens`; or have an operator say the model's `max_output` and `price`.",
        )
    return most


def _cost(budget: Budget, usage: Usage | None, charge: Charge | None) -> int | None:
    if budget.unit == "requests":
        return 1
    if usage is None or charge is None:
        return None
    return usage.total if budget.unit == "tokens" else charge.nanousd


def _refused(budget: Budget) -> int:
    return 1 if budget.unit == "requests" else 0


def _spent(budget: Budget, name: Name, left: int, more: int, at_us: int) -> IsthmusError:
    full_again = dt.datetime.fromtimestamp(name.end_us // 1_000_000, dt.UTC)
    again = f"full again at {full_again:%Y-%m-%dT%H:%M:%SZ}" if budget.per != "ever" else "not filled again"
    smaller = "" if budget.unit == "requests" else "; a smaller `max_tokens` holds less"
    return IsthmusError(
        Fault.BUDGET_SPENT,
        f"The budget {budget.name!r} has {budget.in_words(max(0, left))} left of "
        f"{budget.in_words(budget.amount)}, and this call may use {budget.in_words(more)}.",
        code="budget_spent",
        hint=f"It is {again}{smaller}.",
        retry_after_s=(name.end_us - at_us) / 1_000_000 if budget.per != "ever" else None,
    )


def _is_over(name: Name, at_us: int) -> bool:
    # One window longer than needed: a request belongs to that in which it came.
    return at_us > name.end_us + (name.end_us - name.start_us)
