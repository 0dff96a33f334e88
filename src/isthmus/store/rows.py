"""Records as rows of the tables, and back.

Building a row is on the gateway's bill for every request. So the columns of `isthmus.store.schema` stand in
the order of the structs' fields, and most of a row is taken from its struct at once.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias

import msgspec
from msgspec.structs import astuple

from isthmus.core.decision import Decision
from isthmus.core.record import NO_GROUNDS, AttemptRecord, Features, Grounds, Intent, Record, Timings
from isthmus.core.usage import Charge, Usage

Row: TypeAlias = tuple[Any, ...]


class Columns(Protocol):
    """A row by the names of its columns."""

    def __getitem__(self, name: str, /) -> Any: ...


DAY_US = 86_400_000_000

_NO_USAGE = (None,) * len(Usage.__struct_fields__)
_NO_CHARGE = (None,) * len(Charge.__struct_fields__)
_NOTHING = "{}"
# How many of the fields, from the first on, are columns of the same order.
_RECORD_FACTS = Record.__struct_fields__.index("decision")
_ATTEMPT_FACTS = AttemptRecord.__struct_fields__.index("usage")
_to_json = msgspec.json.Encoder(order="deterministic").encode
_to_decision = msgspec.json.Decoder(Decision).decode
_to_counts = msgspec.json.Decoder(dict[str, int]).decode
_to_features = msgspec.json.Decoder(Features).decode
_to_grounds = msgspec.json.Decoder(Grounds).decode
_to_names = msgspec.json.Decoder(tuple[str, ...]).decode


def record_row(record: Record, decision: bytes | None) -> Row:
    """The row of `records`; `decision` is what stands in the column of that name."""
    fields = astuple(record)
    return (
        *fields[:_RECORD_FACTS],
        decision,
        None if record.findings is None else _to_json(record.findings).decode(),
        None if record.features is None else _to_json(record.features).decode(),
        _grounds_column(record.grounds),
        *_usage_columns(record.usage),
        *(_NO_CHARGE if record.charge is None else astuple(record.charge)),
        *astuple(record.timings),
        record.config_hash,
    )


def _grounds_column(grounds: Grounds | None) -> str | None:
    if grounds is None:
        return None
    return _NOTHING if grounds is NO_GROUNDS else _to_json(grounds).decode()


def attempt_row(record_id: str, attempt: AttemptRecord) -> Row:
    """The row of `attempts`."""
    fields = astuple(attempt)
    return (
        record_id,
        *fields[:_ATTEMPT_FACTS],
        *_usage_columns(attempt.usage),
        *(_NO_CHARGE if attempt.charge is None else astuple(attempt.charge)),
        attempt.committed,
        attempt.passthrough,
        _as_text(attempt.dropped),
        attempt.purpose,
        attempt.confidence,
        attempt.verdict,
        attempt.weights,
    )


def _usage_columns(usage: Usage | None) -> Row:
    return _NO_USAGE if usage is None else (*astuple(usage)[:-1], _as_text(usage.beyond))


def _as_text(names: tuple[str, ...]) -> str | None:
    return _to_json(names).decode() if names else None


def decision_row(at_us: int, decision: Decision) -> Row:
    """The row of `decisions` for a record of that time: its UTC day, the SHA-256 of the JSON, the JSON."""
    body = _to_json(decision)
    return at_us // DAY_US, hashlib.sha256(body).digest(), body


def body_row(record: Record) -> Row:
    """The row of `bodies`."""
    return record.id, _deflate(record.request_body), _deflate(record.response_body)


def intent_row(intent: Intent) -> Row:
    """The row of `intents`."""
    return (
        intent.id,
        intent.at_us,
        intent.dialect,
        intent.operation,
        intent.route,
        intent.stream,
        intent.key_id,
        intent.config_hash,
    )


def intent_of(row: Row) -> Intent:
    """The intent of a row of `intents`."""
    identity, at_us, dialect, operation, route, stream, key_id, config_hash = row
    return Intent(
        id=identity,
        at_us=at_us,
        dialect=dialect,
        operation=operation,
        route=route,
        stream=bool(stream),
        key_id=key_id,
        config_hash=config_hash,
    )


def interrupted(intent: Intent) -> Record:
    """What remains of a request whose gateway died: no status, no answer, and an unknown charge."""
    return Record(
        id=intent.id,
        at_us=intent.at_us,
        dialect=intent.dialect,
        operation=intent.operation,
        route=intent.route,
        stream=intent.stream,
        status=0,
        outcome="interrupted",
        key_id=intent.key_id,
        code="interrupted",
        message="The gateway stopped before this request was finished; what it consumed is unknown.",
        charge=Charge(nanousd=None, basis="unknown", snapshot=""),
        timings=Timings(queue_ms=0.0, overhead_ms=0.0, first_token_ms=None, total_ms=0.0),
        config_hash=intent.config_hash,
    )


def record_of(
    row: Columns,
    attempts: Iterable[Columns],
    decision: bytes | None,
    bodies: Columns | None,
) -> Record:
    """The record of its rows: of `records`, `attempts` and `bodies`, and the body of its decision."""
    return Record(
        id=row["id"],
        at_us=row["at_us"],
        dialect=row["dialect"],
        operation=row["operation"],
        route=row["route"],
        stream=row["stream"],
        status=row["status"],
        outcome=row["outcome"],
        key_id=row["key_id"],
        team=row["team"],
        user=row["user"],
        model=row["model"],
        mirrors=row["mirrors"],
        code=row["code"],
        message=row["message"],
        decision=None if decision is None else _to_decision(decision),
        findings=None if row["findings"] is None else _to_counts(row["findings"]),
        features=None if row["features"] is None else _to_features(row["features"]),
        grounds=None if row["grounds"] is None else _to_grounds(row["grounds"]),
        attempts=tuple(attempt_of(attempt) for attempt in attempts),
        usage=_usage_of(row),
        charge=_charge_of(row),
        timings=Timings(
            queue_ms=row["queue_ms"],
            overhead_ms=row["overhead_ms"],
            first_token_ms=row["first_token_ms"],
            total_ms=row["total_ms"],
        ),
        config_hash=row["config_hash"],
        request_body=None if bodies is None else _inflate(bodies["request"]),
        response_body=None if bodies is None else _inflate(bodies["response"]),
    )


def attempt_of(row: Columns) -> AttemptRecord:
    return AttemptRecord(
        number=row["number"],
        model=row["model"],
        provider=row["provider"],
        model_id=row["model_id"],
        outcome=row["outcome"],
        started_ms=row["started_ms"],
        queue_ms=row["queue_ms"],
        first_token_ms=row["first_token_ms"],
        total_ms=row["total_ms"],
        fault=row["fault"],
        code=row["code"],
        upstream_status=row["upstream_status"],
        finish=row["finish"],
        usage=_usage_of(row),
        charge=_charge_of(row),
        committed=row["committed"],
        passthrough=row["passthrough"],
        dropped=_names_of(row["dropped"]),
        purpose=row["purpose"],
        confidence=row["confidence"],
        verdict=row["verdict"],
        weights=row["weights"],
    )


def _usage_of(row: Columns) -> Usage | None:
    if row["input_tokens"] is None:
        return None
    return Usage(
        input=row["input_tokens"],
        output=row["output_tokens"],
        cache_read=row["cache_read_tokens"],
        cache_write_5m=row["cache_write_5m_tokens"],
        cache_write_1h=row["cache_write_1h_tokens"],
        reasoning=row["reasoning_tokens"],
        input_audio=row["input_audio_tokens"],
        output_audio=row["output_audio_tokens"],
        estimated=row["usage_estimated"],
        beyond=_names_of(row["usage_beyond"]),
    )


def _names_of(text: str | None) -> tuple[str, ...]:
    return () if text is None else _to_names(text)


def _charge_of(row: Columns) -> Charge | None:
    if row["charge_basis"] is None:
        return None
    return Charge(
        nanousd=row["charge_nanousd"],
        basis=row["charge_basis"],
        snapshot=row["charge_snapshot"],
        estimated=row["charge_estimated"],
    )


def _deflate(body: bytes | None) -> bytes | None:
    return None if body is None else zlib.compress(body, 1)


def _inflate(body: bytes | None) -> bytes | None:
    return None if body is None else zlib.decompress(body)
