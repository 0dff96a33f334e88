"""Paths as a config says them: relative to its folder."""

from __future__ import annotations

from pathlib import Path


def absolute(path: str, folder: Path) -> str:
    """The path from the root on; `~/` is the user's home."""
    anchored = Path.home() / path[2:] if path.startswith("~/") else folder / path
    return str(anchored.absolute())


def is_file(path: str, folder: Path) -> bool:
    """True where a file is there."""
    try:
        return Path(absolute(path, folder)).is_file()
    except OSError:
        return False


def is_folder(path: str, folder: Path) -> bool:
    """True where a folder is there."""
    try:
        return Path(absolute(path, folder)).is_dir()
    except OSError:
        return False
