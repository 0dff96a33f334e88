"""The seam to HTTP: what every client of upstreams promises, whatever library it stands on.

A `Transport` belongs to one `Origin` and has two verbs: `send` for an answer that is wanted whole and
`stream` for one that is wanted as it comes. Nothing here opens a socket: `http1` and `http_aiohttp` do, and
one contract suite holds both to this page. A transport follows no redirect, keeps no cookie and undoes no
compression (it asks for none): an answer's bytes are the upstream's bytes.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import ClassVar, NewType, Protocol
from urllib.parse import urlsplit

import msgspec

HeaderBlock = NewType("HeaderBlock", bytes)
"""Header lines, each ended by CRLF, as `render_headers` makes them. Two blocks may be joined with `+`."""

Target = NewType("Target", bytes)
"""The path and query of a request, as `as_target` makes them."""

Headers = Sequence[tuple[bytes, bytes]]
"""An answer's headers in order of arrival, names in lower case."""

DEFAULT_MAX_BODY_BYTES = 64 * 1024 * 1024

_DEFAULT_PORTS = {"http": 80, "https": 443}
_TARGET = re.compile(r"/[!-~]*")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Visible characters, space and tab (RFC 9110, 5.5): CR, LF and NUL would start a header of someone else's
# choice.
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
OWNED_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def as_target(path: str) -> Target:
    """The path and query as they go over the wire; made once where they never change.

    Raises ValueError for one that does not start with a slash, or holds a space, a control character or a
    letter outside ASCII.
    """
    if not _TARGET.fullmatch(path):
        raise ValueError("a request's target must start with '/' and be percent-encoded ASCII")
    return Target(path.encode("ascii"))


def render_headers(headers: Iterable[tuple[str, str]]) -> HeaderBlock:
    """The headers as they go over the wire; made once where they never change, then sent with every request.

    Raises ValueError for a name or value that RFC 9110 forbids, and for the headers that a transport writes
    itself (framing, `host`, `accept-encoding`). The message names the header and never its value, which may
    be a secret.
    """
    lines = []
    for name, value in headers:
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is not a header name; use letters, digits and hyphens")
        if name.lower() in OWNED_HEADERS:
            raise ValueError(f"the header {name!r} is written by the transport; remove it")
        if not _FIELD_VALUE.fullmatch(value):
            raise ValueError(
                f"the value of the header {name!r} holds a line break, a control character or a letter "
                "outside Latin-1; check for a stray newline at its end"
            )
        lines.append(f"{name}: {value}\r\n")
    return HeaderBlock("".join(lines).encode("latin-1"))


