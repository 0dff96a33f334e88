"""Evaluation runs: what was asked of which models, what they answered, and how good that was found.

An answer is kept once, under the hash of all that it depends on, and runs point to it: so a second run finds
what a first one has paid for, and a new scorer costs nothing. Samples are kept, too: a run can be scored and
read without its dataset's file. Everything stands in the ledger's file, committed before it counts.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
from sqlalchemy import and_, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.core.portfolio import Kind
from isthmus.store import schema
from isthmus.store.schema import answers, asked, runs, samples, scores

_SHOWN_CANDIDATES = 5

_to_json = msgspec.json.Encoder().encode


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A model as a run asked it: its name in the config, what it was then, and of weights their SHA-256."""

    name: str
    id: str
    provider: str
    kind: Kind
    weights: str | None = None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation: these models, asked these samples, `repeat` times each.

    `identity` is the hash of all that the same command would do again: an unfinished run of that identity is
    resumed. `request` holds the fields that were added to every request. A `fresh` run takes no answer from
    before its own start. `samples` counts those that it asks, in `split` of the dataset or in all of it.
    `cap_nanousd` is what it may spend at most. Times are microseconds since the epoch; `ended_us` is None as
    long as something is left to do.
    """

    id: str
    identity: str
    at_us: int
    ended_us: int | None = None
    dataset: str
    dataset_hash: str
    sample_ids: tuple[str, ...]
    split: str | None = None
    models: tuple[Candidate, ...]
    scorers: tuple[str, ...]
    request: dict[str, Any] = {}
    repeat: int = 1
    fresh: bool = False
    cap_nanousd: int | None = None
    config_hash: str
    who: str = ""


class Place(msgspec.Struct, frozen=True, order=True):
    """One thing to ask in a run: a model, a sample, for the `nth` time from 0."""

    model: str
    sample: str
    nth: int = 0


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that a run was given, a judge's too, and the `key` by which every run finds it again; None
    for a failure, which nobody wants twice."""

    id: str
    key: str | None
    at_us: int
    run: str
    answered: Answered


class Runs(Protocol):
    """The runs that there are. Every method blocks: call it off the event loop. What is written is committed.

    Raises IsthmusError where the store cannot be used.
    """

    def begin(self, run: Run, asked: Sequence[Sample]) -> None:
        """A run begins, and its samples are kept."""

    def end(self, run: str, at_us: int) -> None:
        """The run has nothing left to do."""

    def list(self, limit: int | None = None) -> tuple[Run, ...]:
        """The runs, the newest first."""

    def find(self, prefix: str) -> Run:
        """The run whose id begins so; the newest for an empty prefix.

        Raises IsthmusError: `unknown_run` for none, `ambiguous_run` for several.
        """

    def unfinished(self, identity: str) -> Run | None:
        """The newest run of that identity that has not ended."""

    def samples(self, run: Run) -> tuple[Sample, ...]:
        """What it asks, in order."""

    def recall(self, key: str, since_us: int = 0) -> Kept | None:
        """The newest answer of that key that is not older."""

    def keep(self, kept: Kept, place: Place | None = None) -> None:
        """An answer came; where that is said, it stands at this place of its run from now on."""

    def take(self, run: str, place: Place, answer: str) -> None:
        """An answer that is kept already stands at this place of the run from now on."""

    def answers(self, run: str) -> dict[Place, Kept]:
        """Every answer of the run."""

    def mark(self, run: str, scorer: str, marks: Mapping[Place, tuple[str, Score]]) -> None:
        """These answers, by their ids, were found so good; later marks replace earlier ones."""

    def scores(self, run: str) -> dict[str, dict[Place, Score]]:
        """How good the answers of the run are, by scorer, without marks of answers that were replaced."""

    def delete(self, run: str) -> None:
        """Forgets the run, with what it was answered; samples and answers that other runs have stay."""


