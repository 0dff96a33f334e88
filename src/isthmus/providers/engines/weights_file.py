"""A file of weights that nobody has to sign, as an engine loads it: the same bytes at each of its starts."""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

from isthmus.artefacts.faults import ArtefactError
from isthmus.artefacts.manifest import ITSELF, Report, digests

log = logging.getLogger("isthmus.engines")

_BY_DESCRIPTOR = sys.platform.startswith("linux")
"""Elsewhere there is no /proc: engines load by the path, where another file is one that was written into."""

IN_PARTS = re.compile(r".*-\d{5}-of-\d{5}\.gguf", re.DOTALL)
"""The name of a model in several files: by such a name of the first, and no other, llama.cpp finds the rest
(https://github.com/ggml-org/llama.cpp, `llama_split_prefix` of src/llama.cpp)."""

Look: TypeAlias = tuple[int, ...]


class Loaded(NamedTuple):
    """What an engine is to load: the name under which it finds the bytes, and the file behind it, which it
    has to inherit."""

    name: str
    file: BinaryIO


class WeightsFile:
    """A GGUF file that an engine starts from, and starts again.

    Until `keep` is called, each start loads what lies at the path. From then on the file is held open, so
    that another one in its place, or none, changes nothing. Written into, it has to have the SHA-256 `pinned`
    all the same; where nothing is pinned its engine goes on with the new weights, and the log tells.
    The first of several files is loaded by its path at each start, since its name leads to the others; only
    it is looked at.

    `proven` says that the file at the path has the pinned hash: nobody has to read it to the end then.
    `identity` is the SHA-256 of what was loaded last, as far as that was looked at.
    """

    def __init__(self, path: Path, pinned: str | None = None, *, proven: bool = False) -> None:
        self.path = path
        self.identity: str | None = None
        self.kept = False
        self._pinned = pinned
        self._proven = proven
        self._by_descriptor = _BY_DESCRIPTOR and IN_PARTS.fullmatch(path.name) is None
        self._file: BinaryIO | None = None
        self._seen: Look | None = None

    def opened(self, report: Report = lambda done, total: None) -> Loaded:
        """The bytes for the next start. Blocks; raises OSError, and ArtefactError (`weights_changed`)."""
        if self._file is None or not (self.kept and self._by_descriptor):
            self._reopen()
        assert self._file is not None
        look = _look(self._file)
        if self._is_to_be_read(look):
            self._read(self._file, report)
        self._seen = look
        file = os.fdopen(os.dup(self._file.fileno()), "rb")
        return Loaded(f"/proc/self/fd/{file.fileno()}" if self._by_descriptor else str(self.path), file)

    def keep(self) -> None:
        """From now on these bytes are meant, whatever comes to lie at the path."""
        self.kept = True

    def close(self) -> None:
        """Let go of the file: the next start loads what lies at the path."""
        self.kept = False
        self._seen = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _reopen(self) -> None:
        file = self.path.open("rb")
        if self._file is not None:
            self._file.close()
        self._file = file

    def _is_to_be_read(self, look: Look) -> bool:
        if self._pinned is not None:
            # Whoever writes may set the time of writing back, and not that of the inode's change.
            return look != self._seen and not (self._seen is None and self._proven)
        # A link that comes or goes changes the inode, too, and no byte.
        return self.kept and self._seen is not None and look[:-1] != self._seen[:-1]

    def _read(self, file: BinaryIO, report: Report) -> None:
        found = digests({ITSELF: file}, report)[ITSELF]
        if self._pinned not in (None, found):
            # What is put right at the path is to be found by the next try.
            self.close()
            self._proven = False
            raise ArtefactError(
                "weights_changed",
                f"{self.path} has the SHA-256 {found}, and {self._pinned} is wanted.",
                "Put the right file back, or promote the other one: `isthmus models promote`.",
            )
        if self._pinned is None:
            log.warning(
                "%s was changed after it was first loaded: its engine starts with other weights, SHA-256 %s",
                self.path,
                found,
            )
        self.identity = found


def _look(file: BinaryIO) -> Look:
    """What the file looks like: any other content shows here, the last number being its inode's change."""
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
