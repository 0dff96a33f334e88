"""`isthmus dataset` as a stranger would use it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from isthmus.cli.dataset import dataset
from isthmus.evals.datasets import open_dataset

TABLE = (
    "question,answer,task\n"
    "What is the capital of France?,Paris,geography\n"
    "What is the capital of France ?,Paris.,geography\n"
    "What is 2 + 2?,4,arithmetic\n"
    "What is 2 + 2?,4,arithmetic\n"
)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(dataset, [str(it) for it in arguments])


@pytest.fixture
def words(tmp_path: Path) -> Path:
    (tmp_path / "words.csv").write_text(TABLE)
    (tmp_path / "words.csv").chmod(0o640)
    named = ("--input", "question", "--target", "answer", "--drop-doubles", "--label", "internal")
    done = run("import", tmp_path / "words.csv", *named, "-o", tmp_path / "words.jsonl")
    assert done.exit_code == 0, done.output
    assert "3 samples" in done.stderr
    assert "dropped" in done.stderr
    return tmp_path / "words.jsonl"


def test_what_is_imported_is_our_own_form_and_as_secret_as_it_was(words: Path) -> None:
    assert words.stat().st_mode & 0o777 == 0o640
    lines = sorted(words.read_bytes().splitlines(keepends=True))
    assert hashlib.sha256(b"".join(lines)).hexdigest() == open_dataset(words).hash
    assert json.loads(lines[0])["label"] == "internal"
    on_stdout = run("import", words)
    assert on_stdout.stdout_bytes == words.read_bytes()


def test_a_file_is_never_overwritten_and_nothing_is_left_of_a_failure(words: Path) -> None:
    before = words.read_bytes()
    again = run("import", words, "-o", words)
    assert again.exit_code == 1
    assert "is not overwritten" in again.stderr
    assert words.read_bytes() == before
    (words.parent / "words.dev.jsonl").touch()
    split = run("split", words)
    assert split.exit_code == 1
    assert sorted(it.name for it in words.parent.iterdir()) == ["words.csv", "words.dev.jsonl", "words.jsonl"]


def test_a_dataset_is_shown_in_words_and_in_data(words: Path) -> None:
    data = json.loads(run("show", words, "--json").stdout)
    assert data["hash"] == open_dataset(words).hash
    assert (data["samples"], data["labels"], data["with_target"]) == (3, {"internal": 3}, 3)
    assert data["by"] == {"task": {"geography": 2, "arithmetic": 1}}
    assert (data["doubles"], data["largest_group"]) == (1, 2)
    shown = run("show", words).stdout
    assert data["hash"] in shown
    assert "geography 2, arithmetic 1" in shown


def test_parts_are_written_and_told(words: Path) -> None:
    done = run("split", words, "--dev", "0", "--json", "-o", words.parent / "parts")
    parts = json.loads(done.stdout)["parts"]
    assert list(parts) == ["train", "test"]
    found = [open_dataset(Path(it["file"])) for it in parts.values() if it["samples"]]
    assert sum(len(it.samples) for it in found) == 3
    assert all(it.hash in {part["hash"] for part in parts.values()} for it in found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "missing.jsonl"), "does not exist"),
        (("split", "--train", "-1"), "is not in the range"),
        (("split", "--train", "0", "--dev", "0", "--test", "0"), "The shares of a split must be numbers"),
        (("split", "--by", "taks"), "No sample has `taks`"),
    ],
)
def test_what_cannot_be_done_is_said(words: Path, arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments) if "missing.jsonl" in arguments else run(*arguments, words)
    assert done.exit_code != 0
    assert said in done.stderr