class SqliteRuns:
    """The runs in the ledger's file."""

    def __init__(self, path: Path) -> None:
        schema.prepare(path)
        self._database = schema.Database(path)

    def begin(self, run: Run, asked: Sequence[Sample]) -> None:
        """See `Runs.begin`."""
        row = {name: getattr(run, name) for name in ("id", "at_us", "ended_us", "identity", "dataset_hash")}
        kept = [{"dataset_hash": run.dataset_hash, "id": it.id, "body": _to_json(it)} for it in asked]
        with self._database.writing() as connection:
            connection.execute(insert(runs), {**row, "body": _to_json(run)})
            if kept:
                connection.execute(insert(samples).on_conflict_do_nothing(), kept)

    def end(self, run: str, at_us: int) -> None:
        """See `Runs.end`."""
        with self._database.writing() as connection:
            connection.execute(update(runs).where(runs.c.id == run).values(ended_us=at_us))

    def list(self, limit: int | None = None) -> tuple[Run, ...]:
        """See `Runs.list`."""
        query = select(runs).order_by(runs.c.at_us.desc(), runs.c.id.desc()).limit(limit)
        with self._database.reading() as connection:
            return tuple(map(_run, connection.execute(query)))

    def find(self, prefix: str) -> Run:
        """See `Runs.find`."""
        with self._database.reading() as connection:
            ids = connection.scalars(select(runs.c.id).order_by(runs.c.at_us.desc(), runs.c.id.desc())).all()
            query = select(runs).where(runs.c.id == the_run(prefix, ids))
            return _run(connection.execute(query).one())

    def unfinished(self, identity: str) -> Run | None:
        """See `Runs.unfinished`."""
        query = select(runs).where(runs.c.identity == identity, runs.c.ended_us.is_(None))
        with self._database.reading() as connection:
            row = connection.execute(query.order_by(runs.c.at_us.desc()).limit(1)).first()
        return None if row is None else _run(row)

    def samples(self, run: Run) -> tuple[Sample, ...]:
        """See `Runs.samples`."""
        query = select(samples.c.body).where(samples.c.dataset_hash == run.dataset_hash)
        with self._database.reading() as connection:
            found = [msgspec.json.decode(body, type=Sample) for body in connection.scalars(query)]
        by_id = {it.id: it for it in found}
        return tuple(by_id[it] for it in run.sample_ids)

    def recall(self, key: str, since_us: int = 0) -> Kept | None:
        """See `Runs.recall`."""
        query = select(answers).where(answers.c.key == key, answers.c.at_us >= since_us)
        with self._database.reading() as connection:
            row = connection.execute(query.order_by(answers.c.at_us.desc()).limit(1)).first()
        return None if row is None else _kept(row)

    def keep(self, kept: Kept, place: Place | None = None) -> None:
        """See `Runs.keep`."""
        row = {name: getattr(kept, name) for name in ("id", "key", "at_us", "run")}
        with self._database.writing() as connection:
            connection.execute(insert(answers), {**row, "body": _to_json(kept.answered)})
            if place is not None:
                connection.execute(_TAKING, _asked_row(kept.run, place, kept.id))

    def take(self, run: str, place: Place, answer: str) -> None:
        """See `Runs.take`."""
        with self._database.writing() as connection:
            connection.execute(_TAKING, _asked_row(run, place, answer))

    def answers(self, run: str) -> dict[Place, Kept]:
        """See `Runs.answers`."""
        query = select(asked.c.model, asked.c.sample, asked.c.nth, answers).join_from(
            asked, answers, asked.c.answer == answers.c.id
        )
        with self._database.reading() as connection:
            rows = connection.execute(query.where(asked.c.run == run)).all()
        return {Place(row.model, row.sample, row.nth): _kept(row) for row in rows}

    def mark(self, run: str, scorer: str, marks: Mapping[Place, tuple[str, Score]]) -> None:
        """See `Runs.mark`."""
        rows = [
            {**_asked_row(run, place, answer), "scorer": scorer, "body": _to_json(score)}
            for place, (answer, score) in marks.items()
        ]
        if rows:
            with self._database.writing() as connection:
                connection.execute(_MARKING, rows)

    def scores(self, run: str) -> dict[str, dict[Place, Score]]:
        """See `Runs.scores`."""
        still = [asked.c[name] == scores.c[name] for name in ("run", "model", "sample", "nth", "answer")]
        query = select(scores).join_from(scores, asked, and_(*still)).where(scores.c.run == run)
        found: dict[str, dict[Place, Score]] = {}
        with self._database.reading() as connection:
            for row in connection.execute(query):
                place = Place(row.model, row.sample, row.nth)
                found.setdefault(row.scorer, {})[place] = msgspec.json.decode(row.body, type=Score)
        return found

    def delete(self, run: str) -> None:
        """See `Runs.delete`."""
        with self._database.writing() as connection:
            dataset = connection.scalar(select(runs.c.dataset_hash).where(runs.c.id == run))
            connection.execute(delete(scores).where(scores.c.run == run))
            connection.execute(delete(asked).where(asked.c.run == run))
            connection.execute(delete(runs).where(runs.c.id == run))
            # What others have is theirs from now on.
            heir = select(func.min(asked.c.run)).where(asked.c.answer == answers.c.id).scalar_subquery()
            mine = answers.c.run == run
            connection.execute(update(answers).where(mine, heir.is_not(None)).values(run=heir))
            connection.execute(delete(answers).where(mine))
            if not connection.scalar(select(func.count()).where(runs.c.dataset_hash == dataset)):
                connection.execute(delete(samples).where(samples.c.dataset_hash == dataset))


