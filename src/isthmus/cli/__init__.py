"""The command `isthmus`: thin verbs over the rooms. Nothing heavy is imported before a verb is chosen."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import NamedTuple

import click

from isthmus import __version__


class Verb(NamedTuple):
    """Where a command lives, and its one line of help, known without importing it."""

    module: str
    help: str


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called: `isthmus --help` stays instant.

    The command object in a verb's module bears the verb's name.
    """

    verbs: Mapping[str, Verb] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = self.verbs.get(cmd_name)
        if verb is None:
            return None
        command = getattr(importlib.import_module(verb.module), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.help) for name, verb in self.verbs.items()])


class _Isthmus(LazyGroup):
    verbs: Mapping[str, Verb] = {
        "serve": Verb("isthmus.cli.serve", "Start the gateway."),
        "chat": Verb("isthmus.cli.chat", "Talk to a route in the terminal; shows model, cost and overhead."),
        "explain": Verb("isthmus.cli.explain", "Say where a request would go, and why. No model is called."),
        "label": Verb("isthmus.cli.label", "Label files and logs by sensitivity, on this machine."),
        "fingerprint": Verb(
            "isthmus.cli.fingerprint", "Make fingerprints of documents and code that must stay inside."
        ),
        "topic": Verb("isthmus.cli.topic", "Learn a topic from texts of your own, to find it in requests."),
        "models": Verb(
            "isthmus.cli.models", "List models; sign and verify their weights, promote new ones, roll back."
        ),
        "cost": Verb(
            "isthmus.cli.cost", "What models cost, what others would cost, and what shocks would do."
        ),
        "keys": Verb("isthmus.cli.keys", "Create, list, rotate and revoke keys."),
        "budgets": Verb("isthmus.cli.budgets", "Say what is used of each budget, and what is left."),
        "simulate": Verb(
            "isthmus.cli.simulate", "Try strategies on known outcomes: quality, cost, promises kept."
        ),
        "workload": Verb(
            "isthmus.cli.workload", "Audit recorded traffic: what is asked, and where it belongs."
        ),
        "pilot": Verb("isthmus.cli.pilot", "Ask your own work of several models: quality, latency, cost."),
        "calibrate": Verb(
            "isthmus.cli.calibrate", "Learn from a run when a cascade may believe its first model."
        ),
        "judge": Verb("isthmus.cli.judge", "Say how far a model that judges agrees with people."),
        "eval": Verb("isthmus.cli.eval", "List, show, compare and score pilot runs."),
        "distill": Verb("isthmus.cli.distill", "Teach a small model what a strong one can do."),
        "records": Verb("isthmus.cli.records", "List, show and export the ledger's records."),
        "feedback": Verb("isthmus.cli.feedback", "Say what an answer was worth, and list what was said."),
        "dataset": Verb("isthmus.cli.dataset", "Make, show and split sets of samples to judge models by."),
        "experiment": Verb(
            "isthmus.cli.experiment", "Compare the arms of a split by what their requests came to."
        ),
        "drift": Verb("isthmus.cli.drift", "Say whether watched routes are still what they were."),
        "replay": Verb("isthmus.cli.replay", "Say what another config would do with recorded traffic."),
        "check": Verb("isthmus.cli.check", "Check a config and report every fault."),
    }


@click.group(cls=_Isthmus, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="isthmus")
def main() -> None:
    """Isthmus: one gateway between your applications and any language model."""