def first_header(headers: Headers, name: str) -> str | None:
    """The first value of a header, or None where it is absent. `name` is in lower case."""
    wanted = name.encode("latin-1")
    for key, value in headers:
        if key == wanted:
            return value.decode("latin-1").strip(" \t")
    return None


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where requests go: a scheme, a host and a port, and whom to trust there.

    `ca_file` is a PEM file that replaces the system's certificate authorities. `verify=False` accepts any
    certificate and is meant for a laboratory.
    """

    scheme: str
    host: str
    port: int
    ca_file: str | None = None
    verify: bool = True

    @classmethod
    def from_url(cls, url: str, *, ca_file: str | None = None, verify: bool = True) -> Origin:
        """The origin of a URL; its path is left to the caller, who puts it into each request's target.

        Raises ValueError where the URL is not http(s), has no host, has a bad port, or carries credentials.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError("the URL cannot be read; write it like https://host:port/path") from None
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ValueError("the URL must start with http:// or https:// and name a host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("the URL carries credentials; give them as a key reference instead")
        if port is None:
            port = _DEFAULT_PORTS[parts.scheme]
        return cls(scheme=parts.scheme, host=parts.hostname, port=port, ca_file=ca_file, verify=verify)

    @property
    def authority(self) -> str:
        """What the `host` header says: the port only where it is not the scheme's own, IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host.encode("idna").decode("ascii")
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        """`host:port`, as messages name the origin."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Proxy(msgspec.Struct, frozen=True, kw_only=True):
    """A proxy on the way to an origin: its URL, and the `user:password` that it wants, if any."""

    url: str
    login: str | None = None

    def __repr__(self) -> str:
        """The URL: the login is a secret."""
        return f"Proxy({self.url})"


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long each phase may last, in seconds.

    `connect_s` covers having a connection: waiting for a free one, resolving, TCP and TLS. `first_byte_s`
    runs from the request's writing to the first byte of the body, for streams only. `idle_s` is the silence
    allowed once an answer has begun; time in which the reader of a stream does not keep up is not silence.
    `total_s` covers it all.
    """

    connect_s: float = 5.0
    first_byte_s: float = 60.0
    idle_s: float = 60.0
    total_s: float = 600.0


def unheard(seconds: float) -> None:
    """Nobody wants to know how long a request waited."""


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A request, ready to be written: `target` comes from `as_target`, `headers` from `render_headers`.

    `queued` is told the seconds that the request waited for a free connection, whatever came of it; it is not
    called where one was free, or could be opened.
    """

    target: Target
    body: bytes = b""
    headers: HeaderBlock = HeaderBlock(b"")
    method: bytes = b"POST"
    timeouts: Timeouts = Timeouts()
    queued: Callable[[float], None] = unheard

    def __repr__(self) -> str:
        """The method and the path: headers, query and body may hold secrets and prompts."""
        return f"Outgoing({self.method.decode()} {self.target.partition(b'?')[0].decode()})"


class Reply(msgspec.Struct, frozen=True):
    """A whole answer: status, headers with lower-case names, and all of the body."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of a header, or None where it is absent. `name` is in lower case."""
        return first_header(self.headers, name)

    def __repr__(self) -> str:
        """The status and the size: the body may quote the prompt."""
        return f"Reply({self.status}, {len(self.body)} bytes)"


class Stream(Protocol):
    """An answer whose head has come and whose body is still coming. One task reads it.

    Whoever holds it calls `close` in the end. Cancelling a task that waits in `next_chunk` or `read` closes
    it too. `headers` have lower-case names; `complete` is True once the body has come to its clean end: its
    connection serves others already.
    """

    __slots__ = ()

    origin: Origin
    status: int
    headers: Headers
    complete: bool

    def header(self, name: str) -> str | None:
        """The first value of a header, or None where it is absent. `name` is in lower case."""
        return first_header(self.headers, name)

    async def next_chunk(self) -> bytes:
        """All bytes that have come since the last call, waiting for at least one; b"" at a clean end, and
        only there.

        A clean end is the last chunk of a chunked body, the announced length reached, or, for a body that has
        neither frame, the connection's orderly end. What has come is handed over before a failure is raised.
        """

    async def read(self, limit: int) -> bytes:
        """The rest of the body. Raises ResponseTooLargeError, and closes, where it is longer than `limit`
        bytes."""
        chunks = []
        room = limit
        while chunk := await self.next_chunk():
            room -= len(chunk)
            if room < 0:
                self.close()
                raise ResponseTooLargeError(self.origin, limit)
            chunks.append(chunk)
        return b"".join(chunks)

    def close(self) -> None:
        """End it now; may be called again. A body read to its end leaves its connection for the next request;
        any other is cut, which tells the upstream to stop working."""


class Transport(Protocol):
    """Exchanges with one origin. Both verbs raise the errors of `TransportError`'s tree and no others."""

    async def send(self, outgoing: Outgoing) -> Reply:
        """The whole answer. Its size is limited by the transport; `first_byte_s` does not apply."""

    async def stream(self, outgoing: Outgoing) -> Stream:
        """The answer as soon as its head is there, whatever its status says."""

    def retire(self) -> None:
        """Keep nothing alive from now on: exchanges in flight finish in peace, and so do later ones that
        belong to requests which started before; each connection is closed after its exchange."""

    async def aclose(self) -> None:
        """Close everything now; exchanges in flight fail with ConnectionLostError, later ones with
        ConnectError."""


class TransportError(Exception):
    """No answer, or not all of it.

    `message` names the origin and what happened, `hint` says what to do; neither ever quotes a header or a
    body. `code` is stable. `sent` is False where the upstream cannot have seen the request, so that asking
    again cannot do the work twice.
    """

    code: ClassVar[str] = "transport_error"
    hint: ClassVar[str] = ""
    sent: ClassVar[bool] = True

    def __init__(self, origin: Origin, what: str) -> None:
        self.message = f"{origin} {what}"
        super().__init__(f"{self.message}; {self.hint}")


class ConnectError(TransportError):
    """There is nobody to talk to: the name does not resolve, or the port refuses."""

    code = "connect_failed"
    hint = "check the address, and that the upstream runs and is reachable from here"
    sent = False


class ConnectTimeoutError(TransportError):
    """No connection within `connect_s`."""

    code = "connect_timeout"
    hint = "check the address and the firewall, or raise connect_s"
    sent = False


class ProxyError(TransportError):
    """The proxy cannot be reached, or does not let the request through."""

    code = "proxy_failed"
    hint = "check proxy and proxy_key, and that the proxy lets this host through"
    sent = False


class TlsError(TransportError):
    """The two sides did not agree on TLS; most often the certificate is not trusted."""

    code = "tls_failed"
    hint = "check scheme and port, and set ca_file where the certificate comes from an authority of your own"
    sent = False


class PoolExhaustedError(TransportError):
    """Every connection is busy, and the queue for one is full or did not move within `connect_s`."""

    code = "pool_exhausted"
    hint = "send less at a time, or raise the limit of connections"
    sent = False


class FirstByteTimeoutError(TransportError):
    """The request went out and no byte of a body came within `first_byte_s`."""

    code = "first_byte_timeout"
    hint = "the upstream is overloaded or thinks for long; raise first_byte_s if that is its way"

    def __init__(self, origin: Origin, seconds: float) -> None:
        super().__init__(origin, f"sent no answer within {seconds:g} s")


class IdleTimeoutError(TransportError):
    """The answer began, then fell silent for `idle_s`."""

    code = "idle_timeout"
    hint = "the upstream hangs, or raise idle_s if such pauses are its way"

    def __init__(self, origin: Origin, seconds: float) -> None:
        super().__init__(origin, f"fell silent for {seconds:g} s")


class TotalTimeoutError(TransportError):
    """The answer did not end within `total_s`."""

    code = "total_timeout"
    hint = "ask for less at a time, or raise total_s"

    def __init__(self, origin: Origin, seconds: float) -> None:
        super().__init__(origin, f"did not end its answer within {seconds:g} s")


class ConnectionLostError(TransportError):
    """The connection ended before the answer did.

    `received` counts the bytes of the answer that had come: a lower bound, 0 only where there was none.
    `reused` says that the connection had served an earlier request: with `received == 0` the upstream most
    likely closed it while it was idle and never read this request.
    """

    code = "connection_lost"
    hint = "what came is incomplete; ask again, and look into the upstream's log if it happens often"

    def __init__(self, origin: Origin, what: str, *, reused: bool, received: int) -> None:
        super().__init__(origin, what)
        self.reused = reused
        self.received = received


class MalformedResponseError(TransportError):
    """What came is not HTTP/1.1, or its head is longer than 64 KiB."""

    code = "malformed_response"
    hint = "check that the port belongs to an HTTP server and that nothing between rewrites its answers"


class ResponseTooLargeError(TransportError):
    """The body is longer than the caller is ready to hold."""

    code = "response_too_large"
    hint = "ask for less, or raise the limit"

    def __init__(self, origin: Origin, limit: int) -> None:
        super().__init__(origin, f"answered with more than {limit} bytes")


def trust(origin: Origin) -> ssl.SSLContext | None:
    """The TLS context for an origin, or None for plain HTTP.

    Raises TlsError where `ca_file` cannot be read or holds no certificate.
    """
    if origin.scheme == "http":
        return None
    if origin.verify and origin.ca_file is None:
        return _system_trust()
    try:
        context = ssl.create_default_context(cafile=origin.ca_file)
    except OSError as fault:
        why = fault.strerror or "it holds no certificate"
        raise TlsError(origin, f"has a ca_file that cannot be used ({why})") from fault
    if not origin.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return _http1_only(context)


@lru_cache(maxsize=1)
def _system_trust() -> ssl.SSLContext:
    # Reading the system's authorities takes milliseconds, and every provider would pay them at start.
    return _http1_only(ssl.create_default_context())


def _http1_only(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_alpn_protocols(["http/1.1"])
    return context
