"""Scorers, one a file: each says how good an answer is. A new one is a file here and a row in `SCORERS`."""

from __future__ import annotations

from typing import Any

from isthmus.core.evaluation import Ask, Embed, Scorer
from isthmus.evals.scorers import spec as specs
from isthmus.evals.scorers.choice import Choice
from isthmus.evals.scorers.code import Code
from isthmus.evals.scorers.contains import Contains
from isthmus.evals.scorers.exact import Exact
from isthmus.evals.scorers.fields import Fields
from isthmus.evals.scorers.normalised import Normalised
from isthmus.evals.scorers.numeric import Numeric
from isthmus.evals.scorers.regex import Regex
from isthmus.evals.scorers.schema import Schema
from isthmus.evals.scorers.tools import Tools

SCORERS: dict[str, type[Any]] = {
    "exact": Exact,
    "normalised": Normalised,
    "contains": Contains,
    "regex": Regex,
    "numeric": Numeric,
    "choice": Choice,
    "schema": Schema,
    "fields": Fields,
    "tools": Tools,
    "code": Code,
}
"""Every scorer by the name with which its spec begins."""


def scorer_of(spec: str, ask: Ask | None = None, embed: Embed | None = None) -> Scorer:
    """The scorer that is so written: `exact`, `numeric:tolerance=0.01`, `judge:model=sonnet,rubric=tone.txt`.

    `ask` and `embed` are what judges and similarity need. Raises IsthmusError: `unknown_scorer`, or
    `invalid_scorer` where its options, or the files that they name, are wrong.
    """
    keyword = spec.partition(":")[0]
    kind = SCORERS.get(keyword)
    if kind is None:
        raise specs.invalid(
            f"There is no scorer `{keyword[:100]}`.", specs.near(keyword, SCORERS), code="unknown_scorer"
        )
    scorer: Scorer = specs.made(kind, spec, {"name": spec, "ask": ask, "embed": embed})
    return scorer


__all__ = ["SCORERS", "scorer_of"]
