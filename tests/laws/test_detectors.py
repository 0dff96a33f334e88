"""Detectors on any text: places are right, nothing raises, and check digits tell numbers from look-alikes."""

from __future__ import annotations

from collections.abc import Callable
from string import ascii_uppercase
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.core.label import Finding
from isthmus.perimeter import checks
from isthmus.perimeter.detectors import Detector
from isthmus.perimeter.detectors.classifier import Classifier, Measured, Model
from isthmus.perimeter.detectors.fingerprints import GUARANTEE, NOISE, Fingerprints, dump, load, prints_of
from isthmus.perimeter.detectors.patterns import Patterns
from isthmus.perimeter.detectors.secrets import credentials
from isthmus.perimeter.detectors.terms import Terms
from isthmus.perimeter.views import findings, views

PATTERNS = Patterns()
DETECTORS: list[Detector] = [
    PATTERNS,
    credentials(),
    Terms("projects", "Blue Bird\nC#\n例"),
    Classifier("odd", Model(3.0, [(-1.0) ** bucket for bucket in range(1 << 16)], Measured(0, 0, 0, 0))),
    Fingerprints("plan", prints_of(" ".join(f"word{number}" for number in range(40)))),
]

# What detectors look for, in pieces, so that random texts come near to it; and whatever Unicode has.
PIECES = st.sampled_from(
    [
        *(
            "4111 1111 1111 1111",
            "DE89",
            "3704 0044",
            "a@b.example",
            "+49 30",
            "1234567",
            "phone",
            "SSN: ",
            "né le",
        ),
        *(
            "Bearer ",
            "password=",
            "sk-",
            "ghp_",
            "://",
            ":x@",
            "%40",
            "\\u0040",
            "&#64;",
            "YUBiLmV4YW1wbGU=",
            "0x",
        ),
        *(
            "\u200b",
            "\u202e",
            "\u0430",
            "\uff14",
            "e\u0301",
            "\ufb03",
            "\U000e0041",
            "\ud800",
            "İ",
            "ß",
            "例",
            "\x00",
        ),
        *(" ", "-", ".", "\n", "(", ")", "word7 word8", "blue", "bird"),
    ]
)
ANY = st.one_of(PIECES, st.text(st.characters(codec=None), max_size=8), st.text("0123456789 -.", max_size=24))
TEXTS = st.lists(ANY, max_size=14).map("".join)
# No word of a topic can be made of these.
PLAIN = st.text("fghjkz ,;", max_size=30)


@given(TEXTS)
def test_findings_lie_within_the_text_and_in_order(text: str) -> None:
    for detector in DETECTORS:
        found = detector.find(text)
        assert found == detector.find(text)
        assert [finding.start for finding in found] == sorted(finding.start for finding in found)
        assert all(0 <= finding.start < finding.end <= len(text) for finding in found)
        assert all(0 < finding.score <= 1 and finding.detector == detector.name for finding in found)


@given(TEXTS)
def test_findings_of_one_detector_overlap_only_in_urls(text: str) -> None:
    reached = 0
    for finding in PATTERNS.find(text):
        if finding.kind != "pii.url":
            assert finding.start >= reached
            reached = finding.end


@given(TEXTS)
def test_views_places_are_within_the_text_and_monotone(text: str) -> None:
    for view in views(text):
        places = [view.place(at, at + 1) for at in range(len(view.text))]
        assert all(0 <= start < end <= len(text) for start, end in places)
        assert places == sorted(places)
        if view.text:
            assert view.place(0, len(view.text)) == (places[0][0], places[-1][1])


@given(TEXTS)
def test_a_normalised_text_is_its_own_view(text: str) -> None:
    normal = views(text)[0].text
    assert views(normal)[0].text == normal


@given(TEXTS)
def test_findings_in_views_lie_within_the_text(text: str) -> None:
    found = findings(text, DETECTORS)
    assert all(0 <= finding.start < finding.end <= len(text) for finding in found)
    assert len({(finding.kind, finding.start, finding.end, finding.detector) for finding in found}) == len(
        found
    )


@given(PLAIN, PLAIN)
def test_what_stands_around_moves_a_finding_and_nothing_else(before: str, after: str) -> None:
    text = "\njane.doe@example.com, 4111 1111 1111 1111, 203.0.113.7\n"
    moved = [
        Finding(
            finding.kind,
            finding.start + len(before),
            finding.end + len(before),
            finding.detector,
            finding.score,
        )
        for finding in PATTERNS.find(text)
    ]
    assert len(moved) == 3
    assert PATTERNS.find(before + text + after) == moved


