"""A real pilot: two local models of real weights, a small set of everyday tasks, from end to end.

No test asserts what a model says.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from isthmus.cli import main
from isthmus.store.records import SqliteRecords

TASKS = Path(__file__).parents[1] / "golden" / "evals" / "everyday.jsonl"
CONFIG = """
providers:
  builtin: {engine: builtin, context: 512, parallel: 2}
models:
  small: {provider: builtin, weights: qwen2.5-coder-0.5b-instruct}
  medium: {provider: builtin, weights: qwen2.5-coder-1.5b-instruct}
routes: {default: small}
"""
ARGUMENTS = [
    "pilot",
    str(TASKS),
    "--models",
    "small,medium",
    "--scorer",
    "normalised",
    "--scorer",
    "contains",
]


def test_two_local_models_are_piloted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("isthmus.yaml").write_text(CONFIG)
    told = CliRunner().invoke(
        main, [*ARGUMENTS, "--max-tokens", "6", "--temperature", "0", "--html", "pilot.html", "--json"]
    )
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["complete"]
    for standing in found["standings"]:
        assert (standing["answered"], standing["failed"], standing["left"]) == (12, {}, 0)
        assert 0 < standing["first_token_ms"]["p50"] <= standing["total_ms"]["p50"]
        assert standing["usd_per_thousand"] == 0.0
        assert 1 <= standing["tokens_out"] <= 6
        for quality in standing["qualities"]:
            assert quality["interval"]["low"] <= quality["mean"] <= quality["interval"]["high"]
            assert quality["n"] == 12
    assert {pair["scorer"] for pair in found["pairs"]} == {"normalised", "contains"}
    assert Path("pilot.html").read_text().count("<circle") == 2
    records = list(SqliteRecords(Path(".isthmus/ledger.db")).scan())
    assert sorted(it.route for it in records) == ["pilot/medium"] * 12 + ["pilot/small"] * 12
    assert len({it["model"]["weights"] for it in found["standings"]}) == 2
