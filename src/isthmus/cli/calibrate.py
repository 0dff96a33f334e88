"""`isthmus calibrate`: learns from a run when a cascade may believe its first model, with a promise."""

from __future__ import annotations

import re
import time
from pathlib import Path

import click
import msgspec

from isthmus.bootstrap import open_runs
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.pilot import carried_out, user_name
from isthmus.cli.runs import Number, Usd, check_scorers, judges_of, require_cap, require_statistics
from isthmus.cli.texts import replace
from isthmus.config.calibrations import cascades_in, pair_of, tie_of
from isthmus.config.config import Config
from isthmus.config.load import locate
from isthmus.core.errors import Fault, IsthmusError
from isthmus.evals.answers import candidate_of
from isthmus.evals.datasets import open_dataset
from isthmus.evals.pilot import new_run
from isthmus.reports.html import html
from isthmus.reports.markdown import markdown
from isthmus.routing.route import unknown_route
from isthmus.store.runs import Run, Runs
from isthmus.strategies.plan import Cascade

NOT_TO_BE = 3
"""The exit status where no cascade can be advised: nothing is promised, or nothing is saved."""

_AT_ONCE = 8
_SHARE = Number(0, 1, min_open=True, max_open=True)


@click.command()
@click.argument("route")
@click.option("--run", "prefix", help="The pilot run to learn from, by the beginning of its id.")
@click.option(
    "--dataset",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="In place of a run: ask these samples of both models first, and learn from that.",
)
@click.option("--scorer", help="Whose scores count. Default: the run's first. With --dataset: say one.")
@click.option(
    "--max-risk", type=_SHARE, default=0.05, show_default=True, help="The most that the mean score may lose."
)
@click.option(
    "--delta", type=_SHARE, default=0.1, show_default=True, help="How likely the promise may be broken."
)
@click.option("--max-usd", type=Usd(), help="With --dataset: spend at most so much on asking.")
@click.option("--max-tokens", type=click.IntRange(1), help="With --dataset: the longest answer.")
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the calibration goes. Default: calibrations/ROUTE.json beside the config.",
)
@click.option(
    "--html",
    "html_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with charts, too.",
)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def calibrate(
    route: str,
    prefix: str | None,
    dataset: Path | None,
    scorer: str | None,
    max_risk: float,
    delta: float,
    max_usd: int | None,
    max_tokens: int | None,
    out: Path | None,
    html_path: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Calibrate the cascade of ROUTE: from which confidence on its first model's answers may be taken.

    The run must have asked the cascade's first model and its last one the same samples, with --logprobs, and
    scored the answers. Writes a calibration, to be named under the first step's `accept`. Ends with status 3,
    and writes none, where the honest answer is not to cascade, or that nothing can be promised.
    """
    path = locate(config_path)
    config = load_or_exit(path)
    require_statistics()
    if (prefix is None) == (dataset is None):
        raise click.UsageError("Say --run or --dataset, one of them.")
    if dataset is None and (max_usd is not None or max_tokens is not None):
        raise click.UsageError("--max-usd and --max-tokens go with --dataset; a run was asked already.")
    cascade = _cascade_of(config, route)
    pair = pair_of(cascade)
    runs = open_runs(config, path)
    if dataset is not None:
        run = _asked(dataset, pair, scorer, max_usd, max_tokens, config, path, runs)
    else:
        run = runs.find(prefix or "")
    _require_same(run, pair, config)
    if run.ended_us is None:
        click.echo(f"isthmus: {run.id} is not complete: what it has been told so far is used.", err=True)

    from isthmus.evals.calibration import calibrate as calibrated
    from isthmus.evals.calibration import labelled
    from isthmus.evals.calibration_report import calibration_report

    marks = runs.scores(run.id)
    chosen = scorer if scorer is not None else next(iter(run.scorers), "")
    if chosen not in marks:
        raise IsthmusError(
            Fault.NOT_FOUND,
            f"The run {run.id} has no scores by {chosen!r}.",
            code="unknown_scorer",
            hint=f"It has those by: {', '.join(marks) or 'nobody'}. `isthmus eval score` adds others.",
        )
    labels, left_out = labelled(*pair, runs.answers(run.id), marks[chosen])
    _require_logprobs(run, pair[0], len(labels), left_out)
    style = config.routes[route].style
    if style is not None:
        click.echo(
            f"isthmus: the models were asked without the style card of {route}: what holds for their answers "
            "need not hold for those that it shapes.",
            err=True,
        )
    trial = calibrated(
        labels,
        tie_of(route, cascade, config.models, config.providers, card=style.card if style else ""),
        pair,
        max_risk=max_risk,
        delta=delta,
        made_at_us=time.time_ns() // 1000,
        left_out=left_out,
    )
    report = calibration_report(route, trial)
    click.echo(msgspec.json.encode(trial) if as_json else markdown(report), nl=as_json)
    if html_path is not None:
        html_path.write_text(html(report), encoding="utf-8")
    if trial.calibration is None:
        click.echo(f"Nothing is written: {trial.verdict}, as {trial.why}.", err=True)
        raise SystemExit(NOT_TO_BE)
    place = out if out is not None else _default_place(route, path)
    place.parent.mkdir(parents=True, exist_ok=True)
    replace(place, trial.calibration.dump())
    click.echo(f"Written: {place}. Name it under the first step: accept: {{calibration: ...}}.", err=True)


def _cascade_of(config: Config, route: str) -> Cascade:
    if route not in config.routes:
        raise unknown_route(route, list(config.routes))
    found = cascades_in(config.routes[route].plan)
    if len(found) == 1:
        return found[0]
    raise IsthmusError(
        Fault.INVALID_REQUEST,
        f"The route {route} has {'several cascades' if found else 'no cascade'}.",
        code="not_calibratable",
        hint="Calibrate a route with one cascade, from one model to another.",
    )


def _asked(
    dataset: Path,
    pair: tuple[str, str],
    scorer: str | None,
    max_usd: int | None,
    max_tokens: int | None,
    config: Config,
    path: Path | None,
    runs: Runs,
) -> Run:
    """The run that asks both models, with log-probabilities: as `isthmus pilot --logprobs` would."""
    if scorer is None:
        raise click.UsageError("Say --scorer: how answers to the dataset are scored.")
    check_scorers([scorer])
    judges = judges_of([scorer], config)
    require_cap(config, [*pair, *judges], max_usd)
    opened = open_dataset(dataset)
    for note in opened.notes:
        click.echo(f"isthmus: {opened.name}: {note}", err=True)
    request = {"logprobs": True} if max_tokens is None else {"max_tokens": max_tokens, "logprobs": True}
    run = new_run(
        opened,
        opened.samples,
        [candidate_of(config, name) for name in pair],
        [scorer],
        config.hash,
        request=request,
        cap_nanousd=max_usd,
        who=user_name(),
    )
    return runs.find(carried_out(run, opened, config, path, runs, judges, _AT_ONCE).id)


def _require_same(run: Run, pair: tuple[str, str], config: Config) -> None:
    """Refuse a run that asked other models than the cascade has."""
    asked = {it.name: it for it in run.models}
    for name in pair:
        if name not in asked:
            message = f"The run {run.id} did not ask {name}."
        elif asked[name] != candidate_of(config, name):
            message = f"{name} is another model now than when the run {run.id} asked it."
        else:
            continue
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            message,
            code="run_does_not_fit",
            hint=f"Run: isthmus pilot DATASET --models {','.join(pair)} --scorer SCORER --logprobs",
        )


def _require_logprobs(run: Run, weak: str, labels: int, left_out: dict[str, int]) -> None:
    missing = left_out.get("without log-probabilities of the weak answer", 0)
    if labels or not missing:
        return
    asked = bool(run.request.get("logprobs"))
    raise IsthmusError(
        Fault.INVALID_REQUEST,
        f"The run {run.id} has no log-probabilities of {weak}'s answers.",
        code="no_logprobs",
        hint="Its provider tells none: take another first model."
        if asked
        else "Ask for them: isthmus pilot --logprobs",
    )


def _default_place(route: str, path: Path | None) -> Path:
    folder = path.parent if path is not None else Path()
    return folder / "calibrations" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', route)}.json"
