"""The tables of the ledger, and how an older file becomes a newer one.

The column comments are the documentation of the exported fields: `isthmus.store.export` takes names, types
and meaning from here.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from itertools import compress
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateIndex, CreateTable

from isthmus.core.errors import Fault, IsthmusError

Durability: TypeAlias = Literal["NORMAL", "FULL"]

VERSION = 5
"""The version of the tables below."""

HOUR_US = 3_600_000_000

SUMS_OF_RECORDS = f"""
    SELECT at_us - at_us % {HOUR_US} AS at_us, route,
        coalesce(model, '') AS model, coalesce(key_id, '') AS key_id, count(*) AS requests,
        coalesce(sum(input_tokens), 0) AS input_tokens, coalesce(sum(output_tokens), 0) AS output_tokens,
        coalesce(sum(cache_read_tokens), 0) AS cache_read_tokens,
        coalesce(sum(cache_write_5m_tokens), 0) AS cache_write_5m_tokens,
        coalesce(sum(cache_write_1h_tokens), 0) AS cache_write_1h_tokens,
        coalesce(sum(reasoning_tokens), 0) AS reasoning_tokens,
        coalesce(sum(input_audio_tokens), 0) AS input_audio_tokens,
        coalesce(sum(output_audio_tokens), 0) AS output_audio_tokens,
        coalesce(sum(charge_nanousd), 0) AS charge_nanousd,
        count(charge_basis) - count(charge_nanousd) AS unpriced
    FROM records"""
"""The SQL that adds records up to rows of `hours`; a condition and `GROUP_BY_HOUR` are to follow.

