"""`isthmus explain`: the decision for a request, by the function that decides live ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click
import msgspec

from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.config.load import locate
from isthmus.core.decision import Decision
from isthmus.routing.decide import Facts, Router
from isthmus.routing.route import resolve
from isthmus.strategies.plan.node import Circumstances


@click.command()
@click.argument("route")
@click.argument("prompt", default="")
@config_option
@click.option("--key", help="Explain for this key's id: sticky splits go by it.")
@click.option("--user", help="Explain for this end user: sticky splits go by them.")
@click.option("--embeddings", is_flag=True, help="Explain an embeddings request instead of a chat.")
@click.option("--json", "as_json", is_flag=True, help="Print the decision as JSON.")
@told
def explain(
    route: str,
    prompt: str,
    config_path: Path | None,
    key: str | None,
    user: str | None,
    embeddings: bool,
    as_json: bool,
) -> None:
    """Say where a request to ROUTE with PROMPT would go, and why. No model is called.

    A split without a known key or user is drawn from the prompt's text, so that the same question gives the
    same answer.
    """
    config = load_or_exit(locate(config_path))
    found = resolve(route, config.routes)
    router = Router(
        Facts(providers=config.providers, models=config.models, routes=config.routes, config_hash=config.hash)
    )
    circumstances = Circumstances(draw=_draw(prompt), key=key, user=user)
    decision = router.decide(found.name, "embeddings" if embeddings else "chat", circumstances)
    if as_json:
        click.echo(msgspec.json.encode(decision))
    else:
        _print(decision)
    if decision.plan is None:
        raise SystemExit(1)


def _draw(prompt: str) -> float:
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=6).digest()) / 2**48


def _print(decision: Decision) -> None:
    click.echo(f"route     {decision.route} ({decision.operation})")
    click.echo(f"allowed   {', '.join(decision.allowed) or 'no model'}")
    for refused in decision.refused:
        click.echo(f"refused   {refused.model} by {refused.rule}: {refused.reason}")
    if decision.plan is not None:
        click.echo(f"plan      {msgspec.json.encode(decision.plan).decode()}")
    for reason in decision.reasons:
        click.echo(f"because   {reason}")
    click.echo(f"odds      {decision.propensity:.3g}")
    click.echo(f"config    {decision.config_hash[:12]}")
