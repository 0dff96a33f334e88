"""A document comes out as Markdown and as a page of HTML that needs nothing from elsewhere."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from isthmus.reports.document import Bar, Document, Line, Lines, Prose, Section, Table, Tornado
from isthmus.reports.html import html
from isthmus.reports.markdown import markdown

EVIL = '<script>alert("|")</script>'
LINES = Lines(
    says="Two lines that cross.",
    across="requests",
    upward="USD",
    lines=(Line("stairs", ((0, 5), (10, 5), (10, 9), (20, 9)), stairs=True), Line(EVIL, ((0, 0), (20, 12)))),
)
TORNADO = Tornado(
    says="One bar.",
    along="USD",
    centre=1.0,
    bars=(Bar(EVIL, "1", -2.0, "2", 3.0), Bar("b", "1", 2.0, "2", 1.0)),
)
DOCUMENT = Document(
    "A & B",
    (
        Section("Table", (Prose("Said < before."), Table(("name", "USD"), (("one", "1"), (EVIL, "1,234"))))),
        Section("Charts", (LINES, TORNADO)),
    ),
)


def test_markdown_aligns_its_columns_and_keeps_cells_apart() -> None:
    lines = markdown(DOCUMENT).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in table}) == 1
    assert table[1].endswith("-: |")
    assert table[2].endswith("    1 |")
    assert '\\|")' in table[3]
    assert lines[0] == "# A & B"


def test_a_page_needs_nothing_from_elsewhere_and_runs_nothing() -> None:
    page = html(DOCUMENT)
    assert "<script" not in page
    assert not re.search(r"(src|href)=|@import|url\(", page)
    assert "&lt;script&gt;" in page
    assert "prefers-color-scheme: dark" in page
    assert '<html lang="en">' in page


@pytest.mark.parametrize("says", [LINES.says, TORNADO.says])
def test_charts_are_well_formed_and_said_in_words(says: str) -> None:
    pictures = [ElementTree.fromstring(it) for it in re.findall(r"<svg.*?</svg>", html(DOCUMENT), re.DOTALL)]
    assert len(pictures) == 2
    assert says in [it.get("aria-label") for it in pictures]
    assert all(it.get("role") == "img" for it in pictures)


def test_lines_differ_by_more_than_their_colour() -> None:
    looks = re.findall(r'<polyline .*?stroke-dasharray="(.*?)"', html(DOCUMENT))
    assert len(looks) == len(set(looks)) == 2


def test_stairs_go_level_before_they_go_up() -> None:
    points = re.search(r'<polyline points="(.*?)"', html(DOCUMENT))
    assert points is not None
    places = [tuple(map(float, it.split(","))) for it in points[1].split()]
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(places))
