"""Which weights a model has, by their SHA-256, where Isthmus loads them itself."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeAlias

from isthmus.artefacts.manifest import digests, followed, identity, opened
from isthmus.catalog.weights import find_weights
from isthmus.config.paths import absolute
from isthmus.config.sighting import Sighting, sight
from isthmus.core.portfolio import Model
from isthmus.core.rollout import Version

Look: TypeAlias = tuple[tuple[str, Sighting | None], ...]
"""What a file, or a folder with all that is in it, looks like."""


def weights_sha256(model: Model, folder: Path = Path()) -> str | None:
    """The SHA-256 of the model's weights, of a signed artefact its identity; None where a provider has them.

    Blocks: a file of one's own, relative to `folder`, is read to the end. Raises OSError, and
    ArtefactError where a folder is none that could be signed.
    """
    if model.weights is None:
        return None
    if model.signers:
        with opened(followed(Path(absolute(model.weights, folder)))) as files:
            return identity(digests(files))
    row = find_weights(model.weights)
    if row is not None:
        return row.sha256
    with Path(absolute(model.weights, folder)).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Digests:
    """The versions that models are of. What is on the disk is read again only when it looks different."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Look, Version]] = {}

    def version(self, model: Model) -> Version:
        """The model's weights as a version. Blocks; raises OSError, and ArtefactError, where they cannot be
        read."""
        if model.weights is None or _is_in_catalogue(model):
            return Version(model.weights or model.id, weights_sha256(model))
        # Looked at before it is read: what is written meanwhile is read again next time.
        look = _look(Path(model.weights))
        seen, version = self._seen.get(model.weights, (None, None))
        if version is None or seen != look:
            version = Version(model.weights, weights_sha256(model))
            self._seen[model.weights] = (look, version)
        return version

    def remembered(self, model: Model) -> Version | None:
        """The same as it was last read, without a look into any file; None where none was read yet."""
        if model.weights is None or _is_in_catalogue(model):
            return self.version(model)
        _, version = self._seen.get(model.weights, (None, None))
        return version


def _is_in_catalogue(model: Model) -> bool:
    return not model.signers and find_weights(model.weights or "") is not None


def _look(path: Path) -> Look:
    """What a file looks like, or everything in a folder."""
    return tuple((str(it), sight(it)) for it in sorted([path, *path.rglob("*")]))
