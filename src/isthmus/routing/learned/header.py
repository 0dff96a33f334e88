"""What a file of a learned router says before its arrays: enough to check it, and to choose without it.

The file is eight bytes of length, this header as JSON, and an `npz` archive. The header has the archive's
hash, so a file that was cut or changed is refused before anything of it is used. Nothing here needs numpy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.label import BOTTOM, Label
from isthmus.core.tie import Evidence, Tie

VERSION = 2

_LENGTH = 8


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What a router was made of, and when.

    `asked_at_us` is when the first of the answers was given that it was learned from; 0 where nobody knows.
    `evidence` says which they were; None where that was not kept.
    `label` is that of its samples, joined: vectors and weights tell something of their words. `learned`
    samples made it, `tested` others judged it, and `finding` says how. `outputs` has the mean length of each
    model's answers, in tokens, as far as it was measured.
    """

    tie: Tie
    made_at_us: int
    asked_at_us: int = 0
    evidence: Evidence | None = None
    label: Label = BOTTOM
    learned: int = 0
    tested: int = 0
    finding: str = ""
    outputs: Mapping[str, Annotated[int, Meta(ge=0, le=2**31)]] = {}


class Header(msgspec.Struct, frozen=True, kw_only=True, tag="router", tag_field="isthmus"):
    """What stands before the arrays. `overall` is what each of `models` scores on the whole, `best` the place
    of the best one; `embedding` is the hash of the table that made the vectors."""

    version: int
    sha256: str
    origin: Origin
    models: Annotated[tuple[str, ...], Meta(min_length=1)]
    overall: tuple[float, ...]
    best: Annotated[int, Meta(ge=0)]
    parts: tuple[str, ...]
    tasks: bool
    both: bool
    support: float
    embedding: str | None


def joined(header: Header, arrays: bytes) -> bytes:
    """The file of a header and its arrays."""
    encoded = msgspec.json.encode(header)
    return len(encoded).to_bytes(_LENGTH, "little") + encoded + arrays


def parted(content: bytes) -> tuple[Header, bytes]:
    """The header and the arrays of a file. Raises IsthmusError (`bad_router`)."""
    try:
        size = int.from_bytes(content[:_LENGTH], "little")
        header = msgspec.json.decode(content[_LENGTH : _LENGTH + size], type=Header)
        arrays = content[_LENGTH + size :]
        if header.version != VERSION or hashlib.sha256(arrays).hexdigest() != header.sha256:
            raise ValueError("another version, or not whole")
        if len(header.overall) != len(header.models) or header.best >= len(header.models):
            raise ValueError("its models are not counted alike")
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise bad_router() from error
    return header, arrays


def bad_router() -> IsthmusError:
    """What to say of a file that is no learned router."""
    return IsthmusError(
        Fault.INVALID_REQUEST,
        "This is no learned router of this version, or it is not whole.",
        code="bad_router",
        hint="Learn it anew: isthmus calibrate ROUTE.",
    )
