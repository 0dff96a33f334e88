"""`isthmus calibrate`: learns from a run, or from records, whom a route may believe, or choose, and what that
is worth."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from isthmus.bootstrap import alarms_in, open_runs, prices_of, static_embedding
from isthmus.cli.keys import Span
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.pilot import carried_out, user_name
from isthmus.cli.progress import ProgressLine
from isthmus.cli.recorded import recorded_of
from isthmus.cli.runs import Number, Usd, check_scorers, judges_of, require_cap, require_statistics
from isthmus.cli.texts import replace
from isthmus.config import panels, routers
from isthmus.config.calibrations import pair_of, tie_of
from isthmus.config.config import Config
from isthmus.config.doubts import OF_REQUESTS_AND_ANSWERS, VOIDS_CALIBRATIONS, heard, objections
from isthmus.config.load import locate
from isthmus.config.nodes import nodes_in
from isthmus.config.places import ledger_path
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.tie import Evidence
from isthmus.evals.answers import candidate_of, first_asked_us
from isthmus.evals.datasets import open_dataset
from isthmus.evals.pilot import new_run
from isthmus.reports.document import Document
from isthmus.reports.html import html
from isthmus.reports.markdown import markdown
from isthmus.routing.route import unknown_route
from isthmus.store.runs import Run, Runs
from isthmus.strategies.plan import Cascade, Choose, Ensemble

if TYPE_CHECKING:
    from isthmus.evals.calibration import Labelled
    from isthmus.evals.calibration import Trial as CascadeTrial
    from isthmus.evals.choosing import Lesson
    from isthmus.evals.choosing import Trial as ChoiceTrial
    from isthmus.evals.outcome import Scores
    from isthmus.evals.panels import Trial as PanelTrial
    from isthmus.routing.learned.embedding import Embedding

NOT_TO_BE = 3
"""The exit status where no cascade can be advised: nothing is promised, or nothing is saved."""

AT_ONCE = 8
_SHARE = Number(0, 1, min_open=True, max_open=True)


@click.command()
@click.argument("route")
@click.option("--run", "prefix", help="The pilot run to learn from, by the beginning of its id.")
@click.option(
    "--dataset",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="In place of a run: ask these samples of the models first, and learn from that.",
)
@click.option(
    "--records",
    "recorded",
    type=Span(),
    help="Of a choice, in place of a run: the route's own requests of the last while, e.g. 30d, that a split "
    "dealt out or a shadow answered too, and that people or judges scored.",
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
@click.option("--fresh", is_flag=True, help="With --dataset: take no answer from an earlier run.")
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the file goes. Default: calibrations/ROUTE.json, learned/ROUTE.router or panels/ROUTE.json "
    "beside the config.",
)
@click.option(
    "--html",
    "html_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with charts, too.",
)
@click.option(
    "--vectors/--no-vectors",
    default=True,
    help="Of a choice: learn from the nearest of the samples, too; the file holds a vector of each.",
)
@click.option(
    "--costs/--no-costs",
    default=True,
    help="Of a cascade: escalate first where that gains most for what it costs.",
)
@click.option("--named", is_flag=True, help="Of a choice: callers say their tasks by x-isthmus-task.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def calibrate(
    route: str,
    prefix: str | None,
    dataset: Path | None,
    recorded: float | None,
    scorer: str | None,
    max_risk: float,
    delta: float,
    max_usd: int | None,
    max_tokens: int | None,
    fresh: bool,
    out: Path | None,
    html_path: Path | None,
    vectors: bool,
    costs: bool,
    named: bool,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Calibrate the cascade of ROUTE: from which confidence on its first model's answers may be taken. Or
    learn for the choice of ROUTE how good the answers of each of its models will be, or for the vote of its
    ensemble who votes with what weight.

    The run must have asked a cascade's first model and its last one the same samples, with --logprobs, or all
    models of a choice or a vote, and scored the answers. A choice may also learn from --records. Writes a
    calibration, to be named under the first step's `accept`, or a learned router or panel, to be named under
    `by`. Where no vote is shown to be better than the best member, the panel is that one. Ends with status 3,
    and writes none, where the honest answer is not to cascade or choose, or that nothing can be promised.
    """
    path = locate(config_path)
    config = load_or_exit(path)
    require_statistics()
    if sum(it is not None for it in (prefix, dataset, recorded)) != 1:
        raise click.UsageError("Say --run or --dataset or --records, one of them.")
    if dataset is None and (max_usd is not None or max_tokens is not None or fresh):
        raise click.UsageError("--max-usd, --max-tokens and --fresh go with --dataset; nobody else is asked.")
    strategy = strategy_of(config, route)
    if named and not isinstance(strategy, Choose):
        raise click.UsageError("--named is of a choice: a cascade and a vote go by answers.")
    if recorded is not None:
        if isinstance(strategy, Cascade):
            raise click.UsageError("--records is of a choice: records keep no log-probabilities.")
        if isinstance(strategy, Ensemble):
            raise click.UsageError("--records is of a choice: records do not say how good each answer was.")
        if named or scorer is not None:
            raise click.UsageError("--named and --scorer go with runs: records keep no task, and no scorer.")
        promise = _Promise(max_risk, delta)
        outcome = _learned_from_records(route, strategy, config, path, recorded, promise, vectors=vectors)
    else:
        models = asked_of(strategy)
        logprobs = isinstance(strategy, Cascade)
        runs = open_runs(config, path)
        if dataset is not None:
            run = _asked(dataset, models, logprobs, scorer, max_usd, max_tokens, fresh, config, path, runs)
        else:
            run = runs.find(prefix or "")
        _require_same(run, models, config, " --logprobs" if logprobs else "")
        evidence = Evidence(
            run=run.id,
            scorer=scorer if scorer is not None else next(iter(run.scorers), ""),
            max_risk=max_risk,
            delta=delta,
            named=named,
            vectors=vectors,
            costs=costs,
        )
        outcome = learned_from(evidence, route, strategy, config, runs, run)
    click.echo(msgspec.json.encode(outcome.trial) if as_json else markdown(outcome.report), nl=as_json)
    if html_path is not None:
        html_path.write_text(html(outcome.report), encoding="utf-8")
    if outcome.content is None:
        click.echo(f"Nothing is written: {outcome.trial.verdict}, as {outcome.trial.why}.", err=True)
        raise SystemExit(NOT_TO_BE)
    place = out if out is not None else _default_place(outcome.place, path)
    place.parent.mkdir(parents=True, exist_ok=True)
    replace(place, outcome.content)
    click.echo(f"Written: {place}. {outcome.next}", err=True)
    voiding = VOIDS_CALIBRATIONS if isinstance(strategy, Cascade) else OF_REQUESTS_AND_ANSWERS
    alarms = heard(config, alarms_in(ledger_path(config, path))).get(route, ())
    if why := objections(alarms, outcome.asked_at_us, voiding):
        click.echo(
            f"It is stale from the start, as {', and '.join(why)}, after the first of its answers was given. "
            "Ask them anew: --dataset FILE --fresh.",
            err=True,
        )