@contextmanager
def alone(path: Path, identity: str) -> Iterator[None]:
    """Nobody else carries out a run of that identity meanwhile, beside the ledger at `path`.

    The kernel gives the lock back however the process ends. Raises IsthmusError (`run_in_progress`).
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = os.open(path.with_name(path.name + ".runs"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    # One byte of the file for each run that there can be.
    place = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:7], "big")
    try:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except BlockingIOError:
            raise IsthmusError(
                Fault.UNAVAILABLE,
                "The same run is being carried out by another process.",
                code="run_in_progress",
                hint="Wait for it, or stop it: what it has asked is kept.",
            ) from None
        yield
    finally:
        os.close(file)


def the_run(prefix: str, newest_first: Sequence[str]) -> str:
    """The only id of a run that begins so, the newest for an empty prefix.

    Raises IsthmusError: `unknown_run` for none, `ambiguous_run` for several.
    """
    alike = [name for name in newest_first if name.startswith(prefix)]
    if prefix in alike:
        return prefix
    if len(alike) == 1 or (alike and not prefix):
        return alike[0]
    if not alike:
        raise IsthmusError(
            Fault.NOT_FOUND,
            f"There is no run whose id begins with {prefix!r}." if prefix else "There is no run yet.",
            code="unknown_run",
            hint="`isthmus eval list` shows them." if prefix else "`isthmus pilot` makes one.",
        )
    shown = ", ".join(alike[:_SHOWN_CANDIDATES])
    raise IsthmusError(
        Fault.INVALID_REQUEST,
        f"Several runs have an id that begins with {prefix!r}: {shown}.",
        code="ambiguous_run",
        hint="Give more of the id.",
    )


def _replacing(table: Any, *names: str) -> Any:
    statement = insert(table)
    return statement.on_conflict_do_update(set_={name: statement.excluded[name] for name in names})


_TAKING = _replacing(asked, "answer")
_MARKING = _replacing(scores, "answer", "body")


def _asked_row(run: str, place: Place, answer: str) -> dict[str, Any]:
    return {"run": run, "answer": answer, **msgspec.structs.asdict(place)}


def _run(row: Any) -> Run:
    return msgspec.structs.replace(msgspec.json.decode(row.body, type=Run), ended_us=row.ended_us)


def _kept(row: Any) -> Kept:
    answered = msgspec.json.decode(row.body, type=Answered)
    return Kept(id=row.id, key=row.key, at_us=row.at_us, run=row.run, answered=answered)
