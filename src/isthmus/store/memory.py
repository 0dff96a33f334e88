"""What a file keeps, kept in memory: the stores behave as the SQLite ones do, and are gone at the end."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from isthmus.accounting.budgets import Draw
from isthmus.core.decision import Decision
from isthmus.core.evaluation import Sample, Score
from isthmus.core.feedback import Feedback
from isthmus.core.label import BOTTOM, Label
from isthmus.core.record import Intent, Record
from isthmus.core.rollout import Turn
from isthmus.store.conversations import Standing
from isthmus.store.counters import KEPT_WINDOWS, Count, Drawn, Name, Settlement, granted
from isthmus.store.feedback import Allowed, everybody, require_room, unknown_request
from isthmus.store.keys import Digests, Key, NewKey, digest_of, make_key, named, require_free, successor
from isthmus.store.ledger import Health
from isthmus.store.records import EVERYTHING, Cursor, Page, Where, page_of, the_one
from isthmus.store.rollouts import require_unchanged
from isthmus.store.runs import Kept, Place, Run, the_run

_as_json = msgspec.json.Encoder().encode
_as_decision = msgspec.json.Decoder(Decision).decode


class MemoryLedger:
    """A ledger that commits at once, and its records; `feedback` belongs to them (`MemoryFeedback`)."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        self.feedback: dict[str, list[Feedback]] = {}
        self._open = True
        self._lost = 0
        self._committed = 0

    def append(self, record: Record) -> None:
        """See `Ledger.append`."""
        if not self._open:
            self._lost += 1
            return
        if record.decision is not None:
            # What a store keeps of a decision is its data: a plan comes back as plain values, here as
            # elsewhere.
            record = msgspec.structs.replace(record, decision=_as_decision(_as_json(record.decision)))
        self._records.setdefault(record.id, record)
        self._committed += 1

    async def begin(self, intent: Intent) -> None:
        """See `Ledger.begin`."""

    async def commit(self, record: Record) -> None:
        """See `Ledger.commit`."""
        self.append(record)

    async def flush(self) -> None:
        """See `Ledger.flush`."""

    async def delete_before(self, at_us: int) -> int:
        """See `Ledger.delete_before`."""
        old = [record.id for record in self._records.values() if record.at_us < at_us]
        for identity in old:
            del self._records[identity]
            self.feedback.pop(identity, None)
        return len(old)

    def health(self) -> Health:
        """See `Ledger.health`."""
        return Health(
            state="ok", queued=0, lost=self._lost, bodies_lost=0, committed=self._committed, lag_ms=0.0
        )

    async def close(self) -> None:
        """See `Ledger.close`."""
        self._open = False

    def page(self, where: Where = EVERYTHING, limit: int = 50, after: Cursor | None = None) -> Page:
        """See `Records.page`."""
        newest_first = [
            _without_bodies(record)
            for record in reversed(self._sorted(where))
            if after is None or _place(record) < (after.at_us, after.id)
        ]
        return page_of(newest_first, limit)

    def find(self, prefix: str) -> Record:
        """See `Records.find`."""
        alike = sorted(identity for identity in self._records if identity.startswith(prefix))
        return self._records[the_one(prefix, alike)]

    def scan(self, where: Where = EVERYTHING, *, bodies: bool = False) -> Iterator[Record]:
        """See `Records.scan`."""
        for record in self._sorted(where):
            yield record if bodies else _without_bodies(record)

    def _sorted(self, where: Where) -> list[Record]:
        return sorted((record for record in self._records.values() if where.holds(record)), key=_place)


def _place(record: Record) -> tuple[int, str]:
    return record.at_us, record.id


def _without_bodies(record: Record) -> Record:
    return msgspec.structs.replace(record, request_body=None, response_body=None)


class MemoryKeys:
    """Keys that live as long as the process."""

    def __init__(self) -> None:
        self._digests: dict[bytes, Key] = {}
        self._revision = 0

    def create(
        self,
        name: str,
        routes: tuple[str, ...],
        at_us: int,
        expires_us: int | None = None,
        floor: Label = BOTTOM,
        team: str | None = None,
    ) -> NewKey:
        """See `Keys.create`."""
        require_free(name, self.list(), at_us)
        new = make_key(name, routes, at_us, expires_us, floor, team)
        self._put(digest_of(new.secret), new.key)
        return new

    def list(self) -> tuple[Key, ...]:
        """See `Keys.list`."""
        return tuple(sorted(self._digests.values(), key=lambda key: (key.created_us, key.id)))

    def revoke(self, reference: str, at_us: int) -> tuple[Key, ...]:
        """See `Keys.revoke`."""
        ended = tuple(key.revoked(at_us) for key in named(reference, self.list(), at_us))
        for key in ended:
            self._put(self._digest(key.id), key)
        return ended

    def rotate(self, reference: str, at_us: int, grace_s: float) -> NewKey:
        """See `Keys.rotate`."""
        new, old = successor(reference, self.list(), at_us, grace_s)
        self._put(digest_of(new.secret), new.key)
        self._put(self._digest(old.id), old)
        return new

    def revision(self) -> int:
        """See `Keys.revision`."""
        return self._revision

    def digests(self) -> Digests:
        """See `Keys.digests`."""
        return dict(self._digests)

    def _put(self, digest: bytes, key: Key) -> None:
        self._digests[digest] = key
        self._revision += 1

    def _digest(self, identity: str) -> bytes:
        return next(digest for digest, key in self._digests.items() if key.id == identity)


