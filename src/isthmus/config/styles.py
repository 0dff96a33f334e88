"""`style` of a route → its card, read and checked."""

from __future__ import annotations

from pathlib import Path as FilePath

import msgspec

from isthmus.config.faults import Code
from isthmus.config.paths import absolute
from isthmus.config.perimeter import Add
from isthmus.config.tree import Path
from isthmus.routing.route import Style

LONGEST_CARD = 100_000
"""Bytes: it is sent, and paid, with every request."""


def compile_style(entry: Style | None, folder: FilePath, path: Path, add: Add) -> Style | None:
    """The style with its card in it, None where there is none; whatever is wrong is added to the faults.

    The file's path is relative to `folder`, and stays as it was said.
    """
    if entry is None:
        return None
    if entry.file is not None and entry.system is not None:
        message = "A style says both `system` and `file`."
        add(Code.CONFLICT, message, "Say one of `system` and `file`.", path)
        return None
    if entry.file is None:
        if not entry.card:
            add(Code.MISSING, "A style says nothing.", "Say `system` or `file`, `format`, or both.", path)
            return None
        return entry
    place = (*path, "file")
    try:
        with FilePath(absolute(entry.file, folder)).open("rb") as opened:
            content = opened.read(LONGEST_CARD + 1)
        card = content.decode().strip()
    except FileNotFoundError:
        hint = "Relative paths are relative to the config file."
        add(Code.FILE_NOT_FOUND, f"There is no file {entry.file}.", hint, place)
        return None
    except OSError as error:
        reason = error.strerror or "unknown error"
        add(Code.UNUSABLE_FILE, f"{entry.file} cannot be read: {reason}.", "", place)
        return None
    except UnicodeDecodeError:
        add(Code.UNUSABLE_FILE, f"{entry.file} is no text in UTF-8.", "", place)
        return None
    if not card or len(content) > LONGEST_CARD:
        fault = "is empty" if not card else f"is longer than {LONGEST_CARD:,} bytes"
        add(Code.UNUSABLE_FILE, f"{entry.file} {fault}.", "", place)
        return None
    return msgspec.structs.replace(entry, system=card)
