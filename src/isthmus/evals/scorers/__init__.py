"""Scorers, one a file: each says how good an answer is. A new one is a file here and a row in `SCORERS`."""

from __future__ import annotations

from typing import Any

from isthmus.core.evaluation import Ask, Embed, Scorer
from isthmus.evals.scorers import spec as specs
from isthmus.evals.scorers.choice import Choice
from isthmus.evals.scorers.chrf import Chrf
from isthmus.evals.scorers.code import Code
from isthmus.evals.scorers.contains import Contains
from isthmus.evals.scorers.exact import Exact
from isthmus.evals.scorers.fields import Fields
from isthmus.evals.scorers.function import Function, is_there, names_function
from isthmus.evals.scorers.inspect_ai import InspectAi
from isthmus.evals.scorers.judge import Judge
from isthmus.evals.scorers.normalised import Normalised
from isthmus.evals.scorers.numeric import Numeric
from isthmus.evals.scorers.pairwise import Pairwise
from isthmus.evals.scorers.panel import Panel
from isthmus.evals.scorers.regex import Regex
from isthmus.evals.scorers.rouge import Rouge
from isthmus.evals.scorers.schema import Schema
from isthmus.evals.scorers.similarity import Similarity
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
    "rouge": Rouge,
    "chrf": Chrf,
    "similarity": Similarity,
    "judge": Judge,
    "pairwise": Pairwise,
    "panel": Panel,
    "inspect": InspectAi,
}
"""Every scorer by the name with which its spec begins; beside them there are functions, `module:function`."""


def scorer_of(spec: str, ask: Ask | None = None, embed: Embed | None = None) -> Scorer:
    """The scorer that is so written: `exact`, `numeric:tolerance=0.01`, `judge:model=sonnet,rubric=tone.txt`.

    `ask` and `embed` are what judges and similarity need. Raises IsthmusError: `unknown_scorer`, or
    `invalid_scorer` where its options, or the files that they name, are wrong.
    """
    kind = _kind(spec)
    scorer: Scorer = (
        Function(spec) if kind is None else specs.made(kind, spec, {"name": spec, "ask": ask, "embed": embed})
    )
    return scorer


def models_of(spec: str) -> tuple[str, ...]:
    """The models that a scorer so written asks. Raises IsthmusError as `scorer_of` does."""
    kind = _kind(spec)
    options = {} if kind is None else specs.options(kind, spec)
    named = [options[name] for name in ("model", "models") if name in options]
    return tuple(model for one in named for model in ((one,) if isinstance(one, str) else one))


def _kind(spec: str) -> type[Any] | None:
    """The class of a scorer so written, None for a function."""
    keyword = spec.partition(":")[0]
    if keyword in SCORERS:
        return SCORERS[keyword]
    if is_there(spec):
        return None
    module = ", and no Python module of that name" if names_function(spec) else ""
    raise specs.invalid(
        f"There is no scorer `{keyword[:100]}`{module}.", specs.near(keyword, SCORERS), code="unknown_scorer"
    )


__all__ = ["SCORERS", "models_of", "scorer_of"]
