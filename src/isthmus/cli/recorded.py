"""Recorded requests with their scores, as a choice learns from them."""

from __future__ import annotations

import secrets
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from isthmus.bootstrap import inspection_of, open_feedback, open_records, past_configs
from isthmus.config.config import Config
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.record import AttemptRecord
from isthmus.evals.datasets.from_records import Wish, samples_of
from isthmus.evals.recorded import Noted, Scored, is_still, scored
from isthmus.store.records import Where


def recorded_of(
    route: str,
    models: Sequence[str],
    config: Config,
    path: Path | None,
    since_us: int,
    left_out: Counter[str],
) -> list[Scored]:
    """The route's requests since then that were scored and teach a choice among these models.

    Each has the label of its request, raised by a look with today's rules. What does not teach is counted.
    Raises IsthmusError (`no_scores`) where nothing does.
    """

    past = past_configs(config, path)

    def is_today(attempt: AttemptRecord, config_hash: str) -> bool:
        then = past.get(config_hash)
        was = then.models.get(attempt.model) if then is not None else None
        return is_still(config.models[attempt.model], attempt, was)

    noted = Noted()
    where = Where(since_us=since_us, route=route, outcome="ok")
    opinions = noted.heeding(open_feedback(config, path).of)
    records = noted.noting(open_records(config, path).scan(where, bodies=True))
    inspection = inspection_of(config.perimeter, secrets.token_bytes(32))
    talk = sys.stderr
    try:
        samples = samples_of(
            records,
            opinions,
            lambda texts, least: inspection.look(texts, (least,), barred=lambda _: False).label,
            Wish(score=0.0),
            left_out,
        )
        with click.progressbar(samples, label="Reading", file=talk, hidden=not talk.isatty()) as bar:
            found = list(scored(bar, noted, models, is_today, left_out))
    finally:
        inspection.close()
    if noted.unscored:
        left_out["nobody scored the answer"] = noted.unscored
    if not found:
        reasons = "; ".join(f"{what} ({many:,})" for what, many in left_out.items())
        raise IsthmusError(
            Fault.NOT_FOUND,
            f"No recorded request of {route} teaches its choice{f': {reasons}' if reasons else ''}.",
            code="no_scores",
            hint="Let the route `split` its requests among the models, say `record_bodies: true`, and have "
            "answers scored: by POST /v1/feedback, or by `grade`.",
        )
    return found
