"""`isthmus distill`: the steps from recorded answers to a student of one's own."""

from __future__ import annotations

from collections.abc import Mapping

import click

from isthmus.cli import LazyGroup, Verb


class _Distill(LazyGroup):
    verbs: Mapping[str, Verb] = {
        "train": Verb("isthmus.cli.distill.train", "Train a student on good answers, with LoRA."),
    }


@click.group(cls=_Distill)
def distill() -> None:
    """Let a strong model teach a small one that is your own."""
