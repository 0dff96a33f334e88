"""What can be said of a base URL without calling it."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

_CALL_PATHS = ("/chat/completions", "/responses", "/messages", "/embeddings")


def what_is_wrong(url: str) -> tuple[str, str] | None:
    """Why no request can be sent below this URL, and what to do; None where one can. Never quotes the URL."""
    if not (url.isascii() and url.isprintable()) or " " in url:
        return "A base URL has printable ASCII characters only, and no spaces.", "Percent-encode the rest."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "This is not a URL: its host or port is malformed.", ""
    if parts.scheme not in ("http", "https"):
        return "A base URL begins with `http://` or `https://`.", ""
    if not parts.hostname or port == 0:
        return "A base URL needs a host, and a port other than 0 if it has one.", ""
    if not _can_be_looked_up(parts.hostname):
        return "No host can have this name.", "Its labels, between the dots, have 1 to 63 characters each."
    if parts.query or parts.fragment or "?" in url or "#" in url:
        return "A base URL has no `?` and no `#`.", "Say `query:` for what is added to every URL."
    if parts.path.rstrip("/").endswith(_CALL_PATHS):
        return (
            "This is the URL of one call.",
            f"Leave out `{_call_path(parts.path)}`: it is added for each call.",
        )
    return None


def names_a_proxy(url: str) -> bool:
    """True for `http://HOST:PORT`: there is no more to say of a proxy."""
    return what_is_wrong(url) is None and url.startswith("http://") and urlsplit(url).path in ("", "/")


def has_credentials(url: str) -> bool:
    """True for `https://user:password@host`."""
    return "@" in url.partition("://")[2].partition("/")[0]


def is_loopback(url: str) -> bool:
    """True where the URL leads to this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _can_be_looked_up(host: str) -> bool:
    """True where resolvers can be asked for the name: they raise UnicodeError, no OSError, for others."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _call_path(path: str) -> str:
    return next(call for call in _CALL_PATHS if path.rstrip("/").endswith(call))
