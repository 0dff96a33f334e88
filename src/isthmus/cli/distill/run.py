"""`isthmus distill run`: all steps of a recipe, each as its own command would do it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from isthmus.artefacts import keys
from isthmus.artefacts.signing import sign as sign_artefact
from isthmus.artefacts.verify import signature_path
from isthmus.bootstrap import open_rollouts
from isthmus.cli.distill.permitting import recipe_or_exit
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.rollouts import turns_of
from isthmus.cli.runs import Usd
from isthmus.cli.texts import replace
from isthmus.config.config import Config
from isthmus.config.load import locate
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.money import format_usd
from isthmus.core.rollout import Version
from isthmus.distill.account import Account, Signed, account_report
from isthmus.distill.card import Card
from isthmus.distill.gate_report import GateRecord
from isthmus.distill.golden import CARD
from isthmus.distill.lock import alone
from isthmus.distill.packing import GATE, Sources, pack
from isthmus.distill.recipe import Recipe, hash_of, needed
from isthmus.distill.training.job import Workplace
from isthmus.distill.training.student import EVIDENCE, Evidence
from isthmus.providers.engines.child import be_killed_with_parent
from isthmus.reports.html import html
from isthmus.reports.markdown import markdown

T = TypeVar("T")


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of all that comes out. Default: students/NAME beside the recipe.",
)
@click.option(
    "--max-usd",
    type=Usd(),
    help="Collecting, judging, and calibrating for the promotion spend at most so much each.",
)
@click.option(
    "--python",
    default=sys.executable,
    envvar="ISTHMUS_TRAIN_PYTHON",
    help="The Python that has the extra `train`. Default: $ISTHMUS_TRAIN_PYTHON, else the one running this.",
)
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads of the training.")
@config_option
@told
def run(
    recipe: Path,
    out: Path | None,
    max_usd: int | None,
    python: str,
    threads: int | None,
    config_path: Path | None,
) -> None:
    """Do all that RECIPE says: collect, train, judge, sign, promote; and write a report.

    Each step is the command that you would give yourself, and is shown. The same command goes on after it was
    stopped: a step that was done is not done again, and nothing is paid for twice. Ends with the status of
    the step that ended it; the report (report.md, report.html) says how far it came, and why.
    """
    path = locate(config_path)
    config = load_or_exit(path)
    said = recipe_or_exit(recipe)
    name = needed(said.name, "name")
    for part in ("student", "model", "collect", "against"):
        needed(getattr(said, part), part)
    folder = (out if out is not None else recipe.parent / "students" / name).absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with alone(folder / ".lock", "run_in_progress", "on the way of a recipe") as lock:
        way = _Way(said, recipe.absolute(), folder, config, path, lock)
        way.require_same_recipe()
        status = 0
        try:
            for words in way.steps(max_usd, python, threads):
                status = way.do(words)
                if status:
                    break
        finally:
            way.tell()
    click.echo(str(folder / "report.md"))
    raise SystemExit(status)


class _Way:
    """The way of one recipe, in one folder, whose lock is held."""

    def __init__(
        self, recipe: Recipe, path: Path, folder: Path, config: Config, config_path: Path | None, lock: int
    ) -> None:
        self._recipe = recipe
        self._path = path
        self._folder = folder
        self._config = config
        self._config_path = config_path
        self._lock = lock
        self._name = needed(recipe.name, "name")
        self._golden = folder / "golden"
        self._training = Workplace(folder / "training")
        self._candidate = folder / "candidate"
        self._candidate_key = folder / "candidate.pub"
        self._gate = folder / GATE
        self._artefact = folder / self._name
        self._signed = folder / "signed.json"
        self._promoted = folder / "promoted"

    def require_same_recipe(self) -> None:
        """Raises IsthmusError (`another_recipe`) where the folder is that of another recipe."""
        mark, digest = self._folder / "recipe.sha256", hash_of(self._recipe)
        if not mark.exists():
            replace(mark, digest.encode())
        elif mark.read_text(encoding="utf-8") != digest:
            raise IsthmusError(
                Fault.INVALID_REQUEST,
                f"{self._folder} is the way of another recipe, or this one was changed since.",
                code="another_recipe",
                hint="Name another folder with --out.",
            )

    def steps(self, max_usd: int | None, python: str, threads: int | None) -> Iterator[list[str]]:
        """The commands that are left to be given, one after the other."""
        cap = ["--max-usd", format_usd(max_usd)] if max_usd is not None else []
        if not self._golden.exists():
            yield ["distill", "collect", str(self._path), "-o", str(self._golden), *cap]
        if not (self._training.student / EVIDENCE).exists():
            learned = ["--dataset", str(self._golden / "train.jsonl"), "--python", python]
            counted = ["--threads", str(threads)] if threads is not None else []
            out = ["-o", str(self._training.folder)]
            yield ["distill", "train", str(self._path), *out, *learned, *counted]
        if not self._passed():
            self._make_candidate()
            yield ["distill", "gate", *self._judging(), *cap]
        if self._recipe.sign is not None and not self._signed.exists():
            pack(self._sources(self._gate), self._artefact)
            self._sign(self._recipe.sign.key, self._recipe.sign.cert)
        if self._recipe.promote is not None and not self._promoted.exists():
            stage = ["--stage", self._recipe.promote.stage] if self._recipe.promote.stage else []
            if not self._has_turn():
                student = needed(self._recipe.model, "model")
                yield ["models", "promote", student, str(self._artefact), *stage, *cap]
            replace(self._promoted, (self._recipe.promote.stage or "the rule's first stage").encode())

    def do(self, words: list[str]) -> int:
        """Give a command, and return its status."""
        config = ["-c", str(self._config_path)] if self._config_path is not None else []
        # What a step prints is for who gives it alone; the report has it all.
        return self._given([*words, *config], subprocess.DEVNULL).returncode

    def tell(self) -> None:
        """Write the report on what there is."""
        report = account_report(
            Account(
                name=self._name,
                card=_read(self._golden / CARD, Card),
                training=_read(self._training.student / EVIDENCE, Evidence),
                gate=_read(self._gate, GateRecord),
                signed=self._signature(),
            )
        )
        replace(self._folder / "report.md", markdown(report).encode())
        replace(self._folder / "report.html", html(report).encode())

    def _passed(self) -> bool:
        record = _read(self._gate, GateRecord)
        return record is not None and record.judgement.verdict == "passed"

    def _make_candidate(self) -> None:
        """What is judged is loaded as what is served will be: signed, by a key that nobody has afterwards."""
        if signature_path(self._candidate).exists() and self._candidate_key.exists():
            return
        pack(self._sources(None), self._candidate)
        private, public = keys.generate("ed25519")
        replace(self._candidate_key, public.encode())
        sign_artefact(self._candidate, keys.private_key(private, "the candidate's key"))

    def _judging(self) -> Iterator[str]:
        against = needed(self._recipe.against, "against")
        beside = self._path.parent
        held_out = beside / against.held_out if against.held_out is not None else self._golden / "test.jsonl"
        settings = {
            "--student": needed(self._recipe.model, "model"),
            "--artefact": self._candidate,
            "--signer": self._candidate_key,
            "--teacher": against.teacher,
            "--base": against.base,
            "--incumbent": against.incumbent,
            "--held-out": held_out,
            "--retention": beside / against.retention if against.retention is not None else None,
            "--scorer": against.scorer,
            "--trained-on": self._golden,
            "--by": against.by,
            "--max-tokens": against.max_tokens,
            "--recipe": self._path if self._recipe.gate is not None else None,
            "--output": self._gate,
        }
        for option, value in settings.items():
            if value is not None:
                yield from (option, str(value))

    def _sources(self, gate: Path | None) -> Sources:
        return Sources(self._training.student, self._path, self._golden, gate)

    def _sign(self, key: str, cert: str | None) -> None:
        private = key if key.startswith("env:") else str(self._path.parent / key.removeprefix("file:"))
        chain = ["--cert", str(self._path.parent / cert)] if cert is not None else []
        command = ["models", "sign", str(self._artefact), "--key", private, *chain, "--json"]
        done = self._given(command, subprocess.PIPE)
        if done.returncode:
            raise SystemExit(done.returncode)
        replace(self._signed, done.stdout)

    def _given(self, words: list[str], output: int) -> subprocess.CompletedProcess[bytes]:
        """A step's process at its end. It ends with this one, or else holds the lock on."""
        click.echo(f"$ isthmus {' '.join(words)}", err=True)
        return subprocess.run(
            [sys.executable, "-P", "-m", "isthmus", *words],
            check=False,
            stdout=output,
            pass_fds=(self._lock,),
            preexec_fn=be_killed_with_parent,
        )

    def _has_turn(self) -> bool:
        """Whether this very artefact was promoted before a kill, which left no note of it here."""
        signed = _read(self._signed, _SignedAs)
        new = signed and Version(str(self._artefact), signed.identity)
        turns = turns_of(open_rollouts(self._config, self._config_path), history=True)
        return any(turn.new == new for turn in turns)

    def _signature(self) -> Signed | None:
        said = _read(self._signed, _SignedAs)
        if said is None:
            return None
        promoted = self._promoted.read_text(encoding="utf-8") if self._promoted.exists() else None
        return Signed(self._artefact.name, said.identity, said.fingerprint, promoted)


class _SignedAs(msgspec.Struct, frozen=True):
    identity: str
    fingerprint: str


def _read(path: Path, kind: type[T]) -> T | None:
    return msgspec.json.decode(path.read_bytes(), type=kind) if path.exists() else None
