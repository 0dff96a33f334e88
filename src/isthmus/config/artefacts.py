"""Files that were learned, as a config names them: read once, tied to the state of things they hold for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

import msgspec

from isthmus.config.digests import weights_sha256
from isthmus.config.faults import Code
from isthmus.config.paths import absolute
from isthmus.core.portfolio import Model, Provider

canonical = msgspec.json.Encoder(order="deterministic").encode


class UnusableError(Exception):
    """Why a file cannot be used: the code, the message and the hint of a fault."""


def content_of(file: str, folder: FilePath, *, most: int, word: str) -> bytes:
    """What stands in the file, which leads from the folder; `word` is the key that names it. Raises
    UnusableError."""
    try:
        with FilePath(absolute(file, folder)).open("rb") as opened:
            content = opened.read(most + 1)
    except FileNotFoundError:
        hint = f"Leave `{word}` out, run `isthmus calibrate` for this route, and say it then."
        raise UnusableError(Code.FILE_NOT_FOUND, f"There is no file {file}.", hint) from None
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror or 'unknown error'}."
        raise UnusableError(Code.UNUSABLE_FILE, message, "") from None
    if len(content) > most:
        raise UnusableError(Code.UNUSABLE_FILE, f"{file} is too long for a file under `{word}`.", "")
    return content


def identity(model: Model, folder: FilePath) -> str:
    """The SHA-256 of the model's weights, or its provider's id where nobody can know more. Raises OSError."""
    return weights_sha256(model, folder) or model.id


def speech(provider: Provider) -> list[Any]:
    """What of a provider decides about its models' answers."""
    return [provider.wires, provider.base_url, provider.query, sorted(provider.quirks), provider.engine]


def digest(value: Any) -> str:
    """The SHA-256 of a value as canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


def spoken_to(names: tuple[str, ...], models: Mapping[str, Model], providers: Mapping[str, Provider]) -> str:
    """The digest of who these models are and how they are spoken to."""
    return digest([names, *(speech(providers[models[it].provider]) for it in names)])