A request that used nothing has no basis; one whose price is not known has one, and no amount.
"""

GROUP_BY_HOUR = "GROUP BY 1, 2, 3, 4"

ADD_TO_HOURS = """
    ON CONFLICT (at_us, route, model, key_id) DO UPDATE SET
        requests = requests + excluded.requests,
        input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens,
        cache_read_tokens = cache_read_tokens + excluded.cache_read_tokens,
        cache_write_5m_tokens = cache_write_5m_tokens + excluded.cache_write_5m_tokens,
        cache_write_1h_tokens = cache_write_1h_tokens + excluded.cache_write_1h_tokens,
        reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
        input_audio_tokens = input_audio_tokens + excluded.input_audio_tokens,
        output_audio_tokens = output_audio_tokens + excluded.output_audio_tokens,
        charge_nanousd = charge_nanousd + excluded.charge_nanousd, unpriced = unpriced + excluded.unpriced"""
"""The SQL behind an insertion into `hours` that adds to the rows which are there."""

_COUNT_LATE_RECORDS = f"""
    CREATE TRIGGER IF NOT EXISTS records_late AFTER INSERT ON records
    WHEN NEW.at_us < (SELECT until_us FROM hours_until) BEGIN
        INSERT INTO hours {SUMS_OF_RECORDS} WHERE id = NEW.id {GROUP_BY_HOUR} {ADD_TO_HOURS};
    END"""

STEPS: Mapping[int, Sequence[str]] = {
    2: (
        "ALTER TABLE keys ADD COLUMN floor TEXT",
        "ALTER TABLE keys ADD COLUMN team TEXT",
        "ALTER TABLE records ADD COLUMN findings TEXT",
        "ALTER TABLE records ADD COLUMN usage_beyond TEXT",
        "ALTER TABLE attempts ADD COLUMN usage_beyond TEXT",
        """CREATE TABLE IF NOT EXISTS counters (
            budget TEXT NOT NULL, subject TEXT NOT NULL, start_us BIGINT NOT NULL, end_us BIGINT NOT NULL,
            drawn BIGINT NOT NULL, spent BIGINT NOT NULL, PRIMARY KEY (budget, subject, start_us)
        )""",
    ),
    3: (
        """CREATE TABLE IF NOT EXISTS runs (
            id TEXT NOT NULL, at_us BIGINT NOT NULL, ended_us BIGINT, identity TEXT NOT NULL,
            dataset_hash TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (id)
        )""",
        """CREATE TABLE IF NOT EXISTS samples (
            dataset_hash TEXT NOT NULL, id TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (dataset_hash, id)
        )""",
        """CREATE TABLE IF NOT EXISTS answers (
            id TEXT NOT NULL, "key" TEXT, at_us BIGINT NOT NULL, run TEXT NOT NULL, body BLOB NOT NULL,
            PRIMARY KEY (id)
        )""",
        'CREATE INDEX IF NOT EXISTS answers_key ON answers ("key", at_us)',
        """CREATE TABLE IF NOT EXISTS asked (
            run TEXT NOT NULL, model TEXT NOT NULL, sample TEXT NOT NULL, nth BIGINT NOT NULL,
            answer TEXT NOT NULL, PRIMARY KEY (run, model, sample, nth)
        )""",
        "CREATE INDEX IF NOT EXISTS answers_run ON answers (run)",
        "CREATE INDEX IF NOT EXISTS asked_answer ON asked (answer)",
        """CREATE TABLE IF NOT EXISTS scores (
            run TEXT NOT NULL, scorer TEXT NOT NULL, model TEXT NOT NULL, sample TEXT NOT NULL,
            nth BIGINT NOT NULL, answer TEXT NOT NULL, body BLOB NOT NULL,
            PRIMARY KEY (run, scorer, model, sample, nth)
        )""",
        "ALTER TABLE records ADD COLUMN team TEXT",
        "ALTER TABLE records ADD COLUMN features TEXT",
        "ALTER TABLE records ADD COLUMN grounds TEXT",
        """CREATE TABLE IF NOT EXISTS configs (
            hash TEXT NOT NULL, since_us BIGINT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (hash)
        )""",
        """CREATE TABLE IF NOT EXISTS drift (
            route TEXT NOT NULL, until_us BIGINT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (route)
        )""",
        """CREATE TABLE IF NOT EXISTS feedback (
            id TEXT NOT NULL PRIMARY KEY, record_id TEXT NOT NULL, at_us BIGINT NOT NULL, key_id TEXT,
            score DOUBLE, correction TEXT, comment TEXT, metadata TEXT
        )""",
        "CREATE INDEX IF NOT EXISTS feedback_record ON feedback (record_id)",
        "ALTER TABLE records ADD COLUMN mirrors TEXT",
        "ALTER TABLE attempts ADD COLUMN purpose TEXT NOT NULL DEFAULT 'answer'",
        "ALTER TABLE attempts ADD COLUMN confidence DOUBLE",
        "ALTER TABLE attempts ADD COLUMN verdict TEXT",
        """CREATE TABLE IF NOT EXISTS hours (
            at_us BIGINT NOT NULL, route TEXT NOT NULL, model TEXT NOT NULL, key_id TEXT NOT NULL,
            requests BIGINT NOT NULL, input_tokens BIGINT NOT NULL, output_tokens BIGINT NOT NULL,
            cache_read_tokens BIGINT NOT NULL, cache_write_5m_tokens BIGINT NOT NULL,
            cache_write_1h_tokens BIGINT NOT NULL, reasoning_tokens BIGINT NOT NULL,
            input_audio_tokens BIGINT NOT NULL, output_audio_tokens BIGINT NOT NULL,
            charge_nanousd BIGINT NOT NULL, unpriced BIGINT NOT NULL,
            PRIMARY KEY (at_us, route, model, key_id)
        ) WITHOUT ROWID""",
        "CREATE TABLE IF NOT EXISTS hours_until (until_us BIGINT NOT NULL, PRIMARY KEY (until_us))",
        _COUNT_LATE_RECORDS,
    ),
    4: (
        "ALTER TABLE feedback ADD COLUMN judge TEXT",
        "ALTER TABLE attempts ADD COLUMN weights TEXT",
        """CREATE TABLE IF NOT EXISTS experiments (
            id TEXT NOT NULL, route TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (id)
        )""",
        """CREATE TABLE IF NOT EXISTS rollouts (
            number BIGINT NOT NULL, model TEXT NOT NULL, at_us BIGINT NOT NULL, body BLOB NOT NULL,
            PRIMARY KEY (number)
        )""",
    ),
    5: (
        """CREATE TABLE IF NOT EXISTS conversations (
            digest BLOB NOT NULL, at_us BIGINT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (digest)
        ) WITHOUT ROWID""",
        "CREATE INDEX IF NOT EXISTS conversations_at ON conversations (at_us)",
    ),
}
"""The SQL that leads to each version from the one before it.

