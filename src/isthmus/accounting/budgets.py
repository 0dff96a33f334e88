"""Budgets: how much may be used of money, tokens or requests, by whom, in which time. Pure.

What a call may cost at most is held before it is made, and what it did cost is settled after it. A budget is
kept as an account for each subject and each window of time. An account is *drawn* ahead in portions, which
are made durable before anything is spent from them: so most calls wait for no disk, and after a crash no more
can have been spent than was drawn. What was drawn and not spent is lost to the window then; a clean end gives
it back. What one process has drawn no other may spend, so that any number of them share a budget. (Escrow in
portions: P. O'Neil, The Escrow Transactional Method, ACM TODS 11(4), 1986.)
"""

from __future__ import annotations

import datetime as dt
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal, TypeAlias

import msgspec

from isthmus.core.money import format_usd

Unit: TypeAlias = Literal["usd", "tokens", "requests"]
Period: TypeAlias = Literal["minute", "hour", "day", "week", "month"]
Span: TypeAlias = Period | Literal["ever"]
Subject: TypeAlias = Literal["key", "team", "user", "route", "model"]

_ABOUT = ("key", "team", "route", "model")

PORTIONS = 64
"""An account is drawn by at least so small a part of its budget, as long as so much is left."""

_SECONDS: dict[Period, int] = {"minute": 60, "hour": 3600, "day": 86_400}
_MINUTE_US = 60_000_000
_MONDAY_US = 4 * 86_400_000_000
_WEEK_US = 7 * 86_400_000_000
_EVER_US = 2**53
"""In the year 2255: every reader of JSON can tell it exactly."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who uses something, and by which way.

    `key` is the name of a key, which outlives the key's rotation, and `team` the team that it belongs to;
    empty where there are none.
    """

    key: str = ""
    team: str = ""
    user: str = ""
    route: str
    model: str = ""


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """So much of a unit in every window of time, in UTC: nano-USD, tokens, or requests; once, where it is for
    `ever`.

    `key`, `team`, `route` and `model` are names or glob patterns of what it is about; where none is said it
    is about everything. It holds for all of that together or, with `each`, for each of that kind by itself.
    From `warn_at`, a share of it, on, callers are warned.
    """

    amount: int
    unit: Unit
    per: Span
    key: str | None = None
    team: str | None = None
    route: str | None = None
    model: str | None = None
    each: Subject | None = None
    warn_at: float = 1.0

    @property
    def name(self) -> str:
        """What it is called in errors, metrics and lists; two budgets of one name are one."""
        about = [f"{word} {said}" for word in _ABOUT if (said := getattr(self, word))]
        each = [f"each {self.each}"] if self.each else []
        window = f"per {self.per}" if self.per != "ever" else "in all"
        return f"{self.unit} {window}" + (f" for {', '.join([*about, *each])}" if about or each else "")

    @property
    def counts_attempts(self) -> bool:
        """True where each call of a model counts, and not each request."""
        return self.unit != "requests" or self.model is not None or self.each == "model"

    def subject(self, caller: Caller) -> str | None:
        """Whose account it is that this caller uses; None where the budget is not about them."""
        for word in _ABOUT:
            pattern = getattr(self, word)
            if pattern is not None and not fnmatchcase(getattr(caller, word), pattern):
                return None
        if self.each is None:
            return ""
        said: str = getattr(caller, self.each)
        # Before a model is asked there is none.
        return None if self.each == "model" and not said else said

    def share(self, used: int) -> float:
        """The share of it that so much is."""
        return used / self.amount if self.amount else 1.0

    def in_words(self, amount: int) -> str:
        """An amount with its unit."""
        return f"USD {format_usd(amount)}" if self.unit == "usd" else f"{amount:,} {self.unit}"


class Window(msgspec.Struct, frozen=True):
    """A time from `start_us` until before `end_us`, in microseconds since the epoch."""

    start_us: int
    end_us: int


def window(per: Span, at_us: int) -> Window:
    """The window of a budget that holds that time: of the UTC clock and calendar; weeks begin on Monday."""
    # All of them begin with a minute, and requests of one minute ask for the same.
    return _window(per, at_us - at_us % _MINUTE_US)


@lru_cache(maxsize=256)
def _window(per: Span, at_us: int) -> Window:
    if per == "ever":
        return Window(0, _EVER_US)
    if per == "month":
        day = dt.datetime.fromtimestamp(at_us // 1_000_000, dt.UTC).date().replace(day=1)
        following = (day + dt.timedelta(days=31)).replace(day=1)
        return Window(_midnight_us(day), _midnight_us(following))
    if per == "week":
        start = at_us - (at_us - _MONDAY_US) % _WEEK_US
        return Window(start, start + _WEEK_US)
    length = _SECONDS[per] * 1_000_000
    return Window(at_us - at_us % length, at_us - at_us % length + length)


class Draw(msgspec.Struct, frozen=True, kw_only=True):
    """What a process draws of an account: `needed` at least, and `wished` where so much is left of `amount`.

    `mine` is what it has drawn before.
    """

    mine: int
    needed: int
    wished: int
    amount: int

    def granted(self, drawn: int) -> int:
        """What it gets of an account that all processes together have drawn so far; 0 where too little is
        left."""
        left = self.amount - drawn
        return min(self.wished, left) if self.needed <= left else 0


class Account:
    """What this process has used of one subject's budget in one window, and what is gone beside it.

    `drawn` is what is durable, `spent` what was settled, `held` what calls may still cost that run, or wait
    until enough is drawn; `elsewhere` is what others, or earlier processes, had drawn when that was last
    seen. As long as no call costs more than was held for it, `spent <= drawn <= amount - elsewhere`. `told`
    is what of `spent` was written down.
    """

    __slots__ = ("drawn", "elsewhere", "held", "spent", "told")

    def __init__(self, elsewhere: int) -> None:
        # Nobody knows how much of it was spent: all of it may be.
        self.elsewhere = elsewhere
        self.drawn = self.spent = self.held = self.told = 0

    @property
    def used(self) -> int:
        """What is, or may be, gone of the budget."""
        return self.elsewhere + self.spent + self.held

    @property
    def unused(self) -> int:
        """What of `drawn` is neither spent nor held; below zero where calls cost more than was held."""
        return self.drawn - self.spent - self.held

    def to_draw(self, amount: int) -> Draw | None:
        """What to draw before what is held may be spent, of a budget of that amount; None where it may be."""
        needed = -self.unused
        if needed <= 0:
            return None
        return Draw(mine=self.drawn, needed=needed, wished=needed + amount // PORTIONS, amount=amount)

    def draw(self, granted: int, drawn: int) -> None:
        """So much was granted to this process, and so far is the account drawn now, by all."""
        self.drawn += granted
        self.elsewhere = max(0, drawn - self.drawn)

    def hold(self, more: int) -> None:
        """Hold what a call may cost."""
        self.held += more

    def settle(self, held: int, cost: int) -> None:
        """The call for which that was held has ended and cost that."""
        self.held -= held
        self.spent += cost


def _midnight_us(day: dt.date) -> int:
    return (day - dt.date(1970, 1, 1)).days * 86_400_000_000
