"""People as a whole: overlaps are settled, a witness is heard, and made-up prompts are told apart."""

from __future__ import annotations

import pytest
from tests.unit.prompts import PLAIN, TELLING

from isthmus.core.label import Finding
from isthmus.perimeter.detectors.dates import Dates
from isthmus.perimeter.detectors.organisations import Organisations
from isthmus.perimeter.detectors.people import DIRECT, SUSPECTED, People, settle
from isthmus.perimeter.detectors.places import Places


class Witness:
    """A detector that says what it was told to say, and counts how often it was asked."""

    name = "witness"

    def __init__(self, *findings: Finding) -> None:
        self.findings = list(findings)
        self.asked = 0

    def find(self, text: str) -> list[Finding]:
        self.asked += 1
        return self.findings


@pytest.mark.parametrize(("text", "identifiers"), TELLING, ids=[text[:40] for text, _ in TELLING])
def test_a_telling_prompt_is_seen(text: str, identifiers: tuple[str, ...]) -> None:
    findings = [one for one in People().find(text) if one.kind in DIRECT and one.score >= SUSPECTED]
    for identifier in identifiers:
        start = text.index(identifier)
        end = start + len(identifier)
        covered = sum(max(0, min(end, one.end) - max(start, one.start)) for one in findings)
        assert covered >= 0.7 * len(identifier)


@pytest.mark.parametrize("text", PLAIN, ids=[text[:40] for text in PLAIN])
def test_a_plain_prompt_is_not(text: str) -> None:
    assert [one for one in People().find(text) if one.kind in DIRECT and one.score >= SUSPECTED] == []


def test_an_address_swallows_its_town() -> None:
    kinds = [one.kind for one in People().find("She lives at 12 Victoria Street, London SW1A 2AA.")]
    assert kinds == ["pii.address"]


def test_of_two_that_overlap_the_surer_stays() -> None:
    name, place = Finding("pii.name", 0, 5, "a", 0.4), Finding("pii.location", 0, 5, "b", 0.7)
    assert settle([name, place]) == [place]


def test_a_witness_is_asked_only_in_doubt() -> None:
    witness = Witness()
    People(witness).find("Dr. Eleanor Whitcombe saw her.")
    assert witness.asked == 0
    People(witness).find("Gerste is moving.")
    assert witness.asked == 1


def test_a_witness_raises_what_it_shares_and_lowers_what_it_does_not_see() -> None:
    text = "Gerste is moving."
    [alone] = People().find(text)
    [shared] = People(Witness(Finding("pii.name", 0, 6, "witness", 0.5))).find(text)
    [doubted] = People(Witness()).find(text)
    assert doubted.score < alone.score < shared.score


def test_what_only_the_witness_saw_is_added() -> None:
    text = "Gerste saw Dolorosa."
    found = People(Witness(Finding("pii.location", 11, 19, "witness", 0.5))).find(text)
    assert Finding("pii.location", 11, 19, "witness", 0.5) in found


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("We flew to Reykjavik.", "pii.location", "Reykjavik"),
        ("I come from South Korea", "pii.location", "South Korea"),
        ("He grew up in Zzyzx", "pii.location", "Zzyzx"),
        ("a Norwegian bank", "pii.group", "Norwegian"),
        ("Er ist Österreicher", "pii.group", "Österreicher"),
    ],
)
def test_places_and_groups(text: str, kind: str, said: str) -> None:
    assert [(one.kind, text[one.start : one.end]) for one in Places().find(text)] == [(kind, said)]


@pytest.mark.parametrize("text", ["a mobile phone", "nice reading", "the polish of the table"])
def test_a_word_is_no_place(text: str) -> None:
    assert [one for one in Places().find(text) if one.score >= 0.5] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("I work for Acme Widgets Inc.", "Acme Widgets Inc."),
        ("Die Müller Werkzeugbau GmbH liefert", "Müller Werkzeugbau GmbH"),
        ("the University of Dolorosa", "University of Dolorosa"),
    ],
)
def test_organisations(text: str, said: str) -> None:
    [finding] = Organisations().find(text)
    assert text[finding.start : finding.end] == said


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("on 3 March 1987", "pii.date", "3 March 1987"),
        ("am 03.03.1987 war", "pii.date", "03.03.1987"),
        ("le 14 juillet 1987", "pii.date", "14 juillet 1987"),
        ("at 1985-11-18 22:50:23 it", "pii.date", "1985-11-18 22:50:23"),
        ("a 79 year old woman", "pii.age", "79 year old"),
        ("ich bin 42 Jahre alt", "pii.age", "42 Jahre alt"),
    ],
)
def test_dates_and_ages(text: str, kind: str, said: str) -> None:
    [finding] = Dates().find(text)
    assert (finding.kind, text[finding.start : finding.end]) == (kind, said)


def test_a_date_of_birth_is_surer_than_a_date() -> None:
    [birth] = Dates().find("born on 3 March 1987")
    [other] = Dates().find("paid on 3 March 1987")
    assert birth.score > other.score


@pytest.mark.parametrize("text", ["version 3.10.12", "192.168.10.12", "1/2/3 scale", "build 2024-1.2"])
def test_what_is_no_date(text: str) -> None:
    assert Dates().find(text) == []
