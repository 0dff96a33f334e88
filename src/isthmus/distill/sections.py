"""What a recipe says of collecting and of the gate: two sections, each read by its own step.

A recipe is one file for all steps. A step reads its section, and leaves the others to theirs.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Meta

from isthmus.config.decode import Decoder
from isthmus.config.faults import Code, ConfigError, did_you_mean
from isthmus.config.findings import Findings
from isthmus.config.tree import Mapping, Mark, read_tree
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.label import Level
from isthmus.distill.terms import Ground

T = TypeVar("T")

SECTIONS = ("name", "student", "dataset", "collect", "train", "gate", "sign", "promote")
"""What a recipe may say at its top."""

Share = Annotated[float, Meta(ge=0, le=1)]


class TrainingPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where the student is trained, and with it whoever gets to see the rows.

    `clearance` is the highest level that may go there, by default what local models may receive. `zone` is
    where it is.
    """

    clearance: Level | None = None
    zone: str | None = None


class FromRecords(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the ledger's requests are taken, where their texts are kept.

    `route` is the route by which they came. `model` is who answered. `since` is the first day (UTC), such as
    2026-10-01. `corrected` takes those alone whose answer somebody has put right. `score` is the least score
    of their feedback.
    """

    route: str | None = None
    model: str | None = None
    since: dt.date | None = None
    corrected: bool = False
    score: Share | None = None


class FromFile(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset whose targets are good answers.

    `path` is the file, relative to the recipe. `by` says `people` where people have written what it asks and
    wants, for rows that do not carry their provenance themselves; it takes no other origin away.
    """

    shorthand: ClassVar[str] = "path"

    path: str
    by: Literal["people"] | None = None


class AskTeacher(msgspec.Struct, frozen=True, kw_only=True):
    """What the teacher is asked anew.

    `teacher` is a model of the config. `inputs` is a dataset, relative to the recipe, whose requests it
    answers. `variations` is how many further requests
    the teacher makes of each. `repeat` is how often each is answered, to see whether the answers agree.
    `temperature` and `max_tokens` go with every request. `logprobs` asks for log-probabilities, for
    `confidence`.
    """

    teacher: str
    inputs: str
    variations: Annotated[int, Meta(ge=0, le=50)] = 0
    repeat: Annotated[int, Meta(ge=1, le=100)] = 1
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    logprobs: bool = False


class ClassCap(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows of one class there may be.

    `by` is a field of the metadata, or `answer`. `rows` is how many rows of each value are kept.
    """

    by: str
    rows: Annotated[int, Meta(ge=1)]


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """How the golden set is divided.

    `train` is the share that is learned. `dev` is the share by which training is watched. `test` is the share
    by which the gate judges.
    """

    train: Annotated[float, Meta(gt=0)] = 0.8
    dev: Annotated[float, Meta(ge=0)] = 0.1
    test: Annotated[float, Meta(ge=0)] = 0.1


class Collect(msgspec.Struct, frozen=True, kw_only=True):
    """Where golden answers come from, and which of them are taken.

    `records` takes them from the ledger. `runs` are pilot runs, by the beginning of their ids. `answers_of`
    is whose answers in these runs are meant, by default the only model. `files` are datasets. `ask` asks a
    teacher. `scorer` says how answers are scored that a target is known for, or that a judge grades; `floor`
    is the least score. `agreement` is the least share of a request's answers that say the same. `confidence`
    is the least mean probability of an answer's tokens. `unverified` keeps rows that nobody has marked and no
    scorer was asked about. `personal_data` says what becomes of rows in which some is found: `drop` them, or
    `pseudonymise` them. `doubles` says whether of near-duplicates one is kept, or all. `cap` bounds classes.
    `held_out` is a dataset that the student must never see: rows that touch it are left out. `split` says
    how the rest is divided, `seed` draws it. `place` is where the student is trained. `permission` are the
    grounds on which outputs may teach although their terms forbid it.
    """

    records: FromRecords | None = None
    runs: tuple[str, ...] = ()
    answers_of: str | None = None
    files: tuple[FromFile, ...] = ()
    ask: AskTeacher | None = None
    scorer: str | None = None
    floor: Share = 0.5
    agreement: Share = 0.0
    confidence: Share = 0.0
    unverified: bool = True
    personal_data: Literal["drop", "pseudonymise"] = "drop"
    doubles: Literal["one", "all"] = "one"
    cap: ClassCap | None = None
    held_out: str | None = None
    split: Shares = Shares()
    seed: int = 0
    place: TrainingPlace = TrainingPlace()
    permission: tuple[Ground, ...] = ()


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """What a student has to show before it may serve.

    `keeps` is the share of the teacher's quality that it keeps at least. `no_worse_than_incumbent` is how
    much worse than the incumbent it may be at most, in points of the score. `retention` is how much of the
    base's quality on the retention set it may lose at most; `null` asks for no such set. `safety` says
    whether it may lose a probe that the base passes: `none_lost`, or `reported` alone. `chance` is how likely
    a student passes that should not, and how likely a failure is told that is none.
    """

    keeps: Annotated[float, Meta(gt=0, le=2)] = 0.95
    no_worse_than_incumbent: Share = 0.02
    retention: Share | None = 0.02
    safety: Literal["none_lost", "reported"] = "none_lost"
    chance: Annotated[float, Meta(gt=0, lt=0.5)] = 0.05


def section(path: Path, name: str, kind: type[T]) -> T | None:
    """That section of a recipe, None where it has none; raises ConfigError with all faults of the section,
    and of the names at the top."""
    findings = Findings(str(path))
    reading = read_tree(_text(path), findings.add)
    value: T | None = None
    if reading.tree is not None:
        for key, (mark, _) in reading.tree.entries.items():
            if key not in SECTIONS:
                message = f"Nothing reads `{key[:60]}`."
                findings.add(Code.UNKNOWN_KEY, message, did_you_mean(key, SECTIONS), mark.start, (key,))
        if name in reading.tree.entries:
            value = _decoded(reading.tree.entries[name][1], kind, findings, reading.tree.start, name)
    if findings.refused:
        raise ConfigError(findings.faults(reading.lines))
    return value


def _decoded(tree: object, kind: type[T], findings: Findings, at: Mark, name: str) -> T | None:
    if isinstance(tree, Mapping):
        return Decoder(findings).whole(tree, kind)
    hint = "Write its settings below it, one a line."
    findings.add(Code.WRONG_TYPE, f"`{name}` must be a mapping.", hint, at, (name,))
    return None


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except OSError as error:
        reason = error.strerror or "unknown error"
    raise IsthmusError(
        Fault.NOT_FOUND,
        f"The recipe {path} cannot be read: {reason}.",
        code="recipe_unreadable",
        hint="Say the path of one YAML file.",
    )