There are additions only, so that no record is ever rewritten. A new database starts at `VERSION` at once; in
an older one the added columns stand behind the others, so that only names tell them.
"""

# Before it binds a None, a bool or bytes, the module sqlite3 looks for somebody who would turn it into
# something else, and words an error where it finds nobody. To be told costs less: a quarter of all writing.
# The `get` of an empty dict gives None for None without running any Python.
_null: dict[None, None] = {}
sqlite3.register_adapter(type(None), _null.get)
sqlite3.register_adapter(bool, int)
sqlite3.register_adapter(bytes, bytes)

metadata = MetaData()


def _usage_columns() -> list[Column[Any]]:
    return [
        Column("input_tokens", BigInteger, comment="prompt tokens neither read from nor written to a cache"),
        Column("output_tokens", BigInteger, comment="tokens of the answer, reasoning included"),
        Column("cache_read_tokens", BigInteger, comment="prompt tokens read from a cache"),
        Column("cache_write_5m_tokens", BigInteger, comment="prompt tokens written to a cache for 5 minutes"),
        Column("cache_write_1h_tokens", BigInteger, comment="prompt tokens written to a cache for 1 hour"),
        Column("reasoning_tokens", BigInteger, comment="tokens of reasoning, a part of output_tokens"),
        Column("input_audio_tokens", BigInteger, comment="audio tokens, a part of input_tokens"),
        Column("output_audio_tokens", BigInteger, comment="audio tokens, a part of output_tokens"),
        Column("usage_estimated", Boolean, comment="true where the provider did not report these counts"),
        Column(
            "usage_beyond",
            Text,
            comment="what is billed beside tokens at list price: tier.flex, tool.web_search, ...",
        ),
    ]


def _charge_columns() -> list[Column[Any]]:
    return [
        Column(
            "charge_nanousd", BigInteger, comment="the charge in 1e-9 USD; null where the price is unknown"
        ),
        Column(
            "charge_basis",
            Text,
            comment="genai-prices, config, own engine or unknown; null where nothing was used",
        ),
        Column("charge_snapshot", Text, comment="which edition of the price list was used"),
        Column(
            "charge_estimated",
            Boolean,
            comment="true where the charge rests on estimated usage, or on prices other than those billed",
        ),
    ]


records = Table(
    "records",
    metadata,
    Column("id", Text, primary_key=True, comment="the request's id, the header x-request-id"),
    Column(
        "at_us",
        BigInteger,
        nullable=False,
        comment="when the request came: microseconds since the epoch, UTC",
    ),
    Column("dialect", Text, nullable=False, comment="the wire format that the caller spoke"),
    Column("operation", Text, nullable=False, comment="what was asked for: chat, embeddings, ..."),
    Column("route", Text, nullable=False, comment="the route that was asked"),
    Column("stream", Boolean, nullable=False, comment="true where the answer was streamed"),
    Column(
        "status", BigInteger, nullable=False, comment="the HTTP status of the answer; 0 where none was sent"
    ),
    Column("outcome", Text, nullable=False, comment="ok, error, cancelled or interrupted"),
    Column("key_id", Text, comment="the key that was used; null on loopback without keys"),
    Column("team", Text, comment="the key's team"),
    Column("user", Text, comment="the end user, as the caller named it"),
    Column("model", Text, comment="the model that answered"),
    Column("mirrors", Text, comment="the request whose copy this is, for a comparison; null for all others"),
    Column("code", Text, comment="the stable error code, where it failed"),
    Column("message", Text, comment="the error in words, where it failed"),
    Column(
        "decision", LargeBinary, comment="the decision: which models were allowed, what was planned, and why"
    ),
    Column(
        "findings",
        Text,
        comment="in how many places of the request each kind was found; null where nothing was looked at",
    ),
    Column(
        "features",
        Text,
        comment="what the request looks like from outside: size, turns, tools, pictures, ...; never its text",
    ),
    Column(
        "grounds",
        Text,
        comment="what else the decision rested on: the name asked, the key's floor, the caller's label, ...",
    ),
    *_usage_columns(),
    *_charge_columns(),
    Column("queue_ms", Double, nullable=False, comment="milliseconds of waiting for a slot"),
    Column("overhead_ms", Double, nullable=False, comment="milliseconds of the gateway's own work"),
    Column("first_token_ms", Double, comment="milliseconds from arrival to the first content"),
    Column("total_ms", Double, nullable=False, comment="milliseconds from arrival to the answer's end"),
    Column("config_hash", Text, nullable=False, comment="the hash of the config that was in force"),
    sqlite_with_rowid=False,
)
"""One row a request.

