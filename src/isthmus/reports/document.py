"""A report as data: sections of prose, tables and charts, to be written as Markdown or as HTML."""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Prose(msgspec.Struct, frozen=True):
    """A paragraph."""

    text: str


class Table(msgspec.Struct, frozen=True):
    """Rows under heads. The columns from `numbers` on hold numbers, which stand to the right."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: int = 1


class Line(msgspec.Struct, frozen=True):
    """A named line of a chart, as points from left to right. `stairs` go level, then straight up."""

    name: str
    points: tuple[tuple[float, float], ...]
    stairs: bool = False


class Lines(msgspec.Struct, frozen=True, kw_only=True):
    """A chart of lines over one axis. `says` is the chart in a sentence, for who does not see it."""

    says: str
    across: str
    upward: str
    lines: tuple[Line, ...]


class Bar(msgspec.Struct, frozen=True):
    """A bar of a tornado: what the low and the high of `name` make of the figure."""

    name: str
    low: str
    at_low: float
    high: str
    at_high: float


class Tornado(msgspec.Struct, frozen=True, kw_only=True):
    """A chart of bars around `centre`. `says` is the chart in a sentence, for who does not see it."""

    says: str
    along: str
    centre: float
    bars: tuple[Bar, ...]


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A named point whose height is known to lie from `low` to `high`; `marked` ones stand out, joined by a
    line."""

    name: str
    x: float
    y: float
    low: float
    high: float
    marked: bool = False


class Scatter(msgspec.Struct, frozen=True, kw_only=True):
    """A chart of points with whiskers. `says` is the chart in a sentence, for who does not see it."""

    says: str
    across: str
    upward: str
    points: tuple[Point, ...]


Block: TypeAlias = Prose | Table | Lines | Tornado | Scatter


class Section(msgspec.Struct, frozen=True):
    """What stands under one heading."""

    title: str
    blocks: tuple[Block, ...]


class Document(msgspec.Struct, frozen=True):
    """A whole report."""

    title: str
    sections: tuple[Section, ...]
