"""Secrets by reference: read when they are needed, kept nowhere in the config."""

from __future__ import annotations

import os
from pathlib import Path

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.portfolio import SecretRef


def resolve(secret: SecretRef) -> str:
    """The secret's text; of a file without the newline at its end.

    Raises IsthmusError (code `secret_unavailable`) for a variable or file that is missing, empty, unreadable
    or not one line of printable ASCII, which is what fits into a header. The message names the reference,
    never the value.
    """
    text = _from_environment(secret.name) if secret.source == "env" else _from_file(secret.name)
    if not text:
        raise _unavailable(f"{_described(secret)} is empty.")
    if not (text.isascii() and text.isprintable()):
        raise _unavailable(f"{_described(secret)} is not one line of printable ASCII.")
    return text


def _from_environment(name: str) -> str:
    text = os.environ.get(name)
    if text is None:
        raise _unavailable(f"The environment variable {name} is not set.", f"Set it: export {name}=...")
    return text


def _from_file(name: str) -> str:
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is not text"
        raise _unavailable(f"The secret file {name} cannot be read: {reason}.") from None
    return text.removesuffix("\n").removesuffix("\r")


def _described(secret: SecretRef) -> str:
    return (
        f"The environment variable {secret.name}"
        if secret.source == "env"
        else f"The secret file {secret.name}"
    )


def _unavailable(message: str, hint: str = "") -> IsthmusError:
    return IsthmusError(Fault.INTERNAL, message, code="secret_unavailable", hint=hint)
