"""What the way of a request needs of it, whether it came by a socket or from within the process."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Protocol


class Request(Protocol):
    """One request, and the way to answer it; see `isthmus.gateway.http1.Request` for what is promised."""

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def headers(self) -> Mapping[bytes, bytes]: ...

    @property
    def client(self) -> str | None: ...

    @property
    def left(self) -> bool: ...

    @property
    def answered(self) -> bool: ...

    def accept(self, limit: int) -> None: ...

    async def body(self, limit: int) -> bytes: ...

    def respond(self, status: int, body: bytes, headers: bytes) -> Awaitable[None] | None: ...

    def begin(self, status: int, headers: bytes) -> None: ...

    def write(self, data: bytes) -> Awaitable[None] | None: ...

    def end(self, data: bytes = b"") -> Awaitable[None] | None: ...
