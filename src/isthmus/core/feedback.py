"""What people thought of an answer, and what it should have been."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from isthmus.core.errors import Fault, IsthmusError

LONGEST_CORRECTION = 100_000
"""So many characters may an answer have that somebody puts right."""

LONGEST_COMMENT = 10_000
"""So many characters may a comment have."""

MOST_METADATA = 16
"""So many pairs of metadata may there be."""

LONGEST_NAME, LONGEST_VALUE = 64, 512
"""So many characters may a name and a value of the metadata have, as in OpenAI's API."""

THUMBS = {"up": 1.0, "down": 0.0}
"""What a thumb is worth as a score."""


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody said of the answer to one request. Appended once, immutable.

    `score` is from 0 (worthless) to 1 (as good as can be), None where none was given. `correction` is the
    answer as it should have been, `comment` says what one likes. `key_id` is the key by which it came, None
    from the gateway's own machine; `judge` is the model that gave the score, None where people did. Both
    texts may be as sensitive as the request: they never reach a log.
    """

    id: str
    record_id: str
    at_us: int
    key_id: str | None = None
    judge: str | None = None
    score: float | None = None
    correction: str | None = None
    comment: str | None = None
    metadata: dict[str, str] = {}


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What all feedback on one answer comes to: of each thing the last that was said, by people first.

    `judge` is the model that gave the score, None where people did.
    """

    score: float | None = None
    judge: str | None = None
    correction: str | None = None
    comment: str | None = None


def verdict(of: Iterable[Feedback]) -> Verdict:
    """The verdict of one answer's feedback, whatever its order."""
    said: dict[str, str | float] = {}
    judge: str | None = None
    for one in sorted(of, key=lambda it: (it.judge is None, it.at_us, it.id)):
        known = {"score": one.score, "correction": one.correction, "comment": one.comment}
        said |= {name: value for name, value in known.items() if value is not None}
        if one.score is not None:
            judge = one.judge
    return msgspec.convert(said | {"judge": judge}, Verdict)


def require_sound(feedback: Feedback) -> None:
    """Raises IsthmusError (INVALID_REQUEST, `param`) for feedback that says nothing, or too much."""
    if feedback.score is None and not feedback.correction and not feedback.comment:
        raise _unsound("score", "Feedback needs a score, a thumb, a correction or a comment.")
    if feedback.score is not None and not 0 <= feedback.score <= 1:
        raise _unsound("score", "`score` must be a number from 0 to 1.")
    for name, most in (("correction", LONGEST_CORRECTION), ("comment", LONGEST_COMMENT)):
        if len(getattr(feedback, name) or "") > most:
            raise _unsound(name, f"`{name}` must have at most {most:,} characters.")
    metadata = feedback.metadata
    if len(metadata) > MOST_METADATA:
        raise _unsound("metadata", f"`metadata` must have at most {MOST_METADATA} pairs.")
    if any(len(name) > LONGEST_NAME or len(value) > LONGEST_VALUE for name, value in metadata.items()):
        longest = f"{LONGEST_NAME} characters, values at most {LONGEST_VALUE}"
        raise _unsound("metadata", f"Names in `metadata` must have at most {longest}.")


def _unsound(field: str, message: str) -> IsthmusError:
    return IsthmusError(Fault.INVALID_REQUEST, message, code="invalid_feedback", param=field)
