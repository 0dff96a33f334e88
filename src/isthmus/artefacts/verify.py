"""Is an artefact, to the last byte and file, what a trusted signer has signed?

The signature of `FOLDER` is `FOLDER.sig` beside it, so that it covers everything within. There is no list of
files to ignore: one that was added, hidden ones too, is as wrong as one that was changed. A signature tells
nothing of newer ones: who wants no way back pins a version, by the artefact's path or its identity.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from isthmus.artefacts import signature
from isthmus.artefacts.faults import ArtefactError, unverified
from isthmus.artefacts.manifest import (
    ITSELF,
    Digests,
    Files,
    Report,
    beginning,
    digests,
    followed,
    identity,
    opened,
)
from isthmus.core.portfolio import Signer


class Verified(NamedTuple):
    """An artefact that is what it should be, while its files are open.

    What is read of `files` is what was hashed. `identity` is one hash for all of it, `signer` the file of the
    key or authority that is trusted, `fingerprint` that of the key which signed.
    """

    path: Path
    files: Files
    digests: Digests
    identity: str
    signer: str
    fingerprint: str


def signature_path(path: Path) -> Path:
    """Where the signature of the artefact is: beside it."""
    return path.with_name(f"{path.name}.sig")


@contextmanager
def verified(
    path: Path,
    signers: Sequence[Signer],
    now: dt.datetime,
    *,
    private: Path | None = None,
    report: Report = lambda done, total: None,
) -> Iterator[Verified]:
    """The artefact at `path`, verified. Raises ArtefactError: `artefact_unverified`, `artefact_malformed`.

    A link at `path` itself is followed first, since it is the operator's. For `private` see
    `manifest.opened`; with it bytes stay what they are for as long as the files are open. Certificates have
    to be valid `now`.
    """
    path = followed(path)
    with ExitStack() as open_files:
        try:
            seal = signature.checked(_signature(path), signers, now)
            files = open_files.enter_context(opened(path, private))
            found = digests(files, report)
        except OSError as fault:
            raise ArtefactError(
                "artefact_unverified",
                f"{path} cannot be verified: {fault.strerror or fault}"
                + (f" ({fault.filename})." if fault.filename else "."),
                "See that its files can be read, and that there is room to copy what others can change.",
            ) from None
        _compare(path, seal.digests, found)
        yield Verified(path, files, found, identity(found), seal.signer, seal.fingerprint)


def _signature(path: Path) -> bytes:
    beside = signature_path(path)
    try:
        return beginning(beside, signature.MOST_BYTES + 1)
    except FileNotFoundError:
        raise ArtefactError(
            "artefact_unverified",
            f"{path} is not signed: there is no file {beside.name} beside it.",
            f"Get its signature, or sign it: isthmus models sign {path} --key KEY",
        ) from None


def _compare(path: Path, signed: Digests, found: Digests) -> None:
    shown = {ITSELF: path.name}
    added = [shown.get(name, name) for name in found if name not in signed]
    missing = [shown.get(name, name) for name in signed if name not in found]
    changed = [shown.get(name, name) for name in found if signed.get(name, found[name]) != found[name]]
    wrong = [
        f"{word} {', '.join(map(ascii, names[:5]))}{' and others' if len(names) > 5 else ''}"
        for word, names in (("changed:", changed), ("added:", added), ("missing:", missing))
        if names
    ]
    if wrong:
        raise unverified(str(path), "; ".join(wrong))
