"""What a call can use at most."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from isthmus.accounting.bounds import ENDPOINT_TOKENS, IMAGE_TOKENS, Bound, bound
from isthmus.catalog.prices import OWN_ENGINE, Price
from isthmus.core.call import Call
from isthmus.core.portfolio import Model
from isthmus.dialects import WIRES
from isthmus.dialects.embeddings import OpenAIEmbeddings

MODEL = Model(name="m", provider="p", id="m", kind="closed")


def decoded(dialect: str, **body: Any) -> Call:
    wire: Any = OpenAIEmbeddings() if dialect == "openai-embeddings" else WIRES[dialect]()
    return wire.decode_call(wire.peek(msgspec.json.encode({"model": "r", **body})))


def asked(*parts: Any, **more: Any) -> Call:
    content = [{"type": "text", "text": "Hi"}, *parts]
    return decoded("openai", messages=[{"role": "user", "content": content}], **{"max_tokens": 100, **more})


def most(call: Call, price: Price = OWN_ENGINE, **facts: Any) -> Bound:
    return bound(call, 1000, msgspec.structs.replace(MODEL, **facts), price, 0)


def test_a_text_is_bounded_by_its_bytes_and_an_answer_by_what_was_said() -> None:
    assert most(asked()).tokens == 1000 + ENDPOINT_TOKENS + 100
    assert most(asked(n=3)).tokens == 1000 + ENDPOINT_TOKENS + 300
    assert most(asked(), max_output=50).tokens == 1000 + ENDPOINT_TOKENS + 50
    assert most(asked(), context=60).tokens == 120
    assert most(asked(max_tokens=None)).tokens is None


def test_a_limit_that_an_endpoint_would_raise_counts_as_raised() -> None:
    assert most(asked(max_tokens=1)).tokens == 1000 + ENDPOINT_TOKENS + 16


def test_each_text_to_embed_may_fill_the_context() -> None:
    call = decoded("openai-embeddings", input=["a long text"] * 4)
    assert most(call, context=200).tokens == 800
    assert most(call, context=8_000).tokens == 1000 + ENDPOINT_TOKENS


@pytest.mark.parametrize("url", ["https://example.org/a.png", "data:image/png;base64,iVBORw0KGgo="])
def test_a_picture_counts_more_than_its_bytes(url: str) -> None:
    picture = {"type": "image_url", "image_url": {"url": url}}
    assert most(asked(picture)).tokens == 1000 + ENDPOINT_TOKENS + IMAGE_TOKENS + 100


@pytest.mark.parametrize(
    "file", [{"file_data": "data:application/pdf;base64,JVBERi0="}, {"file_id": "file-1"}]
)
def test_a_file_is_bounded_by_the_context_alone(file: dict[str, str]) -> None:
    call = asked({"type": "file", "file": file})
    assert most(call).tokens is None
    assert most(call, context=5_000).tokens == 5_100


def test_a_text_in_a_file_is_a_text() -> None:
    call = asked({"type": "file", "file": {"file_data": "data:text/plain;base64,SGk="}})
    assert most(call).tokens == 1000 + ENDPOINT_TOKENS + 100


@pytest.mark.parametrize(
    ("dialect", "more"),
    [
        ("openai", {"tools": [{"type": "web_search"}]}),
        ("openai", {"web_search_options": {"search_context_size": "high"}}),
        ("openai", {"models": ["a-dearer-one"]}),
        ("openai", {"n_predict": 100_000}),
        ("responses", {"tools": [{"type": "web_search"}]}),
        ("anthropic", {"mcp_servers": [{"type": "url", "url": "https://example.org", "name": "x"}]}),
    ],
)
def test_what_the_provider_adds_by_itself_is_not_bounded(dialect: str, more: dict[str, Any]) -> None:
    word = "max_output_tokens" if dialect == "responses" else "max_tokens"
    turns = [{"role": "user", "content": "Hi"}]
    call = decoded(
        dialect, **{"input" if dialect == "responses" else "messages": turns}, **{word: 20}, **more
    )
    assert most(call, context=1_000).tokens is None


def test_what_is_free_costs_nothing_in_any_amount() -> None:
    assert most(asked(max_tokens=None)).nanousd == 0
    assert most(asked(max_tokens=None), price=Price()).nanousd is None


def test_what_cannot_be_read_is_not_bounded() -> None:
    assert bound(None, 1000, MODEL, Price(), 0).nanousd is None
    assert bound(None, 1000, MODEL, OWN_ENGINE, 0).nanousd == 0
