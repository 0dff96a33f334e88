"""Records as JSONL and Parquet."""

from __future__ import annotations

import base64
import io
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow.parquet as parquet
import pytest

from isthmus.core.decision import Decision
from isthmus.core.errors import IsthmusError
from isthmus.core.record import AttemptRecord, Features, Grounds, Record, Timings
from isthmus.core.usage import Charge, Usage
from isthmus.store.export import fields, write_jsonl, write_parquet
from isthmus.store.ledger import SqliteLedger
from isthmus.store.records import SqliteRecords

DECISION = Decision(
    route="support",
    operation="chat",
    allowed=("small",),
    refused=(),
    plan={"call": "small"},
    reasons=("There is one model.",),
    propensity=1.0,
    config_hash="c0ffee",
)
ATTEMPT = AttemptRecord(
    number=1,
    model="small",
    provider="near",
    model_id="small-1",
    outcome="ok",
    started_ms=1.0,
    total_ms=9.0,
    finish="stop",
    usage=Usage(input=10, output=5, beyond=("tool.web_search",)),
    charge=Charge(nanousd=None, basis="unknown", snapshot=""),
    dropped=("seed",),
    purpose="draft",
    confidence=0.5,
    verdict="it refuses",
)


def make_record(number: int) -> Record:
    return Record(
        id=f"req_{number:032x}",
        at_us=1_760_000_000_000_000 + number,
        dialect="openai-chat",
        operation="chat",
        route="support",
        stream=False,
        status=200,
        outcome="ok",
        mirrors="req_0",
        decision=DECISION,
        findings={"pii.email": 2, "pii.name": 1},
        features=Features(size=70, turns=1),
        grounds=Grounds(said=("internal",)),
        attempts=(ATTEMPT,),
        usage=ATTEMPT.usage,
        charge=ATTEMPT.charge,
        timings=Timings(queue_ms=0.0, overhead_ms=0.25, first_token_ms=None, total_ms=10.0),
        config_hash="c0ffee",
        request_body=b"\xffquestion",
    )


BARE = msgspec.structs.replace(
    make_record(7),
    decision=None,
    findings=None,
    features=None,
    grounds=None,
    attempts=(),
    usage=None,
    charge=None,
    request_body=None,
)

# Whoever reads our exports relies on these names. They may grow; a change of one that is here breaks
# somebody's work.
RECORD_FIELDS = [
    "id",
    "at_us",
    "dialect",
    "operation",
    "route",
    "stream",
    "status",
    "outcome",
    "key_id",
    "team",
    "user",
    "model",
    "mirrors",
    "code",
    "message",
    "decision",
    "findings",
    "features",
    "grounds",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "usage_estimated",
    "usage_beyond",
    "charge_nanousd",
    "charge_basis",
    "charge_snapshot",
    "charge_estimated",
    "queue_ms",
    "overhead_ms",
    "first_token_ms",
    "total_ms",
    "config_hash",
    "attempts",
]


def exported_jsonl(records: list[Record], *, bodies: bool = False) -> list[dict[str, object]]:
    out = io.BytesIO()
    assert write_jsonl(records, out, bodies=bodies) == len(records)
    return [msgspec.json.decode(line) for line in out.getvalue().splitlines()]


def test_the_names_of_the_fields_are_stable() -> None:
    [line] = exported_jsonl([make_record(1)])
    assert list(line) == RECORD_FIELDS
    documented = {name for name, _, meaning in fields() if meaning}
    assert set(RECORD_FIELDS) - {"attempts"} <= documented
    [attempt] = line["attempts"]  # type: ignore[misc]
    assert {f"attempts[].{name}" for name in attempt} == {
        name for name in documented if name.startswith("attempts[]")
    }


def test_jsonl_says_what_the_record_says() -> None:
    [line, bare] = exported_jsonl([make_record(1), BARE], bodies=True)
    assert (line["input_tokens"], line["output_tokens"], line["overhead_ms"]) == (10, 5, 0.25)
    assert (line["charge_nanousd"], line["charge_basis"]) == (None, "unknown")
    assert line["decision"] == msgspec.json.decode(msgspec.json.encode(DECISION))
    assert (line["findings"], bare["findings"]) == ({"pii.email": 2, "pii.name": 1}, None)
    assert (line["features"], bare["features"]) == ({"size": 70, "turns": 1}, None)
    assert (line["grounds"], bare["grounds"]) == ({"said": ["internal"]}, None)
    [attempt] = line["attempts"]  # type: ignore[misc]
    assert (attempt["finish"], attempt["dropped"]) == ("stop", ["seed"])
    assert (attempt["purpose"], attempt["confidence"], attempt["verdict"]) == ("draft", 0.5, "it refuses")
    assert line["mirrors"] == "req_0"
    assert line["usage_beyond"] == attempt["usage_beyond"] == ["tool.web_search"]
    assert bare["usage_beyond"] is None
    assert base64.b64decode(str(line["request_body"])) == b"\xffquestion"
    assert (bare["decision"], bare["attempts"], bare["input_tokens"], bare["request_body"]) == (
        None,
        [],
        None,
        None,
    )


def test_parquet_holds_the_same_as_jsonl() -> None:
    records = [make_record(number) for number in range(2500)] + [BARE]
    out = io.BytesIO()
    assert write_parquet(records, out, bodies=True) == 2501
    table = parquet.read_table(io.BytesIO(out.getvalue()))
    assert table.schema.names == [*RECORD_FIELDS, "request_body", "response_body"]
    rows = table.to_pylist()
    for row in rows:
        for name in ("decision", "findings", "features", "grounds"):
            row[name] = None if row[name] is None else msgspec.json.decode(row[name])
    assert rows == exported_jsonl(records, bodies=True)
    described = table.schema.field("charge_nanousd").metadata[b"description"]
    assert b"null where the price is unknown" in described


def test_parquet_of_nothing_is_a_table_without_rows() -> None:
    out = io.BytesIO()
    assert write_parquet([], out) == 0
    table = parquet.read_table(io.BytesIO(out.getvalue()))
    assert (table.num_rows, table.schema.names) == (0, RECORD_FIELDS)


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(IsthmusError) as refused:
        write_parquet([], io.BytesIO())
    assert refused.value.code == "missing_extra"
    assert "isthmus[parquet]" in refused.value.hint


def test_memory_stays_flat_however_many_records_there_are() -> None:
    class Nowhere(io.RawIOBase):
        def write(self, data: object) -> int:
            return len(data)  # type: ignore[arg-type]

    def many(count: int) -> Iterator[Record]:
        return (
            msgspec.structs.replace(make_record(number), request_body=b"x" * 10_000)
            for number in range(count)
        )

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            write_jsonl(many(count), Nowhere(), bodies=True)  # type: ignore[arg-type]
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    # All records together are 30 MB; whatever else this process does meanwhile is far less than 3 MB.
    assert peak(3000) < peak(300) + 3_000_000


async def test_a_live_ledger_is_exported_whole_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = SqliteLedger(path)
    records = [make_record(number) for number in range(1234)]
    for record in reversed(records):
        ledger.append(record)
    await ledger.flush()
    out = io.BytesIO()
    for number, record in enumerate(SqliteRecords(path).scan(), start=1):
        # The gateway goes on meanwhile.
        ledger.append(make_record(10_000 + number))
        write_jsonl([record], out)
        if number == len(records):
            break
    await ledger.close()
    ids = [msgspec.json.decode(line)["id"] for line in out.getvalue().splitlines()]
    assert ids == [record.id for record in records]
