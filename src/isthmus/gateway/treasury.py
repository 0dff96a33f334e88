"""The money box: holds what calls may cost against every budget that is about them, and settles what they
did."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import msgspec

from isthmus.accounting.bounds import Bound
from isthmus.accounting.budgets import Account, Budget, Caller, Draw, window
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.usage import Charge, Usage
from isthmus.store.counters import Counters, Name, Settlement

log = logging.getLogger("isthmus.budgets")

TOLD_EVERY_S = 2.0
"""So often it is told what is spent, for whoever looks from outside."""

T = TypeVar("T")


class _Share(NamedTuple):
    """A part of what is held: so much on one account of a budget."""

    budget: Budget
    name: Name
    account: Account
    amount: int


class Held:
    """What is held for one call, until it is settled once."""

    __slots__ = ("_shares",)

    def __init__(self, shares: Sequence[_Share]) -> None:
        self._shares = shares

    def settle(self, usage: Usage | None, charge: Charge | None) -> None:
        """The call has ended, and used this: None is nothing. Where nobody knows its cost, all that was held
        counts.
        """
        shares, self._shares = self._shares, ()
        for budget, _, account, amount in shares:
            cost = _cost(budget, usage, charge)
            if cost is not None and cost > amount:
                log.error(
                    "a call cost %s, and %s was held for it", budget.in_words(cost), budget.in_words(amount)
                )
            account.settle(amount, amount if cost is None else cost)


NOTHING_HELD = Held(())


class Treasury:
    """The accounts of all budgets, in memory, over counters that outlive the process and that others share.

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
        shares = [_Share(budget, name, self._accounts[name], more) for budget, name, more in wanted]
        for it in shares:
            if it.account.used + it.amount > it.budget.amount:
                raise _spent(it, it.account.used, at_us)
        for it in shares:
            it.account.hold(it.amount)
        try:
            if not await self._draw(shares):
                # Others have drawn what was left, and only now it is known how far.
                lacking = next((it for it in shares if it.account.used > it.budget.amount), shares[0])
                raise _spent(lacking, lacking.account.used - lacking.amount, at_us)
        except BaseException:
            for it in shares:
                it.account.settle(it.amount, 0)
            raise
        return Held(shares)

    async def open(self, names: Iterable[Name]) -> None:
        """Know these accounts: how far other processes have drawn them."""
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
        await _to_its_end(self._settle())

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
        try:
            await _to_its_end(self._settle(give_back=True))
        except IsthmusError as error:
            log.error("what was drawn of the budgets and not used is lost to them: %s", error.text)
        finally:
            self._thread.shutdown(wait=False)

    def _unknown(self, names: Iterable[Name]) -> list[Name]:
        return [name for name in names if name not in self._accounts]

    async def _draw(self, shares: Sequence[_Share]) -> bool:
        """Draw what is held and not drawn yet; False where one of the accounts has not so much left."""
        return not _to_draw(shares) or await _to_its_end(self._draw_more(shares))

    async def _draw_more(self, shares: Sequence[_Share]) -> bool:
        async with self._keeping:
            draws = _to_draw(shares)
            if not draws:
                return True
            drawn = await self._keep(lambda: self._counters.draw(draws))
        for it in shares:
            if it.name in drawn:
                it.account.draw(*drawn[it.name])
        return all(it.granted for it in drawn.values())

    async def _settle(self, *, give_back: bool = False) -> None:
        async with self._keeping:
            # There may be very many accounts, and few that change.
            accounts = {
                name: it
                for name, it in self._accounts.items()
                if it.spent != it.told or (give_back and it.unused)
            }
            settlements = {
                name: Settlement(it.spent - it.told, it.unused if give_back else 0)
                for name, it in accounts.items()
            }
            for name, it in settlements.items():
                # Gone before it is written: nobody may spend it meanwhile.
                accounts[name].drawn -= it.returned
            if settlements:
                await self._keep(lambda: self._counters.settle(settlements))
            for name, it in settlements.items():
                accounts[name].told += it.spent

    def _keep(self, work: Callable[[], T]) -> Awaitable[T]:
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
        held.settle(None, None)

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


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Who asked may leave; the work goes on, for what is written down has to be known here."""
    return await asyncio.shield(work)


def _to_draw(shares: Sequence[_Share]) -> dict[Name, Draw]:
    draws = ((it.name, it.account.to_draw(it.budget.amount)) for it in shares)
    return {name: draw for name, draw in draws if draw is not None}


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
    if usage is None:
        return 0
    if budget.unit == "tokens":
        return usage.total
    return None if charge is None else charge.nanousd


def _spent(share: _Share, used: int, at_us: int) -> IsthmusError:
    budget, name = share.budget, share.name
    left, more = max(0, budget.amount - used), share.amount
    full_again = dt.datetime.fromtimestamp(name.end_us // 1_000_000, dt.UTC)
    again = f"full again at {full_again:%Y-%m-%dT%H:%M:%SZ}" if budget.per != "ever" else "not filled again"
    smaller = "" if budget.unit == "requests" else "; a smaller `max_tokens` holds less"
    return IsthmusError(
        Fault.BUDGET_SPENT,
        f"The budget {budget.name!r} has {budget.in_words(left)} left of "
        f"{budget.in_words(budget.amount)}, and this call may use {budget.in_words(more)}.",
        code="budget_spent",
        hint=f"It is {again}{smaller}.",
        retry_after_s=(name.end_us - at_us) / 1_000_000 if budget.per != "ever" else None,
    )


def _is_over(name: Name, at_us: int) -> bool:
    # One window longer than needed: a request belongs to that in which it came.
    return at_us > name.end_us + (name.end_us - name.start_us)
