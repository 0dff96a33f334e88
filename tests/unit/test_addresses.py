"""Postal addresses: the whole block is found, and what only looks like one is left alone."""

from __future__ import annotations

import pytest

from isthmus.perimeter.detectors.addresses import Addresses

WHOLE = [
    "12 Main Street, Springfield, IL 62704",
    "350 Fifth Ave Apt 4B, New York, NY 10118",
    "1207 W Monroe Ave, Apt 5C, Peoria, IL 61606",
    "10 Downing Street, London SW1A 2AA",
    "48 Larkspur Crescent, Guildford GU2 7XH",
    "17 Bondi Road, Bondi NSW 2026",
    "P.O. Box 123, Springfield",
    "PSC 1024, Box 77\nAPO AE 09012",
    "123 Elm Street\nSpringfield\nIL 62704",
    "Hauptstraße 12a, 10115 Berlin",
    "Bahnhofplatz 1\n3011 Bern\nSchweiz",
    "Friedrichstr. 43, D-10969 Berlin",
    "12 rue de la Paix, 75002 Paris, France",
    "Calle Mayor, 12, 3º izq, 28013 Madrid",
    "via Roma 12, 20121 Milano",
    "Keizersgracht 212, 1016 DX Amsterdam",
    "Rua Augusta 274, 1100-053 Lisboa",
    "Av. Paulista, 1578 - Bela Vista, São Paulo - SP, 01310-200",
    "Nørregade 10, 1165 København",
    "Kungsgatan 5, 111 22 Stockholm",
    "Karl Johans gate 22, 0026 Oslo",
    "Mannerheimintie 12 B 5, 00100 Helsinki",
    "ul. Marszałkowska 10/5, 00-590 Warszawa",
    "Andrássy út 60, 1062 Budapest",
    "ул. Ленина, д. 5, кв. 12",
    "北京市朝阳区建国路88号",
    "東京都千代田区丸の内1-9-1",
    "서울특별시 강남구 테헤란로 152",
]

LOOK_ALIKES = [
    "12 Angry Men is a film about a jury.",
    "Set the port to 8080, see Section 12 and Article 5.",
    "Spring 5 and String 12 and Brigade 7",
    "the 5 Drive letters; 3 Way merge; 4 Square feet",
    "Windows 11 Home, 16 GB",
    "4 Python Scripts, 10000 Users",
    "We shipped 3 Releases in Q3 2024, 5 Teams in Berlin",
    "5 Eggs\n100 g Sugar\n250 ml Milk",
    "INV 10023 Total 500 USD",
    "10 ways to drive down the road to success",
    "Apollo 11 Mission",
    "Wall Street closed higher on Friday.",
]


@pytest.mark.parametrize("address", WHOLE)
def test_an_address_is_one_finding(address: str) -> None:
    text = f"Please note: {address}"
    [finding] = Addresses().find(text)
    assert finding.kind == "pii.address"
    assert text[finding.start : finding.end] == address
    assert finding.score >= 0.6


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_what_only_looks_like_an_address_is_left_alone(text: str) -> None:
    assert Addresses().find(text) == []


def test_a_label_ends_the_block() -> None:
    text = "Lindenallee 14b\n50968 Köln\nTelefon: 0221 12345"
    [finding] = Addresses().find(text)
    assert text[finding.start : finding.end] == "Lindenallee 14b\n50968 Köln"


def test_a_quoted_block_is_one_finding() -> None:
    text = "> 14 Elm Street\n> Suite 9\n> Springfield\n> United States 62704\nThanks"
    [finding] = Addresses().find(text)
    assert text[finding.start : finding.end].endswith("62704")


def test_a_street_without_a_number_is_less_sure() -> None:
    [with_number] = Addresses().find("She lives at 12 Oak Street")
    [without] = Addresses().find("She lives on Oak Street")
    assert without.score < with_number.score


def test_a_phrase_makes_an_unknown_street_one() -> None:
    assert Addresses().find("Our offices are located at Golfskálinn 78")
    assert not Addresses().find("We like Golfskálinn 78")


def test_two_addresses_are_two_findings() -> None:
    assert len(Addresses().find("From 12 Oak Street to 9 Elm Road we walked.")) == 2
