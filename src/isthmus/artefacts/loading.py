"""What an engine may load of a signed artefact: descriptors of the very bytes that were verified.

A name can be made to mean another file between the check and the use. So the engine gets descriptors, and the
bytes behind them are either changeable by this user and root alone, who could do anything anyway, or a
private copy. All of it is done anew before every start.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from isthmus.artefacts import declaration
from isthmus.artefacts.declaration import Declaration
from isthmus.artefacts.faults import ArtefactError, malformed, unverified
from isthmus.artefacts.formats import check_files
from isthmus.artefacts.manifest import ITSELF, Report, digests, followed, identity, opened
from isthmus.artefacts.verify import Verified, verified
from isthmus.core.portfolio import Signer


class Pinned(msgspec.Struct, frozen=True, kw_only=True):
    """An artefact, and whose signature on it counts.

    `sha256` is the identity that it must have besides: a signature does not tell which of its signer's
    artefacts is meant, nor that there is a newer one. `base` is the file of the weights that an adapter
    needs. `private` is a folder of this user's, for copies of what others could change.
    """

    path: Path
    signers: tuple[Signer, ...]
    base: Path | None = None
    private: Path
    sha256: str | None = None


class Loadable(NamedTuple):
    """Open files for an engine: weights, an adapter to them, and the template by which to speak.

    `identity` is the artefact's, `signer` and `fingerprint` are those of `Verified`.
    """

    weights: BinaryIO
    adapter: BinaryIO | None
    template: str | None
    identity: str
    signer: str
    fingerprint: str


@contextmanager
def loadable(
    pinned: Pinned, now: dt.datetime, report: Report = lambda done, total: None
) -> Iterator[Loadable]:
    """What the engine may load, while it is open. Raises ArtefactError.

    `artefact_unverified`: it is not what a trusted signer signed. `artefact_malformed`: it is, and cannot be
    loaded all the same. `artefact_base`: the base is not the one that the adapter was made for.
    `weights_changed`: it is signed, and not the one that is pinned.
    """
    if not sys.platform.startswith("linux"):
        raise ArtefactError(
            "artefact_unverified",
            "Only on Linux can an engine be given the very bytes that were verified.",
            "Run the gateway on Linux, or leave `signers` out.",
        )
    with verified(pinned.path, pinned.signers, now, private=pinned.private, report=report) as found:
        if pinned.sha256 not in (None, found.identity):
            raise ArtefactError(
                "weights_changed",
                f"{pinned.path} is signed, but it is the artefact {found.identity}, and not {pinned.sha256}.",
                "Put the right artefact back, or promote the other one: `isthmus models promote`.",
            )
        check_files(found.files)
        if found.files.keys() == {ITSELF}:
            yield _loadable(found, found.files[ITSELF], None, None)
            return
        said = _declared(found)
        weights = found.files[said.weights]
        if said.base is None or said.kind == "model":
            yield _loadable(found, weights, None, _template(found, said))
            return
        with _base(pinned, said.base, report) as base:
            yield _loadable(found, base, weights, _template(found, said))


def _loadable(found: Verified, weights: BinaryIO, adapter: BinaryIO | None, template: str | None) -> Loadable:
    return Loadable(weights, adapter, template, found.identity, found.signer, found.fingerprint)


def _declared(found: Verified) -> Declaration:
    where = found.path / declaration.FILE
    if declaration.FILE not in found.files:
        raise malformed(str(found.path), f"it has no {declaration.FILE}")
    said = declaration.read(found.files[declaration.FILE].read(declaration.MOST_BYTES + 1), str(where))
    if said.weights not in found.files or not said.weights.endswith(".gguf"):
        raise malformed(str(where), "its `weights` name no GGUF file of the artefact, which llama.cpp loads")
    return said


def _template(found: Verified, said: Declaration) -> str | None:
    if said.template is None:
        return None
    if found.digests.get(declaration.TEMPLATE) != said.template:
        raise unverified(str(found.path), f"{declaration.TEMPLATE} is not the template that is pinned")
    return found.files[declaration.TEMPLATE].read().decode()


@contextmanager
def _base(pinned: Pinned, wanted: declaration.Base, report: Report) -> Iterator[BinaryIO]:
    if pinned.base is None:
        raise ArtefactError(
            "artefact_base",
            f"{pinned.path} is an adapter to {wanted.name}, which the catalogue does not have.",
            f"Say `base:` in the model: the GGUF file with SHA-256 {wanted.sha256}.",
        )
    with ExitStack() as open_files:
        try:
            files = open_files.enter_context(opened(followed(pinned.base), pinned.private))
            found = identity(digests(files, report))
        except OSError as fault:
            raise ArtefactError(
                "artefact_base", f"The base {pinned.base} cannot be read: {fault.strerror or fault}."
            ) from None
        if found != wanted.sha256:
            raise ArtefactError(
                "artefact_base",
                f"{pinned.base} has the SHA-256 {found}, and the adapter was made for {wanted.sha256}.",
                f"Get the very file of {wanted.name} that it was made for: another quantisation is another.",
            )
        yield files[ITSELF]
