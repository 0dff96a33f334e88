"""`isthmus simulate`: strategies tried on outcomes that are known, before any traffic sees them."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from isthmus.cli.options import told
from isthmus.core.errors import Fault, IsthmusError
from isthmus.reports.html import html
from isthmus.reports.markdown import markdown


@click.command()
@click.argument("table", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--strategy",
    "-s",
    "strategies",
    multiple=True,
    help="As under a route of isthmus.yaml, e.g. '{cascade: [{model: small, accept: {max_risk: 0.05}}, "
    "{model: large}]}'; or a model's name, oracle, random. Repeat. Default: those that are usual.",
)
@click.option(
    "--later",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Learn from all of TABLE, and judge by this table of outcomes that came later.",
)
@click.option("--reference", help="Set gains and savings against this model. Default: the best one.")
@click.option(
    "--cost", "costs", multiple=True, help="MODEL=USD: what a request costs, in place of the table's."
)
@click.option(
    "--max-risk",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Of the usual cascades: the risk that may be added.",
)
@click.option(
    "--delta",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="Of the usual cascades: how likely the promise may be broken.",
)
@click.option(
    "--draws", type=click.IntRange(1, 1000), default=5, show_default=True, help="So often is parted anew."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The seed of the draws.")
@click.option(
    "--html",
    "html_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with a chart, too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def simulate(
    table: Path,
    strategies: tuple[str, ...],
    later: Path | None,
    reference: str | None,
    costs: tuple[str, ...],
    max_risk: float,
    delta: float,
    draws: int,
    seed: int,
    html_path: Path | None,
    as_json: bool,
) -> None:
    """Try strategies on a TABLE of outcomes: quality, cost, saving, and whether promises are kept.

    TABLE is Parquet, CSV or JSON Lines: a row for each query and model, with the columns query, model, score
    (0 to 1), and where known confidence, cost_usd, latency_ms, task, prompt, answer. No model is called.
    """
    try:
        from isthmus.evals.simulation.outcomes import read_outcomes
        from isthmus.evals.simulation.playing import simulate as played
        from isthmus.evals.simulation.playing import usual_strategies
    except ImportError as error:
        raise IsthmusError(
            Fault.UNSUPPORTED,
            f"Simulations need the package {error.name}, which is not installed.",
            code="missing_extra",
            hint="Run: pip install 'isthmus[evals]'",
        ) from error
    from isthmus.evals.simulation.report import simulation_report
    from isthmus.evals.simulation.specs import strategy_of

    tried = [strategy_of(text) for text in strategies]
    prices = dict(map(_cost, costs))
    outcomes = read_outcomes(table).priced(prices)
    came_later = read_outcomes(later).priced(prices) if later is not None else None
    tried = tried or usual_strategies(outcomes, max_risk, delta)
    talk = sys.stderr
    length = len(tried) * (draws if later is None else 1)
    with click.progressbar(length=length, label="Simulating", file=talk, hidden=not talk.isatty()) as bar:
        found = played(
            outcomes,
            tried,
            later=came_later,
            reference=reference,
            draws=draws,
            seed=seed,
            tell=lambda: bar.update(1),
        )
    report = simulation_report(found)
    if html_path is not None:
        html_path.write_text(html(report), encoding="utf-8")
    click.echo(msgspec.json.encode(found) if as_json else markdown(report), nl=as_json)


def _cost(text: str) -> tuple[str, float]:
    model, _, usd = text.rpartition("=")
    try:
        cost = float(usd)
    except ValueError:
        cost = -1.0
    if not model or not 0 <= cost < 1e6:
        raise click.BadParameter(f"{text!r} is not MODEL=USD", param_hint="--cost")
    return model, cost
