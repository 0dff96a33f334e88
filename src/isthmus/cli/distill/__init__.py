"""`isthmus distill`: a small model of one's own, taught by golden answers."""

from __future__ import annotations

from collections.abc import Mapping

import click

from isthmus.cli import LazyGroup, Verb


class _Distill(LazyGroup):
    verbs: Mapping[str, Verb] = {
        "terms": Verb("isthmus.cli.distill.terms", "Say whose outputs may teach, and by which document."),
        "collect": Verb("isthmus.cli.distill.collect", "Collect golden answers into a versioned dataset."),
        "check": Verb("isthmus.cli.distill.check", "Say whether every row of a dataset may still teach."),
        "quarantine": Verb(
            "isthmus.cli.distill.quarantine", "Bar a source, and what descends from it, from teaching."
        ),
        "train": Verb("isthmus.cli.distill.train", "Train a student on good answers, with LoRA."),
        "gate": Verb("isthmus.cli.distill.gate", "Judge a student before it may serve."),
    }


@click.group(cls=_Distill)
def distill() -> None:
    """Teach a small model what a strong one can do, where that is permitted, and prove that it learned it."""
