"""The one stream of events that the interpreter yields; the client's answer, the ledger and the metrics are
folds over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from isthmus.core.errors import IsthmusError
from isthmus.core.pieces import Piece
from isthmus.core.record import AttemptRecord


class AttemptStarted(msgspec.Struct, frozen=True):
    """A model is being called."""

    model: str
    number: int


class Delta(msgspec.Struct, frozen=True):
    """A part of the answer goes to the client: `data` in the client's own dialect, or else canonical
    `pieces`.

    Which of the two an attempt yields is fixed before its first delta; bytes are passed through without being
    parsed. `last` marks the bytes that end a stream, so that a strict ledger can commit before them.
    """

    data: bytes = b""
    pieces: Sequence[Piece] = ()
    last: bool = False


class AttemptEnded(msgspec.Struct, frozen=True):
    """An attempt is over, and here is its story; `error` says what the client would be told, were it the last
    one.
    """

    record: AttemptRecord
    error: IsthmusError | None = None


class Judged(msgspec.Struct, frozen=True):
    """Something was made of the answer of attempt `number`, which has ended: a confidence in [0, 1] where
    there is one, and in words what follows from it."""

    number: int
    confidence: float | None
    verdict: str


class Delivered(msgspec.Struct, frozen=True):
    """The kept answer of attempt `number` is what the client gets: the deltas that follow are its."""

    number: int


class Revised(msgspec.Struct, frozen=True):
    """What the client has seen so far is taken back: the deltas that follow begin the answer anew."""


class Finished(msgspec.Struct, frozen=True):
    """The strategy is done: `model` answered, or `error` says why none did. Always the last event, exactly
    once.
    """

    model: str | None
    error: IsthmusError | None = None


Event: TypeAlias = AttemptStarted | Delta | AttemptEnded | Judged | Delivered | Revised | Finished
