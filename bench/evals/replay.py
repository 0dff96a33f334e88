"""How fast recorded traffic is replayed: a ledger of a million records, by another config.

    .venv/bin/python -m bench.evals.replay [--records N]

The ledger is made up: six routes with fallbacks and splits, 40 keys, what detectors find in such texts, one
request in twenty that failed over. It is written to a temporary folder, and removed. The replay is the whole
command but for its printing: reading, deciding, comparing, pricing.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sqlite3
import tempfile
import time
from pathlib import Path

import msgspec

from isthmus.bootstrap import open_history, replayer_of, router_of
from isthmus.config.archive import archive
from isthmus.config.config import Config
from isthmus.config.load import parse
from isthmus.core.record import Features, Grounds
from isthmus.evals.replay.summary import Replay, summary
from isthmus.store import rows, schema
from isthmus.store.configs import SqliteConfigs
from isthmus.store.records import Where
from isthmus.strategies.plan.node import Circumstances

RECORDS = 1_000_000
AT_ONCE = 20_000
DAY_US = 86_400_000_000
SPAN_US = 30 * DAY_US

OLD = """
providers:
  own: {dialect: openai, base_url: "http://127.0.0.1:9/v1", kind: local, zone: on-prem}
  vpc: {dialect: openai, base_url: "http://127.0.0.1:9/v1", kind: open, zone: eu}
  far: {dialect: openai, base_url: "http://127.0.0.1:9/v1", kind: closed, zone: us}
models:
  small: {provider: own, price: {input: 0, output: 0}}
  glm: {provider: vpc, price: {input: 0.5, output: 1.5}}
  large: {provider: far, price: {input: 3, output: 15}}
  mini: {provider: far, price: {input: 0.25, output: 1}}
perimeter: {}
routes:
  support: {fallback: [small, glm]}
  review: large
  trial: {split: {large: 9, mini: 1}}
  sticky: {split: {large: 1, glm: 1}, sticky: key}
  search: {fallback: [mini, glm]}
  gpt-*: {fallback: [large, glm]}
