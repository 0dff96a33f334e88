"""A model that is ready to be called: its endpoint, its wires, its credential, its breaker and its price,
together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import quote, urlencode, urlsplit

from isthmus.accounting.breaker import Breaker
from isthmus.catalog.prices import Price
from isthmus.core.call import Operation
from isthmus.core.codec import EndpointWire, Wire
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.portfolio import Model, Provider
from isthmus.providers.transport import (
    ConnectionLostError,
    FirstByteTimeoutError,
    HeaderBlock,
    IdleTimeoutError,
    MalformedResponseError,
    Outgoing,
    PoolExhaustedError,
    ResponseTooLargeError,
    Target,
    Timeouts,
    TotalTimeoutError,
    Transport,
    TransportError,
    as_target,
    render_headers,
)

AUTH_HEADERS = {
    "bearer": ("authorization", "Bearer "),
    "x-api-key": ("x-api-key", ""),
    "api-key": ("api-key", ""),
    "x-goog-api-key": ("x-goog-api-key", ""),
}

SETTINGS = {
    "connect_s": "timeouts.connect",
    "first_byte_s": "timeouts.first_token",
    "idle_s": "timeouts.idle",
    "total_s": "timeouts.total",
}


class Upstream:
    """Everything that one attempt at one model needs, prepared once when the config is read.

    `marks` tells that its reasoning is marked as its provider's, since another provider speaks its wire.
    `unready` says why the model cannot be called just now (its engine is starting, say), and `weights` which
    signed artefact its engine serves, where there is anybody who can tell.
    `name_in_headers` is the model's name as a header may hold it.
    """

    def __init__(
        self,
        model: Model,
        provider: Provider,
        *,
        base_url: str,
        key: str | None,
        wires: tuple[EndpointWire, ...],
        transport: Transport,
        breaker: Breaker,
        price: Price,
        unready: Callable[[], IsthmusError | None] | None = None,
        weights: Callable[[], str | None] | None = None,
        marks: bool = False,
    ) -> None:
        self.model = model
        self.provider = provider
        self.wires = wires
        self.transport = transport
        self.breaker = breaker
        self.price = price
        self.unready = unready
        self.weights = weights
        self.marks = marks
        self.name_in_headers = quote(model.name, safe="/:@ ")
        self._base_path = urlsplit(base_url).path.rstrip("/")
        self._headers = static_headers(provider, key)
        self._block = render_headers(self._headers.items())
        self._forward = tuple(name.lower().encode("ascii") for name in provider.forward_headers)
        # A name that clients and endpoints share is that of a codec which serves both.
        self._shared = {wire.name: cast(Wire, wire) for wire in reversed(wires)}
        self._targets: dict[tuple[str, bool], Target] = {}
        waits = provider.timeouts
        self._timeouts = Timeouts(
            connect_s=waits.connect, first_byte_s=waits.first_token, idle_s=waits.idle, total_s=waits.total
        )

    def refusal(self, now: float) -> IsthmusError | None:
        """Why no attempt is made at the monotonic time `now`, or None."""
        if self.unready is not None and (unready := self.unready()) is not None:
            return unready
        if self.breaker.permits(now):
            return None
        return IsthmusError(
            Fault.UNAVAILABLE,
            f"The model {self.model.name} has failed repeatedly and is left alone for a while.",
            code="breaker_open",
            hint="Add a fallback to the route, or look at the provider's status; /metrics shows the breaker.",
            retry_after_s=self.breaker.wait_s(now),
        )

    def shared_wire(self, client_wire: str) -> Wire | None:
        """The client's own wire where this endpoint speaks it, too: then bytes can pass through."""
        return self._shared.get(client_wire)

    def wire_for(self, operation: Operation) -> EndpointWire | None:
        """The wire to translate to; None where the endpoint has none for this operation."""
        return next((wire for wire in self.wires if wire.operation == operation), None)

    def outgoing(
        self,
        wire: EndpointWire,
        body: bytes,
        stream: bool,
        client: Mapping[bytes, bytes],
        queued: Callable[[float], None],
    ) -> Outgoing:
        """The HTTP request; of the client's headers only those pass that the provider's config allows."""
        target = self._targets.get((wire.name, stream))
        if target is None:
            target = self._targets[wire.name, stream] = self._target(wire, stream)
        return Outgoing(
            target=target,
            headers=self._request_headers(client),
            body=body,
            timeouts=self._timeouts,
            queued=queued,
        )

    def _target(self, wire: EndpointWire, stream: bool) -> Target:
        path = self._base_path + wire.target(self.model.id, stream)
        if self.provider.query:
            path += ("&" if "?" in path else "?") + urlencode(self.provider.query)
        return as_target(path)

    def _request_headers(self, client: Mapping[bytes, bytes]) -> HeaderBlock:
        names = [name for name in self._forward if name in client] if self._forward else None
        if not names:
            return self._block
        passed = {name.decode(): client[name].decode("latin-1") for name in names}
        return render_headers((self._headers | passed).items())


def as_error(failure: TransportError, upstream: Upstream) -> IsthmusError:
    """A failure of the connection, as the caller is told of it."""
    return IsthmusError(
        _fault_of(failure),
        f"The model {upstream.model.name} gave no whole answer: {_in_our_words(failure.message)}.",
        code=failure.code,
        hint=f"{_in_our_words(failure.hint).capitalize()}." if failure.hint else "",
        retry_after_s=1.0 if isinstance(failure, PoolExhaustedError) else None,
    )


def _in_our_words(text: str) -> str:
    """What a transport says, with its parameters by the names that they have in the config."""
    for parameter, setting in SETTINGS.items():
        text = text.replace(parameter, setting)
    return text


def _fault_of(failure: TransportError) -> Fault:
    match failure:
        case FirstByteTimeoutError() | IdleTimeoutError():
            return Fault.TIMEOUT
        case TotalTimeoutError():
            return Fault.TOOK_TOO_LONG
        case ConnectionLostError():
            return Fault.BROKEN_STREAM if failure.received else Fault.UNREACHABLE
        case MalformedResponseError() | ResponseTooLargeError():
            return Fault.MALFORMED_ANSWER
        case PoolExhaustedError():
            return Fault.UNAVAILABLE
        case _:
            return Fault.UNREACHABLE


def static_headers(provider: Provider, key: str | None) -> dict[str, str]:
    """The headers that go with every call of a provider, its credential among them."""
    headers = {"content-type": "application/json", "user-agent": "isthmus"}
    headers |= {name.lower(): value for name, value in provider.headers.items()}
    if key is not None and provider.auth != "none":
        name, prefix = AUTH_HEADERS[provider.auth]
        headers[name] = prefix + key
    return headers
