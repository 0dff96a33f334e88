"""The answer to a case: every option, where they meet, what flips it, how far it may be off."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from isthmus.economics.tco.assumed import Stated, stated
from isthmus.economics.tco.break_even import BreakEven, break_even
from isthmus.economics.tco.case import Case, check
from isthmus.economics.tco.figures import Verdict, claimed, verdicts
from isthmus.economics.tco.options import Option, fleets, options, request_usd
from isthmus.economics.tco.uncertainty import DRAWS, Outlook, Swing, outlook, tornado


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known about a case.

    `first_api` is what the others are compared with. `seed` and `draws` are those of the outlook.
    """

    title: str
    first_api: str
    requests_per_month: float
    options: tuple[Option, ...]
    break_evens: tuple[BreakEven, ...]
    tornado: tuple[Swing, ...]
    outlook: tuple[Outlook, ...]
    seed: int
    draws: int
    assumptions: tuple[Stated, ...]
    verdicts: tuple[Verdict, ...]
    claim: Verdict | None


def answer(case: Case, draw: Callable[[], float], *, seed: int, draws: int = DRAWS) -> Answer:
    """The answer; `draw` gives the numbers in [0, 1) that `seed` stands for.

    Raises IsthmusError (`invalid_case`).
    """
    check(case)
    work = case.work
    requests = work.requests_per_month.value
    return Answer(
        title=case.title,
        first_api=case.first_api,
        requests_per_month=requests,
        options=tuple(options(case)),
        break_evens=tuple(
            break_even(fleet, name, request_usd(api, work), requests)
            for fleet in fleets(case)
            for name, api in case.apis.items()
        ),
        tornado=tuple(tornado(case)),
        outlook=tuple(outlook(case, draw, draws)),
        seed=seed,
        draws=draws,
        assumptions=tuple(stated(case)),
        verdicts=tuple(verdicts(case)),
        claim=None if case.claim is None else claimed(case, case.claim),
    )
