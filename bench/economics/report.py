"""The report's benchmark: `isthmus cost report --since 365d` over a year's ledger of ten million records.

    python -m bench.economics.report [--records N] [--output FILE]

The ledger is made up by SQLite itself, in a folder that is removed afterwards (3 GB for ten million): forty
keys in ten teams, each at one of five routes, two models behind each, every hour of the year alike. The
report is run as a process of its own, once over the bare records, then over the hours that they are rolled up
to. stdout gets one JSON object; the same goes to bench/results/report-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.gateway.peers import BENCH
from bench.gateway.run import commit
from isthmus.store import schema
from isthmus.store.keys import SqliteKeys
from isthmus.store.ledger_file import LedgerFile

YEAR_US = 365 * 24 * schema.HOUR_US
CHUNK = 250_000
SLICE = 5_000
"""As many records as the gateway rolls up in one transaction."""
RUNS = 3
KEYS, TEAMS = 40, 10

CONFIG = """
providers:
  openai: {preset: openai, key: env:NO_KEY}
  anthropic: {preset: anthropic, key: env:NO_KEY}
  deepseek: {preset: deepseek, key: env:NO_KEY}
models:
  gpt: {provider: openai, id: gpt-5.6-sol}
  mini: {provider: openai, id: gpt-5.6-luna}
  sonnet: {provider: anthropic, id: claude-sonnet-5}
  deepseek: {provider: deepseek, id: deepseek-v4-pro}
routes:
  support: {fallback: [mini, gpt]}
  review: {fallback: [sonnet, gpt]}
  search: {fallback: [mini, deepseek]}
  batch: {fallback: [deepseek, mini]}
  chat: {fallback: [gpt, sonnet]}
ledger: {path: ledger.db}
"""

# A hash of the row's number stands for chance, so that every run makes the same traffic. The first model of a
# route answers nine in ten.
FILL = """
INSERT INTO records (
    id, at_us, dialect, operation, route, stream, status, outcome, key_id, model, input_tokens, output_tokens,
    cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, reasoning_tokens, input_audio_tokens,
    output_audio_tokens, usage_estimated, charge_nanousd, charge_basis, charge_snapshot, charge_estimated,
    queue_ms, overhead_ms, first_token_ms, total_ms, config_hash)
WITH RECURSIVE
    numbers (n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :last),
    drawn AS (SELECT n, (n * 2654435761) % 4294967291 AS h FROM numbers),
    placed AS (
        SELECT n, h, :start + CAST(n AS INTEGER) * :step + h % :step AS at_us, h % :keys AS key,
            h % :keys % 5 AS route, h / 97 % 10 AS luck
        FROM drawn)
SELECT printf('req_%013x%019x', at_us, h), at_us, 'openai-chat', 'chat',
    CASE route WHEN 0 THEN 'support' WHEN 1 THEN 'review' WHEN 2 THEN 'search' WHEN 3 THEN 'batch'
        ELSE 'chat' END,
    h % 2, 200, 'ok', (SELECT id FROM names WHERE number = key),
    CASE WHEN luck = 9 THEN CASE route WHEN 0 THEN 'gpt' WHEN 1 THEN 'gpt' WHEN 2 THEN 'deepseek'
        WHEN 3 THEN 'mini' ELSE 'sonnet' END
    ELSE CASE route WHEN 0 THEN 'mini' WHEN 1 THEN 'sonnet' WHEN 2 THEN 'mini' WHEN 3 THEN 'deepseek'
        ELSE 'gpt' END END,
    500 + h % 2000, 50 + h % 500, h % 3 * 400, 0, 0, 0, 0, 0, 0, 1000000 + h % 9000000, 'genai-prices', '1',
    0, 0.0, 0.5, 300.0, 2000.0, 'c0ffee'
FROM placed"""


def main() -> None:
    """Makes the ledger, measures, tells."""
    arguments = _arguments()
    with TemporaryDirectory() as folder:
        result = _measured(Path(folder), arguments.records)
    print(json.dumps(result))
    output = arguments.output or BENCH / "results" / f"report-{datetime.now(UTC).date()}.json"
    output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _measured(folder: Path, records: int) -> dict[str, Any]:
    (folder / "isthmus.yaml").write_text(CONFIG, encoding="utf-8")
    ledger = folder / "ledger.db"
    began = time.perf_counter()
    _fill(ledger, records)
    _say(f"{records:,} records in {time.perf_counter() - began:.0f} s")
    scanned, first = _report(folder)
    _say(f"over bare records: {scanned}")
    began, cpu = time.perf_counter(), time.process_time()
    rows = _roll_up(ledger)
    rolling = {"rows": rows, "s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
    _say(f"rolled up: {rolling}")
    runs = [_report(folder) for _ in range(RUNS)]
    assert all(told == first for _, told in runs), "the report must not depend on what is rolled up"
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "records": records,
        "ledger_bytes": ledger.stat().st_size,
        "roll_up": rolling,
        "report_over_bare_records": scanned,
        "report": [run for run, _ in runs],
    }


def _fill(ledger: Path, records: int) -> None:
    keys = SqliteKeys(ledger)
    names = [
        (number, keys.create(f"key {number}", (), 0, team=f"team {number % TEAMS}").key.id)
        for number in range(KEYS)
    ]
    connection = schema.connect(ledger)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("CREATE TEMP TABLE names (number INTEGER PRIMARY KEY, id TEXT)")
    connection.executemany("INSERT INTO names VALUES (?, ?)", names)
    start_us = time.time_ns() // 1000 - YEAR_US
    for first in range(0, records, CHUNK):
        last = min(first + CHUNK, records)
        values = {"first": first, "last": last, "start": start_us, "step": YEAR_US // records, "keys": KEYS}
        connection.execute(FILL, values)
    connection.close()


def _roll_up(ledger: Path) -> int:
    file = LedgerFile(ledger, "NORMAL", 5.0)
    while file.roll_up_before(time.time_ns() // 1000, SLICE) >= SLICE:
        pass
    file.close()
    connection = schema.connect(ledger)
    (rows,) = connection.execute("SELECT count(*) FROM hours").fetchone()
    connection.close()
    return int(rows)


def _report(folder: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """What a run took, and what it told."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "isthmus", "cost", "report", "--since", "365d", "--json"]
    environment = os.environ | {"NO_KEY": "none"}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        told = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, "the report must succeed"
    run = {
        "s": round(time.perf_counter() - began, 2),
        "cpu_s": round(used.ru_utime + used.ru_stime, 2),
        "peak_mb": round(used.ru_maxrss / 1024, 1),
    }
    return run, json.loads(told)


def _say(words: str) -> None:
    print(words, file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