class MemoryCounters:
    """The counters of one process."""

    def __init__(self) -> None:
        self._counts: dict[Name, Count] = {}

    def drawn(self, names: Sequence[Name]) -> list[int]:
        """See `Counters.drawn`."""
        return [self._counts[name].drawn if name in self._counts else 0 for name in names]

    def draw(self, draws: Mapping[Name, Draw]) -> dict[Name, Drawn]:
        """See `Counters.draw`."""
        told = granted(draws, dict(zip(draws, self.drawn(list(draws)), strict=True)))
        for name, it in told.items():
            if not it.granted:
                continue
            length = name.end_us - name.start_us
            spent = self._counts[name].spent if name in self._counts else 0
            self._counts = {
                other: known
                for other, known in self._counts.items()
                if (other.budget, other.subject) != (name.budget, name.subject)
                or other.start_us >= name.start_us - KEPT_WINDOWS * length
            } | {name: Count(it.drawn, spent)}
        return told

    def settle(self, settlements: Mapping[Name, Settlement]) -> None:
        """See `Counters.settle`."""
        for name, it in settlements.items():
            if known := self._counts.get(name):
                self._counts[name] = Count(max(0, known.drawn - it.returned), known.spent + it.spent)

    def list(self, at_us: int) -> list[tuple[Name, Count]]:
        """See `Counters.list`."""
        current = (it for it in self._counts.items() if it[0].start_us <= at_us < it[0].end_us)
        return sorted(current, key=lambda it: (it[0].budget, it[0].subject))


class MemoryRuns:
    """The runs of one process."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._samples: dict[tuple[str, str], Sample] = {}
        self._answers: dict[str, Kept] = {}
        self._asked: dict[str, dict[Place, str]] = {}
        self._marks: dict[str, dict[str, dict[Place, tuple[str, Score]]]] = {}

    def begin(self, run: Run, asked: Sequence[Sample]) -> None:
        """See `Runs.begin`."""
        self._runs[run.id] = run
        for sample in asked:
            self._samples.setdefault((run.dataset_hash, sample.id), sample)

    def end(self, run: str, at_us: int) -> None:
        """See `Runs.end`."""
        if run in self._runs:
            self._runs[run] = msgspec.structs.replace(self._runs[run], ended_us=at_us)

    def list(self, limit: int | None = None) -> tuple[Run, ...]:
        """See `Runs.list`."""
        return tuple(sorted(self._runs.values(), key=lambda run: (run.at_us, run.id), reverse=True)[:limit])

    def find(self, prefix: str) -> Run:
        """See `Runs.find`."""
        return self._runs[the_run(prefix, [run.id for run in self.list()])]

    def unfinished(self, identity: str) -> Run | None:
        """See `Runs.unfinished`."""
        same = (run for run in self.list() if run.identity == identity and run.ended_us is None)
        return next(same, None)

    def samples(self, run: Run) -> tuple[Sample, ...]:
        """See `Runs.samples`."""
        return tuple(self._samples[run.dataset_hash, it] for it in run.sample_ids)

    def recall(self, key: str, since_us: int = 0) -> Kept | None:
        """See `Runs.recall`."""
        alike = [it for it in self._answers.values() if it.key == key and it.at_us >= since_us]
        return max(alike, key=lambda it: it.at_us, default=None)

    def keep(self, kept: Kept, place: Place | None = None) -> None:
        """See `Runs.keep`."""
        self._answers[kept.id] = kept
        if place is not None:
            self.take(kept.run, place, kept.id)

    def take(self, run: str, place: Place, answer: str) -> None:
        """See `Runs.take`."""
        self._asked.setdefault(run, {})[place] = answer

    def answers(self, run: str) -> dict[Place, Kept]:
        """See `Runs.answers`."""
        return {place: self._answers[answer] for place, answer in self._asked.get(run, {}).items()}

    def mark(self, run: str, scorer: str, marks: Mapping[Place, tuple[str, Score]]) -> None:
        """See `Runs.mark`."""
        self._marks.setdefault(run, {}).setdefault(scorer, {}).update(marks)

    def scores(self, run: str) -> dict[str, dict[Place, Score]]:
        """See `Runs.scores`."""
        there = self._asked.get(run, {})
        still = {
            scorer: {place: score for place, (answer, score) in marks.items() if there.get(place) == answer}
            for scorer, marks in self._marks.get(run, {}).items()
        }
        return {scorer: marks for scorer, marks in still.items() if marks}

    def delete(self, run: str) -> None:
        """See `Runs.delete`."""
        self._asked.pop(run, None)
        heirs = {answer: it for it, places in self._asked.items() for answer in places.values()}
        gone = self._runs.pop(run, None)
        self._marks.pop(run, None)
        for name, it in list(self._answers.items()):
            if it.run == run and name in heirs:
                self._answers[name] = msgspec.structs.replace(it, run=heirs[name])
            elif it.run == run:
                del self._answers[name]
        if gone is not None and all(it.dataset_hash != gone.dataset_hash for it in self._runs.values()):
            kept = self._samples.items()
            self._samples = {key: it for key, it in kept if key[0] != gone.dataset_hash}


class MemoryConfigs:
    """The configs of one process."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[int, bytes]] = {}

    def keep(self, hash: str, at_us: int, body: bytes) -> None:
        """See `Configs.keep`."""
        self._kept.setdefault(hash, (at_us, body))

    def all(self) -> Mapping[str, bytes]:
        """See `Configs.all`."""
        by_age = sorted(self._kept.items(), key=lambda it: (it[1][0], it[0]))
        return {hash: body for hash, (_, body) in by_age}


