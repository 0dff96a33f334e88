"""A protected document is recognised by a piece of it."""

from __future__ import annotations

import pytest

from isthmus.perimeter.detectors.fingerprints import GUARANTEE, NOISE, Fingerprints, build, load

PLAN = """
The ferry company will sell its three oldest boats before the end of winter, and charter two new ones from a
yard in the north. Nobody outside the board may know the price, which is eleven million for the pair, nor the
date on which the crews are told. The morning line closes in March; the evening line stays until the bridge is
open.
"""
CODE = """
def settle(reservation, usage, prices):
    charge = sum(prices[kind] * count for kind, count in usage.items())
    reservation.release(reservation.amount - charge)
    return Charge(reservation.key, charge, reservation.currency)
"""
INDEX = build({"plan": PLAN, "settlement": CODE, "short": "Too short to be found."})


def found(text: str) -> list[tuple[str, str]]:
    return [(finding.kind, text[finding.start : finding.end]) for finding in Fingerprints(INDEX).find(text)]


def test_a_quoted_piece_is_found_with_other_line_ends() -> None:
    quoted = "nobody outside the board may know the price -- which is\n> eleven million\tfor the pair, nor"
    ((kind, piece),) = found(f"I was told that {quoted} anything else; keep it quiet.")
    assert kind == "term.plan"
    assert piece in quoted
    assert len(piece.split()) >= NOISE


def test_code_is_found_after_it_was_wrapped_anew() -> None:
    assert [kind for kind, _ in found("// " + " ".join(CODE.split()))] == ["term.settlement"]


def test_a_span_reaches_over_a_changed_word() -> None:
    ((kind, piece),) = found(" ".join(PLAN.split()).replace("eleven", "twelve"))
    assert kind == "term.plan"
    assert "Nobody outside" in piece
    assert "the crews are told" in piece


@pytest.mark.parametrize(
    "text",
    [
        "The ferry company will sell its boats in spring, and nobody minds.",
        "before the end of winter",
        "Too short to be found.",
        "",
    ],
)
def test_a_few_words_in_common_are_nothing(text: str) -> None:
    assert found(text) == []


def test_a_saved_index_is_the_same() -> None:
    again = load(INDEX.dump())
    assert again == INDEX
    assert Fingerprints(again).find(PLAN) == Fingerprints(INDEX).find(PLAN)


@pytest.mark.parametrize(
    "data", [b"", b"x", INDEX.dump()[:-1], b"y" + INDEX.dump(), INDEX.dump() + b"\0", INDEX.dump()[:40]]
)
def test_a_damaged_index_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="fingerprints"):
        load(data)


def test_an_index_in_disorder_is_refused() -> None:
    head, _, body = INDEX.dump().rpartition(b"}\n")
    with pytest.raises(ValueError, match="disorder"):
        load(head + b"}\n" + body[:-4] + b"\xff\xff\0\0")


def test_the_index_holds_no_words() -> None:
    assert b"ferry" not in INDEX.dump()
    assert NOISE < GUARANTEE