class _Promise(NamedTuple):
    """At most so much may be lost, with so small a chance that it is more."""

    max_risk: float
    delta: float


class Outcome(NamedTuple):
    """What came of it: what is told, the file to write, None for none, where it goes by default, what to do
    with it, and when the first of the answers was given."""

    trial: CascadeTrial | ChoiceTrial | PanelTrial
    report: Document
    content: bytes | None
    place: str
    next: str
    asked_at_us: int


def learned_from(
    evidence: Evidence,
    route: str,
    strategy: Cascade | Choose | Ensemble,
    config: Config,
    runs: Runs,
    run: Run,
) -> Outcome:
    """What is learned for the strategy of a route from its evidence, which is this run.

    Raises IsthmusError: `unknown_scorer`, `no_logprobs`.
    """
    if run.ended_us is None:
        click.echo(f"isthmus: {run.id} is not complete: what it has been told so far is used.", err=True)
    marks = runs.scores(run.id)
    if evidence.scorer not in marks:
        raise IsthmusError(
            Fault.NOT_FOUND,
            f"The run {run.id} has no scores by {evidence.scorer!r}.",
            code="unknown_scorer",
            hint=f"It has those by: {', '.join(marks) or 'nobody'}. `isthmus eval score` adds others.",
        )
    if isinstance(strategy, Cascade):
        return _calibrated(evidence, route, strategy, config, runs, run, marks[evidence.scorer])
    if isinstance(strategy, Ensemble):
        return _empanelled(evidence, route, strategy, config, runs, run, marks[evidence.scorer])
    return _learned(evidence, route, strategy, config, runs, run, marks[evidence.scorer])


def _tell_of_cut(weak: str, labels: Sequence[Labelled]) -> None:
    cut = sum(it.signals["cut"] > 0 for it in labels)
    if cut:
        click.echo(
            f"isthmus: {cut:,} of {len(labels):,} answers of {weak} were cut short. A route never keeps such "
            "an answer, so that it keeps fewer than is told here. Allow longer ones (--max-tokens).",
            err=True,
        )


