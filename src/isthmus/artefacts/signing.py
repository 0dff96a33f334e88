"""To sign an artefact: it is looked through first, since a signature is a word that it may be served."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from isthmus.artefacts import declaration, keys
from isthmus.artefacts.bom import bill
from isthmus.artefacts.declaration import Declaration
from isthmus.artefacts.faults import ArtefactError, malformed
from isthmus.artefacts.formats import check_files
from isthmus.artefacts.manifest import (
    ITSELF,
    MOST_FILES,
    Digests,
    Files,
    Report,
    digests,
    followed,
    identity,
    opened,
)
from isthmus.artefacts.signature import signed
from isthmus.artefacts.template import Finding, lint, templates_of
from isthmus.artefacts.verify import signature_path

_WITHOUT_ROLE = frozenset({declaration.FILE, declaration.BOM})


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """What was signed: the signature's file, the artefact's identity, the key, and what to read once more."""

    signature: str
    identity: str
    fingerprint: str
    files: int
    template: str | None
    noted: tuple[Finding, ...]


def sign(
    path: Path,
    private: keys.PrivateKey,
    chain: Sequence[bytes] = (),
    *,
    accepted_template: str | None = None,
    report: Report = lambda done, total: None,
) -> Signed:
    """Look the artefact through, write its bill of materials into it, and its signature beside it.

    `accepted_template` is the SHA-256 of a chat template that is served in spite of grave findings. `chain`
    is the key's certificate and those between it and its authority (DER). Raises ArtefactError, and OSError.
    """
    path = followed(path)
    fingerprint = keys.fingerprint(private.public_key())
    with opened(path) as files:
        found = digests(files, report)
        check_files(files)
        noted = _template_findings(files, found, accepted_template)
        said = None if files.keys() == {ITSELF} else _declared(path, files, found)
    if said is not None:
        if len(found.keys() | {declaration.BOM}) > MOST_FILES:
            raise malformed(str(path), f"with {declaration.BOM} it has more than {MOST_FILES} files")
        written = bill(said, found, fingerprint)
        _replace(path / declaration.BOM, written, path.parent)
        # What is signed is what was hashed above, even if somebody changes a file meanwhile.
        found = {**found, declaration.BOM: hashlib.sha256(written).hexdigest()}
    _replace(signature_path(path), signed(path.name, found, private, chain), path.parent)
    return Signed(
        signature=str(signature_path(path)),
        identity=identity(found),
        fingerprint=fingerprint,
        files=len(found),
        template=said.template if said is not None else None,
        noted=tuple(noted),
    )


def _declared(path: Path, files: Files, found: Digests) -> Declaration:
    """What artefact.json says, where it is true of the files."""
    where = str(path / declaration.FILE)
    if declaration.FILE not in files:
        declaration.of_folder(path)
    said = declaration.read(files[declaration.FILE].read(), where)
    unnamed = [name for name in files if name not in said.files and name not in _WITHOUT_ROLE]
    missing = [name for name in said.files if name not in files and name != declaration.BOM]
    if unnamed or missing:
        what = f"has no role for {unnamed[0]!r}" if unnamed else f"names {missing[0]!r}, which is not there"
        raise malformed(where, f"`files` {what}")
    if said.template is not None and found[declaration.TEMPLATE] != said.template:
        raise malformed(where, f"`template` is not the SHA-256 of {declaration.TEMPLATE}")
    return said


def _template_findings(files: Files, found: Digests, accepted: str | None) -> list[Finding]:
    templates = templates_of(files)
    if len(set(templates.values())) > 1:
        raise ArtefactError(
            "template_differs",
            f"The chat templates in {' and '.join(templates)} differ: which is served?",
            "Keep the one that the model was trained with in all of these places.",
        )
    findings = [it for text in list(templates.values())[:1] for it in lint(text)]
    grave = [it for it in findings if it.grave]
    if grave and (accepted is None or accepted != found.get(declaration.TEMPLATE, found.get(ITSELF))):
        first = grave[0]
        raise ArtefactError(
            "template_grave",
            f"The chat template is not signed: on line {first.line} {first.what}"
            + (f" (and {len(grave) - 1} more)." if len(grave) > 1 else "."),
            "Take the publisher's own template. If you have read it and trust it, say --accept-template with "
            "the SHA-256 of chat_template.jinja (of the file, where it is a single GGUF).",
        )
    return findings


def _replace(path: Path, content: bytes, staging: Path) -> None:
    """Write a file at once and whole. A crash leaves the old one, and what was begun in `staging`: in an
    artefact it would be a file that nobody signed."""
    with tempfile.NamedTemporaryFile(dir=staging, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink()
            raise
