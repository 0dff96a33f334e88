"""What every store of configs promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from isthmus.store import schema
from isthmus.store.configs import Configs, SqliteConfigs
from isthmus.store.memory import MemoryConfigs


@pytest.fixture(params=["memory", "sqlite"])
def configs(request: pytest.FixtureRequest, tmp_path: Path) -> Configs:
    if request.param == "memory":
        return MemoryConfigs()
    schema.prepare(tmp_path / "ledger.db")
    return SqliteConfigs(tmp_path / "ledger.db")


def test_what_is_kept_is_found_by_its_hash_the_oldest_first(configs: Configs) -> None:
    configs.keep("b", 2, b"second")
    configs.keep("a", 1, b"first")
    assert list(configs.all().items()) == [("a", b"first"), ("b", b"second")]


def test_a_config_is_kept_once(configs: Configs) -> None:
    configs.keep("a", 1, b"first")
    configs.keep("a", 2, b"other")
    assert dict(configs.all()) == {"a": b"first"}


def test_nothing_is_kept_at_first(configs: Configs) -> None:
    assert dict(configs.all()) == {}
