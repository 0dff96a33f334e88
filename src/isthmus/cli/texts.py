"""Texts in files and folders that a command is given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def files_in(paths: tuple[Path, ...]) -> list[Path]:
    """The files, and those in the folders, in order, without what is hidden there."""
    return [file for path in paths for file in (_inside(path) if path.is_dir() else [path])]


def text_of(content: bytes) -> str | None:
    """The text of a file's content; None where it is none in UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None


def replace(out: Path, content: bytes) -> None:
    """Write the file as a whole: a gateway may be watching it."""
    new = out.with_name(f"{out.name}.new")
    new.write_bytes(content)
    new.replace(out)


def _inside(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            # A link may lead out of the folder, or in a circle.
            yield from () if path.is_symlink() else _inside(path)
        elif path.is_file():
            yield path