"""
NEW = (
    OLD.replace("perimeter: {}", "perimeter: {clearance: {closed: confidential}}")
    .replace("{large: 9, mini: 1}", "{large: 5, mini: 5}")
    .replace("review: large", "review: {fallback: [mini, large]}")
)
_NOT_USED = ("cache_read", "cache_write_5m", "cache_write_1h", "reasoning", "input_audio", "output_audio")
_USED: dict[str, object] = {
    **{f"{name}_tokens": 0 for name in _NOT_USED},
    "usage_estimated": False,
    "charge_basis": "config",
    "charge_snapshot": "s",
    "charge_estimated": False,
}
_RECORD = [column.name for column in schema.records.columns]
_ATTEMPT = [column.name for column in schema.attempts.columns]
_FINDINGS = ({}, {}, {}, {"pii.email": 1}, {"pii.name": 2, "pii.phone": 1}, {"secret.key": 1})


def _config(text: str) -> Config:
    config = parse(text, "isthmus.yaml").config
    assert config is not None
    return config


def write(path: Path, records: int) -> None:
    """A ledger with that many records of the last 30 days."""
    config, dice = _config(OLD), random.Random(7)
    schema.prepare(path)
    SqliteConfigs(path).keep(config.hash, 0, archive(config))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    began = time.time_ns() // 1000 - SPAN_US + DAY_US // 24
    made = _Made(config, dice)
    for start in range(0, records, AT_ONCE):
        some = [
            made.row(number, began + number * (SPAN_US - DAY_US // 12) // records)
            for number in range(start, min(start + AT_ONCE, records))
        ]
        connection.execute("BEGIN")
        connection.executemany(schema.insertion(schema.records), [record for record, _ in some])
        connection.executemany(schema.insertion(schema.attempts), [it for _, tried in some for it in tried])
        connection.execute("COMMIT")
    connection.executemany(schema.insertion(schema.decisions), made.decisions.values())
    connection.close()


class _Made:
    """Makes records up."""

    def __init__(self, config: Config, dice: random.Random) -> None:
        self._config = config
        self._router = router_of(config)
        self._dice = dice
        self.decisions: dict[tuple[int, bytes], rows.Row] = {}
        self._rows: dict[int, tuple[object, bytes]] = {}

    def row(self, number: int, at_us: int) -> tuple[rows.Row, list[rows.Row]]:
        """The rows of a record and its attempts."""
        dice = self._dice
        name = dice.choice(list(self._config.routes))
        found = dice.choice(_FINDINGS)
        kinds = {kind: dice.randint(1, 40) for kind in found}
        key = f"key_{dice.randrange(40)}"
        label = self._config.perimeter.label_of(kinds, False)
        decided = self._router.decide(name, "chat", label, Circumstances(draw=dice.random(), key=key))
        known = self._rows.get(id(decided))
        if known is None:
            known = self._rows[id(decided)] = (decided, rows.decision_row(0, decided)[1])
        digest = known[1]
        day = at_us // DAY_US
        if (day, digest) not in self.decisions:
            self.decisions[day, digest] = rows.decision_row(at_us, decided)
        models = decided.plan.models() if decided.plan is not None else ()
        fails = len(models) > 1 and dice.random() < 0.05
        model = models[1] if fails else models[0] if models else None
        asked = "gpt-4o" if name == "gpt-*" else None
        identity = f"req_{number:032x}"
        tokens = (dice.randint(50, 5000), dice.randint(20, 900))
        total = dice.lognormvariate(7, 0.8)
        used: dict[str, object] = {}
        if model is not None:
            cost = dice.randint(1000, 10_000_000)
            used = {**_USED, "input_tokens": tokens[0], "output_tokens": tokens[1], "charge_nanousd": cost}
        record = {
            **used,
            "id": identity,
            "at_us": at_us,
            "dialect": "openai",
            "operation": "chat",
            "route": name,
            "stream": False,
            "status": 200 if model else 400,
            "outcome": "ok" if model else "error",
            "key_id": key,
            "model": model,
            "code": None if model else "no_model_allowed",
            "decision": digest,
            "findings": msgspec.json.encode(kinds).decode(),
            "features": msgspec.json.encode(Features(size=4 * tokens[0], turns=3, max_output=1000)).decode(),
            "grounds": msgspec.json.encode(Grounds(asked=asked)).decode(),
            "queue_ms": 0.0,
            "overhead_ms": 0.3,
            "first_token_ms": total / 3,
            "total_ms": total,
            "config_hash": self._config.hash,
        }
        attempts = []
        for place, each in enumerate(models[:2] if fails else models[:1], 1):
            lost = fails and place == 1
            attempt = {
                **({} if lost else used),
                "record_id": identity,
                "number": place,
                "model": each,
                "provider": "p",
                "model_id": each,
                "outcome": "error" if lost else "ok",
                "started_ms": 0.1,
                "queue_ms": 0.0,
                "total_ms": total,
                "fault": "overloaded" if lost else None,
                "code": "overloaded" if lost else None,
                "upstream_status": 503 if lost else 200,
                "committed": not lost,
                "passthrough": True,
                "purpose": "answer",
            }
            attempts.append(tuple(map(attempt.get, _ATTEMPT)))
        return tuple(map(record.get, _RECORD)), attempts


def replay(path: Path) -> Replay:
    """Replay the ledger."""
    old = msgspec.structs.replace(
        _config(OLD), ledger=msgspec.structs.replace(_config(OLD).ledger, path=str(path))
    )
    where = Where(since_us=time.time_ns() // 1000 - SPAN_US)
    replayer = replayer_of(_config(NEW), old, None, where)
    for some in open_history(old, None).requests(where):
        for past in some:
            replayer.take(past)
    return summary(_config(NEW).hash, replayer.judgements)


def timed(records: int) -> tuple[float, float]:
    """Seconds that the replay takes, by the clock on the wall and of the processor."""
    with tempfile.TemporaryDirectory(prefix="isthmus-replay-") as folder:
        path = Path(folder) / "ledger.db"
        write(path, records)
        began, worked = time.perf_counter(), time.process_time()
        found = replay(path)
        seconds, busy = time.perf_counter() - began, time.process_time() - worked
    assert found.requests == records, "every record is replayed"
    assert found.crossing("out") > 0, "the new config lets something out"
    return seconds, busy


def measure(records: int = RECORDS) -> float:
    """Records a second."""
    return records / timed(records)[0]


def main() -> None:
    """Measure, and print a line of JSON."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--records", type=int, default=RECORDS)
    records = options.parse_args().records
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, busy = timed(records)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = {
        "records": records,
        "replay_records_per_s": round(records / seconds),
        "seconds": round(seconds, 1),
        "processor_seconds": round(busy, 1),
        "peak_mb": round(peak / 1024),
        "before_mb": round(before / 1024),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
