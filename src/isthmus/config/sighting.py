"""What a file looks like from outside: enough to know whether it has to be read again."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Sighting(msgspec.Struct, frozen=True):
    """What tells one state of a file from another without reading it.

    Taken of the file behind every symlink, so that the swap of a directory's link, as Kubernetes does it for
    ConfigMaps, is seen as well as a file moved over the old one.
    """

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


def sight(path: Path) -> Sighting | None:
    """What the file looks like now; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Sighting(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
