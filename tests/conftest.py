"""What holds for every test: no address but this machine's own is ever spoken to."""

from __future__ import annotations

import ipaddress
import os
import sys
from typing import Any

from hypothesis import HealthCheck, settings

pytest_plugins = ["isthmus.testing.engines"]

# A shared machine is slow at times; no law is about speed. One commit has one result: the examples are the
# same in every run, and `make search` looks for new ones.
settings.register_profile(
    "isthmus", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "search", settings.get_profile("isthmus"), derandomize=False, max_examples=1_000, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "isthmus"))

_ALLOWED_NAMES = {"localhost", ""}


def _refuse_the_network(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: it sees every connect and look-up of this process, whatever library makes them."""
    if event == "socket.connect":
        address = arguments[1]
        if isinstance(address, tuple) and not _is_local(address[0]):
            raise PermissionError(
                f"a test tried to connect to {address[0]}: tests speak to this machine only"
            )
    elif event == "socket.getaddrinfo":
        host = arguments[0]
        name = host.decode() if isinstance(host, bytes) else host or ""
        if not _is_local(name) and not name.endswith(".invalid"):
            raise PermissionError(f"a test tried to resolve {name}: tests speak to this machine only")


def _is_local(host: str) -> bool:
    if host in _ALLOWED_NAMES:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


sys.addaudithook(_refuse_the_network)
