"""How a dataset's file is refused: with the place, what is wrong there, and what to do."""

from __future__ import annotations

from isthmus.core.errors import Fault, IsthmusError


def refused(where: str, what: str, hint: str = "") -> IsthmusError:
    """The error (`bad_dataset`) for what stands at `where`, a file with a line or the like.

    `what` never quotes a text: it may be somebody's prompt.
    """
    return IsthmusError(Fault.INVALID_REQUEST, f"{where}: {what}", code="bad_dataset", hint=hint)
