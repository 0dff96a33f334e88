"""What a training tells whoever started it: one JSON object a line."""

from __future__ import annotations

from typing import BinaryIO, TypeAlias

import msgspec


class Phase(msgspec.Struct, frozen=True, tag="phase"):
    """What it does now, in words."""

    what: str


class Step(msgspec.Struct, frozen=True, tag="step", kw_only=True):
    """One step of many. `loss` is the mean over the answers' tokens, in nats.

    `tokens` are all that were read. `seconds` is what the step took.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    tokens: int
    seconds: float


class Note(msgspec.Struct, frozen=True, tag="note"):
    """Something that a person should know, and nothing that stops."""

    text: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Why it cannot go on, with a stable code."""

    code: str
    message: str
    hint: str = ""


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """The work is done."""


Event: TypeAlias = Phase | Step | Note | Failed | Finished


class Teller:
    """Writes events to a stream. Of several processes at one work, all but the first tell failures only."""

    def __init__(self, out: BinaryIO, rank: int = 0) -> None:
        self._out, self._rank = out, rank

    def __call__(self, event: Event) -> None:
        if self._rank and not isinstance(event, Failed):
            return
        self._out.write(msgspec.json.encode(event) + b"\n")
        self._out.flush()
