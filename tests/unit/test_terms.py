"""An operator's terms are found whole, however they are spaced."""

from __future__ import annotations

import pytest

from isthmus.perimeter.detectors.terms import Terms

LISTED = """
# what must not leave the house
Blue Bird        # the merger
C#
株式会社例
Éclair
Bird
"""


def found(terms: Terms, text: str) -> list[str]:
    return [text[finding.start : finding.end] for finding in terms.find(text)]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The Blue Bird flies", ["Blue Bird"]),
        ("blue-bird, BLUE  BIRD, blue\nbird", ["blue-bird", "BLUE  BIRD", "blue\nbird"]),
        ("BlueBird_config.yaml", ["BlueBird"]),
        ("bluebirds and hummingbird", []),
        ("a bird", ["bird"]),
        ("written in C#, or c#.", ["C#", "c#"]),
        ("これは株式会社例です", ["株式会社例"]),
        ("Un ÉCLAIR?", ["ÉCLAIR"]),
        ("Éclairs", []),
        ("\ud800 İ Blue Bird", ["Blue Bird"]),
        ("the merger", []),
        ("", []),
    ],
)
def test_terms_are_whole_words(text: str, terms: list[str]) -> None:
    assert found(Terms("projects", LISTED), text) == terms


def test_case_matters_where_it_is_said_so() -> None:
    assert found(Terms("projects", "Apple", case_sensitive=True), "an apple of Apple \ud800") == ["Apple"]


def test_the_kind_is_the_lists_name() -> None:
    assert {finding.kind for finding in Terms("projects", LISTED).find("Bird")} == {"term.projects"}


@pytest.mark.parametrize("listed", ["", "\n\n", "# only a comment", "  - \n"])
def test_an_empty_list_finds_nothing(listed: str) -> None:
    assert found(Terms("none", listed), "anything - at all") == []
