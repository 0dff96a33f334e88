"""Records as files for other tools: one JSON object a line, or Parquet.

Both have the same fields, under the names of the columns of `isthmus.store.schema`, whose comments say what
they mean; `fields` lists them. `attempts` is a list of objects; `decision`, `findings`, `features` and
`grounds` are JSON text in Parquet and objects in JSONL. The names are stable: fields may be added, none is
ever renamed or dropped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, BinaryIO

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, Double, Table, Text

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.record import Record
from isthmus.store import rows, schema

_ROWS_AT_ONCE = 1000
_RECORD_FIELDS = [column.name for column in schema.records.columns]
_ATTEMPT_FIELDS = [column.name for column in schema.attempts.columns if column.name != "record_id"]
_OBJECTS = ("decision", "findings", "features", "grounds")
_LISTS = ("dropped", "usage_beyond")
_to_json = msgspec.json.Encoder().encode


def fields() -> list[tuple[str, str, str]]:
    """Name, type and meaning of each exported field; those of an attempt are named `attempts[].…`."""
    of_record = [(column.name, _type_name(column), column.comment or "") for column in schema.records.columns]
    of_attempt = [
        (f"attempts[].{column.name}", _type_name(column), column.comment or "")
        for column in schema.attempts.columns
        if column.name != "record_id"
    ]
    of_bodies = [
        (name, "string", f"the {which}'s body in base64; only where bodies are kept and asked for")
        for name, which in (("request_body", "request"), ("response_body", "answer"))
    ]
    return of_record + of_attempt + of_bodies


def write_jsonl(records: Iterable[Record], out: BinaryIO, *, bodies: bool = False) -> int:
    """Writes one JSON object a line; returns how many. Holds one record in memory at a time."""
    count = 0
    for record in records:
        out.write(_to_json(_flat(record, bodies=bodies)) + b"\n")
        count += 1
    return count


def write_parquet(records: Iterable[Record], out: BinaryIO, *, bodies: bool = False) -> int:
    """Writes a Parquet file in row groups of 1,000 records; returns how many records.

    Holds one group in memory at a time. Raises IsthmusError (`missing_extra`) where pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise IsthmusError(
            Fault.UNSUPPORTED,
            "Parquet needs the package pyarrow, which is not installed.",
            code="missing_extra",
            hint="Install it with: pip install 'isthmus[parquet]'. Or export JSONL.",
        ) from error
    arrow_schema = _arrow_schema(pa, bodies=bodies)
    count = 0
    with parquet.ParquetWriter(out, arrow_schema, compression="zstd") as writer:
        for group in _groups(records):
            flat = [_with_objects_as_text(_flat(record, bodies=bodies)) for record in group]
            writer.write_table(pa.Table.from_pylist(flat, schema=arrow_schema))
            count += len(flat)
    return count


def _flat(record: Record, *, bodies: bool) -> dict[str, Any]:
    values: dict[str, Any] = dict(zip(_RECORD_FIELDS, rows.record_row(record, None), strict=True))
    values |= {name: getattr(record, name) for name in _OBJECTS}
    values["usage_beyond"] = record.usage.beyond if record.usage else None
    values["attempts"] = [
        dict(zip(_ATTEMPT_FIELDS, rows.attempt_row(record.id, attempt)[1:], strict=True))
        | {"dropped": attempt.dropped, "usage_beyond": attempt.usage.beyond if attempt.usage else None}
        for attempt in record.attempts
    ]
    if bodies:
        values["request_body"] = _base64(record.request_body)
        values["response_body"] = _base64(record.response_body)
    return values


def _with_objects_as_text(flat: dict[str, Any]) -> dict[str, Any]:
    texts = {name: _to_json(flat[name]).decode() for name in _OBJECTS if flat[name] is not None}
    return {**flat, **texts}


def _groups(records: Iterable[Record]) -> Iterator[list[Record]]:
    remaining = iter(records)
    while group := list(islice(remaining, _ROWS_AT_ONCE)):
        yield group


def _base64(body: bytes | None) -> str | None:
    return None if body is None else base64.b64encode(body).decode()


def _type_name(column: Column[Any]) -> str:
    if column.name in _OBJECTS:
        return "object"
    if column.name in _LISTS:
        return "list of string"
    names = {BigInteger: "integer", Boolean: "boolean", Double: "number", Text: "string"}
    return names[type(column.type)]


def _arrow_schema(pa: Any, *, bodies: bool) -> Any:
    types = {BigInteger: pa.int64(), Boolean: pa.bool_(), Double: pa.float64(), Text: pa.string()}

    def fields_of(table: Table) -> list[Any]:
        found = []
        for column in table.columns:
            kind = (
                pa.list_(pa.string()) if column.name in _LISTS else types.get(type(column.type), pa.string())
            )
            found.append(pa.field(column.name, kind, metadata={"description": column.comment or ""}))
        return found

    attempt = pa.struct(fields_of(schema.attempts)[1:])
    texts = [pa.field(name, pa.string()) for name in ("request_body", "response_body")] if bodies else []
    return pa.schema([*fields_of(schema.records), pa.field("attempts", pa.list_(attempt)), *texts])
