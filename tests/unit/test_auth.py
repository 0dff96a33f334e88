"""Who is let in: keys, and programs on this machine while there are none."""

from __future__ import annotations

import pytest

from isthmus.core.errors import Fault, IsthmusError
from isthmus.gateway.auth import authenticate, is_local
from isthmus.gateway.http1 import Request
from isthmus.store.keys import KeyRing
from isthmus.store.memory import MemoryKeys

NOW_US = 1_800_000_000_000_000
HERE = "127.0.0.1"
HOST = {b"host": b"localhost:4141"}


class Peer:
    """As much of a connection as a request's head needs."""

    def __init__(self, client: str | None) -> None:
        self.client = client


def request(client: str | None, headers: dict[bytes, bytes]) -> Request:
    """A request of that peer."""
    return Request(Peer(client), "GET", "/v1/models", headers, True, True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        ("127.0.0.1", {b"host": b"127.0.0.1:4141"}),
        ("127.8.9.10", {b"host": b"LOCALHOST"}),
        ("::1", {b"host": b"[::1]:4141"}),
        ("::ffff:127.0.0.1", {b"host": b"localhost:4141"}),
        ("127.0.0.1", {}),
        ("127.0.0.1", {b"host": b"localhost:4141", b"origin": b"http://localhost:3000"}),
        ("127.0.0.1", {b"host": b"localhost:4141", b"origin": b"http://127.0.0.1"}),
    ],
)
def test_a_program_on_this_machine_is_local(client: str, headers: dict[bytes, bytes]) -> None:
    assert is_local(request(client, headers))


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        ("192.0.2.7", {b"host": b"localhost"}),
        ("::ffff:192.0.2.7", {b"host": b"localhost"}),
        ("not an address", {b"host": b"localhost"}),
        ("127.0.0.1", {b"host": b"attacker.example"}),
        ("127.0.0.1", {b"host": b"localhost.attacker.example:4141"}),
        ("127.0.0.1", {b"host": b"127.0.0.1.attacker.example"}),
        ("127.0.0.1", {b"host": b""}),
        ("127.0.0.1", {**HOST, b"origin": b"https://attacker.example"}),
        ("127.0.0.1", {**HOST, b"origin": b"https://localhost.attacker.example"}),
        ("127.0.0.1", {**HOST, b"origin": b"null"}),
        ("127.0.0.1", {**HOST, b"x-forwarded-for": b"127.0.0.1"}),
        ("127.0.0.1", {**HOST, b"forwarded": b"for=127.0.0.1"}),
        ("127.0.0.1", {**HOST, b"x-real-ip": b"127.0.0.1"}),
    ],
)
def test_a_proxied_or_lured_request_is_not(client: str, headers: dict[bytes, bytes]) -> None:
    assert not is_local(request(client, headers))
    with pytest.raises(IsthmusError) as refused:
        authenticate(request(client, headers), KeyRing(MemoryKeys()), NOW_US)
    assert (refused.value.fault, refused.value.code) == (Fault.FORBIDDEN, "keys_required")


def test_a_caller_without_an_address_is_not_local() -> None:
    assert not is_local(request(None, {b"host": b"localhost"}))


@pytest.mark.parametrize("trace", [b"via", b"x-forwarded-host", b"x-forwarded-proto"])
def test_any_trace_of_a_proxy_is_heeded(trace: bytes) -> None:
    assert not is_local(request(HERE, HOST | {trace: b"anything"}))


def test_without_keys_this_machine_is_served_whatever_it_shows() -> None:
    ring = KeyRing(MemoryKeys())
    assert authenticate(request(HERE, HOST), ring, NOW_US) is None
    assert authenticate(request(HERE, {**HOST, b"authorization": b"Bearer anything"}), ring, NOW_US) is None


@pytest.mark.parametrize(
    "carry",
    [
        lambda secret: {b"authorization": b"Bearer " + secret},
        lambda secret: {b"authorization": b"bearer  " + secret + b" "},
        lambda secret: {b"x-api-key": secret},
        lambda secret: {b"authorization": b"Basic dXNlcg==", b"x-api-key": secret},
        lambda secret: {b"authorization": b"Bearer ", b"x-api-key": secret},
    ],
)
def test_a_key_is_found_where_official_clients_put_it(carry: object) -> None:
    keys = MemoryKeys()
    made = keys.create("app", (), NOW_US)
    headers = carry(made.secret.encode())  # type: ignore[operator]
    assert authenticate(request("192.0.2.7", headers), KeyRing(keys), NOW_US) == made.key


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_key"),
        ({b"authorization": b"Bearer"}, "missing_key"),
        ({b"authorization": b"Bearer isk_wrong"}, "invalid_key"),
        ({b"x-api-key": b""}, "invalid_key"),
        ({b"x-api-key": b"\xff\xfe"}, "invalid_key"),
    ],
)
def test_with_keys_nobody_is_served_without_one(headers: dict[bytes, bytes], code: str) -> None:
    keys = MemoryKeys()
    keys.create("app", (), NOW_US)
    with pytest.raises(IsthmusError) as refused:
        authenticate(request(HERE, {**HOST, **headers}), KeyRing(keys), NOW_US)
    assert (refused.value.fault, refused.value.code) == (Fault.UNAUTHENTICATED, code)
    assert "isk_wrong" not in refused.value.text


def test_the_last_key_revoked_does_not_open_the_gateway() -> None:
    keys = MemoryKeys()
    made = keys.create("app", (), NOW_US)
    keys.revoke(made.key.id, NOW_US)
    with pytest.raises(IsthmusError) as refused:
        authenticate(request(HERE, HOST), KeyRing(keys), NOW_US)
    assert refused.value.code == "missing_key"
