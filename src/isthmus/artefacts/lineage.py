"""Who descends from whom: bases, datasets and teachers of artefacts, and what a quarantined one poisons.

A name proves nothing: artefacts and datasets are known by their hashes, and of a teacher that is only known
by its provider, surface and model, that is what is compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from isthmus.artefacts.declaration import Declaration, Teacher

Kind: TypeAlias = Literal["base", "dataset", "teacher"]


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """An artefact at hand: its folder, its identity, the hash of its weights, and its own words."""

    folder: str
    identity: str
    weights: str
    said: Declaration


class Ancestor(msgspec.Struct, frozen=True, kw_only=True):
    """What an artefact was made from: its kind, its name, by what it is known, and what that was made from.

    `quarantined` is what it was found by in the list of the quarantined, None where it was not.
    """

    kind: Kind
    name: str
    known_by: tuple[str, ...]
    quarantined: str | None = None
    ancestors: tuple[Ancestor, ...] = ()


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """An artefact and its ancestors. `poisoned_by` are the quarantined ones, itself included."""

    folder: str
    name: str
    identity: str
    ancestors: tuple[Ancestor, ...]
    poisoned_by: tuple[str, ...]


def lineages(known: Sequence[Known], quarantined: Collection[str]) -> list[Lineage]:
    """The lineage of each artefact, as far as those at hand tell.

    `quarantined` are hashes (of an artefact, its weights or a dataset), and teachers: `PROVIDER`,
    `PROVIDER/SURFACE`, `PROVIDER/SURFACE/MODEL`, with `*` for a surface that nobody said.
    """
    by_hash = {key: it for it in known for key in (it.weights, it.identity)}
    found = []
    for it in known:
        ancestors = tuple(_ancestors(it.said, by_hash, frozenset(quarantined), (it.identity,)))
        poison = [_quarantine((it.identity, it.weights), quarantined), *_poison(ancestors)]
        found.append(
            Lineage(
                folder=it.folder,
                name=it.said.name,
                identity=it.identity,
                ancestors=ancestors,
                poisoned_by=tuple(dict.fromkeys(each for each in poison if each is not None)),
            )
        )
    return found


def _ancestors(
    said: Declaration, by_hash: Mapping[str, Known], quarantined: frozenset[str], seen: tuple[str, ...]
) -> Iterator[Ancestor]:
    if said.base is not None:
        keys = [said.base.sha256, said.base.artefact]
        yield _ancestor("base", said.base.name, keys, by_hash, quarantined, seen)
    for dataset in said.datasets:
        yield _ancestor(
            "dataset", dataset.name, [dataset.sha256, *dataset.made_from], by_hash, quarantined, seen
        )
    for teacher in said.teachers:
        keys = [*_names(teacher), teacher.artefact]
        yield _ancestor("teacher", teacher.model, keys, by_hash, quarantined, seen)


def _ancestor(
    kind: Kind,
    name: str,
    keys: Sequence[str | None],
    by_hash: Mapping[str, Known],
    quarantined: frozenset[str],
    seen: tuple[str, ...],
) -> Ancestor:
    known_by = tuple(key for key in keys if key is not None)
    parent = next((by_hash[key] for key in known_by if key in by_hash), None)
    if parent is not None:
        known_by = tuple(dict.fromkeys((*known_by, parent.weights, parent.identity)))
    # Hashes cannot run in a circle, but what somebody wrote into artefact.json can.
    fresh = parent is not None and parent.identity not in seen
    return Ancestor(
        kind=kind,
        name=name,
        known_by=known_by,
        quarantined=_quarantine(known_by, quarantined),
        ancestors=tuple(_ancestors(parent.said, by_hash, quarantined, (*seen, parent.identity)))
        if parent is not None and fresh
        else (),
    )


def _names(teacher: Teacher) -> list[str]:
    """By which entries of a list a teacher is meant: the provider, its surface, the model there."""
    where = f"{teacher.provider}/{teacher.surface or '*'}"
    return [f"{where}/{teacher.model}", where, teacher.provider]


def _quarantine(known_by: Sequence[str], quarantined: Collection[str]) -> str | None:
    return next((key for key in known_by if key in quarantined), None)


def _poison(ancestors: Sequence[Ancestor]) -> Iterator[str]:
    for ancestor in ancestors:
        if ancestor.quarantined is not None:
            yield ancestor.quarantined
        yield from _poison(ancestor.ancestors)
