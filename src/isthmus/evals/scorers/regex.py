"""`regex`: a pattern that an answer must have in it."""

from __future__ import annotations

import re2

from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.evals.scorers.answers import text_of, unscorable
from isthmus.evals.scorers.spec import invalid


class Regex:
    """1 where the pattern is found in the answer, as RE2 finds it; no target is needed."""

    binary = True

    def __init__(self, pattern: str, *, name: str = "regex") -> None:
        self.name = name
        options = re2.Options()
        # RE2 would write to standard error by itself.
        options.log_errors = False
        try:
            self._pattern = re2.compile(pattern.encode("utf-8", "replace"), options)
        except re2.error as error:
            says = error.args[0].decode() if isinstance(error.args[0], bytes) else error
            raise invalid(
                f"The scorer `regex`: the pattern is wrong: {says}.",
                "Patterns are RE2's: no back references, no look-around (github.com/google/re2/wiki/Syntax).",
            ) from None

    async def score(self, sample: Sample, answered: Answered) -> Score:
        """1 or 0; `said` is what was found."""
        if missing := unscorable(sample, answered, by_target=False):
            return missing
        found = self._pattern.search(text_of(answered).encode("utf-8", "replace"))
        said = found[0].decode("utf-8", "replace") if found else None
        return Score(value=float(found is not None), said=said)
