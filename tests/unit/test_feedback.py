"""Feedback on the command line, and what it comes to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from isthmus.cli import main
from isthmus.core.feedback import Feedback, Verdict, verdict
from isthmus.core.record import Record, Timings
from isthmus.store.ledger import SqliteLedger

CONFIG = """
providers: {p: {dialect: openai, base_url: "http://127.0.0.1:9/v1", kind: local}}
models: {m: {provider: p}}
routes: {r: m}
"""


def record(name: str) -> Record:
    return Record(
        id=f"req_{name}",
        at_us=1,
        dialect="openai",
        operation="chat",
        route="r",
        stream=False,
        status=200,
        outcome="ok",
        timings=Timings(queue_ms=0.0, overhead_ms=0.0, first_token_ms=None, total_ms=1.0),
        config_hash="c",
    )


@pytest.fixture
async def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "isthmus.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ISTHMUS_HOME", raising=False)
    ledger = SqliteLedger(tmp_path / ".isthmus" / "ledger.db")
    ledger.append(record("abc"))
    ledger.append(record("def"))
    await ledger.close()
    return tmp_path


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=stdin)


@pytest.mark.usefixtures("folder")
def test_what_is_added_is_listed_and_shown_with_its_record() -> None:
    assert run("feedback", "list").stderr == "There is none yet.\n"
    added = run("feedback", "add", "req_a", "--thumb", "up", "--correction", "-", "--json", stdin="so\n")
    assert added.exit_code == 0, added.output
    assert run("feedback", "add", "req_abc", "--comment", "a\x1b[2Jb\n" + "c" * 60).exit_code == 0
    newest, oldest = map(json.loads, run("feedback", "list", "--json").stdout.splitlines())
    assert oldest == json.loads(added.stdout)
    assert (oldest["record_id"], oldest["score"], oldest["correction"]) == ("req_abc", 1.0, "so\n")
    shown = run("feedback", "list").stdout
    assert "\x1b" not in shown
    assert "c" * 60 not in shown
    told = json.loads(run("records", "show", "req_a", "--json").stdout)
    assert [it["id"] for it in told["feedback"]] == [oldest["id"], newest["id"]]
    story = run("records", "show", "req_a").stdout
    assert f"feedback   score 1, a correction, by no key ({oldest['id']})" in story
    assert "so" not in story.split("feedback", 1)[1].split()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("req_x", "--score", "1"), "There is no record whose id begins with 'req_x'"),
        (("req_", "--score", "1"), "Several records have an id that begins with"),
        (("req_abc",), "Feedback needs a score, a thumb, a correction or a comment"),
        (("req_abc", "--score", "2"), "is not in the range 0<=x<=1"),
        (("req_abc", "--score", "nan"), "from 0 to 1"),
        (("req_abc", "--score", "1", "--thumb", "up"), "not both"),
        (("req_abc", "--comment", "x" * 10_001), "at most 10,000 characters"),
        (("req_abc", "--correction", "missing.txt"), "No such file"),
    ],
)
def test_what_cannot_be_kept_is_said(arguments: Sequence[str], said: str) -> None:
    done = run("feedback", "add", *arguments)
    assert done.exit_code != 0
    assert said in done.stderr
    assert run("feedback", "list", "--json").stdout == ""


def test_of_each_kind_the_last_word_counts() -> None:
    first = Feedback(id="fb_1", record_id="r", at_us=1, score=0.0, correction="a", comment="c")
    second = Feedback(id="fb_2", record_id="r", at_us=2, score=1.0)
    third = Feedback(id="fb_3", record_id="r", at_us=3, correction="b")
    assert verdict([third, first, second]) == Verdict(score=1.0, correction="b", comment="c")
    assert verdict([]) == Verdict()
    graded = Feedback(id="fb_4", record_id="r", at_us=4, judge="m", score=0.5)
    assert verdict([graded]) == Verdict(score=0.5, judge="m")
    assert verdict([graded, second]) == Verdict(score=1.0), "what people say counts before what a model does"
