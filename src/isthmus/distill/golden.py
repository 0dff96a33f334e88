"""A golden set on the disk: a folder that is written whole or not at all, and is the same for the same rows.

train.jsonl  dev.jsonl  test.jsonl        our own form, each row with its provenance and its marks
train.messages.jsonl  ...                 the same for trainers: OpenAI's form for fine-tuning
card.json  card.md                        what it is made of, and what it is not good for
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.evaluation import Sample
from isthmus.distill.card import Card, card_report
from isthmus.distill.curation import Curated
from isthmus.distill.rows import Row
from isthmus.evals.datasets.dataset import Dataset
from isthmus.evals.datasets.samples import line_of
from isthmus.reports.markdown import markdown

PARTS = ("train", "dev", "test")
CARD = "card.json"

_OF_A_REQUEST = ("tools", "parallel_tool_calls", "response_format")
_encode = msgspec.json.Encoder(order="deterministic").encode


def write(folder: Path, curated: Curated, card: Card) -> None:
    """The folder appears with all of its files. Raises IsthmusError (`golden_exists`), and OSError."""
    if folder.exists():
        raise exists(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".new", dir=folder.parent))
    try:
        for name, content in _files(curated, card):
            _put(new / name, content)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def hashes_of(file: Path, dataset: Dataset) -> tuple[str, ...]:
    """The hashes that the dataset of this file is known by: its own, and as a part of a golden set the set's
    version, which stands on the card beside it."""
    try:
        card = msgspec.json.decode((file.parent / CARD).read_bytes(), type=Card)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return (dataset.hash,)
    is_part = any(part.hash == dataset.hash for part in card.parts.values())
    return (dataset.hash, card.hash) if is_part else (dataset.hash,)


def exists(folder: Path) -> IsthmusError:
    """The error (`golden_exists`) for a folder that would be overwritten."""
    return IsthmusError(
        Fault.INVALID_REQUEST,
        f"{folder} is there already, and is not overwritten.",
        code="golden_exists",
        hint="Name another folder: a golden set is a version, and versions stay as they are.",
    )


def fine_tuning_line(sample: Sample, row: Row) -> bytes:
    """The row as OpenAI's fine-tuning takes it: the conversation, with the golden answer as its last turn.

    Source: developers.openai.com/api/docs/guides/supervised-fine-tuning.
    """
    request = sample.request
    messages = [*request["messages"], row.message]
    return (
        _encode({**{name: request[name] for name in _OF_A_REQUEST if name in request}, "messages": messages})
        + b"\n"
    )


def _files(curated: Curated, card: Card) -> Iterator[tuple[str, bytes]]:
    for name, part in curated.parts.items():
        yield f"{name}.jsonl", b"".join(map(line_of, part.samples))
        yield f"{name}.messages.jsonl", _fine_tuning(part.samples, curated.rows)
    yield CARD, _encode(card) + b"\n"
    yield "card.md", markdown(card_report(card)).encode()


def _fine_tuning(samples: tuple[Sample, ...], rows: Mapping[str, Row]) -> bytes:
    return b"".join(fine_tuning_line(it, rows[it.id]) for it in samples)


def _put(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, down to the disk."""
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
