"""How good models are, as stored evaluation runs have found it."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.core.portfolio import Model
from isthmus.evals.outcome import Scores, quality, values
from isthmus.evals.replay.summary import Worth
from isthmus.store.runs import Run


def worth_of(run: Run, scorer: str, scores: Scores, models: Mapping[str, Model]) -> dict[str, Worth]:
    """The worth of those models of the config that the run has scored and that are still the same."""
    found = {}
    for candidate in run.models:
        model = models.get(candidate.name)
        if model is None or (model.id, model.provider) != (candidate.id, candidate.provider):
            continue
        seen = quality(scorer, values(candidate.name, scores).values())
        if seen.mean is not None:
            source = f"run {run.id[:12]}, {scorer}, {seen.n} samples"
            found[candidate.name] = Worth(
                value=seen.mean, low=seen.interval.low, high=seen.interval.high, source=source
            )
    return found
