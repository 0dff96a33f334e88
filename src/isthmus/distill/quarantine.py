"""Sources that may teach nobody any more, and whatever descends from them.

What was collected in good faith turns out to be poisoned, stolen, or not permitted: it is named once, here,
and every collection and every training afterwards leaves out what comes from it, by its origins, by the
datasets that it came through, and by what it asks. Lifting one is an entry, too: nothing is ever taken out.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.evaluation import Sample
from isthmus.distill.provenance import Provenance, asking_of

Kind: TypeAlias = Literal["terms", "provider", "model", "weights", "source", "dataset"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One source, put into quarantine or, `lifted`, let out of it.

    `kind` says what of a row is compared with `value`: the `terms`, `provider`, `model` or `weights` of an
    origin, its `source` (a run, a request, a dataset), or the hash of a `dataset` that it came through.
    `askings` tell the rows of such a dataset again, whoever has relabelled them.
    """

    kind: Kind
    value: str
    at_us: int
    why: str = ""
    who: str = ""
    lifted: bool = False
    askings: tuple[str, ...] = ()


class Quarantine:
    """What is in quarantine, by the entries so far; of one source the last one counts."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        last = {(it.kind, it.value): it for it in entries}
        self.held: tuple[Entry, ...] = tuple(it for it in last.values() if not it.lifted)
        self._named = {(it.kind, it.value) for it in self.held}
        self._askings = {asking: it for it in self.held for asking in it.askings}

    def holds(
        self, sample: Sample, provenance: Provenance | None, known_by: Iterable[str] = ()
    ) -> Entry | None:
        """The entry by which this row is in quarantine, None where it is in none; `known_by` are the hashes
        of the dataset in which it stands."""
        if self._askings and (found := self._askings.get(asking_of(sample))) is not None:
            return found
        names: Iterable[tuple[Kind, str]] = (("dataset", it) for it in known_by)
        names = chain(names, _names(provenance) if provenance is not None else ())
        named = next((it for it in names if it in self._named), None)
        return None if named is None else next(it for it in self.held if (it.kind, it.value) == named)


def _names(provenance: Provenance) -> Iterable[tuple[Kind, str]]:
    """Everything by which the row can be meant."""
    for origin in provenance.origins:
        yield "terms", origin.terms
        yield "provider", origin.provider
        yield "provider", origin.terms.partition("/")[0]
        yield "model", origin.model
        yield "weights", origin.weights or ""
        yield "source", origin.source
        yield "source", origin.run
        yield "dataset", origin.source
    for ancestor in provenance.ancestors:
        yield "dataset", ancestor


class QuarantineFile:
    """The entries in a file, one JSON object a line; several processes may add to it at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Sequence[Entry]:
        """All entries, the oldest first. Raises IsthmusError (`quarantine_unreadable`): what cannot be read
        may name anything, so that nothing is collected then."""
        try:
            *lines, rest = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise self._unreadable(error.strerror or "unknown error") from None
        entries = [self._entry(line, number) for number, line in enumerate(lines, 1)]
        unfinished = _decoded(rest)
        return entries if unfinished is None else [*entries, unfinished]

    def add(self, entry: Entry) -> None:
        """Append the entry; it is on the disk when this returns. Raises OSError, and then adds nothing."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            content = self.path.read_bytes()
            end = content.rfind(b"\n") + 1
            line = msgspec.json.encode(entry) + b"\n"
            if _decoded(content[end:]) is not None:
                end, line = len(content), b"\n" + line
            os.ftruncate(file, end)
            if os.pwrite(file, line, end) != len(line):
                os.ftruncate(file, end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(file)
        finally:
            os.close(file)

    def _entry(self, line: bytes, number: int) -> Entry:
        entry = _decoded(line)
        if entry is None:
            raise self._unreadable(f"line {number} is none of its entries")
        return entry

    def _unreadable(self, why: str) -> IsthmusError:
        return IsthmusError(
            Fault.INTERNAL,
            f"The quarantine {self.path} cannot be read: {why}.",
            code="quarantine_unreadable",
            hint="Mend it, or take the broken line out: until then nothing may teach.",
        )


def _decoded(line: bytes) -> Entry | None:
    """The entry of a line; None where that is none.

    What stands behind the last line's end is one that a person has added, or what a killed writer has begun:
    the beginning of an entry is none, and was told to nobody as written.
    """
    try:
        return msgspec.json.decode(line, type=Entry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def source_of(text: str) -> tuple[Kind, str] | None:
    """The kind and the value of a source such as `model:glm-5.2`; None for what is not written so."""
    kind, colon, value = text.partition(":")
    named = next((it for it in KINDS if it == kind), None)
    return (named, value) if named is not None and colon and value else None
