"""`isthmus replay`: what another config would have done with recorded traffic."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec

from isthmus.bootstrap import (
    open_ask,
    open_feedback,
    open_history,
    open_records,
    open_runs,
    replayer_of,
    rescanner_of,
)
from isthmus.cli.keys import Span
from isthmus.cli.options import config_option, load_or_exit, told, use_colour
from isthmus.cli.progress import ProgressLine
from isthmus.cli.runs import Usd, require_cap, require_statistics
from isthmus.config.config import Config
from isthmus.config.load import locate, read
from isthmus.config.report import render
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.feedback import Feedback, verdict
from isthmus.evals.replay.calls import Called, Draw, call
from isthmus.evals.replay.replayed import Judgement, Replayer
from isthmus.evals.replay.report import replay_report
from isthmus.evals.replay.summary import ByFeedback, Worth, summary
from isthmus.gateway.direct import PREFIX
from isthmus.gateway.rescan import Rescanner
from isthmus.reports.html import html
from isthmus.reports.markdown import markdown
from isthmus.store.feedback import Feedbacks
from isthmus.store.history import History, Past
from isthmus.store.records import Where
from isthmus.store.runs import Runs

MOST_FEEDBACK = 10_000_000
"""So many words of feedback are read."""


@click.command()
@click.option(
    "--policy",
    "policy_path",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The config to try: a whole isthmus.yaml. Its secrets need not be there, but for --call.",
)
@click.option("--since", type=Span(), default="30d", show_default=True, help="The traffic of the last while.")
@click.option("--route", help="Only the traffic of this route.")
@click.option("--key", help="Only the traffic of this key's id.")
@click.option(
    "--quality",
    "run_id",
    help="A stored evaluation run (the beginning of its id): how good its models were found.",
)
@click.option("--scorer", help="Of the run's scorers the one that counts. Default: its first.")
@click.option("--feedback", is_flag=True, help="Estimate quality by what people said of the answers.")
@click.option(
    "--rescan",
    is_flag=True,
    help="Look again into requests whose texts were kept, by the new rules. Slow: as slow as looking is.",
)
@click.option(
    "--call",
    "calls",
    is_flag=True,
    help="Ask the models to which requests would move, where texts were kept: a sample of each move.",
)
@click.option(
    "--samples", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Of each move."
)
@click.option("--max-usd", "cap", type=Usd(), help="What --call may spend at most; needed if it costs.")
@click.option("--seed", type=int, default=0, show_default=True, help="The seed by which samples are drawn.")
@click.option(
    "--fail-on-crossing",
    is_flag=True,
    help="For CI: end with status 1 where a request would or may newly cross the boundary.",
)
@click.option(
    "--html", "html_path", type=click.Path(path_type=Path, dir_okay=False), help="Write a page, too."
)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def replay(
    policy_path: Path,
    since: float,
    route: str | None,
    key: str | None,
    run_id: str | None,
    scorer: str | None,
    feedback: bool,
    rescan: bool,
    calls: bool,
    samples: int,
    cap: int | None,
    seed: int,
    fail_on_crossing: bool,
    html_path: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Say what another config would have done with recorded traffic: what would newly cross the boundary,
    which decisions change and why, cost, latency, quality. No model is called, unless you say --call.

    The ledger is that of --config; the config to try is --policy. Prints Markdown.
    """
    if scorer is not None and run_id is None:
        raise click.UsageError("--scorer goes with --quality.")
    if cap is not None and not calls:
        raise click.UsageError("--max-usd goes with --call.")
    path = locate(config_path)
    config = load_or_exit(path)
    policy = _policy_or_exit(policy_path, check_secrets=calls)
    where = Where(since_us=time.time_ns() // 1000 - int(since * 1e6), route=route, key_id=key)
    history = open_history(config, path)
    replayer = replayer_of(policy, config, path, where)
    worth = _worth(open_runs(config, path), run_id, scorer, policy) if run_id is not None else {}
    again = rescanner_of(policy, history) if rescan else None
    draw = Draw(samples, random.Random(seed)) if calls else None
    said = _scores(open_feedback(config, path), where) if feedback else {}
    judged: list[tuple[Judgement, float]] = []
    left_out = 0
    for past, judgement in _take_all(replayer, history, where, again):
        left_out += judgement is None
        if judgement is not None and draw is not None:
            draw.offer(past, judgement)
        if judgement is not None and past.id in said:
            judged.append((judgement, said[past.id]))
    found = summary(policy.hash, replayer.judgements, worth)
    if judged:
        found = msgspec.structs.replace(found, by_feedback=_estimates(judged))
    if draw is not None and draw.moves:
        require_cap(policy, draw.models, cap)
        told = asyncio.run(_call(draw, msgspec.structs.replace(policy, ledger=config.ledger), path, cap))
        found = msgspec.structs.replace(found, called=tuple(told))
    if not found.requests:
        click.echo("isthmus: there is nothing to replay: no such request is on record.", err=True)
    report = replay_report(found, _in_words(since, left_out))
    if html_path is not None:
        html_path.write_text(html(report), encoding="utf-8")
    click.echo(msgspec.json.encode(found) if as_json else markdown(report), nl=as_json)
    if fail_on_crossing and found.crossing("out", "perhaps out"):
        click.echo("isthmus: requests would or may newly cross the boundary.", err=True)
        raise SystemExit(1)


def _policy_or_exit(path: Path, check_secrets: bool) -> Config:
    policy, faults = read(path, check_secrets=check_secrets)
    if policy is None:
        click.echo(render(faults, colour=use_colour(sys.stderr)), err=True, nl=False)
        raise SystemExit(1)
    return policy


def _worth(runs: Runs, run_id: str, scorer: str | None, policy: Config) -> dict[str, Worth]:
    require_statistics()
    from isthmus.evals.replay.worth import worth_of

    run = runs.find(run_id)
    scores = runs.scores(run.id)
    named = scorer or next((it for it in run.scorers if it in scores), "")
    if named not in scores:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"The run {run.id} has no scores{f' by {named!r}' if named else ''}.",
            code="no_scores",
            hint=f"It has scores by {', '.join(sorted(scores))}." if scores else "Run `isthmus eval score`.",
        )
    return worth_of(run, named, scores[named], policy.models)


