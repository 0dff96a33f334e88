"""Classes the errors that providers report, whatever the dialect they report them in.

Bodies differ by vendor, and statuses lie (a rate limit as 400, an over-long prompt as 500), so both are read.
Sources: developers.openai.com/api/docs/guides/error-codes, platform.claude.com/docs/en/api/errors,
ai.google.dev/gemini-api/docs/troubleshooting, RFC 9110 section 10.2.3 (Retry-After).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from isthmus.core.errors import Fault, IsthmusError

MAX_RETRY_AFTER_S = 3600.0

_CONTEXT = re.compile(
    r"context[_ ]length|context[_ ]size|context window|(prompt|input) is too long|too many (input )?tokens"
    r"|tokens\) is too large to process"
    r"|maximum (number of )?(context|tokens allowed|prompt length)|exceeds the maximum number of tokens"
    r"|reduce the length of (the|your) (messages|prompt)|model_max_prompt_tokens",
    re.IGNORECASE,
)
_RATE = re.compile(r"rate[ _-]?limit|too many requests|resource_exhausted|throttl", re.IGNORECASE)
_QUOTA = re.compile(
    r"insufficient[_ ](quota|balance|credits|funds)|credit balance is too low|billing_(not_active|hard)",
    re.IGNORECASE,
)
_OVERLOAD = re.compile(r"overloaded|engine_overloaded|(no|out of|at) capacity", re.IGNORECASE)
_CREDENTIAL = re.compile(
    r"api[ _]key (not valid|invalid|expired)|api_key_invalid|invalid[_ ]api[_ ]key", re.IGNORECASE
)
_NO_MODEL = re.compile(
    r"model not found|model .{0,120}(does not exist|not found|is not available)", re.IGNORECASE
)
_CONTENT = re.compile(
    r"content[_ ](policy|filter|management)|responsibleaipolicy|content_policy_violation|moderation|flagged",
    re.IGNORECASE,
)
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{1,63}")
_DELAY = re.compile(r"(\d+(?:\.\d+)?)s")

_STATUS_OF_WORD = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "overloaded_error": 529,
    "timeout_error": 408,
    "invalid_argument": 400,
    "failed_precondition": 400,
    "out_of_range": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "resource_exhausted": 429,
    "unavailable": 503,
}

_PROSE = {
    Fault.CONTEXT_TOO_LONG: (
        "The prompt does not fit the model's context.",
        "Shorten the prompt or choose a longer model.",
    ),
    Fault.RATE_LIMITED: (
        "The provider limits the rate of requests.",
        "Try again after the time given, or more slowly.",
    ),
    Fault.UNAVAILABLE: (
        "The provider's account has no credit or quota left.",
        "An operator must top it up, or add a fallback to the route.",
    ),
    Fault.OVERLOADED: ("The provider is overloaded.", "Try again shortly, or add a fallback to the route."),
    Fault.UPSTREAM_AUTHENTICATION: (
        "The provider refused the gateway's own credential.",
        "An operator must check the provider's key in the config.",
    ),
    Fault.UPSTREAM_NOT_FOUND: (
        "The provider does not know the model, or the address is wrong.",
        "An operator must check the model's id and the provider's base_url in the config.",
    ),
    Fault.TIMEOUT: (
        "The provider gave up waiting for the answer.",
        "Try again, or ask for a shorter answer.",
    ),
    Fault.TOO_LARGE: (
        "The request is too large for the provider.",
        "Send less: smaller images or fewer messages.",
    ),
    Fault.UPSTREAM_ERROR: ("The provider failed.", "Try again; the request was not at fault."),
    Fault.INVALID_REQUEST: ("The provider refused the request.", ""),
}


class Complaint(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider's error body says, in any vendor's shape; `status` only where the body repeats one."""

    message: str = ""
    type: str = ""
    code: str = ""
    param: str | None = None
    status: int | None = None
    retry_after_s: float | None = None

    @property
    def words(self) -> str:
        """Everything that the class of the error can be read from."""
        return f"{self.type} {self.code} {self.message}"


