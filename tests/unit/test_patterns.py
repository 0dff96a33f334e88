"""Structured personal data by example: made up, or published as an example by whoever gives the numbers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from isthmus.perimeter.detectors.patterns import Patterns

PATTERNS = Patterns()


def found(text: str) -> list[tuple[str, str]]:
    return [(finding.kind, text[finding.start : finding.end]) for finding in PATTERNS.find(text)]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("pii.email", "jane.o'doe+news@mail.example.co.uk"),
        ("pii.email", "josé@exämple.de"),
        ("pii.card", "4111111111111111"),
        ("pii.card", "4111-1111-1111-1111"),
        ("pii.card", "3782 822463 10005"),
        ("pii.card", "6304 0000 0000 0000"),
        ("pii.iban", "DE89 3704 0044 0532 0130 00"),
        ("pii.iban", "gb82west12345698765432"),
        ("pii.iban", "NO93-8601-1117-947"),
        ("pii.phone", "+49 (0)30 1234567"),
        ("pii.phone", "(555) 123-4567"),
        ("pii.phone", "555-123-4567 x89"),
        ("pii.phone", "001-555-123-4567"),
        ("pii.phone", "06 12 34 56 78"),
        ("pii.phone", "030/1234567"),
        ("pii.phone", "07700 900 123"),
        ("pii.ip", "203.0.113.7"),
        ("pii.ip", "2001:db8::7:1"),
        ("pii.mac", "00:1b:44:11:3a:b7"),
        ("pii.url", "https://example.com/a?b=c#d"),
        ("pii.url", "www.example.com/a"),
        ("pii.ssn", "536-22-1234"),
        ("pii.ssn", "912-70-1234"),
        ("pii.ssn", "912-34-1234"),
        ("pii.national_id", "AB 12 34 56 C"),
        ("pii.national_id", "86 095 742 719"),
        ("pii.national_id", "2 55 08 14 168 025 38"),
        ("pii.national_id", "12345678Z"),
        ("pii.national_id", "X-1234567-L"),
        ("pii.national_id", "RSSMRA85T10A562S"),
        ("pii.national_id", "44051401359"),
        ("pii.national_id", "85.07.30-033.28"),
        ("pii.national_id", "811218-9876"),
        ("pii.national_id", "131052-308T"),
        ("pii.national_id", "529.982.247-25"),
        ("pii.national_id", "11.222.333/0001-81"),
        ("pii.national_id", "2341 2341 2346"),
        ("pii.national_id", "ABCPE1234F"),
        ("pii.national_id", "756.9217.0769.85"),
        ("pii.national_id", "1234567FA"),
        ("pii.national_id", "2123 45670 1"),
        ("pii.vehicle", "1M8GDM9AXKP042788"),
        ("pii.crypto", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"),
        ("pii.crypto", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"),
        ("pii.crypto", "0x742d35Cc6634C0532925a3b844Bc454e4438f44e"),
    ],
)
def test_what_has_a_form_or_a_check_is_found_anywhere(kind: str, value: str) -> None:
    assert (kind, value) in found(f"Siehe ({value}), 我们.")


@pytest.mark.parametrize(
    ("kind", "before", "value"),
    [
        ("pii.phone", "Call me on ", "467 3395"),
        ("pii.phone", "Telefon: ", "8475902"),
        ("pii.phone", "Mon portable est le ", "61 22 33 44"),
        ("pii.ssn", "Her social security number is ", "536221234"),
        ("pii.national_id", "NHS number: ", "943 476 5919"),
        ("pii.national_id", "Canadian SIN ", "130 692 544"),
        ("pii.national_id", "TFN ", "123 456 782"),
        ("pii.national_id", "Mijn BSN is ", "111222333"),
        ("pii.national_id", "o NIF é ", "123456789"),
        ("pii.national_id", "CPR ", "010190-1234"),
        ("pii.national_id", "Personalausweisnummer: ", "L01X00T471"),
        ("pii.passport", "Passport No. ", "C01X00T47"),
        ("pii.passport", "Reisepass Nr.: ", "C01X00T47"),
        ("pii.passport", "numéro de passeport : ", "12AB34567"),
        ("pii.passport", "número de pasaporte ", "AAA123456"),
        ("pii.passport", "passaporto n. ", "YA1234567"),
        ("pii.passport", "paspoort ", "NW1B2C3D4"),
        ("pii.licence", "driver's license number is ", "D1234-56789-01234"),
        ("pii.licence", "Führerscheinnummer ", "B072RRE2I55"),
        ("pii.bank_account", "Account number: ", "0532013000"),
        ("pii.bank_account", "Kontonummer ", "532013000"),
        ("pii.bank_account", "routing number ", "011000015"),
        ("pii.bank_account", "BIC: ", "COBADEFFXXX"),
        ("pii.medical_record", "MRN ", "A-123456"),
        ("pii.medical_record", "Patientennummer: ", "4711-0815"),
        ("pii.birth_date", "Date of birth: ", "1984-05-03"),
        ("pii.birth_date", "born on ", "May 3rd, 1984"),
        ("pii.birth_date", "geboren am ", "3. Mai 1984"),
        ("pii.birth_date", "née le ", "3 mai 1984"),
        ("pii.birth_date", "fecha de nacimiento: ", "3 de mayo de 1984"),
        ("pii.birth_date", "nato il ", "03/05/1984"),
        ("pii.birth_date", "geboortedatum ", "3-5-1984"),
        ("pii.vehicle", "Kennzeichen: ", "B-AB 1234"),
        ("pii.vehicle", "license plate ", "7ABC123"),
        ("pii.device", "IMEI ", "49-015420-323751-8"),
        ("pii.card", "credit card number ", "4111111111111112"),
    ],
)
def test_what_has_no_form_is_found_beside_its_word(kind: str, before: str, value: str) -> None:
    assert (kind, value) in found(f"{before}{value}.")
    assert (kind, value) not in found(f"Nothing like it: {value}.")


@pytest.mark.parametrize(
    "text",
    [
        "Room 1234 on 2024-11-12 at 12:30:45, from 12.05.2024 to 13/05/2024.",
        "Order 9434765919 of 1234567890123456, timestamp 1732483200.",
        "id 550e8400-e29b-41d4-a716-446655440000, commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
        "Version v1.2.3.4, 999.1.1.1, 3.14159265358979 and 1,234,567.89",
        "127.0.0.1 and ::1 and dead::beef and std::vector",
        "The years 2019-2020, pages 100-200, scores 3-2 and 10-12-14",
        "4111111111111112 and DE89370400440532013001 and 000-12-3456",
        "@mention, a@b, user@localhost and #hashtag",
        "86 095 742 710; RSSMRA85T10A562T; 12345678A; 529.982.247-24",
        "SELECT * FROM t WHERE id IN (12345678, 23456789, 34567890)",
        "The SWIFT language; a BIC is a lighter; PASSWORD",
        "My passport is in the drawer; his license expired; born in 1990",
    ],
)
def test_look_alikes_are_left_alone(text: str) -> None:
    assert found(text) == []


def test_a_number_is_found_behind_others_in_the_same_row() -> None:
    assert found("pay 12 4111 1111 1111 1111 4 now") == [("pii.card", "4111 1111 1111 1111")]


def test_the_words_behind_an_iban_are_not_part_of_it() -> None:
    assert found("DE89 3704 0044 0532 0130 00 and so on") == [("pii.iban", "DE89 3704 0044 0532 0130 00")]


def test_what_stands_in_a_url_is_found_beside_it() -> None:
    url = "https://example.com/?mail=bob@example.com&ip=203.0.113.7"
    assert found(f"{url}.") == [
        ("pii.url", url),
        ("pii.email", "mail=bob@example.com".removeprefix("mail=")),
        ("pii.ip", "203.0.113.7"),
    ]


def test_a_word_nearby_makes_it_surer() -> None:
    (alone,) = PATTERNS.find("(555) 123-4567")
    (called,) = PATTERNS.find("phone (555) 123-4567")
    assert alone.score < called.score


def test_findings_do_not_say_what_was_found() -> None:
    assert all("4111" not in repr(finding) for finding in PATTERNS.find("card 4111111111111111"))


def test_the_command_line_starts_without_the_detectors() -> None:
    script = "import sys, isthmus.cli; print(*(m for m in sys.modules if 'perimeter' in m or m == 're2'))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == ""
