"""`isthmus explain`: the decision for a request, by the function that decides live ones."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Any

import click
import msgspec

from isthmus.bootstrap import (
    bring_vectors,
    experiment_on,
    foresights_of,
    in_service,
    inspection_of,
    router_of,
    silences_in,
)
from isthmus.cli.keys import now_us, opened
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.why import Because, Why, why
from isthmus.config.config import Config
from isthmus.config.load import lines_of, locate
from isthmus.core.call import Operation
from isthmus.core.decision import Decision, Previous
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.foresight import Foresight
from isthmus.core.label import BOTTOM, Label
from isthmus.dialects import CLIENT_WIRES
from isthmus.dialects.openai import OpenAIChat
from isthmus.dialects.style import body_of, styled
from isthmus.gateway.inspection import Inspected
from isthmus.gateway.silences import awaited_in
from isthmus.perimeter.grounds import Ground
from isthmus.perimeter.policy import SURE_ENOUGH, Policy
from isthmus.routing.route import Route, route_of
from isthmus.store.keys import Key, named, require_valid
from isthmus.strategies.plan.node import Circumstances


@click.command()
@click.argument("route")
@click.argument("prompt", default="")
@config_option
@click.option("--key", help="Explain for this key, by id or name: its routes, its floor, its sticky arm.")
@click.option("--user", help="Explain for this end user: sticky splits go by them.")
@click.option("--label", "said", help="Explain for a caller who sends this level in x-isthmus-label.")
@click.option(
    "--after", metavar="MODEL", help="Explain for a conversation that this model has answered so far."
)
@click.option("--revisions", is_flag=True, help="Explain for a client that takes back what it has seen.")
@click.option("--task", default="", help="Explain for a caller who sends this name in x-isthmus-task.")
@click.option("--stream", is_flag=True, help="Explain for a client that wants the answer as it comes.")
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
    after: str | None,
    revisions: bool,
    task: str,
    stream: bool,
    thrifty: bool,
    embeddings: bool,
    as_json: bool,
) -> None:
    """Say where a request to ROUTE with PROMPT would go, why, and which lines of the config say so. No model
    is called.

    A split without a known key or user is drawn from the prompt's text, so that the same question gives the
    same answer.
    """
    path = locate(config_path)
    config = in_service(load_or_exit(path), path)
    asking = _valid_key(key, config_path) if key else None
    found = route_of(route, asking, config.routes)
    policy = config.perimeter
    raised = _floors(policy, found, asking, said)
    floors = [ground.label for ground in raised]
    models = [config.models[name] for name in found.models()]

    def barred(label: Label) -> bool:
        return any(policy.refuses(model, label) for model in models)

    inspection = inspection_of(policy, secrets.token_bytes(32))
    body = _body(found, prompt, embeddings)
    known = inspection.look(body, floors, talks=not embeddings, barred=barred)
    foreseen: tuple[Foresight, ...] = ()
    if not embeddings:
        bring_vectors(config)
        foresights = foresights_of(config)
        asked = OpenAIChat().peek(_plain_body(found.name, prompt, embeddings))
        foreseen = foresights.of(found.name, asked, task, now_us(), thrifty=thrifty)
    operation: Operation = "embeddings" if embeddings else "chat"
    decision = router_of(config).decide(
        found.name,
        operation,
        known.label,
        Circumstances(
            draw=_draw(prompt),
            key=asking.id if asking else None,
            user=user,
            previous=_previous(after, config, found),
            revises=revisions,
            weights=experiment_on(found.name, config, path).weights,
            foreseen=foreseen,
            silences=silences_in(config, path).of(awaited_in(found.plan_for(thrifty)), operation, stream),
        ),
        known.hidden.label if known.hidden else None,
        thrifty,
    )
    because = why(config, decision, known, raised, lines_of(path))
    if as_json:
        click.echo(msgspec.json.encode(msgspec.to_builtins(decision) | _as_data(known, because)))
    else:
        _print(decision, known, because)
    if decision.plan is None:
        raise SystemExit(1)


def _previous(model: str | None, config: Config, route: Route) -> Previous | None:
    if model is None:
        return None
    if model not in config.models:
        raise IsthmusError(
            Fault.NOT_FOUND,
            f"There is no model {model!r}.",
            code="unknown_model",
            hint=f"Models: {', '.join(sorted(config.models))}.",
        )
    if not route.continuity:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"The route {route.name!r} does not mind who has answered a conversation.",
            code="no_continuity",
            hint="Leave --after out, or say `continuity: true` in the route.",
        )
    return Previous(model=model)


def _valid_key(reference: str, config_path: Path | None) -> Key:
    at_us = now_us()
    key = named(reference, opened(config_path).list(), at_us)[0]
    require_valid(key, at_us)
    return key


def _as_data(known: Inspected, because: Why) -> dict[str, Any]:
    """What was found, what a model would read that sees pseudonyms, and why."""
    hidden = msgspec.json.decode(known.hidden.body) if known.hidden else None
    found = msgspec.to_builtins(known.seen.found)
    return {"found": found, "blind": known.seen.blind, "hidden": hidden, "why": msgspec.to_builtins(because)}


def _plain_body(route: str, prompt: str, embeddings: bool) -> bytes:
    asked = {"input": prompt} if embeddings else {"messages": [{"role": "user", "content": prompt}]}
    return msgspec.json.encode({"model": route, **asked})


def _body(route: Route, prompt: str, embeddings: bool) -> bytes:
    """The request as models get it: with the route's style card."""
    body = _plain_body(route.name, prompt, embeddings)
    if route.style is None or embeddings:
        return body
    return body_of(styled(CLIENT_WIRES["openai"].peek(body), route.style.card))


