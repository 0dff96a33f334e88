"""Errors as OpenAI's clients expect them."""

from __future__ import annotations

from typing import Any

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.dialects.faults import explain

_TYPES = {
    Fault.UNAUTHENTICATED: "authentication_error",
    Fault.FORBIDDEN: "permission_error",
    Fault.NOT_PERMITTED: "permission_error",
    Fault.NOT_FOUND: "not_found_error",
    Fault.RATE_LIMITED: "rate_limit_error",
    Fault.BUDGET_SPENT: "insufficient_quota",
    Fault.TIMEOUT: "timeout_error",
    Fault.TOOK_TOO_LONG: "timeout_error",
}


def encode_error(error: IsthmusError, request_id: str) -> bytes:
    """The error's body."""
    return msgspec.json.encode(_body(error, request_id))


def error_event(error: IsthmusError, request_id: str) -> bytes:
    """The error as the last event of a stream: the official client raises it from the field `error`."""
    return b"data: %b\n\n" % encode_error(error, request_id)


def _body(error: IsthmusError, request_id: str) -> dict[str, Any]:
    kind = _TYPES.get(error.fault) or ("invalid_request_error" if error.status < 500 else "server_error")
    return {
        "error": {"message": explain(error), "type": kind, "param": error.param, "code": error.code},
        "request_id": request_id,
    }
