"""What language models run on, and what it costs to rent: pure data, one row each.

The rows stand in gpus.csv, from public datasheets, and in rents.csv, from public lists of prices; every row
names its source. Throughputs are dense: many datasheets print twice as much, which holds for sparse weights
only.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from statistics import median
from typing import TypeVar

import msgspec

Row = TypeVar("Row")


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device.

    Memory is in GB as it is sold, which is GiB on the device; bandwidths are in GB/s, that of the link in one
    direction; throughputs in dense TFLOPS, 0 where the device has no such units.
    """

    gpu: str
    generation: str
    memory_gb: float
    bandwidth_gb_s: float
    bf16_tflops: float
    fp8_tflops: float = 0
    fp4_tflops: float = 0
    link_gb_s: float = 32
    per_node: int = 8
    tdp_w: float = 0
    source: str = ""


class Rent(msgspec.Struct, frozen=True):
    """What one provider asked for one GPU on demand, in USD an hour, at one day."""

    gpu: str
    usd_per_hour: float
    provider: str
    date: str
    source: str


@cache
def gpus() -> dict[str, Gpu]:
    """Every GPU that is known, by name."""
    return {row.gpu: row for row in rows("gpus.csv", Gpu)}


@cache
def rents() -> tuple[Rent, ...]:
    """The dated snapshot of prices."""
    return rows("rents.csv", Rent)


def typical_rent(gpu: str) -> Rent | None:
    """The median of what is asked for it, as the nearest row that exists; None where no price is known."""
    asked = sorted((row for row in rents() if row.gpu == gpu), key=lambda row: row.usd_per_hour)
    if not asked:
        return None
    middle = median(row.usd_per_hour for row in asked)
    return min(asked, key=lambda row: abs(row.usd_per_hour - middle))


def rows(name: str, kind: type[Row]) -> tuple[Row, ...]:
    """The table of that name in this package, each line as a struct of that kind."""
    text = (files(__package__) / name).read_text(encoding="utf-8")
    return tuple(msgspec.convert(line, kind, strict=False) for line in csv.DictReader(text.splitlines()))
