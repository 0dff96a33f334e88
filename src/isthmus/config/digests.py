"""Which weights a model has, by their SHA-256, where Isthmus loads them itself."""

from __future__ import annotations

import hashlib
from pathlib import Path

from isthmus.artefacts.manifest import digests, followed, identity, opened
from isthmus.catalog.weights import find_weights
from isthmus.config.paths import absolute
from isthmus.core.portfolio import Model


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
