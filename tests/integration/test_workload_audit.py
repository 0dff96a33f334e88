"""`isthmus workload audit`, as people run it."""

from __future__ import annotations

import json
import socket
import sys
import types
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from isthmus.cli import main
from isthmus.config.load import parse

SECRET = "Hx92kdTT#2kfj"


def _traffic(count: int) -> list[dict[str, object]]:
    def one(at: int) -> dict[str, object]:
        if at % 3 == 0:
            words = f"My social security number is 536-22-1234, password={SECRET}"
            return {"model": "gpt-4o", "messages": [{"role": "user", "content": words}]}
        system = {"role": "system", "content": "Classify the ticket into one of the following: bill, bug."}
        asked = {"model": "gpt-4o-mini", "messages": [system, {"role": "user", "content": "It broke."}]}
        return {"request": asked, "response": {"usage": {"prompt_tokens": 100, "completion_tokens": 2}}}

    return [one(at) for at in range(count)]


def _audit(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["workload", "audit", *arguments])


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_traffic_is_audited(tmp_path: Path, jobs: str, form: str) -> None:
    traffic, log = _traffic(30), tmp_path / f"traffic.{form}"
    log.write_text(json.dumps(traffic, indent=1) if form == "json" else "\n".join(map(json.dumps, traffic)))
    said = _audit(str(log), "--jobs", jobs, "--json")
    assert said.exit_code == 0, said.output
    found = {it["task"]: it for it in map(msgspec.json.decode, said.stdout.splitlines())}
    assert {task: it["requests"] for task, it in found.items()} == {"conversation": 10, "classification": 20}
    assert found["conversation"]["levels"] == {"restricted": 10}
    assert found["conversation"]["place"] == "local"
    assert found["classification"]["place"] == "open"
    assert found["classification"]["now_usd"] > 0
    assert found["conversation"]["kinds"]["pii.ssn"] == 10


def test_a_cluster_finds_what_this_machine_finds(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    log = tmp_path / "traffic.jsonl"
    log.write_text("\n".join(map(json.dumps, _traffic(1_000))))
    there = _audit(str(log), "--ray", "local", "--jobs", "2", "--json")
    assert there.exit_code == 0, there.output
    assert there.stdout == _audit(str(log), "--jobs", "1", "--json").stdout


def test_a_cluster_that_is_not_there_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only that it is installed: where nobody listens, it is not asked for anything.
    for name in ("ray", "ray.exceptions"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        log = tmp_path / "traffic.jsonl"
        log.write_text(json.dumps(_traffic(1)[0]))
        said = _audit(str(log), "--ray", address)
    assert said.exit_code == 1
    assert f"No Ray cluster can be used at '{address}': ConnectionRefusedError" in said.stderr


def test_without_ray_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    log = tmp_path / "traffic.jsonl"
    log.write_text(json.dumps(_traffic(1)[0]))
    said = _audit(str(log), "--ray", "auto")
    assert said.exit_code == 1
    assert "pip install 'isthmus[ray]'" in said.stderr


def test_the_report_shows_no_text_and_the_draft_is_a_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    log, config = tmp_path / "traffic.jsonl", tmp_path / "draft.yaml"
    log.write_text("\n".join([*map(json.dumps, _traffic(9)), "no json", '{"other": 1}']))
    said = _audit(str(log), "--jobs", "1", "--draft", str(config))
    assert said.exit_code == 0, said.output
    assert SECRET not in said.output
    assert "536-22" not in said.output
    assert "classification" in said.stdout
    assert "2 lines are of no form" in said.stderr
    parsed = parse(config.read_text(), str(config))
    assert parsed.config is not None, parsed.faults
    assert len(parsed.config.routes) == 3


def test_a_config_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    log, config = tmp_path / "traffic.jsonl", tmp_path / "isthmus.yaml"
    log.write_text(json.dumps(_traffic(1)[0]))
    config.write_text("routes: {}")
    said = _audit(str(log), "--jobs", "1", "--draft", str(config))
    assert said.exit_code == 2
    assert "is not overwritten" in said.output
    assert config.read_text() == "routes: {}"


def test_a_long_array_is_read_whole_wherever_its_blocks_end(tmp_path: Path) -> None:
    log = tmp_path / "traffic.json"
    asked = [{"model": "m", "user": "Ж" * 500, "messages": [{"role": "user", "content": "é" * 701}]}] * 1_500
    log.write_text(json.dumps(asked, ensure_ascii=False), encoding="utf-8")
    assert log.stat().st_size > 3 << 20
    said = _audit(str(log), "--jobs", "1", "--json")
    found = [msgspec.json.decode(line) for line in said.stdout.splitlines()]
    assert [(it["caller"], it["requests"]) for it in found] == [("Ж" * 500, 1_500)]


@pytest.mark.parametrize(
    ("text", "code"),
    [("", "Nothing in these files"), ("[1, 2", "is none to its end"), ("nothing\n", "Nothing in")],
)
def test_what_is_no_traffic_is_refused(tmp_path: Path, text: str, code: str) -> None:
    log = tmp_path / "odd.json"
    log.write_text(text)
    said = _audit(str(log), "--jobs", "1")
    assert said.exit_code != 0
    assert code in said.output
    assert "Traceback" not in said.output
