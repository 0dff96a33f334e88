"""The loss of each step, kept as JSON Lines, and drawn."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from isthmus.distill.training.events import Step
from isthmus.reports.document import Document, Line, Lines, Prose, Section
from isthmus.reports.html import html

SMOOTHED = 10
"""The steps whose mean is drawn beside each step's own loss."""


class Curve:
    """The steps of a training over all its runs, in a file that grows by a line a step."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._steps: list[Step] = []
        self._begun = False

    def __enter__(self) -> Self:
        if self._path.exists():
            self._steps = _whole_lines(self._path.read_bytes())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def add(self, step: Step) -> None:
        """Keep it. Where it was done before, it and all that followed are done again."""
        if not self._begun or (self._steps and step.step <= self._steps[-1].step):
            self._steps = [it for it in self._steps if it.step < step.step]
            self._path.write_bytes(b"".join(map(_line, self._steps)))
            self._begun = True
        self._steps.append(step)
        with self._path.open("ab") as file:
            file.write(_line(step))

    def page(self, name: str) -> str:
        """The curve as a page of HTML."""
        return html(curve_report(name, self._steps))


def curve_report(name: str, steps: list[Step]) -> Document:
    """The loss of each step, and its mean over the last ones."""
    if not steps:
        return Document(f"Training of {name}", (Section("Loss", (Prose("No step is done yet."),)),))
    losses = [step.loss for step in steps]
    smooth = [_mean(losses[max(0, end - SMOOTHED) : end]) for end in range(1, len(losses) + 1)]
    numbers = [float(step.step) for step in steps]
    seconds, tokens = math.fsum(step.seconds for step in steps), sum(step.tokens for step in steps)
    says = (
        f"The loss fell from {smooth[0]:.3f} to {smooth[-1]:.3f} nats a token in {len(steps):,} of "
        f"{steps[-1].steps:,} steps."
    )
    chart = Lines(
        says=says,
        across="step",
        upward="loss (nats a token)",
        lines=(
            Line("each step", tuple(zip(numbers, losses, strict=True))),
            Line(f"mean of {SMOOTHED}", tuple(zip(numbers, smooth, strict=True))),
        ),
    )
    took = Prose(f"{tokens:,} tokens in {seconds:,.0f} s: {tokens / max(seconds, 1e-9):,.0f} a second.")
    return Document(f"Training of {name}", (Section("Loss", (chart, took)),))


def _whole_lines(content: bytes) -> list[Step]:
    """The steps of a file whose last line a kill may have cut."""
    lines = content.split(b"\n")[:-1]
    return [msgspec.json.decode(line, type=Step) for line in lines]


def _line(step: Step) -> bytes:
    return msgspec.json.encode(step) + b"\n"


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
