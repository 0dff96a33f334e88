"""Detectors of people: whatever the text, findings lie in it, in order, and equal texts give equal ones."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.core.label import Finding
from isthmus.perimeter.detectors import Detector
from isthmus.perimeter.detectors.addresses import Addresses
from isthmus.perimeter.detectors.dates import Dates
from isthmus.perimeter.detectors.names import Names
from isthmus.perimeter.detectors.organisations import Organisations
from isthmus.perimeter.detectors.people import People, settle
from isthmus.perimeter.detectors.places import Places

DETECTORS: tuple[Detector, ...] = (Addresses(), Dates(), Names(), Organisations(), Places(), People())

PARTS = st.sampled_from(
    (
        *(
            "12 ",
            "Main",
            " Street",
            ", ",
            "\n",
            "Dr. ",
            "Anne-Lotte",
            " O'Hara's",
            "Paris",
            " 75002",
            "-",
            "'",
            "’s",
        ),
        *(
            ".",
            "Inc",
            "born ",
            "3 May 1980",
            "Straße",
            "Å",
            "ß",
            "İ",
            "ﬁ",
            "\ud800",
            "\x00",
            "👩\u200d👧",
            "ул. ",
        ),
        *("Мира 5", "北京市", "路88号", " von ", "> ", "Apt. 5", "J. ", "my name is "),
    )
)
TEXTS = st.one_of(st.text(max_size=200), st.lists(PARTS, max_size=25).map("".join))


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.name)
@given(text=TEXTS)
def test_findings_lie_in_the_text_in_order_and_apart(detector: Detector, text: str) -> None:
    end = 0
    for finding in detector.find(text):
        assert end <= finding.start < finding.end <= len(text)
        assert 0 <= finding.score <= 1
        assert finding.kind.startswith("pii.")
        end = finding.end


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.name)
@given(text=TEXTS)
def test_equal_texts_give_equal_findings(detector: Detector, text: str) -> None:
    assert detector.find(text) == detector.find(text)


@st.composite
def findings(draw: st.DrawFn) -> Finding:
    """A finding somewhere in a short text."""
    start = draw(st.integers(0, 30))
    return Finding(
        "pii.x", start, start + draw(st.integers(1, 10)), "x", draw(st.sampled_from([0.2, 0.5, 0.9]))
    )


@given(st.lists(findings(), max_size=12))
def test_what_is_settled_is_apart_and_nothing_is_uncovered(found: list[Finding]) -> None:
    settled = settle(found)
    assert all(one.end <= other.start for one, other in pairwise(settled))
    for finding in found:
        assert any(finding.start < one.end and one.start < finding.end for one in settled)
