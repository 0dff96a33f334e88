"""Parts of a dataset that do not know of each other: what is tuned on one is not tested by its own double."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.evaluation import Sample
from isthmus.evals.datasets.dataset import Dataset, hash_of
from isthmus.evals.datasets.near_duplicates import Tell, groups_of
from isthmus.evals.datasets.samples import made_id

_WHOLE = 1 << 64


class Division(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a dataset by their names, and what was kept together for it.

    `groups` counts the groups of near-duplicates, single samples among them; `doubles` the samples beyond the
    first of each group; `largest` the samples of the largest one.
    """

    parts: dict[str, Dataset]
    groups: int
    doubles: int
    largest: int


def split(
    dataset: Dataset,
    shares: Mapping[str, float],
    seed: int = 0,
    by: str | None = None,
    tell: Tell = lambda _: None,
) -> Division:
    """The dataset in parts of about these shares, such that no near-duplicates are in two parts.

    Near-duplicates, and theirs, go together (`near_duplicates`). Where a group goes is drawn from the hash of
    the seed and of its content alone, so that a sample which comes later moves none but its own
    near-duplicates, as long as the same pairs of words are those of the template. With `by`, the name of a
    field of the metadata, each of its values is divided by the shares as exactly as its groups allow; a later
    sample may then move groups at the borders. Shares are made to sum up to 1. `tell` hears of the steps: see
    `groups_of`.

    Raises IsthmusError (`bad_split`) for shares that are none, and for a field that no sample has.
    """
    _require(dataset, shares, by)
    groups = _groups(dataset.samples, tell)
    drawn = sorted((_draw(seed, group), place) for place, group in enumerate(groups))
    strata: defaultdict[str, list[tuple[int, Sequence[Sample]]]] = defaultdict(list)
    for chance, place in drawn:
        strata["" if by is None else _value(groups[place][0], by)].append((chance, groups[place]))
    found: dict[str, list[Sample]] = {name: [] for name in shares}
    for stratum in strata.values():
        for name, group in _by_rank(stratum, shares) if by is not None else _by_chance(stratum, shares):
            found[name] += group
    return Division(
        parts={name: _part(dataset, name, samples) for name, samples in found.items()},
        groups=len(groups),
        doubles=len(dataset.samples) - len(groups),
        largest=max(map(len, groups)),
    )


def _require(dataset: Dataset, shares: Mapping[str, float], by: str | None) -> None:
    if not shares or not all(0 < share < float("inf") for share in shares.values()):
        raise _bad(
            "The shares of a split must be numbers above 0.", "Leave out the parts that you do not want."
        )
    if by is not None and not any(by in sample.metadata for sample in dataset.samples):
        known = sorted({name for sample in dataset.samples for name in sample.metadata})
        raise _bad(
            f"No sample has `{by}` in its metadata.",
            f"There are: {', '.join(known[:12])}." if known else "No sample has any metadata.",
        )


def _groups(samples: Sequence[Sample], tell: Tell) -> list[list[Sample]]:
    """The groups of near-duplicates; first in each is the sample that speaks for it."""
    members: defaultdict[int, list[Sample]] = defaultdict(list)
    for sample, first in zip(samples, groups_of(samples, tell), strict=True):
        members[first].append(sample)
    return [sorted(group, key=_content_id) for group in members.values()]


def _content_id(sample: Sample) -> tuple[str, str]:
    return made_id(sample.request, sample.target, sample.choices), sample.id


def _draw(seed: int, group: Sequence[Sample]) -> int:
    """A number below `_WHOLE`, by chance, and always the same for this group."""
    content, identity = _content_id(group[0])
    return int.from_bytes(hashlib.sha256(f"{seed}:{content}:{identity}".encode()).digest()[:8])


def _value(sample: Sample, by: str) -> str:
    return msgspec.json.encode(sample.metadata.get(by), order="deterministic").decode()


def _by_chance(
    groups: Sequence[tuple[int, Sequence[Sample]]], shares: Mapping[str, float]
) -> Iterator[tuple[str, Sequence[Sample]]]:
    for chance, group in groups:
        yield _part_at(chance / _WHOLE, shares), group


def _by_rank(
    groups: Sequence[tuple[int, Sequence[Sample]]], shares: Mapping[str, float]
) -> Iterator[tuple[str, Sequence[Sample]]]:
    """In the order of their draws, as many samples for each part as its share says."""
    total, before = sum(len(group) for _, group in groups), 0
    for _, group in groups:
        yield _part_at((before + len(group) / 2) / total, shares), group
        before += len(group)


def _part_at(place: float, shares: Mapping[str, float]) -> str:
    """The part that holds this place between 0 and 1."""
    ends = list(accumulate(shares.values()))
    # Rounding may leave the last place just outside.
    number = min(bisect_right(ends, place * ends[-1]), len(ends) - 1)
    return list(shares)[number]


def _part(dataset: Dataset, name: str, samples: list[Sample]) -> Dataset:
    places = {sample.id: place for place, sample in enumerate(dataset.samples)}
    ordered = sorted(samples, key=lambda sample: places[sample.id])
    return Dataset(name=f"{dataset.name}:{name}", samples=tuple(ordered), hash=hash_of(ordered))


def _bad(what: str, hint: str) -> IsthmusError:
    return IsthmusError(Fault.INVALID_REQUEST, what, code="bad_split", hint=hint)
