"""Usage in the forms that providers' own pages show, and its cost: no token counts twice, none is lost.

Prices are round ones, so that the sums can be done by hand.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from isthmus.accounting.charge import charge
from isthmus.catalog.prices import PriceBook
from isthmus.core.codec import EndpointWire
from isthmus.core.money import nanousd
from isthmus.core.pieces import UsageReport
from isthmus.core.portfolio import PriceOverride
from isthmus.core.usage import Usage
from isthmus.dialects import WIRES

PRICE = PriceBook().price(
    None,
    "",
    (
        PriceOverride(
            input=Decimal(3),
            output=Decimal(15),
            cache_read=Decimal("0.3"),
            cache_write_5m=Decimal("3.75"),
            cache_write_1h=Decimal(6),
            input_audio=Decimal(32),
            output_audio=Decimal(64),
        ),
    ),
)


class Documented(NamedTuple):
    """A usage in its provider's form, the page of that form, what it says, and its cost in millionths of a
    USD."""

    page: str
    wire: str
    told: dict[str, Any]
    usage: Usage
    millionths: str


EXAMPLES = (
    Documented(
        "platform.openai.com/docs/api-reference/chat/object",
        "openai",
        {
            "prompt_tokens": 1117,
            "completion_tokens": 46,
            "total_tokens": 1163,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        Usage(input=1117, output=46),
        "1117 * 3 + 46 * 15",
    ),
    Documented(
        "platform.openai.com/docs/guides/prompt-caching",
        "openai",
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1920},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        Usage(input=86, cache_read=1920, output=300),
        "86 * 3 + 1920 * 0.3 + 300 * 15",
    ),
    Documented(
        "platform.openai.com/docs/guides/audio",
        "openai",
        {
            "prompt_tokens": 100,
            "completion_tokens": 200,
            "total_tokens": 300,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 60},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 150},
        },
        Usage(input=100, input_audio=60, output=200, output_audio=150),
        "40 * 3 + 60 * 32 + 50 * 15 + 150 * 64",
    ),
    Documented(
        "platform.openai.com/docs/guides/reasoning",
        "responses",
        {
            "input_tokens": 75,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 1186,
            "output_tokens_details": {"reasoning_tokens": 1024},
            "total_tokens": 1261,
        },
        Usage(input=75, output=1186, reasoning=1024),
        "75 * 3 + 1186 * 15",
    ),
    Documented(
        "platform.claude.com/docs/en/build-with-claude/prompt-caching: the first request",
        "anthropic",
        {
            "cache_creation_input_tokens": 188086,
            "cache_read_input_tokens": 0,
            "input_tokens": 21,
            "output_tokens": 393,
        },
        Usage(input=21, cache_write_5m=188086, output=393),
        "21 * 3 + 188086 * 3.75 + 393 * 15",
    ),
    Documented(
        "platform.claude.com/docs/en/build-with-claude/prompt-caching: the second request",
        "anthropic",
        {
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 188086,
            "input_tokens": 21,
            "output_tokens": 393,
        },
        Usage(input=21, cache_read=188086, output=393),
        "21 * 3 + 188086 * 0.3 + 393 * 15",
    ),
    Documented(
        "platform.claude.com/docs/en/build-with-claude/prompt-caching: both lifetimes",
        "anthropic",
        {
            "input_tokens": 2048,
            "cache_read_input_tokens": 1800,
            "cache_creation_input_tokens": 248,
            "output_tokens": 503,
            "cache_creation": {"ephemeral_5m_input_tokens": 148, "ephemeral_1h_input_tokens": 100},
        },
        Usage(input=2048, cache_read=1800, cache_write_5m=148, cache_write_1h=100, output=503),
        "2048 * 3 + 1800 * 0.3 + 148 * 3.75 + 100 * 6 + 503 * 15",
    ),
    Documented(
        "ai.google.dev/gemini-api/docs/tokens: a picture beside a text",
        "gemini",
        {
            "promptTokenCount": 264,
            "candidatesTokenCount": 80,
            "totalTokenCount": 345,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 6},
                {"modality": "IMAGE", "tokenCount": 258},
            ],
        },
        Usage(input=264, output=80),
        "264 * 3 + 80 * 15",
    ),
    Documented(
        "ai.google.dev/gemini-api/docs/caching and /thinking: cached, heard and thought",
        "gemini",
        {
            "promptTokenCount": 1000,
            "cachedContentTokenCount": 600,
            "candidatesTokenCount": 50,
            "thoughtsTokenCount": 150,
            "totalTokenCount": 1200,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 900},
                {"modality": "AUDIO", "tokenCount": 100},
            ],
        },
        Usage(input=400, input_audio=100, cache_read=600, output=200, reasoning=150),
        "300 * 3 + 100 * 32 + 600 * 0.3 + 200 * 15",
    ),
    Documented(
        "platform.openai.com/docs/api-reference/embeddings",
        "openai-embeddings",
        {"prompt_tokens": 8, "total_tokens": 8},
        Usage(input=8),
        "8 * 3",
    ),
)


def _answer(wire: str, told: dict[str, Any]) -> dict[str, Any]:
    """A whole answer of the dialect with that usage."""
    match wire:
        case "openai":
            message = {"role": "assistant", "content": "Hi"}
            return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": told}
        case "responses":
            said = {"type": "output_text", "text": "Hi", "annotations": []}
            item = {
                "type": "message",
                "id": "m",
                "role": "assistant",
                "status": "completed",
                "content": [said],
            }
            return {"id": "r", "status": "completed", "model": "m", "output": [item], "usage": told}
        case "anthropic":
            content = [{"type": "text", "text": "Hi"}]
            return {
                "id": "a",
                "type": "message",
                "role": "assistant",
                "model": "m",
                "content": content,
                "stop_reason": "end_turn",
                "usage": told,
            }
        case "gemini":
            content_ = {"role": "model", "parts": [{"text": "Hi"}]}
            return {"candidates": [{"content": content_, "finishReason": "STOP"}], "usageMetadata": told}
        case _:
            return {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "model": "m", "usage": told}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda it: it.page)
def test_a_documented_usage_costs_what_its_page_says(example: Documented) -> None:
    wire: EndpointWire = WIRES[example.wire]()
    pieces = wire.decode_answer(json.dumps(_answer(example.wire, example.told)).encode())
    (report,) = [piece for piece in pieces if isinstance(piece, UsageReport)]
    assert report.usage == example.usage
    terms = [term.split(" * ") for term in example.millionths.split(" + ")]
    usd = sum(Decimal(tokens) * Decimal(rate) for tokens, rate in terms) / 1_000_000
    assert charge(PRICE, report.usage, 0).nanousd == nanousd(usd)
