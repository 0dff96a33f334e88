"""Samples that are one piece of work together, under a name and a hash."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from isthmus.core.errors import IsthmusError
from isthmus.core.evaluation import Sample
from isthmus.evals.datasets.faults import refused
from isthmus.evals.datasets.samples import line_of, made_id


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


def dataset_of(
    name: str, found: Iterable[tuple[str, Sample]], left_out: Counter[str], *, drop_doubles: bool = False
) -> Dataset:
    """The dataset of samples, each with its place in a file; `left_out` is counted while they are read.

    Raises IsthmusError (`bad_dataset`) for none at all, and for two of one id; with `drop_doubles`, of those
    that ask for the same and want the same the first is kept, as sensitive as any of them, and the others are
    counted.
    """
    by_id: dict[str, Sample] = {}
    places: dict[str, str] = {}
    for where, sample in found:
        known = by_id.get(sample.id)
        if known is None:
            places[sample.id], by_id[sample.id] = where, sample
            continue
        if not (drop_doubles and _is_made(sample)):
            raise _twice(where, places[sample.id], sample)
        left_out["dropped: they ask for the same and want the same as others"] += 1
        by_id[sample.id] = msgspec.structs.replace(known, label=known.label.join(sample.label))
    samples = tuple(by_id.values())
    if not samples:
        raise refused(
            name, "There is no sample in it.", 'Write one JSON object a line, such as {"input": ...}.'
        )
    left_out["kept, and counted each: they repeat others under ids of their own"] += _repeats(samples)
    notes = tuple(f"{what} ({count:,})" for what, count in left_out.items() if count)
    return Dataset(name=name, samples=samples, hash=hash_of(samples), notes=notes)


def hash_of(samples: Iterable[Sample]) -> str:
    """The hash of a dataset of these samples: see `Dataset`."""
    whole = hashlib.sha256()
    for line in sorted(line_of(sample) for sample in samples):
        whole.update(line)
    return whole.hexdigest()


def once_each(dataset: Dataset) -> Dataset:
    """The dataset without samples that repeat others under ids of their own: a repeat proves nothing anew.

    What is kept is as sensitive as any of them. The hash stays, and the notes say that alone.
    """
    first: dict[str, Sample] = {}
    for it in dataset.samples:
        content = made_id(it.request, it.target, it.choices)
        known = first.get(content, it)
        first[content] = msgspec.structs.replace(known, label=known.label.join(it.label))
    repeats = len(dataset.samples) - len(first)
    notes = (
        (f"{repeats:,} samples of {dataset.name} repeat others, and are counted once.",) if repeats else ()
    )
    return msgspec.structs.replace(dataset, samples=tuple(first.values()), notes=notes)


def _repeats(samples: Sequence[Sample]) -> int:
    """How many samples beyond the first ask for the same and want the same as another."""
    return len(samples) - len({made_id(it.request, it.target, it.choices) for it in samples})


def _is_made(sample: Sample) -> bool:
    return sample.id == made_id(sample.request, sample.target, sample.choices)


def _twice(where: str, first: str, sample: Sample) -> IsthmusError:
    if _is_made(sample):
        return refused(
            where,
            f"This asks for the same and wants the same as {first}.",
            "Take one away, give each an `id`, or import the file with --drop-doubles.",
        )
    return refused(where, f"This has the `id` of {first}.", "Give each sample an id of its own, or none.")
