"""The files of an artefact: opened without following a link, hashed through the descriptors that are kept.

An artefact is a folder, or one file whose name in its manifest is then `.`. Names are those of OpenSSF Model
Signing: relative, with `/`. A folder that another system could read otherwise is refused as a whole: links,
devices, empty folders (which no manifest can list), names that are not in Unicode's composed form, and names
that differ only by case or by compatibility forms of letters.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

from isthmus.artefacts.faults import malformed

ITSELF = "."
"""The name of an artefact's only file, where it is no folder."""

MOST_FILES = 256
DEEPEST = 16
_LONGEST_NAME = 255
_CHUNK = 1 << 20
_UNSEEN = frozenset({"Cc", "Cf", "Zl", "Zp"})
_NO_LINK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

Files: TypeAlias = Mapping[str, BinaryIO]
Digests: TypeAlias = Mapping[str, str]
Report: TypeAlias = Callable[[int, int], None]
"""Told how many of how many bytes are hashed; what it raises ends the work in good order."""


@contextmanager
def opened(path: Path, private: Path | None = None) -> Iterator[Files]:
    """Every file of the artefact by its name, open, in the order of a manifest.

    With the folder `private`, bytes that anybody but this user and root could still change are copied there,
    into a file without a name, and it is the copy that is open: what is read of it once will be read again.
    Raises ArtefactError (`artefact_malformed`) and OSError.
    """
    with ExitStack() as closing:
        found: dict[str, BinaryIO] = {}
        _find(path, found, closing)
        yield {name: _settled(found[name], private, closing) for name in sorted(found, key=order)}


def followed(path: Path) -> Path:
    """The path behind every link; one that leads nowhere, or in a circle, is left for who opens it."""
    return Path(os.path.realpath(path))


def beginning(path: Path, most: int) -> bytes:
    """So many bytes of a plain file, or fewer. Raises OSError, at once also for a pipe, which would keep its
    reader waiting for as long as whoever put it there likes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no plain file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)


def order(name: str) -> list[str]:
    """The key by which a manifest is sorted: part by part, as the reference implementation does it."""
    return name.split("/")


def digests(files: Files, report: Report = lambda done, total: None) -> Digests:
    """The SHA-256 of every file, in lower-case hex. Raises OSError."""
    total = sum(os.fstat(file.fileno()).st_size for file in files.values())
    done = 0
    found: dict[str, str] = {}
    for name, file in files.items():
        digest = hashlib.sha256()
        file.seek(0)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            report(done, total)
        file.seek(0)
        found[name] = digest.hexdigest()
    return found


def identity(found: Digests) -> str:
    """One SHA-256 for the whole artefact: of its only file, or else of a folder's names and hashes.

    Of a folder it is the hash of what `sha256sum` prints, so that `find -type f | sort | xargs sha256sum |
    sha256sum` in it says the same, in the C locale and for names without spaces and dashes.
    """
    if found.keys() == {ITSELF}:
        return found[ITSELF]
    lines = (f"{digest}  ./{name}\n" for name, digest in sorted(found.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _find(path: Path, found: dict[str, BinaryIO], closing: ExitStack) -> None:
    """Put every file into `found`, open; `closing` closes them."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        found[ITSELF] = _open(path, None, path.name, closing)
        return
    folder = os.open(path, _NO_LINK | os.O_DIRECTORY)
    closing.callback(os.close, folder)
    _find_in(folder, "", found, closing)


def _find_in(folder: int, prefix: str, found: dict[str, BinaryIO], closing: ExitStack) -> None:
    if prefix.count("/") > DEEPEST:
        raise malformed(prefix, f"folders may be {DEEPEST} deep")
    names = sorted(os.listdir(folder))
    if not names:
        raise malformed(prefix or "the folder", "an empty folder stands in no manifest")
    alike: dict[str, str] = {}
    for name in names:
        whole = f"{prefix}{name}"
        _check_name(name, whole)
        other = alike.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if other is not name:
            raise malformed(whole, f"elsewhere its name would be that of {other}")
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            below = os.open(name, _NO_LINK | os.O_DIRECTORY, dir_fd=folder)
            closing.callback(os.close, below)
            _find_in(below, f"{whole}/", found, closing)
            continue
        if len(found) == MOST_FILES:
            raise malformed(prefix or "the folder", f"it has more than {MOST_FILES} files")
        found[whole] = _open(name, folder, whole, closing)


def _check_name(name: str, whole: str) -> None:
    shown = ascii(whole)
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in name):
        raise malformed(shown, "its name is not UTF-8")
    if unicodedata.normalize("NFC", name) != name:
        raise malformed(shown, "its name is not in Unicode's composed form (NFC)")
    if "\\" in name or any(unicodedata.category(letter) in _UNSEEN for letter in name):
        raise malformed(shown, "its name has a backslash, or letters that nobody sees")
    if len(name.encode()) > _LONGEST_NAME:
        raise malformed(shown, "its name is too long")


def _open(name: str | Path, folder: int | None, whole: str, closing: ExitStack) -> BinaryIO:
    # Looked at before it is opened, since to open a device may already do something, and after, since it
    # may have been exchanged in between.
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        raise malformed(whole, "it is a link, a device or something else that is no plain file")
    file = closing.enter_context(os.fdopen(os.open(name, _NO_LINK, dir_fd=folder), "rb"))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise malformed(whole, "it became another thing while it was looked at")
    return file


def _settled(file: BinaryIO, private: Path | None, closing: ExitStack) -> BinaryIO:
    state = os.fstat(file.fileno())
    ours = state.st_uid in (0, os.geteuid()) and not state.st_mode & _OTHERS_WRITE
    if private is None or ours:
        return file
    private.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy: BinaryIO = closing.enter_context(tempfile.TemporaryFile(dir=private))  # noqa: SIM115
    while chunk := file.read(_CHUNK):
        copy.write(chunk)
    copy.flush()
    return copy
