"""What the writers of requests share."""

from __future__ import annotations

from typing import Any

import msgspec

from isthmus.core.call import Call
from isthmus.core.errors import Fault, IsthmusError

# Budgets of thinking, in tokens, up to which an effort in words is meant.
_EFFORTS = ((2_048, "low"), (12_288, "medium"))


class RequestWriter:
    """One request in the making, for an endpoint of `dialect`; `dropped` names hints that were left out."""

    def __init__(self, call: Call, dialect: str) -> None:
        self._call = call
        self._native = call.dialect == dialect
        self.dropped: list[str] = []

    def _extra(self, extra: dict[str, Any], prefix: str) -> dict[str, Any]:
        """The caller's unknown fields where they are of this dialect; elsewhere nothing, and they are
        reported."""
        if self._native or not extra:
            return extra
        self.dropped += [f"{prefix}{name}" for name in extra]
        return {}


def effort_of(budget: int) -> str:
    """The effort in words that a budget of thinking, in tokens, comes nearest to."""
    return next((effort for limit, effort in _EFFORTS if budget <= limit), "high")


def written(body: dict[str, Any]) -> bytes:
    """The request as JSON; raises IsthmusError(INVALID_REQUEST) for text that UTF-8 cannot hold."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        raise IsthmusError(
            Fault.INVALID_REQUEST, "The request holds a lone surrogate.", code="malformed_json"
        ) from None


def unsupported(message: str, param: str) -> IsthmusError:
    """UNSUPPORTED: what `param` says has no word in the endpoint's dialect."""
    hint = "Leave it out, or choose a model of another provider."
    return IsthmusError(Fault.UNSUPPORTED, message, hint=hint, param=param)
