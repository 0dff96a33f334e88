"""Datasets of files, by example: formats, places in errors, ids and hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from isthmus.core.errors import IsthmusError
from isthmus.core.evaluation import Sample
from isthmus.core.label import Label
from isthmus.core.promises import Promises
from isthmus.evals.datasets import Dataset, open_dataset, save
from isthmus.evals.datasets.samples import line_of


def opened(folder: Path, name: str, content: str | bytes) -> Dataset:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_dataset(path)


def refusal(folder: Path, name: str, content: str | bytes) -> str:
    with pytest.raises(IsthmusError) as caught:
        opened(folder, name, content)
    assert caught.value.code == "bad_dataset"
    return caught.value.text.removeprefix(f"{folder}/")


def test_a_sample_is_written_by_hand_in_one_short_line(tmp_path: Path) -> None:
    [sample] = opened(tmp_path, "a.jsonl", '{"input": "What is 2 + 2?", "target": 4}').samples
    assert sample.request == {"messages": [{"role": "user", "content": "What is 2 + 2?"}]}
    assert sample.target == ("4",)
    assert sample.label == Label()


def test_all_that_a_sample_may_say_is_read(tmp_path: Path) -> None:
    line = {
        "id": 7,
        "input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}],
        "request": {"temperature": 0, "tools": []},
        "target": ["Hi", {"b": 1, "a": 2}],
        "label": {"level": "confidential", "zones": ["eu"], "needs": {"no_training": True}},
        "metadata": {"task": "greeting"},
    }
    [sample] = opened(tmp_path, "a.jsonl", json.dumps(line)).samples
    assert sample.id == "7"
    assert sample.request == {"messages": line["input"], "temperature": 0, "tools": []}
    assert sample.target == ("Hi", '{"a":2,"b":1}')
    needs = Promises(no_training=True)
    assert sample.label == Label("confidential", zones=frozenset({"eu"}), needs=needs)
    assert sample.metadata == {"task": "greeting"}


def test_choices_are_written_below_the_question_and_not_below_a_whole_request(tmp_path: Path) -> None:
    short = {"input": "Which is a fruit?", "choices": ["stone", "apple"], "target": "B"}
    [sample] = opened(tmp_path, "a.jsonl", json.dumps(short)).samples
    content = "Which is a fruit?\n\nA) stone\nB) apple"
    assert sample.request["messages"] == [{"role": "user", "content": content}]
    [again] = opened(tmp_path, "b.jsonl", line_of(sample)).samples
    assert again == sample


def test_the_same_samples_have_one_hash_whatever_the_file(tmp_path: Path) -> None:
    lines = [{"input": "one", "target": "1"}, {"target": "2, or two", "input": "two"}]
    table = pa.Table.from_pylist(lines)
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    hashes = {
        opened(tmp_path, "a.jsonl", "\n".join(map(json.dumps, lines))).hash,
        opened(tmp_path, "b.json", json.dumps(lines[::-1], indent=2)).hash,
        opened(tmp_path, "c.csv", 'target,input\n1,one\n\n"2, or two",two\n').hash,
        opened(tmp_path, "e.csv", "\ufefftarget;input\r\n1;one\r\n2, or two;two\r\n").hash,
        opened(tmp_path, "f.tsv", "target\tinput\n1\tone\n2, or two\ttwo\n").hash,
        open_dataset(tmp_path / "d.parquet").hash,
    }
    assert len(hashes) == 1


def test_the_hash_is_that_of_the_sorted_lines(tmp_path: Path) -> None:
    found = opened(tmp_path, "a.jsonl", '{"input": "b"}\n{"input": "a", "metadata": {"z": 1, "a": 2}}\n')
    lines = sorted(line_of(sample) for sample in found.samples)
    assert found.hash == hashlib.sha256(b"".join(lines)).hexdigest()
    assert b'"metadata":{"a":2,"z":1}' in b"".join(lines)


def test_of_doubles_the_one_that_is_kept_is_as_sensitive_as_any(tmp_path: Path) -> None:
    path = tmp_path / "doubles.jsonl"
    labels = [{}, {"label": "confidential"}, {"label": {"level": "public", "zones": ["eu"]}}]
    path.write_text("".join(json.dumps({"input": "q", "target": "a", **it}) + "\n" for it in labels))
    [sample] = open_dataset(path, drop_doubles=True).samples
    assert sample.label == Label("confidential", zones=frozenset({"eu"}))


def test_another_column_of_a_table_becomes_metadata_and_cells_may_hold_json(tmp_path: Path) -> None:
    content = (
        "input,choices,target,task,metadata\n"
        'Fruit?,"stone,apple",B,biology,"{""n"": 1}"\n'
        '"[{""role"": ""user"", ""content"": ""Hi""}]",,,,\n'
    )
    fruit, hello = opened(tmp_path, "a.csv", content).samples
    assert fruit.choices == ("stone", "apple")
    assert fruit.metadata == {"task": "biology", "n": 1}
    assert hello.request["messages"] == [{"role": "user", "content": "Hi"}]


def test_cells_of_parquet_are_what_json_can_hold(tmp_path: Path) -> None:
    rows = [{"input": "x", "choices": ["a", "b"], "n": float("nan"), "raw": b"\x00", "none": None}]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    [sample] = open_dataset(tmp_path / "a.parquet").samples
    assert sample.choices == ("a", "b")
    assert sample.metadata == {"raw": "AA=="}


def test_what_the_run_decides_is_left_out_of_requests_and_said(tmp_path: Path) -> None:
    line = {"request": {"model": "gpt", "stream": True, "messages": [{"role": "user", "content": "x"}]}}
    found = opened(tmp_path, "a.jsonl", json.dumps(line))
    assert found.samples[0].request == {"messages": [{"role": "user", "content": "x"}]}
    assert found.notes == (
        "`model` is left to the run (1)",
        "`stream` is left to the run (1)",
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", "", "a.jsonl: There is no sample in it."),
        ("a.jsonl", '{"input": "x"}\n{"input": "x"', "a.jsonl:2: This cannot be read as JSON"),
        ("a.jsonl", b'{"input": "\xff"}', "a.jsonl:1: This is not UTF-8."),
        ("a.jsonl", b"\x00\x01\x02", "a.jsonl:1: This cannot be read as JSON"),
        ("a.jsonl", '{"input": "x", "metadata": {"n": 1e999}}', "a.jsonl:1: This cannot be read as JSON"),
        ("a.jsonl", '{"metadata": ' + "[" * 100_000, "a.jsonl:1: This cannot be read as JSON: nested too"),
        ("a.jsonl", "3", "a.jsonl:1: A sample must be a JSON object."),
        ("a.jsonl", '{"input": "x", "targett": 1}', "a.jsonl:1: `targett` is no field of a sample. Did you"),
        ("a.jsonl", '{"input": ""}', "a.jsonl:1: `input` must be a text, or a list of messages"),
        ("a.jsonl", "{}", "a.jsonl:1: A sample needs `input`"),
        ("a.jsonl", '{"input": "x", "request": {"messages": []}}', "a.jsonl:1: A sample has `input` or"),
        ("a.jsonl", '{"input": [{"role": "usr"}]}', "a.jsonl:1: `messages[0].role` must be one of"),
        ("a.jsonl", '{"input": "x", "request": {"temperature": "hot"}}', "a.jsonl:1: `temperature` must"),
        ("a.jsonl", '{"input": "x", "id": 1.5}', "a.jsonl:1: `id` must be a text or a whole number"),
        ("a.jsonl", '{"input": "x", "label": "positive"}', "a.jsonl:1: `label` must be a level"),
        ("a.jsonl", '{"input": "x", "label": {"levl": "restricted"}}', "a.jsonl:1: `label` must be a level"),
        ("a.jsonl", '{"input": "x", "choices": ["a"]}', "a.jsonl:1: `choices` must be 2 to 26, not 1."),
        ("a.jsonl", '{"input": "x", "choices": ["a", "a"]}', "a.jsonl:1: `choices` holds one choice twice."),
        ("a.jsonl", '{"input": "x", "choices": ["a", "b"], "target": "C"}', "a.jsonl:1: `target` is neither"),
        ("a.jsonl", '{"input": "x", "target": [["a"]]}', "a.jsonl:1: `target` must be a text, or a list"),
        (
            "a.jsonl",
            '{"input": "x"}\n\n{"input": "x"}',
            "a.jsonl:3: This asks for the same and wants the same as",
        ),
        ("a.jsonl", '{"input": "x", "id": 1}\n{"input": "y", "id": "1"}', "a.jsonl:2: This has the `id` of"),
        ("a.json", '[{"input": "x"},\n\n 3]', "a.json:3: A sample must be a JSON object."),
        ("a.json", '[{"input": "x"},\n{"a": }]', "a.json:2: This cannot be read as JSON"),
        (
            "a.csv",
            "question,answer\nx,y\n",
            "a.csv:2: There is no text in a column `input`. Import it with --input question",
        ),
        ("a.csv", 'input,target\n"x,y\n', "a.csv:2: This is not CSV: unexpected end of data."),
        ("a.csv", "input,target\nx,y,z\n", "a.csv:2: This row has 3 cells, the first row 2."),
        ("a.csv", "input,input\nx,y\n", "a.csv:1: Two columns are named `input`."),
        ("a.csv", "input,\nx,y\n", "a.csv:1: A column has no name."),
        ("a.csv", b"input\nx\n\xff\n", "a.csv:3: This is not UTF-8."),
        ("a.parquet", b"PAR1 and no more", "a.parquet: This is not a whole Parquet file."),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    assert refusal(tmp_path, name, content).startswith(said)


def test_a_file_that_cannot_be_read_is_told_apart(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.jsonl"):
        with pytest.raises(IsthmusError) as caught:
            open_dataset(path)
        assert caught.value.code == "dataset_unreadable"


def test_a_file_is_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    [sample] = opened(tmp_path, "a.jsonl", '{"input": "x"}').samples

    def broken() -> Iterator[Sample]:
        yield sample
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / "b.jsonl", broken())
    assert [it.name for it in tmp_path.iterdir()] == ["a.jsonl"]
    assert save(tmp_path / "b.jsonl", [sample]) == 1
    assert (tmp_path / "b.jsonl").stat().st_mode & 0o777 == 0o600


def test_repeats_under_ids_of_their_own_are_kept_and_told(tmp_path: Path) -> None:
    path = tmp_path / "work.jsonl"
    path.write_text('{"id": "a", "input": "q", "target": "x"}\n{"id": "b", "input": "q", "target": "x"}\n')
    found = open_dataset(path)
    assert [sample.id for sample in found.samples] == ["a", "b"]
    assert found.notes == ("kept, and counted each: they repeat others under ids of their own (1)",)
