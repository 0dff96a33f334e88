"""What a recipe says of collecting, of the gate, and of what follows it: a section for each step."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from isthmus.core.label import Level
from isthmus.distill.terms import Ground

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


class Against(msgspec.Struct, frozen=True, kw_only=True):
    """Whom the gate compares the student with, and by what.

    `teacher`, `base` and `incumbent` are models of the config. `scorer` says how answers are scored.
    `held_out` is a dataset that no training has seen, by default the golden set's own test part. `retention`
    is one of what the base could do and the student must keep. Both are relative to the recipe. `by` tells
    classes apart. `max_tokens` is the longest answer, where a sample says none.
    """

    teacher: str
    base: str
    incumbent: str | None = None
    scorer: str
    held_out: str | None = None
    retention: str | None = None
    by: str | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None


class Signing(msgspec.Struct, frozen=True, kw_only=True):
    """Who signs the student once it has passed.

    `key` is the private key: its file, relative to the recipe, or `env:NAME` of a variable that holds it in
    PEM. `cert` is the file of its certificate.
    """

    shorthand: ClassVar[str] = "key"

    key: str
    cert: str | None = None


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of the student once it is signed: `stage` is where its rollout begins, by default where
    the config's rule lets it begin."""

    stage: Literal["shadow", "canary", "full"] | None = None
