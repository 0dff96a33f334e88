"""Where a request is looked into, and what stays unseen there."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from isthmus.core.label import Finding
from isthmus.perimeter.detectors.patterns import Patterns
from isthmus.perimeter.scanner import Scanner, Sightings

CANARY = "canary@example.org"


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
    ],
)
def test_what_is_no_text_is_blind(part: Any) -> None:
    assert scanned(turns([part])).blind


def test_what_stands_elsewhere_is_blind() -> None:
    assert scanned({"input": "go on", "previous_response_id": "resp_1"}).blind == ("previous_response_id",)
    assert scanned({"input": "go on", "previous_response_id": None}).blind == ()


@pytest.mark.parametrize("tokens", [[9906, 11], [[9906], [11]], ["Hello", [11]]])
def test_texts_that_come_as_tokens_are_blind(tokens: list[Any]) -> None:
    assert scanned({"model": "r", "input": tokens}).blind == ("input",)
    assert scanned(turns([{"type": "tool_use", "input": {"input": tokens}}])).blind == ()


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


def test_a_conversation_costs_its_new_turn() -> None:
    words = Words("strait")
    scanner = Scanner([words], b"secret")
    scanner.scan(turns("the first turn", "the second turn"))
    words.asked.clear()
    seen = scanner.scan(turns("the first turn", "the second turn", "a third about the strait"))
    assert [text for text in words.asked if "first" in text] == []
    assert len(seen.found) == 1


def test_what_is_remembered_is_bounded() -> None:
    words = Words("strait")
    scanner = Scanner([words], b"secret", most=2)
    for text in ("one", "two", "three", "one"):
        scanner.scan(text)
    assert words.asked == ["one", "two", "three", "one"]


def test_a_detector_that_fails_is_blind_and_silent_about_the_text(caplog: pytest.LogCaptureFixture) -> None:
    seen = Scanner([Broken()], b"secret").scan(turns(CANARY))
    assert "messages[0].content" in seen.blind
    assert "ValueError" in caplog.text
    assert CANARY not in caplog.text
    assert all(record.exc_info is None for record in caplog.records)
    assert caplog.records[0].levelno == logging.ERROR