class MemoryStandings:
    """The conversations of one process."""

    def __init__(self) -> None:
        self._kept: dict[bytes, tuple[int, Standing]] = {}

    def find(self, digests: Collection[bytes], since_us: int) -> dict[bytes, Standing]:
        """See `Standings.find`."""
        known = {it: self._kept[it] for it in digests if it in self._kept}
        return {it: standing for it, (at_us, standing) in known.items() if at_us >= since_us}

    def keep(self, standings: Mapping[bytes, Standing], at_us: int) -> None:
        """See `Standings.keep`."""
        for digest, standing in standings.items():
            known = self._kept.get(digest)
            self._kept[digest] = (at_us, standing if known is None else known[1].then(standing))

    def forget(self, before_us: int, most: int) -> int:
        """See `Standings.forget`."""
        by_age = sorted(self._kept.items(), key=lambda it: (-it[1][0], it[0]))
        kept = dict([it for it in by_age if it[1][0] >= before_us][:most])
        forgotten = len(self._kept) - len(kept)
        self._kept = kept
        return forgotten


class MemoryRollouts:
    """Turns in memory."""

    def __init__(self) -> None:
        self._turns: list[Turn] = []

    def current(self) -> Sequence[Turn]:
        """See `Rollouts.current`."""
        last = {turn.model: turn for turn in self._turns}
        return [last[model] for model in sorted(last)]

    def history(self, model: str | None = None) -> Sequence[Turn]:
        """See `Rollouts.history`."""
        return [turn for turn in self._turns if model in (None, turn.model)]

    def append(self, turn: Turn, after: int) -> Turn:
        """See `Rollouts.append`."""
        last = max((it.number for it in self.history(turn.model)), default=0)
        require_unchanged(turn, last, after)
        numbered = msgspec.structs.replace(turn, number=len(self._turns) + 1)
        self._turns.append(numbered)
        return numbered


class MemoryFeedback:
    """Feedback on the records of a ledger in memory."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    def add(self, feedback: Feedback, allowed: Allowed = everybody) -> None:
        """See `Feedbacks.add`."""
        record = next((it for it in self._ledger.scan() if it.id == feedback.record_id), None)
        if record is None or not allowed(record.key_id):
            raise unknown_request(feedback.record_id)
        given = self._ledger.feedback.setdefault(record.id, [])
        require_room(len(given))
        given.append(feedback)

    def of(self, record_ids: Sequence[str]) -> dict[str, list[Feedback]]:
        """See `Feedbacks.of`."""
        given = self._ledger.feedback
        return {
            identity: sorted(given[identity], key=_moment) for identity in record_ids if identity in given
        }

    def list(self, since_us: int | None = None, limit: int = 50) -> list[Feedback]:
        """See `Feedbacks.list`."""
        recent = (it for given in self._ledger.feedback.values() for it in given)
        meant = [it for it in recent if since_us is None or it.at_us >= since_us]
        return sorted(meant, key=_moment, reverse=True)[:limit]


def _moment(feedback: Feedback) -> tuple[int, str]:
    return feedback.at_us, feedback.id