def _calibrated(
    evidence: Evidence,
    route: str,
    cascade: Cascade,
    config: Config,
    runs: Runs,
    run: Run,
    marks: Scores,
) -> Outcome:
    from isthmus.evals.calibration import calibrate as calibrated
    from isthmus.evals.calibration import labelled
    from isthmus.evals.calibration_report import calibration_report

    pair = pair_of(cascade)
    answers = runs.answers(run.id)
    asked_at_us = first_asked_us(answers, pair)
    labels, left_out = labelled(*pair, runs.samples(run), answers, marks)
    _require_logprobs(run, pair[0], len(labels), left_out)
    if cascade.stages[0].accept.complete:
        _tell_of_cut(pair[0], labels)
    trial = calibrated(
        labels,
        tie_of(route, cascade, config.models, config.providers, card=_card(route, config)),
        pair,
        max_risk=evidence.max_risk,
        delta=evidence.delta,
        made_at_us=time.time_ns() // 1000,
        asked_at_us=asked_at_us,
        evidence=evidence,
        costs=evidence.costs,
        left_out=left_out,
    )
    if evidence.costs and trial.coverage and not trial.weighs_costs:
        click.echo(
            f"isthmus: what {pair[1]} costs is not known, or nothing: answers are kept by confidence alone.",
            err=True,
        )
    return Outcome(
        trial,
        calibration_report(route, trial),
        trial.calibration.dump() if trial.calibration is not None else None,
        f"calibrations/{_file_name(route)}.json",
        "Name it under the first step: accept: {calibration: ...}.",
        asked_at_us,
    )


def _empanelled(
    evidence: Evidence,
    route: str,
    ensemble: Ensemble,
    config: Config,
    runs: Runs,
    run: Run,
    marks: Scores,
) -> Outcome:
    from isthmus.evals.outcome import scored_by_all
    from isthmus.evals.panel_report import panel_report
    from isthmus.evals.panels import empanel, voted_of

    members = panels.voters_of(ensemble)
    answers = runs.answers(run.id)
    told, left_out = scored_by_all(members, runs.samples(run), answers, marks)
    asked_at_us = first_asked_us(answers, members)
    trial, learned = empanel(
        voted_of(members, told),
        members,
        panels.tie_of(route, ensemble, config.models, config.providers, card=_card(route, config)),
        delta=evidence.delta,
        made_at_us=time.time_ns() // 1000,
        asked_at_us=asked_at_us,
        evidence=evidence,
        left_out=left_out,
    )
    return Outcome(
        trial,
        panel_report(route, trial, escalates=ensemble.otherwise is not None),
        learned.dump() if learned is not None else None,
        f"panels/{_file_name(route)}.json",
        "Name it in the ensemble: by: ...",
        asked_at_us,
    )


def _card(route: str, config: Config) -> str:
    """The style card of the route, without which the models were asked, as is told; empty for none."""
    style = config.routes[route].style
    if style is None:
        return ""
    click.echo(
        f"isthmus: the models were asked without the style card of {route}: what holds for their answers "
        "need not hold for those that it shapes.",
        err=True,
    )
    return style.card


def _learned(
    evidence: Evidence,
    route: str,
    choose: Choose,
    config: Config,
    runs: Runs,
    run: Run,
    marks: Scores,
) -> Outcome:
    from isthmus.evals.choosing import lessons

    answers = runs.answers(run.id)
    found, left_out = lessons(choose.models(), runs.samples(run), answers, marks, run.request)
    return _taught(
        route,
        choose,
        config,
        found,
        left_out,
        _Promise(evidence.max_risk, evidence.delta),
        vectors=evidence.vectors,
        named=evidence.named,
        asked_at_us=first_asked_us(answers, choose.models()),
        evidence=evidence,
    )


def _learned_from_records(
    route: str,
    choose: Choose,
    config: Config,
    path: Path | None,
    seconds: float,
    promise: _Promise,
    *,
    vectors: bool,
) -> Outcome:
    from isthmus.evals.choosing import recorded_lessons

    now_us = time.time_ns() // 1000
    since_us = now_us - int(seconds * 1_000_000)
    left_out: Counter[str] = Counter()
    found = recorded_of(route, choose.models(), config, path, since_us, left_out)
    judges = Counter(it.judge for it in found if it.judge is not None)
    for name in sorted(judges.keys() & set(choose.models())):
        click.echo(f"isthmus: {name} has scored answers of its own: it may like them too well.", err=True)
    taught_by = recorded_lessons(found, choose.models(), prices_of(config), now_us)
    return _taught(
        route,
        choose,
        config,
        taught_by,
        left_out,
        promise,
        vectors=vectors,
        named=False,
        asked_at_us=since_us,
        judged=judges.total(),
    )


