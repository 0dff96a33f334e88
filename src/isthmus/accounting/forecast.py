"""What a request will cost, by what is foreseen of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from isthmus.accounting.charge import charge_together
from isthmus.catalog.prices import Price
from isthmus.core.foresight import Foresight, Outlook, two_digits
from isthmus.core.usage import Usage


def priced(foresight: Foresight, prices: Mapping[str, Price], at_us: int) -> Foresight:
    """The same, with what each model would cost at the prices of that time, to two significant digits.

    It is the price of the prompt, and of an answer of the model's usual length, or of the longest that the
    request asks for. None of a cache is reckoned with. An unknown price, or length, makes an unknown cost.
    """
    outlooks = tuple(
        msgspec.structs.replace(it, nanousd=_nanousd(it, foresight, prices.get(it.model), at_us))
        for it in foresight.outlooks
    )
    return msgspec.structs.replace(foresight, outlooks=outlooks)


def _nanousd(outlook: Outlook, foresight: Foresight, price: Price | None, at_us: int) -> int | None:
    if price is None or outlook.output is None:
        return None
    output = outlook.output if foresight.max_output is None else min(outlook.output, foresight.max_output)
    cost = charge_together(price, Usage(input=foresight.input, output=output), 1, at_us)
    return None if cost is None else two_digits(cost)
