"""Errors as Anthropic's clients expect them.

Source: platform.claude.com/docs/en/api/errors.
"""

from __future__ import annotations

from typing import Any

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.dialects import sse
from isthmus.dialects.faults import explain

_TYPES = {
    Fault.INVALID_REQUEST: "invalid_request_error",
    Fault.CONTEXT_TOO_LONG: "invalid_request_error",
    Fault.UNSUPPORTED: "invalid_request_error",
    Fault.UNAUTHENTICATED: "authentication_error",
    Fault.FORBIDDEN: "permission_error",
    Fault.NOT_PERMITTED: "permission_error",
    Fault.NOT_FOUND: "not_found_error",
    Fault.METHOD_NOT_ALLOWED: "invalid_request_error",
    Fault.TOO_LARGE: "request_too_large",
    Fault.RATE_LIMITED: "rate_limit_error",
    Fault.BUDGET_SPENT: "rate_limit_error",
    Fault.OVERLOADED: "overloaded_error",
    Fault.UNAVAILABLE: "overloaded_error",
    Fault.TIMEOUT: "timeout_error",
    Fault.TOOK_TOO_LONG: "timeout_error",
    Fault.CANCELLED: "invalid_request_error",
}
_STATUS = {"overloaded_error": 529}
"""Anthropic's own status for a type, where it differs from the one that the fault has elsewhere."""
# Clients that compact a long conversation by themselves look for these words.
_TOO_LONG = "prompt is too long"


def status_of(error: IsthmusError) -> int:
    """The HTTP status: the one that Anthropic documents for the error's type."""
    return _STATUS.get(_type(error), error.status)


def encode_error(error: IsthmusError, request_id: str) -> bytes:
    """The error's body: Anthropic's envelope, with the gateway's own `code` and `param` beside the type."""
    return msgspec.json.encode(_envelope(error, request_id))


def stream_error(error: IsthmusError, request_id: str) -> bytes:
    """The error as an `error` event."""
    return sse.encode("error", encode_error(error, request_id))


def _envelope(error: IsthmusError, request_id: str) -> dict[str, Any]:
    message = explain(error)
    if error.fault is Fault.CONTEXT_TOO_LONG and _TOO_LONG not in message:
        message = f"{_TOO_LONG}: {message}"
    said = {"type": _type(error), "message": message, "code": error.code}
    if error.param is not None:
        said["param"] = error.param
    return {"type": "error", "error": said, "request_id": request_id}


def _type(error: IsthmusError) -> str:
    return _TYPES.get(error.fault, "api_error")