def read_complaint(body: bytes) -> Complaint:
    """The complaint in an error body; an empty one where the body is no JSON object (an HTML page, say).

    Understands OpenAI and Anthropic (`error.message`), Gemini (also inside an array), vLLM and Mistral
    (fields at the top), FastAPI (`detail`), Ollama and TGI (`error` as a string).
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Complaint()
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return Complaint()
    error = value.get("error")
    if isinstance(error, dict):
        return _complaint(error, "")
    if isinstance(error, str):
        return _complaint({**value, "message": value.get("message") or error}, _text(value.get("error_type")))
    response = value.get("response")
    if isinstance(response, dict) and isinstance(response.get("error"), dict):
        return _complaint(response["error"], "")
    return _complaint(value, "")


def classify(status: int, complaint: Complaint) -> Fault:
    """The fault behind an error of HTTP `status`: the body decides where it is plainer than the status."""
    words = complaint.words
    if _QUOTA.search(words) or status == 402:
        return Fault.UNAVAILABLE
    if status not in (401, 403, 404, 429) and _CONTEXT.search(words):
        return Fault.CONTEXT_TOO_LONG
    if status in (400, 401, 403) and _CREDENTIAL.search(words):
        return Fault.UPSTREAM_AUTHENTICATION
    if status in (400, 403) and _CONTENT.search(words):
        return Fault.INVALID_REQUEST
    if status == 429 or (status < 500 and _RATE.search(words)):
        return Fault.RATE_LIMITED
    if status in (503, 529) or (status >= 400 and _OVERLOAD.search(f"{complaint.type} {complaint.code}")):
        return Fault.OVERLOADED
    if status in (400, 422) and (
        "model_not_found" in (complaint.type, complaint.code) or _NO_MODEL.search(words)
    ):
        return Fault.UPSTREAM_NOT_FOUND
    by_status = {
        401: Fault.UPSTREAM_AUTHENTICATION,
        403: Fault.UPSTREAM_AUTHENTICATION,
        404: Fault.UPSTREAM_NOT_FOUND,
        408: Fault.TIMEOUT,
        413: Fault.TOO_LARGE,
    }
    if status in by_status:
        return by_status[status]
    return Fault.INVALID_REQUEST if 400 <= status < 500 else Fault.UPSTREAM_ERROR


def decode_error(status: int, headers: Mapping[str, str], body: bytes) -> IsthmusError:
    """The classed error of an HTTP answer; header names are lower case.

    `message` is our own prose, so that it may be logged; what the provider said stays in `upstream_body`, and
    `explain` adds it where the caller may read it.
    """
    complaint = read_complaint(body)
    delay = retry_after_s(headers)
    return _error(status, complaint, body, complaint.retry_after_s if delay is None else delay)


def decode_stream_error(body: bytes) -> IsthmusError:
    """The classed error of an error event in a stream: by the status that its body repeats or implies, else
    500."""
    complaint = read_complaint(body)
    return _error(_status_in(complaint), complaint, body, complaint.retry_after_s)


def not_a_stream(body: bytes) -> IsthmusError:
    """The error for what came where an event stream was expected: the JSON error in it, or
    MALFORMED_ANSWER."""
    return _instead_of("an event stream", body)


def not_an_answer(body: bytes) -> IsthmusError:
    """The error for a whole body that holds no answer: the JSON error in it, or MALFORMED_ANSWER."""
    return _instead_of("an answer of the model's dialect", body)


def malformed(what: str, body: bytes = b"") -> IsthmusError:
    """MALFORMED_ANSWER: the provider sent `what`, which is not of its dialect."""
    return IsthmusError(
        Fault.MALFORMED_ANSWER,
        f"The provider sent {what}.",
        hint="An operator must check the provider's base_url and dialect in the config.",
        upstream_body=body,
    )


def broken_stream() -> IsthmusError:
    """BROKEN_STREAM: the connection ended before the stream's terminal event."""
    return IsthmusError(
        Fault.BROKEN_STREAM,
        "The provider's stream ended before the answer was complete.",
        hint="What was received is kept; send the request again for a whole answer.",
    )