def _taught(
    route: str,
    choose: Choose,
    config: Config,
    taught_by: Sequence[Lesson],
    left_out: Mapping[str, int],
    promise: _Promise,
    *,
    vectors: bool,
    named: bool,
    asked_at_us: int,
    evidence: Evidence | None = None,
    judged: int = 0,
) -> Outcome:
    from isthmus.evals.choosing import teach
    from isthmus.evals.choosing_report import choosing_report

    trial, content = teach(
        taught_by,
        choose,
        routers.tie_of(route, choose, config.models, config.providers),
        prices_of(config),
        embedding=_embedding() if vectors else None,
        named=named,
        max_risk=promise.max_risk,
        delta=promise.delta,
        made_at_us=time.time_ns() // 1000,
        asked_at_us=asked_at_us,
        evidence=evidence,
        left_out=left_out,
        judged=judged,
    )
    return Outcome(
        trial,
        choosing_report(route, trial),
        content,
        f"learned/{_file_name(route)}.router",
        "Name it in the choice: by: ...",
        asked_at_us,
    )


def _embedding() -> Embedding | None:
    line = ProgressLine()
    try:
        return static_embedding(line)
    except IsthmusError as error:
        click.echo(f"isthmus: {error.message} It is learned by words alone.", err=True)
        return None
    finally:
        line.end()


def strategy_of(config: Config, route: str) -> Cascade | Choose | Ensemble:
    """The strategy of a route for which something can be learned: its only cascade, its only choice, or,
    where there is neither, its only vote.

    Raises IsthmusError (`not_calibratable`).
    """
    if route not in config.routes:
        raise unknown_route(route, list(config.routes))
    plan = config.routes[route].plan
    found: list[Cascade | Choose | Ensemble] = [*nodes_in(plan, Cascade), *nodes_in(plan, Choose)]
    found = found or [it for it in nodes_in(plan, Ensemble) if it.combine == "vote"]
    if len(found) == 1:
        return found[0]
    what = "several cascades, choices or votes" if found else "no cascade, no choice and no vote"
    raise IsthmusError(
        Fault.INVALID_REQUEST,
        f"The route {route} has {what}.",
        code="not_calibratable",
        hint="Calibrate a route with one cascade, from one model to another, or one choice, or one vote.",
    )


def asked_of(strategy: Cascade | Choose | Ensemble) -> tuple[str, ...]:
    """The models of whose answers something is learned for it. Raises IsthmusError (`not_calibratable`)."""
    if isinstance(strategy, Ensemble):
        return panels.voters_of(strategy)
    return pair_of(strategy) if isinstance(strategy, Cascade) else strategy.models()


def _asked(
    dataset: Path,
    models: Sequence[str],
    logprobs: bool,
    scorer: str | None,
    max_usd: int | None,
    max_tokens: int | None,
    fresh: bool,
    config: Config,
    path: Path | None,
    runs: Runs,
) -> Run:
    """The run that asks all these models: as `isthmus pilot` would, with --logprobs or not."""
    if scorer is None:
        raise click.UsageError("Say --scorer: how answers to the dataset are scored.")
    check_scorers([scorer])
    judges = judges_of([scorer], config)
    require_cap(config, [*models, *judges], max_usd)
    opened = open_dataset(dataset)
    for note in opened.notes:
        click.echo(f"isthmus: {opened.name}: {note}", err=True)
    asked_for: dict[str, Any] = {"max_tokens": max_tokens, "logprobs": logprobs or None}
    run = new_run(
        opened,
        opened.samples,
        [candidate_of(config, name) for name in models],
        [scorer],
        config.hash,
        request={name: it for name, it in asked_for.items() if it is not None},
        fresh=fresh,
        cap_nanousd=max_usd,
        who=user_name(),
    )
    return runs.find(carried_out(run, opened, config, path, runs, judges, AT_ONCE).id)


def _require_same(run: Run, models: Sequence[str], config: Config, options: str) -> None:
    """Refuse a run that asked other models than the strategy has."""
    asked = {it.name: it for it in run.models}
    for name in models:
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
            hint=f"Run: isthmus pilot DATASET --models {','.join(models)} --scorer SCORER{options}",
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


def _file_name(route: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", route)


def _default_place(place: str, path: Path | None) -> Path:
    return (path.parent if path is not None else Path()) / place
