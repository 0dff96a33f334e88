"""Who asks: a key, or, while no key exists, somebody on this machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol

from isthmus.core.errors import Fault, IsthmusError
from isthmus.gateway.request import Request
from isthmus.store.keys import Key

_FORWARDED = frozenset({b"forwarded", b"via", b"x-real-ip"})
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})


class Ring(Protocol):
    """The keys that count just now; see `isthmus.store.keys.KeyRing`."""

    @property
    def empty(self) -> bool: ...

    def verify(self, secret: bytes, at_us: int) -> Key: ...

    def name_of(self, key_id: str) -> str | None: ...


def authenticate(request: Request, ring: Ring, at_us: int) -> Key | None:
    """The key that the request carries; None while no key exists and the request comes from this machine
    itself.

    Raises IsthmusError(UNAUTHENTICATED or FORBIDDEN).
    """
    if ring.empty:
        _require_local(request)
        return None
    secret = _presented(request.headers)
    if secret is None:
        raise IsthmusError(
            Fault.UNAUTHENTICATED,
            "The request carries no key.",
            code="missing_key",
            hint="Send `Authorization: Bearer isk_...` or `x-api-key: isk_...`; see `isthmus keys create`.",
        )
    return ring.verify(secret, at_us)


def is_local(request: Request) -> bool:
    """True where the request was made on this machine, by a program and not by some web page's script.

    A proxy's traces mean that the peer is not the caller. A foreign Host or Origin means that a browser was
    lured here (DNS rebinding, cross-site requests).
    """
    headers = request.headers
    # A peer that hung up at once has no address left to be known by: it is nobody of ours.
    if request.client is None or not _is_loopback(request.client):
        return False
    if any(name in _FORWARDED or name.startswith(b"x-forwarded-") for name in headers):
        return False
    host = headers.get(b"host", b"localhost").decode("latin-1")
    origin = headers.get(b"origin")
    return _names_this_machine(host) and (
        origin is None or _names_this_machine(origin.decode("latin-1").partition("://")[2])
    )


def _require_local(request: Request) -> None:
    if not is_local(request):
        raise IsthmusError(
            Fault.FORBIDDEN,
            "No key has been created yet, so only programs on the gateway's own machine are served.",
            code="keys_required",
            hint="Create one there with `isthmus keys create` and send it as `Authorization: Bearer ...`.",
        )


def _presented(headers: Mapping[bytes, bytes]) -> bytes | None:
    bearer = headers.get(b"authorization")
    if bearer is not None:
        scheme, _, value = bearer.partition(b" ")
        if scheme.lower() == b"bearer" and value:
            return value.strip()
    return headers.get(b"x-api-key")


@lru_cache(maxsize=1024)
def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _names_this_machine(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name.lower() in _LOCAL_NAMES