def interrupted(raw: str | None, *, told: bool = False) -> IsthmusError:
    """BROKEN_STREAM: the provider itself says, by the word `raw`, that its answer is none, or not all of one.
    `told` as in IsthmusError."""
    word = f" ({raw})" if raw and _CODE.fullmatch(raw) else ""
    return IsthmusError(
        Fault.BROKEN_STREAM,
        f"The provider says that it broke its answer off{word}.",
        code="answer_interrupted",
        hint="What was received is kept; send the request again for a whole answer.",
        told=told,
    )


def explain(error: IsthmusError) -> str:
    """The error as prose for the caller: message, hint, and the provider's own words where the request was at
    fault.

    Words of a provider may quote the prompt, or the gateway's key and account: they are shown only to the
    caller, and only for refused requests and over-long prompts. Never log the result.
    """
    if (
        error.fault in (Fault.INVALID_REQUEST, Fault.CONTEXT_TOO_LONG, Fault.TOO_LARGE)
        and error.upstream_body
    ):
        said = read_complaint(error.upstream_body).message
        if said:
            return f"{error.message} It says: {said}"
    return error.text


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """When the provider wants to be asked again, in seconds from now, between 0 and one hour; None where not
    said.

    Reads `retry-after-ms`, then `retry-after` as seconds or as an HTTP date, which is measured against the
    answer's own `date`, so that no clock is needed.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _bounded(milliseconds / 1000)
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None:
        return _bounded(seconds)
    until, now = _date(value), _date(headers.get("date"))
    return _bounded((until - now).total_seconds()) if until and now else None


def _instead_of(expected: str, body: bytes) -> IsthmusError:
    if read_complaint(body) != Complaint():
        return decode_stream_error(body)
    return malformed(f"something else than {expected}", body)


def _error(status: int, complaint: Complaint, body: bytes, delay: float | None) -> IsthmusError:
    fault = classify(status, complaint)
    message, hint = _PROSE[fault]
    return IsthmusError(
        fault,
        f"{message[:-1]} (HTTP {status}).",
        code=_code(fault, complaint),
        hint=hint,
        param=complaint.param if fault is Fault.INVALID_REQUEST else None,
        retry_after_s=delay,
        upstream_status=status,
        upstream_body=body,
    )


def _code(fault: Fault, complaint: Complaint) -> str | None:
    if fault is Fault.CONTEXT_TOO_LONG:
        return "context_length_exceeded"
    if fault is Fault.UNAVAILABLE:
        return "insufficient_quota"
    if fault is not Fault.INVALID_REQUEST:
        return None
    if _CONTENT.search(complaint.words):
        return "content_policy"
    return complaint.code if _CODE.fullmatch(complaint.code) else None


def _complaint(error: dict[str, Any], kind: str) -> Complaint:
    code, detail = error.get("code"), error.get("detail")
    kind = kind or _text(error.get("type")) or _text(error.get("status"))
    number = code if isinstance(code, int) else error.get("status")
    param = error.get("param")
    return Complaint(
        message=_text(error.get("message")) or _detail(detail),
        type=kind,
        code=_text(code),
        param=param if isinstance(param, str) else None,
        status=number if isinstance(number, int) and 400 <= number < 600 else None,
        retry_after_s=_delay(error.get("details")),
    )


def _detail(detail: Any) -> str:
    """FastAPI's `detail`: a string, or a list of objects with `msg`; what it quotes as `input` is left
    out."""
    if isinstance(detail, list):
        return "; ".join(_text(item.get("msg")) for item in detail if isinstance(item, dict))
    return _text(detail)


def _delay(details: Any) -> float | None:
    """The `retryDelay` of a google.rpc.RetryInfo, such as "31s"."""
    for detail in details if isinstance(details, list) else ():
        found = _DELAY.fullmatch(_text(detail.get("retryDelay"))) if isinstance(detail, dict) else None
        if found:
            return _bounded(float(found[1]))
    return None


def _status_in(complaint: Complaint) -> int:
    if complaint.status is not None:
        return complaint.status
    by_type = _STATUS_OF_WORD.get(complaint.type.lower())
    return by_type or _STATUS_OF_WORD.get(complaint.code.lower(), 500)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _date(value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)
