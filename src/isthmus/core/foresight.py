"""What is foreseen of a request before any model is asked: how good each answer is, and what it costs."""

from __future__ import annotations

import msgspec


class Outlook(msgspec.Struct, frozen=True):
    """What is foreseen of one model's answer.

    `quality` is its expected score, from 0 to 1, `output` its expected length in tokens, None where no answer
    was ever measured. `nanousd` is what it will cost; None where that is not known, which is never 0.
    """

    model: str
    quality: float
    output: int | None = None
    nanousd: int | None = None


class Foresight(msgspec.Struct, frozen=True, kw_only=True):
    """What a learned router foresees of one request: all that a choice depends on, and no text.

    `by` is the SHA-256 of its file. Where the request is like nothing that was learned from, `supported` is
    False, `why` says so, and the qualities are those of the models on the whole. `input` is about how many
    tokens it has, and `max_output` the longest answer that it asks for. Figures are rounded before anything
    is decided by them, so that what is recorded decides alike.
    """

    by: str
    supported: bool
    why: str
    input: int
    max_output: int | None = None
    outlooks: tuple[Outlook, ...] = ()


def two_digits(amount: int) -> int:
    """The amount to two significant digits: as far as lengths and costs are foreseen."""
    unit: int = 10 ** max(0, len(str(amount)) - 2)
    return round(amount / unit) * unit
