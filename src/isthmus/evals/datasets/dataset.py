"""Samples that are one piece of work together, under a name and a hash."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

import msgspec

from isthmus.core.errors import IsthmusError
from isthmus.core.evaluation import Sample
from isthmus.evals.datasets.faults import refused
from isthmus.evals.datasets.samples import is_made, line_of


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """Samples with a name; no two have one id.

    `hash` is the SHA-256 of their lines in our own form (`samples.line_of`), sorted bytewise. The file's
    format and name, the order of keys and the order of samples do not change it, since runs are compared
    sample by sample. `notes` say what the file held that samples cannot carry.
    """

    name: str
    samples: tuple[Sample, ...]
    hash: str
    notes: tuple[str, ...] = ()


def dataset_of(name: str, found: Iterable[tuple[str, Sample]], left_out: Counter[str]) -> Dataset:
    """The dataset of samples, each with its place in a file; `left_out` is counted while they are read.

    Raises IsthmusError (`bad_dataset`) for none at all, and for two of one id.
    """
    samples: list[Sample] = []
    places: dict[str, str] = {}
    for where, sample in found:
        first = places.setdefault(sample.id, where)
        if first is not where:
            raise _twice(where, first, made=is_made(sample))
        samples.append(sample)
    if not samples:
        raise refused(
            name, "There is no sample in it.", 'Write one JSON object a line, such as {"input": ...}.'
        )
    notes = tuple(f"{what} ({count:,} of {len(samples):,} samples)" for what, count in left_out.items())
    return Dataset(name=name, samples=tuple(samples), hash=hash_of(samples), notes=notes)


def hash_of(samples: Iterable[Sample]) -> str:
    """The hash of a dataset of these samples: see `Dataset`."""
    whole = hashlib.sha256()
    for line in sorted(line_of(sample) for sample in samples):
        whole.update(line)
    return whole.hexdigest()


def _twice(where: str, first: str, *, made: bool) -> IsthmusError:
    if made:
        return refused(
            where,
            f"This asks for the same and wants the same as {first}.",
            "Take one of them away, or give each an `id`.",
        )
    return refused(where, f"This has the `id` of {first}.", "Give each sample an id of its own, or none.")