`decision` is the SHA-256 of the decision's JSON, to be found in `decisions`; `findings`, `features`
and `grounds` are JSON objects, `usage_beyond` a JSON array, or null for none.
"""

# Listing goes along time, newest first, and stops at its limit: filters on other columns are read off the
# rows on the way. Every further index would cost each request a microsecond or two. Failures are few, and
# looked for often.
records_at = Index("records_at", records.c.at_us, records.c.id)
records_failed = Index(
    "records_failed",
    records.c.at_us,
    records.c.id,
    sqlite_where=records.c.outcome != "ok",
)

attempts = Table(
    "attempts",
    metadata,
    Column("record_id", Text, primary_key=True, comment="the record's id"),
    Column(
        "number",
        BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="1 for the first attempt, and so on",
    ),
    Column("model", Text, nullable=False, comment="the model that was called"),
    Column("provider", Text, nullable=False, comment="the model's provider"),
    Column("model_id", Text, nullable=False, comment="the provider's name of the model"),
    Column("outcome", Text, nullable=False, comment="ok, error, cancelled or interrupted"),
    Column("started_ms", Double, nullable=False, comment="milliseconds from the request's arrival"),
    Column(
        "queue_ms",
        Double,
        nullable=False,
        comment="milliseconds of waiting for a free connection, from the attempt's start",
    ),
    Column("first_token_ms", Double, comment="milliseconds from the attempt's start to the first content"),
    Column("total_ms", Double, nullable=False, comment="milliseconds of the whole attempt"),
    Column("fault", Text, comment="the class of the failure, where it failed"),
    Column("code", Text, comment="the stable error code, where it failed"),
    Column("upstream_status", BigInteger, comment="the provider's HTTP status, if one came"),
    Column("finish", Text, comment="why the answer ended, in a word of ours or else the provider's"),
    *_usage_columns(),
    *_charge_columns(),
    Column("committed", Boolean, nullable=False, comment="true where some of its answer went to the caller"),
    Column(
        "passthrough", Boolean, nullable=False, comment="true where bytes were relayed without translation"
    ),
    Column("dropped", Text, comment="the request's fields that this model could not be given"),
    Column(
        "purpose",
        Text,
        nullable=False,
        server_default="answer",
        comment="what it was for: answer, draft (kept until it was judged), judge, or shadow",
    ),
    Column("confidence", Double, comment="how sure its answer was found to be, 0 to 1; null where unknown"),
    Column("verdict", Text, comment="what was made of its answer, in words; null where nobody judged it"),
    Column(
        "weights", Text, comment="the identity of the signed artefact that answered; null for other weights"
    ),
    sqlite_with_rowid=False,
)
"""One row an upstream call. `dropped` and `usage_beyond` are JSON arrays, or null for none."""

decisions = Table(
    "decisions",
    metadata,
    Column("day", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, primary_key=True),
    Column("body", LargeBinary, nullable=False),
)
"""Each decision once a UTC day (in days since the epoch), so that it is deleted with its day's records."""

bodies = Table(
    "bodies",
    metadata,
    Column("record_id", Text, primary_key=True),
    Column("request", LargeBinary),
    Column("response", LargeBinary),
)
"""Bodies that the config says to keep, deflated (zlib, RFC 1950)."""