@given(st.lists(st.sampled_from(["\u200b", "\u2060", "\u00ad", "\ufeff"]), min_size=19, max_size=19))
def test_invisible_characters_hide_nothing(invisible: list[str]) -> None:
    pairs = zip("4111 1111 1111 1111", invisible, strict=True)
    text = "".join(letter + hidden for letter, hidden in pairs)
    (finding,) = findings(f"({text})", [PATTERNS])
    assert (finding.kind, finding.start) == ("pii.card", 1)


def _digits(size: int) -> st.SearchStrategy[str]:
    return st.text("0123456789", min_size=size, max_size=size)


class Numbers(NamedTuple):
    """Numbers of a kind: all but their check mark, the marks that there are, and the word that they need."""

    kind: str
    check: Callable[[str], bool]
    bodies: st.SearchStrategy[str]
    marks: str = "0123456789"
    label: str = ""


NUMBERS = [
    Numbers("pii.card", checks.card, _digits(14).map("4{}".format)),
    Numbers("pii.iban", checks.iban, _digits(19).map("DE{}".format)),
    Numbers("pii.national_id", checks.dni, _digits(8), "ABCDEFGHJKLMNPQRSTVWXYZ"),
    Numbers(
        "pii.national_id", checks.codice_fiscale, _digits(3).map("RSSMRA85T10A{}".format), ascii_uppercase
    ),
    Numbers("pii.national_id", checks.nhs, _digits(9), label="NHS number "),
    Numbers("pii.national_id", checks.bsn, _digits(8), label="BSN "),
    Numbers("pii.national_id", checks.pesel, _digits(6).map("8405{}".format), label="PESEL "),
    Numbers("pii.national_id", checks.aadhaar, _digits(10).map("2{}".format), label="Aadhaar "),
    Numbers("pii.national_id", checks.sin, _digits(7).map("1{}".format), label="SIN "),
]


@pytest.mark.parametrize("numbers", NUMBERS, ids=[numbers.check.__name__ for numbers in NUMBERS])
@given(data=st.data())
def test_a_valid_number_is_found_and_none_with_another_check_mark(
    data: st.DataObject, numbers: Numbers
) -> None:
    body = data.draw(numbers.bodies)
    valid = [mark for mark in numbers.marks if numbers.check(body + mark)]
    if valid:
        text = f"{numbers.label}{body}{valid[0]}"
        assert (numbers.kind, len(numbers.label), len(text)) in spans(text)
    wrong = body + data.draw(st.sampled_from([mark for mark in numbers.marks if mark not in valid]))
    assert not numbers.check(wrong)
    # Behind its word a number is taken at its word; alone, only the check speaks for it.
    assert numbers.label or (numbers.kind, 0, len(wrong)) not in spans(wrong)


def spans(text: str) -> list[tuple[str, int, int]]:
    return [(finding.kind, finding.start, finding.end) for finding in PATTERNS.find(text)]


@given(_digits(19), st.integers(0, 18), st.integers(1, 9))
def test_luhn_and_verhoeff_notice_every_single_changed_digit(number: str, at: int, by: int) -> None:
    changed = number[:at] + str((int(number[at]) + by) % 10) + number[at + 1 :]
    for check in (checks.luhn, checks.verhoeff):
        assert not (check(number) and check(changed))


@given(st.text(st.characters(codec=None), max_size=20))
def test_checks_are_false_and_no_error_for_whatever_else(text: str) -> None:
    of_text = [
        check
        for name, check in vars(checks).items()
        if callable(check)
        and not name.startswith("_")
        and getattr(check, "__module__", "") == checks.__name__
    ]
    assert len(of_text) > 25
    assert {type(check(text)) for check in of_text} == {bool}


WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=4), min_size=GUARANTEE, max_size=60)


@given(WORDS, st.data())
def test_a_run_of_the_guaranteed_length_is_always_found(words: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(words) - GUARANTEE))
    quoted = data.draw(st.sampled_from([" ", "\n", ", ", "_"])).join(words[start : start + GUARANTEE])
    prints = load(dump(prints_of(" ".join(words))))
    found = Fingerprints("plan", prints).find(f"OTHER {quoted.upper()} WORDS")
    assert {finding.kind for finding in found} == {"fingerprint.plan"}


@given(WORDS, st.data())
def test_a_run_below_the_noise_is_never_found(words: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(words) - NOISE))
    quoted = " ".join(words[start : start + NOISE - 1])
    assert Fingerprints("plan", prints_of(" ".join(words))).find(f"OTHERS {quoted} BESIDES") == []


@given(PLAIN, st.sampled_from([" ", "-", "", "\n", " - "]), PLAIN)
def test_a_term_is_found_however_it_is_spaced(before: str, between: str, after: str) -> None:
    text = f"{before} BLUE{between}bird {after}"
    assert len(before) + 1 in [finding.start for finding in DETECTORS[2].find(text)]
