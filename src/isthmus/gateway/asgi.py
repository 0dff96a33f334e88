"""The few things that ASGI needs said: reading a body, answering with one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from isthmus.core.errors import Fault, IsthmusError

UPLOAD_IDLE_S = 30.0
"""How long a client may pause in the middle of its request, seconds: a place is kept for it meanwhile."""
UPLOAD_TOTAL_S = 300.0
"""How long a whole request may take to come, seconds."""

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
HeaderList: TypeAlias = list[tuple[bytes, bytes]]


class ClientGoneError(Exception):
    """The client went away before its request was read."""


async def read_body(headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """The request's body.

    Raises IsthmusError: TOO_LARGE beyond `limit` bytes, INVALID_REQUEST (`upload_stalled`) for a client that
    pauses too long; and ClientGoneError for half a request.
    """
    declared = headers.get(b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        async with asyncio.timeout(UPLOAD_IDLE_S) as patience:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise _too_large(limit)
                if not message.get("more_body"):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
                patience.reschedule(min(loop.time() + UPLOAD_IDLE_S, began + UPLOAD_TOTAL_S))
    except TimeoutError:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            "The request's body came too slowly, or stopped coming.",
            code="upload_stalled",
            hint="Send the whole body that content-length announces.",
        ) from None


async def respond(send: Send, status: int, body: bytes, headers: HeaderList) -> None:
    """A whole response; its length is added to the headers."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _too_large(limit: int) -> IsthmusError:
    return IsthmusError(
        Fault.TOO_LARGE,
        f"The request's body is larger than {limit:,} bytes.",
        code="body_too_large",
        hint="Send less, or have an operator raise gateway.max_body_mb.",
    )
