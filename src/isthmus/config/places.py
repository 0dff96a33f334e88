"""Where things are kept that are not in the config file."""

from __future__ import annotations

import os
from pathlib import Path

from isthmus.config.config import Config


def state_dir(config_path: Path | None) -> Path:
    """Where the ledger, the keys and the engines' logs are kept.

    ISTHMUS_HOME if that is set; beside the config file in `.isthmus`; without a config file in the user's
    data folder.
    """
    if home := os.environ.get("ISTHMUS_HOME"):
        return Path(home).expanduser()
    if config_path is not None:
        return config_path.resolve().parent / ".isthmus"
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "isthmus"


def ledger_path(config: Config, config_path: Path | None) -> Path:
    """The SQLite file of this config; a relative `ledger.path` counts from the config file."""
    if config.ledger.path is None:
        return state_dir(config_path) / "ledger.db"
    base = config_path.resolve().parent if config_path is not None else Path.cwd()
    return base / Path(config.ledger.path).expanduser()
