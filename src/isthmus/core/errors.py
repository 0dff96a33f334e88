"""What can go wrong, in one tree and one table."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Fault(StrEnum):
    """The class of a failure; it decides the HTTP status, and whether another attempt may help."""

    INVALID_REQUEST = "invalid_request"
    CONTEXT_TOO_LONG = "context_too_long"
    UNSUPPORTED = "unsupported"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_PERMITTED = "not_permitted"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    TOO_LARGE = "too_large"
    RATE_LIMITED = "rate_limited"
    BUDGET_SPENT = "budget_spent"
    OVERLOADED = "overloaded"
    UPSTREAM_AUTHENTICATION = "upstream_authentication"
    UPSTREAM_NOT_FOUND = "upstream_not_found"
    UPSTREAM_ERROR = "upstream_error"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    TOOK_TOO_LONG = "took_too_long"
    BROKEN_STREAM = "broken_stream"
    MALFORMED_ANSWER = "malformed_answer"
    CANCELLED = "cancelled"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"

    @property
    def status(self) -> int:
        """The HTTP status that a caller of the gateway sees."""
        return _TRAITS[self].status

    @property
    def retryable(self) -> bool:
        """True where the same model may well answer when asked again."""
        return _TRAITS[self].retryable

    @property
    def falls_back(self) -> bool:
        """True where another model may answer although this one did not."""
        return _TRAITS[self].falls_back

    @property
    def trips_breaker(self) -> bool:
        """True where the failure says that the endpoint, not the request, is ill."""
        return _TRAITS[self].trips_breaker

    @property
    def blames_model(self) -> bool:
        """True where an attempt that fails so tells of its model or endpoint: it is ill, or cannot take what
        another may take."""
        return self not in _BLAMES_NO_MODEL


class _Traits(NamedTuple):
    status: int
    retryable: bool = False
    falls_back: bool = False
    trips_breaker: bool = False


_TRAITS = {
    Fault.INVALID_REQUEST: _Traits(400),
    Fault.CONTEXT_TOO_LONG: _Traits(400, falls_back=True),
    Fault.UNSUPPORTED: _Traits(400, falls_back=True),
    Fault.UNAUTHENTICATED: _Traits(401),
    Fault.FORBIDDEN: _Traits(403),
    Fault.NOT_PERMITTED: _Traits(403, falls_back=True),
    Fault.NOT_FOUND: _Traits(404),
    Fault.METHOD_NOT_ALLOWED: _Traits(405),
    Fault.TOO_LARGE: _Traits(413, falls_back=True),
    Fault.RATE_LIMITED: _Traits(429, retryable=True, falls_back=True),
    # Asking again does not help before the budget's next window; a cheaper model may be affordable.
    Fault.BUDGET_SPENT: _Traits(429, falls_back=True),
    Fault.OVERLOADED: _Traits(503, retryable=True, falls_back=True, trips_breaker=True),
    # The gateway's own credential was refused: the caller's key is fine, so this is no 401 of the caller's.
    Fault.UPSTREAM_AUTHENTICATION: _Traits(502, falls_back=True, trips_breaker=True),
    Fault.UPSTREAM_NOT_FOUND: _Traits(502, falls_back=True),
    Fault.UPSTREAM_ERROR: _Traits(502, retryable=True, falls_back=True, trips_breaker=True),
    Fault.UNREACHABLE: _Traits(502, retryable=True, falls_back=True, trips_breaker=True),
    Fault.TIMEOUT: _Traits(504, retryable=True, falls_back=True, trips_breaker=True),
    # What took all of its time would take it again, and be paid for again.
    Fault.TOOK_TOO_LONG: _Traits(504, falls_back=True),
    Fault.BROKEN_STREAM: _Traits(502, retryable=True, falls_back=True, trips_breaker=True),
    Fault.MALFORMED_ANSWER: _Traits(502, retryable=True, falls_back=True, trips_breaker=True),
    Fault.CANCELLED: _Traits(499),
    Fault.UNAVAILABLE: _Traits(503, falls_back=True),
    Fault.INTERNAL: _Traits(500),
}

_BLAMES_NO_MODEL = frozenset(
    {
        Fault.INVALID_REQUEST,
        Fault.UNAUTHENTICATED,
        Fault.FORBIDDEN,
        Fault.NOT_PERMITTED,
        Fault.NOT_FOUND,
        Fault.METHOD_NOT_ALLOWED,
        Fault.BUDGET_SPENT,
        Fault.CANCELLED,
        Fault.INTERNAL,
    }
)
"""The caller's own, and the gateway's."""


class IsthmusError(Exception):
    """A failure that can be shown to whoever asked: what happened, and what to do next.

    `code` is stable and documented; `message` and `hint` are prose and never hold a secret or a prompt's
    text. `param` names the offending field of the request, `retry_after_s` says when to come back (seconds).
    `upstream_status` and `upstream_body` keep what a provider said; the body may quote the prompt, so it goes
    to the caller only, never to a log. `told` says that the caller has it in the provider's own bytes, which
    were passed on to their end: nothing is added to them.
    """

    def __init__(
        self,
        fault: Fault,
        message: str,
        *,
        code: str | None = None,
        hint: str = "",
        param: str | None = None,
        retry_after_s: float | None = None,
        upstream_status: int | None = None,
        upstream_body: bytes = b"",
        told: bool = False,
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.code = code or str(fault)
        self.message = message
        self.hint = hint
        self.param = param
        self.retry_after_s = retry_after_s
        self.upstream_status = upstream_status
        self.upstream_body = upstream_body
        self.told = told

    @property
    def status(self) -> int:
        """The HTTP status that a caller of the gateway sees."""
        return self.fault.status

    @property
    def text(self) -> str:
        """The message and the hint as one line of prose."""
        return f"{self.message} {self.hint}".strip()
