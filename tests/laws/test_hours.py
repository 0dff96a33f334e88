"""The sums by hour are those of all records that ever were, whatever was rolled up, deleted or cut off."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from isthmus.core.record import Intent, Record, Timings
from isthmus.core.traffic import Hour
from isthmus.core.usage import Charge, Usage
from isthmus.store.hours import ALL, Scope, SqliteHours
from isthmus.store.keys import SqliteKeys
from isthmus.store.ledger_file import LedgerFile
from isthmus.store.rows import interrupted
from isthmus.store.schema import HOUR_US

counts = st.integers(0, 10**6)
usages = st.none() | st.builds(
    Usage, input=counts, output=counts, cache_read=counts, cache_write_1h=counts, reasoning=counts
)
charges = st.none() | st.builds(
    Charge, nanousd=st.none() | st.integers(0, 10**15), basis=st.just("config"), snapshot=st.just("1")
)
# A few hours, so that records meet; whole hours are edges.
times = st.integers(0, 4).map(lambda hour: hour * HOUR_US) | st.integers(0, 4 * HOUR_US)
records = st.builds(
    Record,
    id=st.integers(0, 60).map("req_{}".format),
    at_us=times,
    dialect=st.just("openai-chat"),
    operation=st.just("chat"),
    route=st.sampled_from(["a", "b", ""]),
    stream=st.booleans(),
    status=st.just(200),
    outcome=st.just("ok"),
    key_id=st.none() | st.sampled_from(["key_1", "key_2"]),
    model=st.none() | st.sampled_from(["m", "n"]),
    usage=usages,
    charge=charges,
    timings=st.just(Timings(queue_ms=0.0, overhead_ms=0.0, first_token_ms=None, total_ms=0.0)),
    config_hash=st.just("c"),
)
batches = st.lists(records, max_size=8)


def scan(those: Iterable[Record], scope: Scope = ALL) -> list[Hour]:
    """The sums as they are told to be, one record after the other."""
    found: dict[tuple[int, str, str | None], list[Record]] = {}
    for record in those:
        if (
            record.at_us >= scope.since_us - scope.since_us % HOUR_US
            and scope.route in (None, record.route)
            and scope.model in (None, record.model)
            and scope.key_id in (None, record.key_id)
        ):
            hour = record.at_us - record.at_us % HOUR_US
            found.setdefault((hour, record.route, record.model), []).append(record)
    return [
        Hour(
            at_us=hour,
            route=route,
            model=model,
            requests=len(alike),
            usage=sum((it.usage for it in alike if it.usage), Usage()),
            nanousd=sum(it.charge.nanousd or 0 for it in alike if it.charge),
            unpriced=sum(it.charge is not None and it.charge.nanousd is None for it in alike),
        )
        for (hour, route, model), alike in sorted(found.items(), key=lambda it: (*it[0][:2], it[0][2] or ""))
    ]


class Ledger(RuleBasedStateMachine):
    """A file that is written, rolled up, thinned out and cut off in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.db"
        self.open()
        self.ever: dict[str, Record] = {}
        self.deleted: set[str] = set()

    def open(self) -> None:
        self.file = LedgerFile(self.path, "NORMAL", 1.0)

    def teardown(self) -> None:
        try:
            sums, ever = SqliteHours(self.path), self.ever.values()
            scope = Scope(since_us=HOUR_US + 1, route="a", key_id="key_1")
            assert sums.hours(scope) == scan(ever, scope)
            requests = {it.name: it.requests for it in sums.by_key()}
            assert requests == Counter(it.key_id or "no key" for it in ever)
        finally:
            self.file.close()
            self.folder.cleanup()

    @rule(batch=batches)
    def write(self, batch: list[Record]) -> None:
        # An id does not come back once its record is deleted: it is made of time and chance.
        batch = [it for it in batch if it.id not in self.deleted]
        self.file.write(batch)
        for record in batch:
            self.ever.setdefault(record.id, record)

    @rule(at_us=times, limit=st.integers(1, 5))
    def roll_up(self, at_us: int, limit: int) -> None:
        self.file.roll_up_before(at_us, limit)

    @rule(at_us=times, limit=st.integers(1, 5))
    def delete(self, at_us: int, limit: int) -> None:
        self.file.delete_before(at_us, limit)
        self.deleted = set(self.ever) - self.there()

    @rule(record=records)
    def die_and_start_again(self, record: Record) -> None:
        if record.id not in self.ever:
            intent = Intent(
                **{name: getattr(record, name) for name in Intent.__struct_fields__}  # type: ignore[arg-type]
            )
            self.file.write((), [intent])
            self.ever[record.id] = interrupted(intent)
        self.file.close()
        self.open()
        self.file.close_intents()

    @rule(steps=st.integers(1, 400), batch=batches, at_us=times, what=st.sampled_from("wrd"))
    def be_cut_off(self, steps: int, batch: list[Record], at_us: int, what: str) -> None:
        work: dict[str, Callable[[], Any]] = {
            "w": lambda: self.write(batch),
            "r": lambda: self.roll_up(at_us, 5),
            "d": lambda: self.delete(at_us, 5),
        }
        self.file.probe()
        connection = self.file._connection
        assert connection is not None
        connection.set_progress_handler(lambda: 1, steps)
        try:
            work[what]()
        except sqlite3.OperationalError:
            self.file.probe()
        else:
            connection.set_progress_handler(None, 0)

    def there(self) -> set[str]:
        connection = sqlite3.connect(self.path)
        try:
            return {identity for (identity,) in connection.execute("SELECT id FROM records")}
        finally:
            connection.close()

    @invariant()
    def sums_are_those_of_all_that_ever_were(self) -> None:
        assert SqliteHours(self.path).hours() == scan(self.ever.values())


TestLedger = Ledger.TestCase
# Each step is a transaction on a disk.
TestLedger.settings = settings(max_examples=25, stateful_step_count=15)


@settings(max_examples=20)
@given(before=batches, rolled_us=times, after=batches)
def test_a_team_is_that_of_its_keys(before: list[Record], rolled_us: int, after: list[Record]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        keys = SqliteKeys(path)
        ours = keys.create("ours", (), 0, team="we").key.id
        theirs = keys.create("theirs", (), 0).key.id
        names = {"key_1": ours, "key_2": theirs, None: None}
        unlike = {it.id: msgspec.structs.replace(it, key_id=names[it.key_id]) for it in (*before, *after)}
        file = LedgerFile(path, "NORMAL", 1.0)
        file.write([unlike[it.id] for it in before])
        file.roll_up_before(rolled_us, 100)
        file.write(list(unlike.values()))
        file.close()
        sums = SqliteHours(path)
        assert sums.teams() == {ours: "we"}
        assert sums.hours(Scope(team="we")) == scan(it for it in unlike.values() if it.key_id == ours)
