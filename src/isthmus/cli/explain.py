"""`isthmus explain`: the decision for a request, by the function that decides live ones."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Any

import click
import msgspec

from isthmus.bootstrap import inspection_of, router_of
from isthmus.cli.keys import now_us, opened
from isthmus.cli.labels import in_words
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.config.load import locate
from isthmus.core.decision import Decision
from isthmus.gateway.inspection import Inspected, floors_of
from isthmus.gateway.snapshot import route_of
from isthmus.perimeter.policy import SURE_ENOUGH
from isthmus.store.keys import Key, named, require_valid
from isthmus.strategies.plan.node import Circumstances


@click.command()
@click.argument("route")
@click.argument("prompt", default="")
@config_option
@click.option("--key", help="Explain for this key, by id or name: its routes, its floor, its sticky arm.")
@click.option("--user", help="Explain for this end user: sticky splits go by them.")
@click.option("--label", "said", help="Explain for a caller who sends this level in x-isthmus-label.")
@click.option("--thrifty", is_flag=True, help="Explain for the time when a budget is nearly used.")
@click.option("--embeddings", is_flag=True, help="Explain an embeddings request instead of a chat.")
@click.option("--json", "as_json", is_flag=True, help="Print the decision, and what was found, as JSON.")
@told
def explain(
    route: str,
    prompt: str,
    config_path: Path | None,
    key: str | None,
    user: str | None,
    said: str | None,
    thrifty: bool,
    embeddings: bool,
    as_json: bool,
) -> None:
    """Say where a request to ROUTE with PROMPT would go, and why. No model is called.

    A split without a known key or user is drawn from the prompt's text, so that the same question gives the
    same answer.
    """
    config = load_or_exit(locate(config_path))
    asking = _valid_key(key, config_path) if key else None
    found = route_of(route, asking, config.routes)
    policy = config.perimeter
    floors = [*floors_of(found, asking), *([policy.said(said)] if said else [])]
    known = inspection_of(policy, secrets.token_bytes(32)).look(_body(route, prompt, embeddings), floors)
    decision = router_of(config).decide(
        found.name,
        "embeddings" if embeddings else "chat",
        known.label,
        Circumstances(draw=_draw(prompt), key=asking.id if asking else None, user=user),
        known.hidden.label if known.hidden else None,
        thrifty,
    )
    if as_json:
        click.echo(msgspec.json.encode(msgspec.to_builtins(decision) | _as_data(known)))
    else:
        _print(decision, known)
    if decision.plan is None:
        raise SystemExit(1)


def _valid_key(reference: str, config_path: Path | None) -> Key:
    at_us = now_us()
    key = named(reference, opened(config_path).list(), at_us)[0]
    require_valid(key, at_us)
    return key


def _as_data(known: Inspected) -> dict[str, Any]:
    """What was found, and what a model would read that sees pseudonyms."""
    hidden = msgspec.json.decode(known.hidden.body) if known.hidden else None
    return {"found": msgspec.to_builtins(known.seen.found), "blind": known.seen.blind, "hidden": hidden}


def _body(route: str, prompt: str, embeddings: bool) -> bytes:
    asked = {"input": prompt} if embeddings else {"messages": [{"role": "user", "content": prompt}]}
    return msgspec.json.encode({"model": route, **asked})


def _draw(prompt: str) -> float:
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=6).digest()) / 2**48


def _print(decision: Decision, known: Inspected) -> None:
    seen = known.seen
    click.echo(f"route     {decision.route} ({decision.operation})")
    click.echo(f"label     {in_words(decision.label)}")
    for sighting in seen.found:
        finding = sighting.finding
        place = f"{sighting.where}, characters {finding.start} to {finding.end}"
        faint = "" if finding.score >= SURE_ENOUGH else ", too faint to count"
        click.echo(f"found     {finding.kind} in {place} ({finding.detector}, {finding.score:.2f}{faint})")
    for where in seen.blind:
        click.echo(f"blind     {where} could not be looked into")
    click.echo(f"allowed   {', '.join(decision.allowed) or 'no model'}")
    if decision.pseudonymised and known.hidden:
        click.echo(f"hidden    {', '.join(known.hidden.values)}, from {', '.join(decision.pseudonymised)}")
    for refused in decision.refused:
        click.echo(f"refused   {refused.model} by {refused.rule}: {refused.reason}")
    if decision.plan is not None:
        click.echo(f"plan      {msgspec.json.encode(decision.plan).decode()}")
    for reason in decision.reasons:
        click.echo(f"because   {reason}")
    click.echo(f"odds      {decision.propensity:.3g}")
    click.echo(f"config    {decision.config_hash[:12]}")
