"""`isthmus cost`: the questions of money."""

from __future__ import annotations

from collections.abc import Mapping

import click

from isthmus.cli import LazyGroup, Verb


class _Cost(LazyGroup):
    verbs: Mapping[str, Verb] = {
        "report": Verb("isthmus.cli.cost.report", "Report what was spent, for what, and what is to come."),
        "tco": Verb("isthmus.cli.cost.tco", "Compare self-hosting with an API."),
        "stress": Verb("isthmus.cli.cost.stress", "Say what shocks would do to routes and costs."),
        "size": Verb("isthmus.cli.cost.size", "Say which GPUs a model needs for a traffic, and how many."),
    }


@click.group(cls=_Cost)
def cost() -> None:
    """What models cost, what others would cost, and what shocks would do."""
