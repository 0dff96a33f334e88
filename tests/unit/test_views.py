"""The views of a text: every evasion leaves an e-mail address or a card to be found, in its place."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest

from isthmus.core.label import Finding
from isthmus.perimeter.detectors.patterns import Patterns
from isthmus.perimeter.views import View, findings, views

PATTERNS = Patterns()
MAIL = "jane.doe@example.com"
CARD = "4111 1111 1111 1111"


def full_width(text: str) -> str:
    return "".join("\u3000" if letter == " " else chr(ord(letter) + 0xFEE0) for letter in text)


def percent_encoded(text: str) -> str:
    return "".join(f"%{ord(letter):02x}" for letter in text)


def found(text: str) -> list[tuple[str, str]]:
    return [(finding.kind, text[finding.start : finding.end]) for finding in findings(text, [PATTERNS])]


@pytest.mark.parametrize(
    ("kind", "evasion"),
    [
        ("pii.email", "\u200b".join(MAIL)),
        ("pii.email", MAIL.replace("a", "\u0430").replace("o", "\u03bf")),
        ("pii.email", full_width(MAIL)),
        ("pii.email", "jane\u00ad.doe@exam\ufeffple.com"),
        ("pii.email", base64.b64encode(f"write to {MAIL}".encode()).decode()),
        ("pii.email", base64.urlsafe_b64encode(f"{MAIL}??>>~~".encode()).decode().rstrip("=")),
        ("pii.email", base64.encodebytes(f"{'word ' * 40}{MAIL}".encode()).decode().strip()),
        ("pii.email", MAIL.encode().hex()),
        ("pii.email", MAIL.encode().hex(" ")),
        ("pii.email", quote(MAIL, safe="")),
        ("pii.email", percent_encoded(MAIL)),
        ("pii.email", "".join(f"\\u{ord(letter):04x}" for letter in MAIL)),
        ("pii.email", "".join(f"\\x{ord(letter):02x}" for letter in MAIL)),
        ("pii.email", "".join(f"&#{ord(letter)};" for letter in MAIL)),
        ("pii.email", "".join(chr(0xE0000 + ord(letter)) for letter in MAIL)),
        ("pii.card", " ".join(CARD.replace(" ", ""))),
        ("pii.card", full_width(CARD)),
        ("pii.card", "٤١١١ ١١١١ ١١١١ ١١١١"),
        ("pii.card", "𝟒𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏"),
        ("pii.card", CARD.replace(" ", "\u2011")),
        ("pii.card", "\u202a".join(CARD)),
        ("pii.card", base64.b64encode(CARD.encode()).decode()),
    ],
)
def test_an_evasion_is_found_where_it_stands(kind: str, evasion: str) -> None:
    assert (kind, evasion) in found(f"Lies: {evasion} !")


def test_reversed_display_is_read_as_it_is_seen() -> None:
    assert found(f"pay \u202e{CARD[::-1]}\u202c now") == [("pii.card", f"\u202e{CARD[::-1]}")]


def test_plain_text_is_its_own_only_view() -> None:
    text = "Nothing to see here, in src/isthmus/perimeter or 0123456789abcdef0123456789abcdef.\n\tOver."
    (view,) = views(text)
    assert view.text is text
    assert view.place(3, 5) == (3, 5)


def test_a_ligature_and_a_mark_have_the_place_of_what_they_came_from() -> None:
    view = views("o\ufb03ce e\u0301te\u0301")[0]
    assert view.text == "office été"
    assert view.place(1, 4) == (1, 2)
    assert view.place(7, 10) == (5, 10)


@pytest.mark.parametrize("text", ["Москва 2024", "Αθήνα", "我们收到了一封信", "L'été à Zürich", "안녕하세요"])
def test_other_scripts_stay_as_they_are(text: str) -> None:
    assert views(text)[0].text == text


def test_encodings_are_followed_once() -> None:
    once = base64.b64encode(MAIL.encode())
    assert found(once.decode()) != []
    assert found(base64.b64encode(once).decode()) == []


def test_bytes_that_are_no_text_are_no_view() -> None:
    assert len(views(base64.b64encode(bytes(range(256))).decode())) == 1


def test_a_finding_of_both_views_is_reported_once() -> None:
    assert findings(f"{MAIL}%20", [PATTERNS]).count(Finding("pii.email", 0, 20, "patterns", 1.0)) == 1


def test_a_view_without_a_map_is_the_text_itself() -> None:
    assert View("abc").place(1, 3) == (1, 3)
