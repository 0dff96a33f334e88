"""`isthmus explain`: the decision for a request, by the function that decides live ones."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import click
import msgspec

from isthmus.bootstrap import inspection_of, router_of
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.config.config import Config
from isthmus.config.findings import format_path
from isthmus.config.lines import Lines
from isthmus.config.load import lines_of, locate
from isthmus.core.decision import Decision
from isthmus.core.label import BOTTOM
from isthmus.perimeter import grounds
from isthmus.perimeter.grounds import Ground
from isthmus.perimeter.policy import SURE_ENOUGH, Policy
from isthmus.perimeter.scanner import Sightings
from isthmus.routing.route import Route, resolve
from isthmus.strategies.plan.node import Circumstances


@click.command()
@click.argument("route")
@click.argument("prompt", default="")
@config_option
@click.option("--key", help="Explain for this key's id: sticky splits go by it.")
@click.option("--user", help="Explain for this end user: sticky splits go by them.")
@click.option("--label", "said", help="Explain for a caller who sends this level in x-isthmus-label.")
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
    embeddings: bool,
    as_json: bool,
) -> None:
    """Say where a request to ROUTE with PROMPT would go, why, and which lines of the config say so. No model
    is called.

    A split without a known key or user is drawn from the prompt's text, so that the same question gives the
    same answer.
    """
    path = locate(config_path)
    config = load_or_exit(path)
    found = resolve(route, config.routes)
    policy = config.perimeter
    raised = _floors(policy, found, said)
    floors = [ground.label for ground in raised]
    seen = inspection_of(policy, secrets.token_bytes(32)).look(_body(route, prompt, embeddings), floors)
    decision = router_of(config).decide(
        found.name,
        "embeddings" if embeddings else "chat",
        policy.label(seen, floors),
        Circumstances(draw=_draw(prompt), key=key, user=user),
    )
    why = _why(config, decision, [*raised, *grounds.of_label(policy, seen)], lines_of(path))
    if as_json:
        more = {"found": seen.found, "blind": seen.blind, "why": why}
        click.echo(msgspec.json.encode(msgspec.to_builtins(decision) | msgspec.to_builtins(more)))
    else:
        _print(decision, seen, why)
    if decision.plan is None:
        raise SystemExit(1)


def _body(route: str, prompt: str, embeddings: bool) -> bytes:
    asked = {"input": prompt} if embeddings else {"messages": [{"role": "user", "content": prompt}]}
    return msgspec.json.encode({"model": route, **asked})


class Because(msgspec.Struct, frozen=True):
    """Something that counts, the `path` in the config that says so, and its `line`, such as
    `isthmus.yaml:14`.

    Without a line the config is silent, and it is so by default; without a path it does not depend on it.
    """

    says: str
    path: str | None
    line: str | None

    def __str__(self) -> str:
        if self.path is None:
            return self.says
        return f"{self.says} ({self.path} at {self.line})" if self.line else f"{self.says} (by default)"


class Why(msgspec.Struct, frozen=True):
    """Why the label is what it is, and why each model of the route is allowed or refused."""

    label: tuple[Because, ...]
    models: dict[str, tuple[Because, ...]]


def _floors(policy: Policy, route: Route, said: str | None) -> list[Ground]:
    floors = []
    if route.floor != BOTTOM:
        says = f"{route.floor.in_words()}, the route's floor"
        floors.append(Ground(says, (("routes", route.name, "floor"),), route.floor))
    if said:
        label = policy.said(said)
        floors.append(Ground(f"{label.in_words()}, as the caller says", label=label))
    return floors


def _why(config: Config, decision: Decision, of_the_label: list[Ground], lines: Lines) -> Why:
    refused = {refusal.model: refusal.rule for refusal in decision.refused}
    return Why(
        tuple(_because(ground, lines) for ground in of_the_label),
        {
            name: tuple(
                _because(ground, lines) for ground in _of_model(config, name, refused.get(name), of_the_label)
            )
            for name in (*decision.allowed, *refused)
        },
    )


def _of_model(config: Config, name: str, rule: str | None, of_the_label: list[Ground]) -> tuple[Ground, ...]:
    model = config.models[name]
    match rule:
        case "capability":
            said = (("models", name, "capabilities"), ("models", name, "weights"))
            return (Ground(f"{name} is declared capable of less", said),)
        case "wire":
            said = (("providers", model.provider, "preset"), ("providers", model.provider, "dialect"))
            return (Ground(f"{model.provider} speaks no wire for it", said),)
    return grounds.of_model(config.perimeter, model, rule, of_the_label)


def _because(ground: Ground, lines: Lines) -> Because:
    for path in ground.paths:
        if (line := lines.find(path)) is not None:
            return Because(ground.says, format_path(path), line)
    return Because(ground.says, format_path(ground.paths[-1]) if ground.paths else None, None)


def _draw(prompt: str) -> float:
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=6).digest()) / 2**48


def _print(decision: Decision, seen: Sightings, why: Why) -> None:
    click.echo(f"route     {decision.route} ({decision.operation})")
    click.echo(f"label     {decision.label.in_words()}")
    _print_because(why.label)
    for sighting in seen.found:
        finding = sighting.finding
        place = f"{sighting.where}, characters {finding.start} to {finding.end}"
        faint = "" if finding.score >= SURE_ENOUGH else ", too faint to count"
        click.echo(f"found     {finding.kind} in {place} ({finding.detector}, {finding.score:.2f}{faint})")
    for where in seen.blind:
        click.echo(f"blind     {where} could not be looked into")
    click.echo(f"allowed   {', '.join(decision.allowed) or 'no model'}")
    for name in decision.allowed:
        _print_because(why.models[name])
    for refused in decision.refused:
        click.echo(f"refused   {refused.model} by {refused.rule}: {refused.reason}")
        _print_because(why.models[refused.model])
    if decision.plan is not None:
        click.echo(f"plan      {msgspec.json.encode(decision.plan).decode()}")
    for reason in decision.reasons:
        click.echo(f"because   {reason}")
    click.echo(f"odds      {decision.propensity:.3g}")
    click.echo(f"config    {decision.config_hash[:12]}")


def _print_because(reasons: tuple[Because, ...]) -> None:
    for reason in reasons:
        click.echo(f"          {reason}")
