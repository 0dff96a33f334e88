"""Opening a dataset's file: which format it is, by its name and by what stands in it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.evaluation import Sample
from isthmus.evals.datasets import fine_tuning, inspect_ai, openai_evals, promptfoo, samples, tables
from isthmus.evals.datasets.dataset import Dataset, dataset_of
from isthmus.evals.datasets.faults import refused
from isthmus.evals.datasets.rows import Row, csv_rows, decoded, json_array, json_lines, parquet_rows
from isthmus.evals.datasets.samples import line_of
from isthmus.evals.datasets.yaml_file import load_yaml

_PARQUET = b"PAR1"
_ZIP = b"PK\x03\x04"
_BOM = b"\xef\xbb\xbf"
_AS_NAMED: Mapping[str, str] = MappingProxyType({})


def open_dataset(path: Path, named: Mapping[str, str] = _AS_NAMED, *, drop_doubles: bool = False) -> Dataset:
    """The samples of a file, named by it.

    `named` says which of the file's fields or columns is one of ours: `{"input": "question"}`. With
    `drop_doubles`, of samples that say the same the first is kept; else they are refused. Forms that are
    known: our own, tables (CSV, Parquet), and those of inspect-ai, promptfoo, OpenAI Evals and OpenAI's
    fine-tuning.

    Raises IsthmusError: `bad_dataset`, which names the file, the line and what is wrong there,
    `dataset_unreadable` where the file cannot be read, `missing_extra` for Parquet without pyarrow.
    """
    left_out: Counter[str] = Counter()
    return dataset_of(path.name, _samples(path, named, left_out), left_out, drop_doubles=drop_doubles)


def _samples(path: Path, named: Mapping[str, str], left_out: Counter[str]) -> Iterator[tuple[str, Sample]]:
    try:
        for where, value in _own_rows(path, named, left_out):
            yield where, samples.read(value, where, left_out)
    except OSError as error:
        raise IsthmusError(
            Fault.NOT_FOUND,
            f"The dataset {path} cannot be read: {error.strerror or error}.",
            code="dataset_unreadable",
            hint="Say the path of one file.",
        ) from error


def _own_rows(path: Path, named: Mapping[str, str], left_out: Counter[str]) -> Iterator[Row]:
    """What stands in the file, in our own form."""
    content = path.read_bytes().removeprefix(_BOM)
    suffix = path.suffix.lower()
    if content.startswith(_PARQUET):
        return _tables(parquet_rows(path), named, left_out)
    if content.startswith(_ZIP):
        raise refused(str(path), "This is an archive.", "Of an .eval log, make JSON first: inspect log dump.")
    if suffix in (".csv", ".tsv"):
        return _tables(csv_rows(path, content), named, left_out)
    if suffix in (".yaml", ".yml"):
        return _document(load_yaml(path), path, named, left_out)
    if content.lstrip()[:1] == b"[":
        return _objects(json_array(path, content), named, left_out)
    if suffix == ".json" and not _is_lines(content):
        return _document(decoded(content, str(path)), path, named, left_out)
    return _objects(json_lines(path, content), named, left_out)


def _is_lines(content: bytes) -> bool:
    """True where the first line is a JSON object of its own, and others follow."""
    first, _, rest = content.lstrip().partition(b"\n")
    return first.rstrip().endswith(b"}") and bool(rest.strip())


def _tables(rows: Iterator[Row], named: Mapping[str, str], left_out: Counter[str]) -> Iterator[Row]:
    for where, value in rows:
        cells = _renamed(value, named)
        if fine_tuning.recognises(cells):
            yield Row(where, fine_tuning.translate(cells, left_out))
        else:
            yield Row(where, tables.translate(cells, where))


def _document(document: Any, path: Path, named: Mapping[str, str], left_out: Counter[str]) -> Iterator[Row]:
    if named and (inspect_ai.is_log(document) or promptfoo.is_config(document)):
        raise refused(str(path), "This form has names of its own.", "Leave --input and --target out.")
    if inspect_ai.is_log(document):
        return (Row(*row) for row in inspect_ai.of_log(document, str(path), left_out))
    if promptfoo.is_config(document):
        return promptfoo.translate(document, path, left_out)
    values = document if isinstance(document, list) else [document]
    rows = (Row(f"{path}[{number}]", value) for number, value in enumerate(values))
    return _objects(rows, named, left_out)


def _objects(rows: Iterator[Row], named: Mapping[str, str], left_out: Counter[str]) -> Iterator[Row]:
    """Objects that may be of any form."""
    for where, value in rows:
        if isinstance(value, dict):
            yield Row(where, _translated(_renamed(value, named), where, left_out))
        else:
            yield Row(where, value)


def _translated(value: dict[str, Any], where: str, left_out: Counter[str]) -> dict[str, Any]:
    if openai_evals.recognises(value):
        return openai_evals.translate(value, where, left_out)
    if fine_tuning.recognises(value):
        return fine_tuning.translate(value, left_out)
    if promptfoo.is_test(value):
        raise refused(
            where, "This is a test of promptfoo without its prompt.", "Open the config that names it."
        )
    return inspect_ai.translate(value, left_out)


def _renamed(value: dict[str, Any], named: Mapping[str, str]) -> dict[str, Any]:
    """The fields under our names, those of an `item` too."""
    ours = {theirs: our for our, theirs in named.items() if theirs in value}
    # What had our name before, and is not meant, gives it up.
    kept = {name: it for name, it in value.items() if name not in ours.values() or name in ours}
    renamed = {ours.get(name, name): it for name, it in kept.items()}
    if named and isinstance(renamed.get("item"), dict):
        renamed["item"] = _renamed(renamed["item"], named)
    return renamed


def save(path: Path, samples: Iterable[Sample], mode: int = 0o600) -> int:
    """Writes samples in our own form to a new file, whole or not at all; returns how many.

    Raises IsthmusError (`dataset_exists`) rather than overwrite a file, and OSError.
    """
    if path.exists():
        raise exists(path)
    new, count = path.with_name(f".{path.name}.{os.getpid()}.new"), 0
    try:
        with os.fdopen(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as out:
            for sample in samples:
                out.write(line_of(sample))
                count += 1
        new.chmod(mode)
        new.rename(path)
    finally:
        new.unlink(missing_ok=True)
    return count


def exists(path: Path) -> IsthmusError:
    """The error (`dataset_exists`) for a file that would be overwritten."""
    return IsthmusError(
        Fault.INVALID_REQUEST,
        f"{path} is there already, and is not overwritten.",
        code="dataset_exists",
        hint="Name another file, or move that one away.",
    )
