"""Where a request is looked into, and what stays unseen there."""

from __future__ import annotations

import base64
import logging
import random
from typing import Any

import pytest

from isthmus.core.label import Finding
from isthmus.perimeter.detectors.patterns import Patterns
from isthmus.perimeter.scanner import Scanner, Sightings

CANARY = "canary@example.org"
PIXELS = base64.b64encode(random.Random(0).randbytes(1000)).decode()


class Words:
    """Finds a word, and counts how often it was asked."""

    name = "words"

    def __init__(self, word: str) -> None:
        self._word = word
        self.asked: list[str] = []

    def find(self, text: str) -> list[Finding]:
        self.asked.append(text)
        at = text.find(self._word)
        return [] if at < 0 else [Finding("term.test", at, at + len(self._word), self.name)]


class Broken:
    """Fails, and says in its failure what it read."""

    name = "broken"

    def find(self, text: str) -> list[Finding]:
        raise ValueError(text)


def scanned(value: Any) -> Sightings:
    return Scanner([Patterns()], b"secret").scan(value)


def turns(*contents: Any) -> dict[str, Any]:
    return {"model": "r", "messages": [{"role": "user", "content": content} for content in contents]}


POSITIONS: dict[str, Any] = {
    "system": {"system": CANARY},
    "instructions": {"instructions": f"write to {CANARY}"},
    "developer": {"messages": [{"role": "developer", "content": CANARY}]},
    "old turn": turns(CANARY, "and now?"),
    "part": turns([{"type": "text", "text": "hello"}, {"type": "text", "text": CANARY}]),
    "tool result": {"messages": [{"role": "tool", "tool_call_id": "1", "content": CANARY}]},
    "tool result list": turns(
        [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": CANARY}]}]
    ),
    "arguments": {
        "messages": [{"tool_calls": [{"function": {"name": "f", "arguments": f'{{"to":"{CANARY}"}}'}}]}]
    },
    "tool input": turns([{"type": "tool_use", "id": "1", "name": "f", "input": {"to": CANARY}}]),
    "tool description": {"tools": [{"function": {"name": "f", "description": f"for {CANARY}"}}]},
    "schema": {"tools": [{"function": {"name": "f", "parameters": {"enum": [CANARY]}}}]},
    "name": {"messages": [{"role": "user", "name": CANARY, "content": "hello"}]},
    "user": {"user": CANARY},
    "metadata": {"metadata": {"who": CANARY}},
    "key": {"metadata": {CANARY: "yes"}},
    "url": {"x": f"https://example.org/?q={CANARY}"},
    "role": {"messages": [{"role": CANARY, "content": "hello"}]},
    "input item": {"input": [{"type": "message", "content": [{"type": "input_text", "text": CANARY}]}]},
    "function output": {"input": [{"type": "function_call_output", "output": CANARY}]},
    "embedding": {"input": ["hello", CANARY]},
    "unknown field": {"brand_new": [[{"deep": CANARY}]]},
}


@pytest.mark.parametrize("value", POSITIONS.values(), ids=POSITIONS)
def test_every_position_is_looked_at(value: Any) -> None:
    assert "pii.email" in {sighting.finding.kind for sighting in scanned(value).found}


def test_the_place_of_a_finding_is_that_in_the_request() -> None:
    (sighting,) = scanned({"metadata": {"mail": f"to {CANARY}"}}).found
    assert (sighting.where, sighting.finding.start, sighting.finding.end) == (
        "metadata.mail",
        3,
        3 + len(CANARY),
    )


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}},
        {"type": "input_audio", "input_audio": {"data": "aGVsbG8=", "format": "wav"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "aGVsbG8="},
        },
        {"inlineData": {"mimeType": "image/png", "data": "aGVsbG8="}},
        {"inline_data": {"mime_type": "image/png", "data": "aGVsbG8="}},
        {"image_url": "https://example.org/a.png"},
    ],
)
def test_what_is_no_text_is_blind(part: Any) -> None:
    assert scanned(turns([part])).blind


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"container": "container_1"}, "container"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}, "tools[0].vector_store_ids"),
        ({"tools": [{"container": {"type": "auto", "file_ids": ["f"]}}]}, "tools[0].container.file_ids"),
        ({"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, "messages[0].audio"),
        ({"input": [1234, 56, 789]}, "input"),
        ({"input": [[1234, 56], [789]]}, "input[0]"),
    ],
)
def test_what_stands_elsewhere_is_blind(value: Any, where: str) -> None:
    assert where in scanned(value).blind


@pytest.mark.parametrize(
    "value",
    [
        {"previous_response_id": None},
        {"tools": [{"parameters": {"properties": {"file_id": {"type": "string"}}}}]},
        {"messages": [{"content": [{"type": "tool_use", "input": {"container": "nginx", "sizes": [1, 2]}}]}]},
        {"audio": {"voice": "alloy", "format": "wav"}},
        {"input": ["hello", "world"]},
        {"messages": [{"content": [{"type": "thinking", "thinking": "so", "signature": PIXELS}]}]},
        {"input": base64.b64encode(b"hello, world " * 200).decode()},
        {"input": (b"hello, world " * 200).hex()},
        {"input": "-" * 5000},
        {"input": "ACGT" * 1000},
    ],
)
def test_what_only_looks_like_it_is_not(value: Any) -> None:
    assert scanned(value).blind == ()


