"""A config as it is kept beside its records."""

from __future__ import annotations

from isthmus.config.archive import archive, unarchive
from isthmus.config.load import parse

TEXT = """
providers:
  far:
    preset: openai
    key: env:FAR_KEY
    base_url: https://gateway.example/account-4711/v1
    zone: us
    headers: {x-team: s3same}
    query: {version: s3same}
models:
  big: {provider: far, id: gpt-5, clearance: public}
perimeter:
  labels: [{when: pii.email, level: restricted}]
routes:
  support: big
"""


def test_an_archived_config_tells_what_decisions_rest_on() -> None:
    config = parse(TEXT, "isthmus.yaml", check_secrets=False).config
    assert config is not None
    kept = unarchive(archive(config))
    assert kept is not None
    assert (kept.hash, kept.models, kept.perimeter) == (config.hash, config.models, config.perimeter)
    assert (kept.providers["far"].zone, kept.providers["far"].key) == ("us", config.providers["far"].key)
    assert kept.routes["support"]["plan"] == {
        "strategy": "call",
        "model": "big",
        "retries": 2,
        "patience": 8.0,
    }


def test_values_that_nobody_should_know_are_left_out() -> None:
    config = parse(TEXT, "isthmus.yaml", check_secrets=False).config
    assert config is not None
    body = archive(config)
    assert b"s3same" not in body
    assert b"account-4711" not in body
    assert b"x-team" in body
    assert b"https://gateway.example" in body


def test_what_this_version_cannot_read_is_none() -> None:
    for body in (b"", b"{}", b'{"hash": 1}', b"\xff"):
        assert unarchive(body) is None
