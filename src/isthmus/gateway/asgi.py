"""The few things that ASGI needs said: reading a body, answering with one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from isthmus.core.errors import Fault, IsthmusError

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
HeaderList: TypeAlias = list[tuple[bytes, bytes]]


class ClientGoneError(Exception):
    """The client went away before its request was read."""


async def read_body(headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """The request's body. Raises IsthmusError(TOO_LARGE) beyond `limit` bytes, ClientGoneError for half a
    request.
    """
    declared = headers.get(b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        if len(body) > limit:
            raise _too_large(limit)
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(limit)
    return b"".join(parts)


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
