"""Embeddings, for any texts and any vectors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse

from isthmus.core.call import Call
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.pieces import EmbeddingVector, Piece, Start, UsageReport
from isthmus.core.usage import Usage
from isthmus.dialects.embeddings import GeminiEmbeddings, OpenAIEmbeddings, as_base64, as_numbers
from tests.laws.calls import json_objects, names, texts

OPENAI, GEMINI = OpenAIEmbeddings(), GeminiEmbeddings()

vectors = st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=8)
token_ids = st.lists(st.integers(0, 99_999), min_size=1, max_size=4).map(tuple)
inputs = st.lists(texts | token_ids, min_size=1, max_size=3).map(tuple)
calls = st.builds(
    Call,
    dialect=st.just("openai-embeddings"),
    operation=st.just("embeddings"),
    model=names,
    inputs=inputs,
    dimensions=st.none() | st.integers(1, 4096),
    encoding_format=st.sampled_from([None, "float", "base64"]),
    user=st.none() | names,
    extra=json_objects.map(lambda fields: {f"x_{name}": value for name, value in fields.items()}),
)


@given(calls)
def test_decoding_undoes_encoding(call: Call) -> None:
    assert OPENAI.decode_call(OPENAI.peek(OPENAI.encode_call(call, call.model).body)) == call


@given(vectors)
def test_a_vector_says_the_same_as_numbers_and_as_base64(vector: list[float]) -> None:
    assert as_numbers(as_base64(vector)) == vector
    assert as_numbers(vector) is vector


@given(calls, st.lists(vectors, min_size=1, max_size=3), st.booleans(), st.integers(0, 999))
def test_an_answer_is_given_in_the_format_that_was_asked_for(
    call: Call, rows: list[list[float]], packed: bool, tokens: int
) -> None:
    pieces: list[Piece] = [
        Start(model="m"),
        *(EmbeddingVector(index=at, vector=as_base64(row) if packed else row) for at, row in enumerate(rows)),
        UsageReport(usage=Usage(input=tokens)),
    ]
    body = OPENAI.encode_answer(pieces, call, "r", 1)
    said = [row["embedding"] for row in json.loads(body)["data"]]
    assert all(isinstance(row, str) == (call.encoding_format == "base64") for row in said)
    if call.encoding_format != "base64":
        CreateEmbeddingResponse.model_validate_json(body, strict=True)
    read = OPENAI.decode_answer(body)
    assert [as_numbers(piece.vector) for piece in read if isinstance(piece, EmbeddingVector)] == rows
    assert read[-1] == pieces[-1]
    assert OPENAI.read_answer(body).usage == Usage(input=tokens)


@given(st.lists(texts, min_size=1, max_size=3), st.lists(vectors, min_size=1, max_size=3))
def test_gemini_is_asked_in_one_batch_and_read_in_order(said: list[str], rows: list[list[float]]) -> None:
    call = Call(
        dialect="openai-embeddings",
        operation="embeddings",
        model="m",
        inputs=tuple(said),
        dimensions=3,
        user="u",
    )
    encoded = GEMINI.encode_call(call, "gemini-embedding-001")
    requests = json.loads(encoded.body)["requests"]
    assert [request["content"]["parts"] for request in requests] == [[{"text": text}] for text in said]
    assert {request["model"] for request in requests} == {"models/gemini-embedding-001"}
    assert {request["outputDimensionality"] for request in requests} == {3}
    assert encoded.dropped == ("user",)
    answer = json.dumps({"embeddings": [{"values": row} for row in rows]}).encode()
    read = [piece for piece in GEMINI.decode_answer(answer) if isinstance(piece, EmbeddingVector)]
    assert [(piece.index, piece.vector) for piece in read] == list(enumerate(rows))


def test_gemini_takes_no_token_ids() -> None:
    call = Call(dialect="openai-embeddings", operation="embeddings", model="m", inputs=((1, 2),))
    with pytest.raises(IsthmusError) as caught:
        GEMINI.encode_call(call, "m")
    assert (caught.value.fault, caught.value.param) == (Fault.UNSUPPORTED, "input")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "m"}, "input"),
        ({"model": "m", "input": []}, "input"),
        ({"model": "m", "input": ["a", []]}, "input[1]"),
        ({"model": "m", "input": [True]}, "input[0]"),
        ({"model": "m", "input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"model": "m", "input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a"}, "model"),
    ],
)
def test_a_wrong_request_names_the_field(body: dict[str, Any], param: str) -> None:
    with pytest.raises(IsthmusError) as caught:
        OPENAI.decode_call(OPENAI.peek(json.dumps(body).encode()))
    assert (caught.value.fault, caught.value.param) == (Fault.INVALID_REQUEST, param)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"object":"list"}', b'{"data":[{"embedding":7}]}'])
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    with pytest.raises(IsthmusError) as caught:
        OPENAI.decode_answer(body)
    assert caught.value.fault is Fault.MALFORMED_ANSWER


def test_an_error_with_status_200_is_an_error() -> None:
    body = b'{"error":{"message":"slow down","type":"rate_limit_error"}}'
    with pytest.raises(IsthmusError) as caught:
        OPENAI.decode_answer(body)
    assert caught.value.fault is Fault.RATE_LIMITED
    assert OPENAI.read_answer(body).error is not None


def test_a_patch_changes_the_model_alone() -> None:
    body = {"model": "route", "input": ["ü"], "encoding_format": "base64", "x": {"y": 1}}
    patched = OPENAI.patch(OPENAI.peek(json.dumps(body).encode()), "real")
    assert json.loads(patched) == body | {"model": "real"}


def test_base64_that_is_cut_is_refused() -> None:
    with pytest.raises(IsthmusError):
        as_numbers(as_base64([1.0])[:-1])