def _floors(policy: Policy, route: Route, key: Key | None, said: str | None) -> list[Ground]:
    floors = []
    if route.floor != BOTTOM:
        says = f"{route.floor.in_words()}, the route's floor"
        floors.append(Ground(says, (("routes", route.name, "floor"),), route.floor))
    if key is not None and key.floor != BOTTOM:
        floors.append(Ground(f"{key.floor.in_words()}, the key's floor", label=key.floor))
    if said:
        label = policy.said(said)
        floors.append(Ground(f"{label.in_words()}, as the caller says", label=label))
    return floors


def _draw(prompt: str) -> float:
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=6).digest()) / 2**48


def _print(decision: Decision, known: Inspected, because: Why) -> None:
    seen = known.seen
    click.echo(f"route     {decision.route} ({decision.operation})")
    click.echo(f"label     {decision.label.in_words()}")
    _print_because(because.label)
    for sighting in seen.found:
        finding = sighting.finding
        place = f"{sighting.where}, characters {finding.start} to {finding.end}"
        faint = "" if finding.score >= SURE_ENOUGH else ", too faint to count"
        click.echo(f"found     {finding.kind} in {place} ({finding.detector}, {finding.score:.2f}{faint})")
    for where in seen.blind:
        click.echo(f"blind     {where} could not be looked into")
    click.echo(f"allowed   {', '.join(decision.allowed) or 'no model'}")
    for name in decision.allowed:
        _print_because(because.models[name])
    if decision.pseudonymised and known.hidden:
        click.echo(f"hidden    {', '.join(known.hidden.values)}, from {', '.join(decision.pseudonymised)}")
    for refused in decision.refused:
        click.echo(f"refused   {refused.model} by {refused.rule}: {refused.reason}")
        _print_because(because.models[refused.model])
    if decision.plan is not None:
        click.echo(f"plan      {msgspec.json.encode(decision.plan).decode()}")
    for reason in decision.reasons:
        click.echo(f"because   {reason}")
    click.echo(f"odds      {decision.propensity:.3g}")
    click.echo(f"config    {decision.config_hash[:12]}")


def _print_because(reasons: tuple[Because, ...]) -> None:
    for reason in reasons:
        click.echo(f"          {reason}")
