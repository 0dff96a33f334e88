"""`signers:` and `sha256:` of a model → what its weights have to be, and whether they are there at all."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path as FilePath

from isthmus.artefacts import keys
from isthmus.artefacts.declaration import of_folder
from isthmus.artefacts.faults import ArtefactError
from isthmus.catalog.weights import WEIGHTS, find_weights
from isthmus.config.document import ModelEntry
from isthmus.config.faults import Code
from isthmus.config.paths import absolute, is_file, is_folder
from isthmus.config.tree import Path
from isthmus.core.portfolio import Provider, Signer
from isthmus.providers.engines.weights_file import IN_PARTS

_SHA256 = re.compile("[0-9a-f]{64}")

Add = Callable[[Code, str, str, Path], None]


def compile_signers(
    entry: ModelEntry, provider: Provider, path: Path, folder: FilePath, add: Add
) -> tuple[Signer, ...]:
    """Whose signature counts, read once: a key that is exchanged later does not.

    Whether an artefact is what they have signed is seen before every start of its engine, not here.
    """
    if entry.signers is None:
        if entry.base is not None:
            message = "`base` is for a signed adapter, and nobody has to sign these weights."
            add(Code.CONFLICT, message, "Say `signers:`, or remove it.", (*path, "base"))
        return ()
    if provider.engine is None:
        message = f"`{provider.name}` loads its own weights, so nobody here can verify what it serves."
        hint = "Remove `signers`, or let Isthmus run the engine: `engine: builtin`."
        add(Code.CONFLICT, message, hint, (*path, "signers"))
        return ()
    if not entry.signers:
        message = "`signers` names nobody, so that no weights would ever be served."
        add(Code.MISSING, message, "Name a public key, or leave it out.", (*path, "signers"))
    _check_artefact(entry, path, folder, add)
    found = (_signer(file, (*path, "signers", at), folder, add) for at, file in enumerate(entry.signers))
    return tuple(signer for signer in found if signer is not None)


def compile_pin(entry: ModelEntry, provider: Provider, path: Path, add: Add) -> str | None:
    """The identity that the weights must have; None where nobody says."""
    if entry.sha256 is None:
        return None
    place = (*path, "sha256")
    if provider.engine is None:
        message = f"`{provider.name}` loads its own weights, so nobody here can see what it serves."
        add(Code.CONFLICT, message, "Remove it, or let Isthmus run the engine: `engine: builtin`.", place)
    elif entry.weights is None or find_weights(entry.weights) is not None:
        message = "The catalogue knows the hash of these weights already."
        add(Code.CONFLICT, message, "Remove it, or name a file or an artefact under `weights`.", place)
    elif IN_PARTS.fullmatch(entry.weights) is not None:
        message = f"{entry.weights} is one of several files, and its hash says nothing of the others."
        hint = "Merge them (`llama-gguf-split --merge`), or sign their folder: isthmus models sign."
        add(Code.CONFLICT, message, hint, place)
    elif _SHA256.fullmatch(entry.sha256) is None:
        message = "This is no SHA-256: 64 digits and small letters from a to f."
        add(Code.WRONG_TYPE, message, "See `isthmus models verify`, or `sha256sum` of a file.", place)
    return entry.sha256


def _signer(file: str, place: Path, folder: FilePath, add: Add) -> Signer | None:
    if not is_file(file, folder):
        add(Code.FILE_NOT_FOUND, f"There is no file {file}.", "Make a key: isthmus models keygen NAME", place)
        return None
    try:
        with FilePath(absolute(file, folder)).open("rb") as opened:
            content = opened.read(keys.MOST_BYTES).decode(errors="replace")
    except OSError as error:
        add(Code.UNUSABLE_FILE, f"{file} cannot be read: {error.strerror or 'unknown error'}.", "", place)
        return None
    try:
        return keys.signer(content, file)
    except ArtefactError as error:
        code = Code.SECRET_IN_CLEAR if keys.is_private(content) else Code.UNUSABLE_FILE
        add(code, error.message, error.hint, place)
        return None


def _check_artefact(entry: ModelEntry, path: Path, folder: FilePath, add: Add) -> None:
    place = (*path, "weights")
    if entry.weights is None or find_weights(entry.weights) is not None:
        # Pinned by their hash; who signs is asked of the artefacts that are promoted in their place.
        return
    if entry.base is not None and not is_file(entry.base, folder):
        add(Code.FILE_NOT_FOUND, f"There is no file {entry.base}.", "", (*path, "base"))
    if is_file(entry.weights, folder):
        return
    if not is_folder(entry.weights, folder):
        hint = "Relative paths are relative to the config file."
        add(Code.FILE_NOT_FOUND, f"There is no file or folder {entry.weights}.", hint, place)
        return
    try:
        base = of_folder(FilePath(absolute(entry.weights, folder))).base
    except ArtefactError as error:
        add(Code.UNUSABLE_FILE, error.message, error.hint, place)
        return
    if base is not None and entry.base is None and all(row.sha256 != base.sha256 for row in WEIGHTS):
        message = f"The artefact needs the base {base.name}, which the catalogue does not have."
        hint = f"Say `base:` with the path of the GGUF file whose SHA-256 is {base.sha256}."
        add(Code.MISSING, message, hint, path)