@pytest.mark.parametrize(
    "text",
    [
        PIXELS,
        base64.urlsafe_b64encode(random.Random(1).randbytes(1000)).decode(),
        base64.encodebytes(random.Random(1).randbytes(1000)).decode(),
        f"![a picture](data:image/png;base64,{PIXELS})",
        random.Random(1).randbytes(1000).hex(),
    ],
)
def test_what_is_encoded_and_is_no_text_is_blind_wherever_it_stands(text: str) -> None:
    assert scanned({"brand_new": {"hologram": text}}).blind == ("brand_new.hologram",)


def test_a_place_does_not_grow_with_the_names_in_it() -> None:
    found = scanned({"k" * 100_000: [f"to {CANARY}"]}).found
    assert [(it.finding.start, it.finding.end) for it in found] == [(3, 3 + len(CANARY))]
    assert all(len(it.where) < 100 for it in found)


def test_nobody_looks_on_once_there_is_enough() -> None:
    words = Words("strait")
    scanner = Scanner([words], b"secret")
    seen = scanner.scan(turns("one", "two", "three"), lambda: len(words.asked) == 1)
    assert (len(words.asked), seen.blind) == (1, (".",))


def test_a_document_in_plain_text_is_read() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": f"ask {CANARY}"}
    seen = scanned(turns([{"type": "document", "source": source}]))
    assert (len(seen.found), seen.blind) == (1, ())


def test_a_card_number_cut_in_two_is_seen_at_the_seam() -> None:
    seen = scanned(
        turns([{"type": "text", "text": "my card: 4111 1111"}, {"type": "text", "text": " 1111 1111"}])
    )
    assert [sighting.finding.kind for sighting in seen.found] == ["pii.card"]
    assert "|" in seen.found[0].where


def test_a_number_is_a_text_too() -> None:
    assert [it.finding.kind for it in scanned({"metadata": {"card": 4111111111111111}}).found] == ["pii.card"]


def test_a_conversation_costs_its_new_turn_and_the_ends_of_those_before() -> None:
    words = Words("strait")
    scanner = Scanner([words], b"secret")
    before = [f"turn {number}: {'the gulls cry and ' * 20}" for number in range(50)]
    scanner.scan(turns(*before))
    words.asked.clear()
    seen = scanner.scan(turns(*before, "one more about the strait"))
    assert sum(map(len, words.asked)) < 1000
    assert len(seen.found) == 1


@pytest.mark.parametrize("size", [1, 3, 4, 7])
@pytest.mark.parametrize("before", ["", "no" * 250, "no " * 1000])
def test_a_card_number_cut_into_many_is_seen_whatever_stands_around_it(size: int, before: str) -> None:
    card = "4111111111111111"
    cut = [{"type": "text", "text": card[at : at + size]} for at in range(0, len(card), size)]
    value = turns([{"type": "text", "text": before}, *cut, {"type": "text", "text": "ok?"}])
    assert "pii.card" in {sighting.finding.kind for sighting in scanned(value).found}
    assert "pii.card" in {sighting.finding.kind for sighting in scanned(_named(value)).found}


def _named(value: Any) -> Any:
    """The same parts as turns of somebody with a name, which stands between them."""
    (turn,) = value["messages"]
    contents = [part["text"] for part in turn["content"]]
    return {"messages": [{"role": "user", "name": "bob", "content": content} for content in contents]}


def test_the_years_of_an_enumeration_are_no_number() -> None:
    assert scanned({"enum": [str(year) for year in range(1990, 2027)]}).found == ()


def test_a_text_is_remembered_by_all_of_it() -> None:
    scanner = Scanner([Patterns()], b"secret")
    for text, expected in (("go on", 0), (CANARY, 1), ("go on", 0)):
        seen = scanner.scan(f"{'word ' * 5000}{text}{' word' * 5000}")
        assert len(seen.found) == expected


def test_what_is_remembered_is_bounded() -> None:
    words = Words("strait")
    scanner = Scanner([words], b"secret", most=2)
    for text in ("one", "two", "three", "one"):
        scanner.scan(text)
    assert words.asked == ["one", "two", "three", "one"]


@pytest.mark.parametrize("where", ["value", "key"])
def test_a_detector_that_fails_is_blind_and_silent_about_the_text(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    value = {"content": CANARY} if where == "value" else {CANARY: "content"}
    seen = Scanner([Broken()], b"secret").scan(value)
    assert seen.blind
    assert "ValueError" in caplog.text
    assert CANARY not in caplog.text
    assert all(record.exc_info is None for record in caplog.records)
    assert caplog.records[0].levelno == logging.ERROR
