"""Where a row comes from: whose work each part is, on which terms, and through which datasets it came.

It stands in the metadata of the sample, as `provenance`, with a seal over what the row asks and wants: a row
whose answer was changed by whoever knows nothing of this has a broken seal, and nobody's word for it. The
seal is no signature: it finds mishaps, not forgers.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from isthmus.core.evaluation import Sample
from isthmus.distill.terms import Ground

FIELD = "provenance"
"""Under which it stands in a sample's metadata."""

Part: TypeAlias = Literal["input", "answer", "mark"]

LATEST_US = 253_402_300_799_000_000
"""The last second of the year 9999: what is told to be of later is told by nobody who knows."""

_canonical = msgspec.json.Encoder(order="deterministic").encode


class Origin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whose work a part of a row is: what was asked, the answer, or the mark by which the answer was chosen.

    A judge that chooses what is learned teaches, too. Of a `model`: `terms` is what governs its outputs,
    `provider` and `model` are the config's provider and the provider's id, `weights` their SHA-256 where they
    are known. `document`, `dated` and `verdict` are what was found of the terms when the row was collected,
    and `ground` what lifted a ban. `source` is the request or the dataset that it was taken from, `run` the
    run that first asked for it, and `at_us` when it was said, in microseconds since the epoch.
    """

    part: Part
    maker: Literal["people", "model"]
    terms: str = ""
    provider: str = ""
    model: str = ""
    weights: str | None = None
    document: str | None = None
    dated: dt.date | None = None
    verdict: str | None = None
    ground: Ground | None = None
    source: str = ""
    run: str = ""
    at_us: Annotated[int, Meta(ge=0, le=LATEST_US)] = 0

    @property
    def day(self) -> dt.date:
        """The day (UTC) on which it was said."""
        return dt.datetime.fromtimestamp(self.at_us / 1e6, dt.UTC).date()


class Provenance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All origins of a row, the hashes of the datasets that it came through, and the seal."""

    origins: tuple[Origin, ...]
    ancestors: tuple[str, ...] = ()
    seal: str = ""


def provenance_of(sample: Sample) -> Provenance | None:
    """What a sample says of where it comes from; None where it says nothing that can be read."""
    try:
        return msgspec.convert(sample.metadata.get(FIELD), Provenance)
    except (msgspec.ValidationError, OverflowError):
        return None


def sealed(sample: Sample, origins: Iterable[Origin], ancestors: Iterable[str] = ()) -> Sample:
    """The sample with its provenance, each origin and ancestor once."""
    told = Provenance(
        origins=tuple(sorted(dict.fromkeys(origins), key=_canonical)),
        ancestors=tuple(sorted(set(ancestors))),
        seal=seal_of(sample),
    )
    metadata = {**sample.metadata, FIELD: msgspec.to_builtins(told)}
    return msgspec.structs.replace(sample, metadata=metadata)


def seal_of(sample: Sample) -> str:
    """The SHA-256 of what the sample asks and wants."""
    return hashlib.sha256(_canonical([sample.request, sample.target])).hexdigest()


def asking_of(sample: Sample) -> str:
    """What tells what a sample asks from what others ask, whatever is wanted of it: half a SHA-256."""
    return hashlib.sha256(_canonical(sample.request.get("messages"))).hexdigest()[:32]
