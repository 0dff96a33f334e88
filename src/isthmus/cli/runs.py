"""What `pilot` and `eval` share: scoring a run's answers, and showing what the run says."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from isthmus.accounting.bounds import dearest
from isthmus.bootstrap import prices_of
from isthmus.cli.progress import RunLine
from isthmus.config.config import Config
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.evaluation import Ask, Embed, Sample
from isthmus.core.money import nanousd
from isthmus.evals.pilot import score_all
from isthmus.evals.scorers import models_of, scorer_of
from isthmus.reports.html import html
from isthmus.reports.markdown import markdown
from isthmus.store.runs import Run, Runs

if TYPE_CHECKING:
    from isthmus.evals.outcome import Outcome


class Number(click.FloatRange):
    """A number in a range, and nothing that is no number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is no number", param, ctx)
        return number


class Usd(click.ParamType[int]):
    """An amount of dollars such as 2.50, as nano-dollars."""

    name = "usd"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip().removeprefix("$")
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text) is None or not Decimal(text):
            self.fail(f"{value!r} is no amount; write it like 2.50", param, ctx)
        return nanousd(Decimal(text))


def judges_of(scorers: Sequence[str], config: Config) -> list[str]:
    """The models that scorers ask. Those that the config does not have are a fault of usage."""
    named = list(dict.fromkeys(model for spec in scorers for model in models_of(spec)))
    for name in named:
        if name not in config.models:
            known = ", ".join(config.models)
            raise click.UsageError(f"The model {name!r}, which is to judge, is none of: {known}.")
    return named


async def score_by(
    specs: Sequence[str], run: Run, samples: Sequence[Sample], runs: Runs, ask: Ask, embed: Embed
) -> None:
    """Score the run's answers by each of these, with progress."""
    for spec in specs:
        line = RunLine(f"Scoring by {spec}")

        def tell(done: int, total: int, line: RunLine = line) -> None:
            line(done, total, done)

        try:
            await score_all(run, samples, scorer_of(spec, ask, embed), runs, tell)
        finally:
            line.end()


def check_scorers(specs: Sequence[str]) -> None:
    """Refuse a wrong spec before anything is asked."""
    if len(set(specs)) < len(specs):
        raise click.BadParameter("one is said twice", param_hint="--scorer")
    for spec in specs:
        try:
            scorer_of(spec, _nobody, _nobody)
        except IsthmusError as error:
            raise click.BadParameter(error.text, param_hint="--scorer") from None


async def _nobody(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing is asked while scorers are checked")


def require_cap(config: Config, models: Sequence[str], cap: int | None) -> None:
    """Whoever asks what costs money says how much of it; what nobody can price no cap can hold."""
    prices, now_us = prices_of(config), time.time_ns() // 1000
    most = {name: dearest(prices[name], 1000, 1000, now_us) for name in models}
    unknown = [name for name, usd in most.items() if usd is None]
    dear = [name for name, usd in most.items() if usd]
    if dear and cap is None:
        raise click.UsageError(f"Say --max-usd: asking {', '.join(dear)} costs money.")
    if unknown and cap is None:
        click.echo(f"isthmus: nobody knows what {', '.join(unknown)} costs; nothing bounds it.", err=True)
    elif unknown:
        raise click.UsageError(
            f"No cap can hold where a price is unknown: say `price` for {', '.join(unknown)} in the config "
            "(0 where it costs nothing), or leave --max-usd out."
        )


def require_statistics() -> None:
    """Raises IsthmusError where the libraries that statistics need are missing."""
    try:
        import isthmus.evals.outcome  # noqa: F401
    except ModuleNotFoundError as missing:
        raise IsthmusError(
            Fault.INTERNAL,
            f"Statistics need the library {missing.name}, which is not installed.",
            code="extra_missing",
            hint="Install it: pip install 'isthmus[evals]'.",
        ) from None


def outcome_of(run: Run, runs: Runs) -> Outcome:
    """What the run says."""
    from isthmus.evals.outcome import outcome

    scores = runs.scores(run.id)
    ordered = {name: scores[name] for name in dict.fromkeys([*run.scorers, *scores]) if name in scores}
    return outcome(run, runs.samples(run), runs.answers(run.id), ordered)


def present(found: Outcome, html_path: Path | None, *, as_json: bool) -> None:
    """Print what a run says, and write it as a page where that is wanted."""
    from isthmus.evals.report import pilot_report

    document = pilot_report(found)
    if as_json:
        click.echo(msgspec.json.encode({**msgspec.to_builtins(found), "complete": found.complete}))
    else:
        click.echo(markdown(document), nl=False)
    if html_path is not None:
        html_path.write_text(html(document), encoding="utf-8")


def passed(found: Outcome, fail_under: float | None, baselines: Sequence[str]) -> int:
    """The exit status: 1 where a gate fails or something is left to ask, and stderr says which."""
    from isthmus.evals.outcome import failed_gates

    failures = failed_gates(found, fail_under=fail_under, baselines=baselines)
    for failure in failures:
        click.echo(f"Failed: {failure}.", err=True)
    return 1 if failures else 0
