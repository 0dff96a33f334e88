"""Opening a dataset's file: which format it is, by its name and by what stands in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.evaluation import Sample
from isthmus.evals.datasets import samples, tables
from isthmus.evals.datasets.dataset import Dataset, dataset_of
from isthmus.evals.datasets.rows import Row, csv_rows, json_array, json_lines, parquet_rows

_PARQUET = b"PAR1"
_BOM = b"\xef\xbb\xbf"


def open_dataset(path: Path) -> Dataset:
    """The samples of a file, named by it.

    Raises IsthmusError: `bad_dataset`, which names the file, the line and what is wrong there,
    `dataset_unreadable` where the file cannot be read, `missing_extra` for Parquet without pyarrow.
    """
    left_out: Counter[str] = Counter()
    return dataset_of(path.name, _samples(path, left_out), left_out)


def _samples(path: Path, left_out: Counter[str]) -> Iterator[tuple[str, Sample]]:
    for where, value in _rows(path):
        yield where, samples.read(value, where, left_out)


def _rows(path: Path) -> Iterator[Row]:
    content = _content(path)
    suffix = path.suffix.lower()
    if content.startswith(_PARQUET):
        return _table(parquet_rows(path))
    if suffix in (".csv", ".tsv"):
        return _table(csv_rows(path, content))
    if content.lstrip()[:1] == b"[":
        return json_array(path, content)
    return json_lines(path, content)


def _table(rows: Iterator[Row]) -> Iterator[Row]:
    return (Row(where, tables.translate(value, where)) for where, value in rows)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes().removeprefix(_BOM)
    except OSError as error:
        raise IsthmusError(
            Fault.NOT_FOUND,
            f"The dataset {path} cannot be read: {error.strerror or error}.",
            code="dataset_unreadable",
            hint="Say the path of one file.",
        ) from error
