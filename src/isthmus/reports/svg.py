"""Charts as SVG by hand. Lines differ by their dashes and names, bars by their places, never by colour alone.

Colours are the variables of the page (`--one`, `--ink`...), so that they follow its light or dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape

from isthmus.reports.document import Bar, Line, Lines, Point, Scatter, Tornado

_WIDTH, _HEIGHT = 880, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 20, 20, 50
_ROW = 30
_NAMES = 330
_VALUES = 70
_CHARACTER = 7.2
_NAME = 190
_ASIDE = 40
_APART = 16
_FAR_APART = 20
_LOOKS = (("--one", ""), ("--two", "8 4"), ("--three", "2 4"), ("--four", "10 3 2 3"))


def lines_svg(chart: Lines) -> str:
    """The lines over their axes."""
    rightmost = max(x for line in chart.lines for x, _ in line.points)
    highest = max(y for line in chart.lines for _, y in line.points)
    wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + wide * x / rightmost, _TOP + tall * (1 - y / highest)

    parts = list(_axes(chart, rightmost, highest))
    for number, line in enumerate(chart.lines):
        colour, dashes = _LOOKS[number % len(_LOOKS)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in _path(line)))
        look = f'stroke="var({colour})" stroke-dasharray="{dashes}" stroke-width="2" fill="none"'
        key = _TOP + 14 + 20 * number
        parts += [
            f'<polyline points="{points}" {look}/>',
            f'<path d="M{_LEFT + 14} {key}h36" {look}/>',
            _text(_LEFT + 58, key + 4, line.name),
        ]
    return _svg(_HEIGHT, chart.says, parts)


def tornado_svg(chart: Tornado) -> str:
    """The bars around their centre, the first on top; a rule marks zero where it is in sight."""
    ends = [end for bar in chart.bars for end in (bar.at_low, bar.at_high)] + [chart.centre]
    least, most = min(ends), max(ends)
    wide = _WIDTH - _NAMES - 2 * _VALUES

    def place(value: float) -> float:
        return _NAMES + _VALUES + wide * (value - least) / ((most - least) or 1.0)

    bottom = _TOP + _ROW * len(chart.bars)
    parts = [
        part
        for number, bar in enumerate(chart.bars)
        for part in _bar(bar, _TOP + _ROW * number, place(bar.at_low), place(bar.at_high))
    ]
    parts.append(_rule(place(chart.centre), bottom, "", _short(chart.centre)))
    if least < 0 < most:
        parts.append(_rule(place(0), bottom, "4 3", "0"))
    parts.append(_text(_NAMES + _VALUES + wide / 2, bottom + 40, chart.along, "middle"))
    return _svg(bottom + 50, chart.says, parts)


def scatter_svg(chart: Scatter) -> str:
    """The points over their axes, with whiskers; heights begin where the lowest whisker ends.

    Where all widths are above zero and far apart, they are told by their logarithm. Points of about one width
    stand side by side, so that no whisker hides another.
    """
    widths = [point.x for point in chart.points]
    logarithmic = min(widths) > 0 and max(widths) / min(widths) > _FAR_APART
    least_x, most_x = (min(widths), max(widths)) if logarithmic else (0.0, max(widths) or 1.0)
    least_y = math.floor(min(point.low for point in chart.points) * 10) / 10
    most_y = max(least_y + 0.1, math.ceil(max(point.high for point in chart.points) * 10) / 10)
    first, wide = _LEFT + _ASIDE, _WIDTH - _LEFT - _RIGHT - _ASIDE - _NAME
    tall = _HEIGHT - _TOP - _BOTTOM

    def across(x: float) -> float:
        if logarithmic:
            return first + wide * math.log(x / least_x) / math.log(most_x / least_x)
        return first + wide * (x - least_x) / (most_x - least_x)

    def upward(y: float) -> float:
        return _TOP + tall * (1 - (y - least_y) / (most_y - least_y))

    ticks = _powers(least_x / 1.5, most_x * 1.5) if logarithmic else _ticks(most_x) if any(widths) else [0.0]
    parts = [*_grid(chart, [(across(it), it) for it in ticks], _tenths(least_y, most_y), upward)]
    placed = _side_by_side([(across(point.x), point) for point in chart.points])
    marked = [(x, point) for x, point in placed if point.marked]
    if len(marked) > 1:
        way = " ".join(f"{x:.1f},{upward(point.y):.1f}" for x, point in marked)
        parts.append(
            f'<polyline points="{way}" stroke="var(--three)" stroke-width="2" stroke-dasharray="6 4" '
            'fill="none"/>'
        )
    for x, point in placed:
        parts += _whisker(point, x, upward)
    return _svg(_HEIGHT, chart.says, [*parts, *_names_of(placed, upward)])


def _side_by_side(points: Sequence[tuple[float, Point]]) -> list[tuple[float, Point]]:
    """The points from left to right, none nearer to the one before than a whisker is wide."""
    placed: list[tuple[float, Point]] = []
    for x, point in sorted(points, key=lambda it: (it[0], it[1].y)):
        nearest = placed[-1][0] + _APART if placed else x
        placed.append((max(x, nearest), point))
    return placed


def _grid(
    chart: Scatter,
    across: Iterable[tuple[float, float]],
    heights: Iterable[float],
    upward: Callable[[float], float],
) -> Iterator[str]:
    wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    for height in heights:
        yield f'<path d="M{_LEFT} {upward(height):.1f}h{wide}" stroke="var(--rule)"/>'
        yield _text(_LEFT - 8, upward(height) + 4, f"{height:.2g}", "end")
    for x, tick in across:
        yield f'<path d="M{x:.1f} {_TOP + tall}v5" stroke="var(--faint)"/>'
        yield _text(x, _TOP + tall + 18, _short(tick), "middle")
    yield _text(_LEFT + wide / 2, _HEIGHT - 8, chart.across, "middle")
    middle = _TOP + tall / 2
    yield f'<g transform="rotate(-90 14 {middle})">{_text(14, middle, chart.upward, "middle")}</g>'


def _whisker(point: Point, x: float, upward: Callable[[float], float]) -> Iterator[str]:
    colour, fill = ("--three", "var(--three)") if point.marked else ("--one", "var(--paper)")
    low, high = upward(point.low), upward(point.high)
    stroke = f'stroke="var({colour})"'
    yield f'<path d="M{x - 6:.1f} {high:.1f}h12m-6 0V{low:.1f}m-6 0h12" {stroke} fill="none"/>'
    yield f'<circle cx="{x:.1f}" cy="{upward(point.y):.1f}" r="6" {stroke} stroke-width="2" fill="{fill}"/>'


def _names_of(placed: Sequence[tuple[float, Point]], upward: Callable[[float], float]) -> Iterator[str]:
    """The names beside their points, each moved down past those that stand there already."""
    taken: list[tuple[float, float, float]] = []
    for x, point in sorted(placed, key=lambda it: upward(it[1].y)):
        left, y, size = x + 12, upward(point.y) - 8, len(point.name) * _CHARACTER
        while any(abs(y - other) < 15 and left < end and start < left + size for start, end, other in taken):
            y += 15
        taken.append((left, left + size, y))
        name = _text(left, y + 4, point.name)
        yield f'<g stroke="var(--paper)" stroke-width="4" paint-order="stroke">{name}</g>'


def _powers(least: float, most: float) -> list[float]:
    """Ones, twos and fives of each power of ten between the two."""
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
    numbers = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
    return [number for number in numbers if least <= number <= most]


def _tenths(least: float, most: float) -> list[float]:
    return [least + step / 10 for step in range(round((most - least) * 10) + 1)]


def _axes(chart: Lines, rightmost: float, highest: float) -> Iterator[str]:
    wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    for tick in _ticks(highest):
        y = _TOP + tall * (1 - tick / highest)
        yield f'<path d="M{_LEFT} {y:.1f}h{wide}" stroke="var(--rule)"/>'
        yield _text(_LEFT - 8, y + 4, _short(tick), "end")
    for tick in _ticks(rightmost):
        yield _text(_LEFT + wide * tick / rightmost, _TOP + tall + 18, _short(tick), "middle")
    yield _text(_LEFT + wide / 2, _HEIGHT - 8, chart.across, "middle")
    middle = _TOP + tall / 2
    upward = _text(14, middle, chart.upward, "middle")
    yield f'<g transform="rotate(-90 14 {middle})">{upward}</g>'


def _path(line: Line) -> Iterator[tuple[float, float]]:
    before: tuple[float, float] | None = None
    for point in line.points:
        if before is not None and line.stairs:
            yield before[0], point[1]
        yield point
        before = point


def _bar(bar: Bar, top: float, low: float, high: float) -> Iterator[str]:
    middle = top + _ROW / 2 + 4
    left, right = sorted((low, high))
    at_left, at_right = (bar.low, bar.high) if low <= high else (bar.high, bar.low)
    yield _text(_NAMES - 8, middle, bar.name, "end")
    yield (
        f'<rect x="{left:.1f}" y="{top + 5}" width="{max(right - left, 1):.1f}" height="{_ROW - 10}" '
        'fill="var(--one)" fill-opacity="0.6"/>'
    )
    yield _text(left - 5, middle, at_left, "end")
    yield _text(right + 5, middle, at_right)


def _rule(x: float, bottom: float, dashes: str, name: str) -> str:
    line = f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="var(--ink)" stroke-dasharray="{dashes}"/>'
    return line + _text(x, bottom + 16, name, "middle")


def _ticks(most: float) -> list[float]:
    """Four to ten round numbers from 0 up to `most`."""
    rough = most / 8
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough)
    return [step * number for number in range(int(most / step) + 1)]


def _short(value: float) -> str:
    """The number with three digits at most and a letter for its thousands."""
    for power, letter in ((9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**power:
            return f"{value / 10**power:.3g}{letter}"
    return f"{value:.3g}"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="13" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: float, says: str, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img" '
        f'aria-label="{escape(says)}" font-family="system-ui, sans-serif">\n' + "\n".join(parts) + "\n</svg>"
    )
