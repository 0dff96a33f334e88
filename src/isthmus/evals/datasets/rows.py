"""What stands in a file, value by value, each with its place: JSON Lines, JSON arrays, CSV, Parquet."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.evals.datasets.faults import refused

_BYTE = re.compile(r"\(byte (\d+)\)")
_RAW_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_LONGEST_CELL = (1 << 31) - 1
_ROWS_AT_ONCE = 5_000


class Row(NamedTuple):
    """One decoded value, and where it stands: a file with a line, or what else leads there."""

    where: str
    value: Any


def json_lines(path: Path, content: bytes) -> Iterator[Row]:
    """The values of JSON Lines (jsonlines.org); empty lines are passed over."""
    for number, line in enumerate(io.BytesIO(content), 1):
        if not line.isspace():
            where = f"{path}:{number}"
            yield Row(where, decoded(line, where))


def json_array(path: Path, content: bytes) -> Iterator[Row]:
    """The elements of a JSON array, which are placed by the line where each begins."""
    at, line = 0, 1
    for raw in _raw_elements(path, content):
        element = bytes(raw)
        # Only white space and a comma stand between two elements: none can be found too early.
        begins = content.index(element, at)
        line += content.count(b"\n", at, begins)
        where = f"{path}:{line}"
        yield Row(where, decoded(element, where))
        at = begins + len(element)
        line += element.count(b"\n")


def _raw_elements(path: Path, content: bytes) -> list[msgspec.Raw]:
    try:
        return _RAW_ARRAY.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_json(_place_of(path, content, error), error) from None


def decoded(content: bytes, where: str) -> Any:
    """The value of JSON in UTF-8. Raises IsthmusError (`bad_dataset`)."""
    try:
        return msgspec.json.decode(content)
    except UnicodeDecodeError:
        raise refused(where, "This is not UTF-8.", "Save the file as UTF-8.") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise _not_json(where, error) from None


def _place_of(path: Path, content: bytes, error: Exception) -> str:
    found = _BYTE.search(str(error))
    return _line(path, content, int(found[1])) if found else str(path)


def _line(path: Path, content: bytes, at: int) -> str:
    lines_before = content.count(b"\n", 0, at)
    return f"{path}:{lines_before + 1}"


def _not_json(where: str, error: Exception) -> IsthmusError:
    deep = isinstance(error, RecursionError)
    reason = "nested too deeply" if deep else str(error).removeprefix("JSON is malformed: ")
    return refused(
        where,
        f"This cannot be read as JSON: {reason}.",
        "Was it cut off, or edited by hand? Datasets are JSONL, JSON, CSV, Parquet, or promptfoo's YAML.",
    )


def csv_rows(path: Path, content: bytes) -> Iterator[Row]:
    """The rows of a table (RFC 4180), by the names of its first row; what is empty is left out.

    Cells are separated by commas; by tabs in a .tsv, and by semicolons where the first line has no comma.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        where = _line(path, content, error.start)
        raise refused(where, "This is not UTF-8.", "Save the table as CSV in UTF-8.") from None
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(path, text), strict=True)
    names: list[str] | None = None
    while True:
        where = f"{path}:{reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise refused(
                where, f"This is not CSV: {error}.", "Look for a quote that is not closed."
            ) from None
        if not any(cells):
            continue
        if names is None:
            names = _names(where, cells)
        else:
            yield Row(where, _named(where, names, cells))


def _delimiter(path: Path, text: str) -> str:
    head = text.split("\n", 1)[0]
    if path.suffix.lower() == ".tsv":
        return "\t"
    return ";" if ";" in head and "," not in head else ","


def _names(where: str, cells: Sequence[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    for name in names:
        if not name or names.count(name) > 1:
            what = f"Two columns are named `{name}`." if name else "A column has no name."
            raise refused(where, what, "The first row must name every column, each by a name of its own.")
    return names


def _named(where: str, names: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    if len(cells) != len(names):
        raise refused(
            where,
            f"This row has {len(cells)} cells, the first row {len(names)}.",
            "Put a cell that holds a comma in double quotes.",
        )
    return {name: cell for name, cell in zip(names, cells, strict=True) if cell}


def parquet_rows(path: Path) -> Iterator[Row]:
    """The rows of a Parquet file, by the names of its columns; what is null is left out.

    Raises IsthmusError: `missing_extra` where pyarrow is not installed, `bad_dataset`.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise IsthmusError(
            Fault.UNSUPPORTED,
            "Parquet needs the package pyarrow, which is not installed.",
            code="missing_extra",
            hint="Install it with: pip install 'isthmus[parquet]'. Or use JSONL or CSV.",
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}: row {number}", as_json(row))
    except pa.ArrowException as error:
        raise refused(str(path), "This is not a whole Parquet file.", "Was it cut off?") from error


def as_json(value: Any) -> Any:
    """What JSON can hold of a cell: times as ISO 8601, bytes as base64; nulls and NaN are left out."""
    match value:
        case dict():
            return {str(name): as_json(it) for name, it in value.items() if it is not None and it == it}
        case list():
            return [as_json(it) for it in value]
        case float():
            return None if math.isnan(value) or math.isinf(value) else value
        case str() | bool() | int() | None:
            return value
    return msgspec.to_builtins(value)