intents = Table(
    "intents",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at_us", BigInteger, nullable=False),
    Column("dialect", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("route", Text, nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("key_id", Text),
    Column("config_hash", Text, nullable=False),
)
"""What a strict ledger is about to try; the row goes in the transaction that brings the record."""

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("routes", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger),
    Column("revoked_us", BigInteger),
    Column("rotated_from", Text),
    Column("floor", Text),
    Column("team", Text),
    Column("revision", BigInteger, nullable=False),
)
"""Keys, by the SHA-256 of their secret.

`revision` grows with every change of any key. `routes` is a JSON array, `floor` the JSON of a label, or null
for the lowest.
"""

keys_revision = Index("keys_revision", keys.c.revision)

counters = Table(
    "counters",
    metadata,
    Column("budget", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("start_us", BigInteger, primary_key=True, autoincrement=False),
    Column("end_us", BigInteger, nullable=False),
    Column("drawn", BigInteger, nullable=False),
    Column("spent", BigInteger, nullable=False),
)
"""How far the account of each budget, subject and window is drawn. See `isthmus.accounting.budgets`."""

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at_us", BigInteger, nullable=False),
    Column("ended_us", BigInteger),
    Column("identity", Text, nullable=False),
    Column("dataset_hash", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
"""Evaluation runs; see `isthmus.store.runs.Run`, of which `body` is the JSON."""

samples = Table(
    "samples",
    metadata,
    Column("dataset_hash", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),
)
"""What runs asked, once for all runs of one dataset."""

answers = Table(
    "answers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key", Text),
    Column("at_us", BigInteger, nullable=False),
    Column("run", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
"""What models, and judges, answered to a run, by the hash of what they were asked; null for what is no
answer."""

answers_key = Index("answers_key", answers.c.key, answers.c.at_us)
answers_run = Index("answers_run", answers.c.run)

asked = Table(
    "asked",
    metadata,
    Column("run", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("sample", Text, primary_key=True),
    Column("nth", BigInteger, primary_key=True, autoincrement=False),
    Column("answer", Text, nullable=False),
)
"""Which answer a run has of a model to a sample."""

asked_answer = Index("asked_answer", asked.c.answer)

scores = Table(
    "scores",
    metadata,
    Column("run", Text, primary_key=True),
    Column("scorer", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("sample", Text, primary_key=True),
    Column("nth", BigInteger, primary_key=True, autoincrement=False),
    Column("answer", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
"""How good an answer was found; it says nothing of another answer that came into its place since."""
configs = Table(
    "configs",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("since_us", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
"""Each config that was ever in force, by the hash that stands on its records. See `isthmus.store.configs`."""
feedback = Table(
    "feedback",
    metadata,
    Column("id", Text, primary_key=True),
    Column("record_id", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("key_id", Text),
    Column("judge", Text),
    Column("score", Double),
    Column("correction", Text),
    Column("comment", Text),
    Column("metadata", Text),
)
"""What was said of answers. `metadata` is a JSON object, or null for none. Rows go with their record."""

feedback_record = Index("feedback_record", feedback.c.record_id)

drift = Table(
    "drift",
    metadata,
    Column("route", Text, primary_key=True),
    Column("until_us", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
"""How far each watched route was looked at, and what was found. See `isthmus.evals.drift`."""
experiments = Table(
    "experiments",
    metadata,
    Column("id", Text, primary_key=True),
    Column("route", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
"""Splits that are decided while they run, by what they are: who was stopped, and what the others weigh. See
`isthmus.evals.trials`."""

hours = Table(
    "hours",
    metadata,
    Column("at_us", BigInteger, primary_key=True, autoincrement=False),
    Column("route", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    *(
        Column(column.name, BigInteger, nullable=False)
        for column in _usage_columns()
        if column.name.endswith("_tokens")
    ),
    Column("charge_nanousd", BigInteger, nullable=False),
    Column("unpriced", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""The sums of the records of each hour that are alike, made by `SUMS_OF_RECORDS`; they outlive the records.

`at_us` is the hour's begin. `model` and `key_id` are empty where the record has none, so that they can be a
part of the key. Of `unpriced` requests the charge is not known.
"""

hours_until = Table(
    "hours_until",
    metadata,
    Column("until_us", BigInteger, primary_key=True, autoincrement=False),
)
"""One row: every record from before that time is in `hours`, and no other is. No row: nothing is.

A record that comes late, when its time is in `hours` already, is added by a trigger in the transaction that
brings it, whoever writes it.
"""

rollouts = Table(
    "rollouts",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("model", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
"""Every turn of every rollout, by consecutive numbers: the last one of a model is in force. See
`isthmus.store.rollouts`."""

conversations = Table(
    "conversations",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("at_us", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
"""What is known of conversations, by keyed digests: how they are labelled, and who answered last; no text.
See `isthmus.store.conversations`."""

conversations_at = Index("conversations_at", conversations.c.at_us)

schema_version = Table(
    "schema_version",
    metadata,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("since_us", BigInteger, nullable=False),
)
"""One row for each version that this database has had."""


def connect(path: Path, *, durability: Durability = "NORMAL", wait_s: float = 5.0) -> sqlite3.Connection:
    """An open database of the current version, made or migrated where needed, with explicit transactions.

    `wait_s` bounds the waiting for another process's write. Both durabilities survive the death of the
    process; `FULL` syncs every commit to the disk and so survives a loss of power too, `NORMAL` may lose the
    last commits then.

    Raises IsthmusError (`ledger_newer`) where the file was written by a newer Isthmus, sqlite3.Error or
    OSError where it cannot be opened.
    """
    if not path.exists():
        # Made by hand, so that nobody else may read it; SQLite gives its -wal and -shm the same permissions.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(path, timeout=wait_s, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA page_size = 8192")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        connection.execute(f"PRAGMA synchronous = {durability}")
        # A write-ahead log that grew once, behind a long reader, shrinks again.
        connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(path: Path) -> None:
    """Makes the database, with its directory, or brings it up to date.

    Raises IsthmusError: `ledger_newer`, `ledger_unavailable`.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        connect(path).close()
    except (sqlite3.Error, OSError) as error:
        raise unavailable(str(error)) from error


def migrate(
    connection: sqlite3.Connection, version: int = VERSION, steps: Mapping[int, Sequence[str]] = STEPS
) -> None:
    """Brings the database to `version`, in one transaction: all of it, or nothing.

    Raises IsthmusError (`ledger_newer`) where the database is of a version that this code does not know.
    """
    if _version(connection) == version:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Read again under the lock: another process may have migrated meanwhile.
        found = _version(connection)
        if found > version:
            raise IsthmusError(
                Fault.UNAVAILABLE,
                f"The ledger is of schema version {found}; this Isthmus knows versions up to {version}.",
                code="ledger_newer",
                hint="Upgrade Isthmus, or let it use another ledger file.",
            )
        for statement in _creation() if found == 0 else _upgrade(found, version, steps):
            connection.execute(statement)
        if found < version:
            connection.execute("INSERT INTO schema_version VALUES (?, ?)", (version, time.time_ns() // 1000))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@lru_cache(maxsize=512)
def insertion(table: Table, rows: int = 1, given: tuple[bool, ...] | None = None) -> str:
    """The SQL that inserts that many rows by position: all columns, or those that are `given`.

    A row that is there is left as it is.
    """
    columns = list(table.columns if given is None else compress(table.columns, given))
    names = ", ".join(f'"{column.name}"' for column in columns)
    row = "(" + ", ".join("?" * len(columns)) + ")"
    values = ", ".join([row] * rows)
    return f"INSERT INTO {table.name} ({names}) VALUES {values} ON CONFLICT DO NOTHING"


class Mark(NamedTuple):
    """A number that something in a file has, by which a change of it is noticed."""

    file: tuple[int, int]
    number: int


class Database:
    """Short transactions on the database at `path`, each on a connection of its own.

    A file that was replaced meanwhile is seen, therefore, and nothing is held between two uses but by `mark`.
    The file is made or migrated by the first `writing`; `reading` cannot change it, and sees what other
    processes commit.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._marker: tuple[tuple[int, int], sqlite3.Connection] | None = None
        self._marking = threading.Lock()
        self._writer = _engine(lambda: connect(path), "BEGIN IMMEDIATE")
        self._reader = _engine(lambda: connect_reader(path), "BEGIN")

    def writing(self) -> AbstractContextManager[Connection]:
        """A transaction that is committed at the end of the block, or rolled back if the block raises.

        Raises IsthmusError: `ledger_newer`, `ledger_unavailable`.
        """
        return _transaction(self._writer)

    def reading(self) -> AbstractContextManager[Connection]:
        """A transaction that sees one state of the database, whatever is committed meanwhile.

        Raises IsthmusError: `ledger_missing` where there is no file, `ledger_newer` and `ledger_older` where
        its tables are not the ones that this code reads, `ledger_unavailable`.
        """
        return _transaction(self._reader)

    def mark(self, query: str) -> Mark:
        """The number that a query gives, and of which file. Raises what `reading` does.

        It is for what is asked again and again, since it costs a hundredth of a transaction: its connection
        stays open until `close`, or until the file is another one.
        """
        with self._marking:
            try:
                file = identity(self._path)
                if self._marker is None or self._marker[0] != file:
                    self._forget_marker()
                    self._marker = file, connect_reader(self._path)
                (number,) = self._marker[1].execute(query).fetchone()
            except FileNotFoundError:
                self._forget_marker()
                raise _missing(self._path) from None
            except (sqlite3.Error, OSError) as error:
                self._forget_marker()
                raise unavailable(str(error)) from error
        return Mark(file, number)

    def close(self) -> None:
        """Hold nothing any more."""
        with self._marking:
            self._forget_marker()

    def _forget_marker(self) -> None:
        marker, self._marker = self._marker, None
        if marker is not None:
            marker[1].close()


def identity(file: Path | int) -> tuple[int, int]:
    """What tells a file from every other one, by whatever path it is known. Raises OSError."""
    found = file.stat() if isinstance(file, Path) else os.fstat(file)
    return found.st_dev, found.st_ino


def _engine(connect_anew: Callable[[], sqlite3.Connection], begin: str) -> Engine:
    engine = create_engine("sqlite://", creator=connect_anew, poolclass=NullPool)
    # Our connections leave transactions to us: see docs.sqlalchemy.org, "pysqlite: transactions with SQLite".
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


@contextmanager
def _transaction(engine: Engine) -> Iterator[Connection]:
    try:
        with engine.begin() as connection:
            yield connection
    except (DBAPIError, sqlite3.Error, OSError) as error:
        # Without the statement and its parameters, which SQLAlchemy puts into its own text.
        reason = error.orig if isinstance(error, DBAPIError) else error
        raise unavailable(str(reason)) from error


def unavailable(reason: str) -> IsthmusError:
    """The error (`ledger_unavailable`) for a file that can be neither read nor written, for this reason."""
    return IsthmusError(
        Fault.UNAVAILABLE,
        f"The ledger cannot be used: {reason}.",
        code="ledger_unavailable",
        hint="Check that its directory exists, can be written, and has free space.",
    )


def connect_reader(path: Path) -> sqlite3.Connection:
    """An open database that cannot be changed.

    Raises what `Database.reading` does, and sqlite3.Error.
    """
    if not path.exists():
        raise _missing(path)
    # Not mode=ro: after a crash the write-ahead log has to be recovered, which needs to write beside the
    # database.
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=5.0, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA query_only = ON")
        found = _version(connection)
        if found != VERSION:
            newer = found > VERSION
            raise IsthmusError(
                Fault.UNAVAILABLE,
                f"The ledger at {path} is of schema version {found}; this Isthmus reads version {VERSION}.",
                code="ledger_newer" if newer else "ledger_older",
                hint="Upgrade Isthmus."
                if newer
                else "Start the gateway once: it brings the ledger up to date.",
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _missing(path: Path) -> IsthmusError:
    return IsthmusError(
        Fault.NOT_FOUND,
        f"There is no ledger at {path}.",
        code="ledger_missing",
        hint="Start the gateway once, or name the ledger that it uses.",
    )


def _version(connection: sqlite3.Connection) -> int:
    exists = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").fetchone()
    if exists is None:
        return 0
    return int(connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()[0])


def _creation() -> list[str]:
    dialect = sqlite.dialect()
    tables = metadata.sorted_tables
    made = [CreateTable(table).compile(dialect=dialect) for table in tables]
    indexed = [
        CreateIndex(index).compile(dialect=dialect)
        for table in tables
        for index in sorted(table.indexes, key=str)
    ]
    return [*(str(statement) for statement in (*made, *indexed)), _COUNT_LATE_RECORDS]


def _upgrade(found: int, version: int, steps: Mapping[int, Sequence[str]]) -> list[str]:
    return [statement for step in range(found + 1, version + 1) for statement in steps[step]]
