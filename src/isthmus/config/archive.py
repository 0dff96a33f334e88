"""A config as it is kept beside the records that it decided: what it meant, and nothing that opens a door.

A config has references to secrets only, and refuses what is named like one. But a header may have an innocent
name and a URL a path that nobody should know: those values are left out.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec

from isthmus.config.config import Config
from isthmus.core.portfolio import Model, Provider
from isthmus.perimeter.policy import Policy

_to_json = msgspec.json.Encoder(order="deterministic").encode


class Archived(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a config that was in force once. Plans and budgets are plain data here."""

    hash: str
    providers: dict[str, Provider]
    models: dict[str, Model]
    routes: dict[str, Any]
    perimeter: Policy = Policy()
    budgets: tuple[Any, ...] = ()


_to_archived = msgspec.json.Decoder(Archived).decode


def archive(config: Config) -> bytes:
    """The config as JSON, without the values of headers and queries, and of URLs the origin alone."""
    return _to_json(
        Archived(
            hash=config.hash,
            providers={name: _without_values(provider) for name, provider in config.providers.items()},
            models=config.models,
            routes=config.routes,
            perimeter=config.perimeter,
            budgets=config.budgets,
        )
    )


def unarchive(body: bytes) -> Archived | None:
    """The config of its JSON; None where this version of Isthmus cannot read it any more."""
    try:
        return _to_archived(body)
    except msgspec.DecodeError:
        return None


def _without_values(provider: Provider) -> Provider:
    return msgspec.structs.replace(
        provider,
        base_url=None if provider.base_url is None else _origin(provider.base_url),
        headers=dict.fromkeys(provider.headers, ""),
        query=dict.fromkeys(provider.query, ""),
    )


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
