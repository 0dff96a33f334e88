"""Posting JSON to a webhook: a URL that is a secret, since whoever knows it may post there."""

from __future__ import annotations

from urllib.parse import urlsplit

from isthmus.core.errors import Fault, IsthmusError
from isthmus.providers.http1 import Http1Transport
from isthmus.providers.transport import (
    Origin,
    Outgoing,
    Timeouts,
    TransportError,
    as_target,
    render_headers,
)

_TIMEOUTS = Timeouts(connect_s=5.0, idle_s=10.0, total_s=15.0)
_JSON = render_headers([("content-type", "application/json")])


async def post(url: str, body: bytes) -> None:
    """Posts JSON to the URL. Raises IsthmusError (`webhook_failed`), which names the host alone."""
    try:
        origin = Origin.from_url(url)
        parts = urlsplit(url)
        target = as_target((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
    except ValueError:
        raise _failed("its URL cannot be used", "Write it like https://host/path.") from None
    transport = Http1Transport(origin)
    try:
        reply = await transport.send(Outgoing(target=target, headers=_JSON, body=body, timeouts=_TIMEOUTS))
    except TransportError as failure:
        raise _failed(failure.message, f"{failure.hint.capitalize()}.") from failure
    finally:
        await transport.aclose()
    if not 200 <= reply.status < 300:
        raise _failed(f"{origin} answered with status {reply.status}", "Ask who runs it what it wants.")


def _failed(reason: str, hint: str) -> IsthmusError:
    return IsthmusError(
        Fault.UNAVAILABLE,
        f"The webhook has not taken the message: {reason}.",
        code="webhook_failed",
        hint=hint,
    )
