"""Names of people: found by what announces them and by what they are made of."""

from __future__ import annotations

import pytest

from isthmus.perimeter.detectors.names import Names

SURE = 0.6


def found(text: str, least: float = SURE) -> list[str]:
    return [text[one.start : one.end] for one in Names().find(text) if one.score >= least]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Dr. Eleanor Whitcombe saw her.", "Eleanor Whitcombe"),
        ("Sehr geehrter Herr Brandstetter, anbei", "Brandstetter"),
        ("Mme Lefebvre a rappelé.", "Lefebvre"),
        ("El paciente Sr. Ibáñez tiene cita.", "Ibáñez"),
        ("My name is Xqwel Rrumb", "Xqwel Rrumb"),
        ("je m'appelle Aurélie Charpentier", "Aurélie Charpentier"),
        ("Меня зовут Ольга Кузнецова", "Ольга Кузнецова"),
        ("Signed by Marek Dvořák", "Marek Dvořák"),
        ("ask Kwabena Adjei-Mensah about it", "Kwabena Adjei-Mensah"),
        ("Vincent van Gogh painted it.", "Vincent van Gogh"),
        ("I met John F. Kennedy there", "John F. Kennedy"),
        ("my name is rohan mehta and i want to cancel", "rohan mehta"),
    ],
)
def test_a_name_is_found(text: str, name: str) -> None:
    assert found(text) == [name]


def test_a_name_ends_before_its_possessive() -> None:
    assert found("Margaret Osei's delivery is late.") == ["Margaret Osei"]


def test_a_list_of_names_vouches_for_its_members() -> None:
    assert found("They are Kaylee, Hope and Miguel.", 0.5) == ["Kaylee", "Hope", "Miguel"]
    assert found("We live in Hope.", 0.5) == []


def test_a_surname_is_known_again() -> None:
    assert found("Faina Yefremova sang. Everyone loved Yefremova.") == ["Faina Yefremova", "Yefremova"]


@pytest.mark.parametrize(
    "text",
    [
        "Hello World",
        "Dear Customer Support",
        "The Smith Foundation pays.",
        "Will they mark the bill on May 3?",
        "In Paris and Jordan it rains.",
        "ClassVar and MinLen are imported.",
        "I'm sure that It's fine and We'll see.",
        "name: Build and Test",
        "Unser Koch kocht, der Bauer melkt.",
        "TCP AND UDP",
        "Translate to German: hello",
        "Translate to English: good day",
    ],
)
def test_what_is_no_name_is_left_alone(text: str) -> None:
    assert found(text, 0.5) == []


def test_a_finding_does_not_hold_the_name() -> None:
    assert "Osei" not in repr(Names().find("Ask Margaret Osei."))
