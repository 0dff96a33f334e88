"""What is wrong with an artefact, in words."""

from __future__ import annotations

from isthmus.core.errors import Fault, IsthmusError


class MalformedWeightsError(ValueError):
    """The file is not what it is taken for; the text says in which way and begins in lower case."""


class ArtefactError(IsthmusError):
    """The artefact cannot be used; nothing of it may be loaded."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(Fault.UNAVAILABLE, message, code=code, hint=hint)


def malformed(what: str, why: str) -> ArtefactError:
    """`what` is not what it is taken for; `why` begins in lower case."""
    return ArtefactError("artefact_malformed", f"{what} cannot be used: {why}.")


def unverified(what: str, why: str, hint: str = "") -> ArtefactError:
    """`what` is not vouched for as it is; `why` begins in lower case."""
    return ArtefactError(
        "artefact_unverified",
        f"{what} is not what its signer signed: {why}.",
        hint or "Get the artefact anew from whoever signed it; sign it yourself only if you know the change.",
    )
