"""Errors of the Responses API: as bodies, as events of a stream, and inside a failed response.

Source: developers.openai.com/api/reference/resources/responses/streaming-events (error, response.failed).
"""

from __future__ import annotations

from typing import Any

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.dialects import faults, sse
from isthmus.dialects.openai.errors import encode_error

__all__ = ["decode_failure", "encode_error", "error_event", "failure"]

# What `error.code` of a response may be, where it is the request's own fault.
_OF_THE_REQUEST = ("invalid_", "image_", "empty_image", "failed_to_download", "unsupported_image")
_POLICIES = ("_policy", "_policy_violation")


def decode_failure(data: bytes) -> IsthmusError:
    """The classed error of an `error` event, or of a response whose status is `failed`."""
    code = faults.read_complaint(data).code
    if code.startswith(_OF_THE_REQUEST) or code.endswith(_POLICIES):
        return faults.decode_error(400, {}, data)
    return faults.decode_stream_error(data)


def error_event(error: IsthmusError, request_id: str, sequence_number: int = 0) -> bytes:
    """The error as an `error` event.

    It says everything twice: flat, as the reference has it, and in `error`, as the vendor sends it and as the
    official client raises it.
    """
    body: dict[str, Any] = msgspec.json.decode(encode_error(error, request_id))
    flat = {name: body["error"][name] for name in ("code", "message", "param")}
    event = {"type": "error", "sequence_number": sequence_number, **flat, **body}
    return sse.encode("error", msgspec.json.encode(event))


def failure(error: IsthmusError) -> dict[str, Any]:
    """The `error` of a failed response, whose codes are a closed list."""
    code = "server_error"
    if error.fault in (Fault.RATE_LIMITED, Fault.BUDGET_SPENT):
        code = "rate_limit_exceeded"
    elif error.status == 400:
        code = "invalid_prompt"
    return {"code": code, "message": faults.explain(error)}
