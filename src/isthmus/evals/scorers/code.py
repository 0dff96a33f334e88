"""`code`: Python that passes its tests, run in the sandbox."""

from __future__ import annotations

import asyncio
import os
import re
from typing import Annotated, Any

from msgspec import Meta

from isthmus.core.errors import IsthmusError
from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.evals.sandbox.programs import Limits, Outcome, check, run
from isthmus.evals.scorers.answers import text_of, unscorable
from isthmus.evals.scorers.structured import fences

LONGEST_LINE = 300

_PYTHON = ("python", "py", "python3", "")


class Code:
    """1 where the answer's Python passes the sample's tests within the time, in a sandbox without network."""

    binary = True

    def __init__(
        self,
        *,
        name: str = "code",
        timeout: Annotated[float, Meta(ge=0.1, le=600)] = 10.0,
        memory: Annotated[int, Meta(ge=32, le=1 << 20)] = 512,
    ) -> None:
        """`timeout` is in seconds, `memory` in MiB. Raises IsthmusError (`sandbox_unavailable`)."""
        self.name = name
        self._limits = Limits(wall_s=timeout, memory=memory << 20)
        self._places = asyncio.Semaphore(os.cpu_count() or 1)
        # Before anything is paid for: without the sandbox no answer can be scored.
        check()

    async def score(self, sample: Sample, answered: Answered) -> Score:
        """1 or 0, and the last thing that the program said.

        The tests are the sample's `metadata.test`, or else its targets, all of them: assertions as MBPP has
        them, or a function `check` as HumanEval's, which is called with `metadata.entry_point`.
        """
        tests = tests_of(sample)
        if missing := unscorable(sample, answered, by_target=False):
            return missing
        if not tests.strip():
            return Score(value=None, why="the sample has no tests: neither metadata.test nor a target")
        code = code_of(text_of(answered), _entry_point(sample))
        async with self._places:
            try:
                outcome = await asyncio.to_thread(run, f"{code}\n\n{tests}\n", self._limits)
            except IsthmusError as error:
                return Score(value=None, said=code, why=error.text)
        return Score(value=float(outcome.finished), said=code, why=self._why(outcome))

    def _why(self, outcome: Outcome) -> str | None:
        if outcome.finished:
            return None
        if outcome.timed_out:
            return f"it took longer than {self._limits.wall_s:g} s"
        lines = outcome.output.strip().splitlines()
        return lines[-1][:LONGEST_LINE] if lines else f"it ended with status {outcome.status}"


def code_of(text: str, entry_point: str | None = None) -> str:
    """The Python in an answer: its first code fence, or the last one that defines the entry point.

    Without a fence it is the whole text.
    """
    blocks = [block for language, block in fences(text) if language in _PYTHON]
    if entry_point is not None:
        defines = re.compile(rf"^\s*(?:async\s+)?(?:def|class)\s+{re.escape(entry_point)}\b", re.MULTILINE)
        blocks = [block for block in reversed(blocks) if defines.search(block)] or blocks
    return blocks[0] if blocks else text


def tests_of(sample: Sample) -> str:
    """The source of a sample's tests; empty where it has none."""
    given: Any = sample.metadata.get("test") or sample.target
    tests = given if isinstance(given, str) else "\n".join(map(str, given))
    entry_point = _entry_point(sample)
    if entry_point and re.search(r"^def check\(", tests, re.MULTILINE):
        tests += f"\n\ncheck({entry_point})"
    return tests


def _entry_point(sample: Sample) -> str | None:
    name = sample.metadata.get("entry_point")
    return name if isinstance(name, str) and name.isidentifier() else None