def _scores(feedbacks: Feedbacks, where: Where) -> dict[str, float]:
    """The last score of each request that somebody has judged."""
    require_statistics()
    said: dict[str, list[Feedback]] = defaultdict(list)
    for one in feedbacks.list(where.since_us, limit=MOST_FEEDBACK):
        said[one.record_id].append(one)
    verdicts = {record_id: verdict(of).score for record_id, of in said.items()}
    return {record_id: score for record_id, score in verdicts.items() if score is not None}


def _estimates(judged: Sequence[tuple[Judgement, float]]) -> tuple[ByFeedback, ...]:
    from isthmus.evals.replay.judged import Judged

    gathered = Judged()
    for judgement, score in judged:
        gathered.add(judgement, score)
    return gathered.estimates()


def _take_all(
    replayer: Replayer, history: History, where: Where, again: Rescanner | None
) -> Iterator[tuple[Past, Judgement | None]]:
    """Replays everything that is meant; of the evaluations' own requests there is no judgement."""
    talk = sys.stderr
    length = history.count(where)
    with click.progressbar(length=length, label="Replaying", file=talk, hidden=not talk.isatty()) as bar:
        for some in history.requests(where):
            for past in some if again is None else again.look(some):
                yield past, None if past.route.startswith(PREFIX) else replayer.take(past)
            bar.update(len(some))


async def _call(draw: Draw, policy: Config, path: Path | None, cap: int | None) -> list[Called]:
    """Ask what was drawn: by the new config, whose perimeter holds, on the old one's ledger."""
    fetching = ProgressLine()
    # Its own name, and so a budget of its own.
    name = f"replay-{time.time_ns() // 1000}"
    async with open_ask(policy, path, draw.models, name=name, cap_nanousd=cap, report=fetching) as ask:
        fetching.end()
        return await call(draw.moves, open_records(policy, path).find, ask)


def _in_words(since: float, left_out: int) -> str:
    own = f" {left_out:,} requests of evaluations are left out." if left_out else ""
    days = since / 86_400
    span = "day" if days == 1 else f"{days:,.3g} days"
    return (
        f"The traffic of the last {span}.{own} Where a config draws between plans, each "
        "counts by its odds, so requests may be fractions."
    )
