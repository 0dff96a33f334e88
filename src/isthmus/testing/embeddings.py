"""Embedding vectors, and OpenAI's endpoint for them.

A vector is the normalised sum of one vector for each word, drawn from the word's SHA-256: equal texts have
equal vectors, and texts that share words lie close to each other.
"""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from typing import Any

from isthmus.testing import openai_errors
from isthmus.testing.wire import (
    House,
    JsonObject,
    Received,
    RefusedError,
    count_words,
    field,
    known,
    number,
    require,
)

DIMENSIONS = 64
"""The length of a vector where the request names none."""

_DOCUMENTED = frozenset(("dimensions", "encoding_format", "input", "model", "user"))


def vector(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """The unit vector of a text; each component is exact in 32 bits, so both encodings tell the same."""
    sums = [0.0] * dimensions
    for word in text.lower().split() or [""]:
        for position, component in enumerate(_of_word(word, dimensions)):
            sums[position] += component
    length = math.sqrt(sum(component * component for component in sums)) or 1.0
    return list(
        struct.unpack(f"<{dimensions}f", struct.pack(f"<{dimensions}f", *(one / length for one in sums)))
    )


def _of_word(word: str, dimensions: int) -> list[float]:
    digest = hashlib.shake_256(word.encode()).digest(dimensions)
    return [byte / 127.5 - 1.0 for byte in digest]


def model_of(received: Received, house: House) -> str:
    """The model of an embeddings request, which is checked as OpenAI does."""
    openai_errors.check_key(received.headers, house.key)
    body = received.body
    if body is None:
        raise RefusedError("We could not parse the JSON body of your request.")
    if house.strict:
        known(body, _DOCUMENTED, "Unknown parameter: '{}'.".format)
    model = field(body, "model", str)
    require(model is not None, "you must provide a model parameter", param="model")
    field(body, "dimensions", int)
    number(body, "dimensions", 1, 65536)
    encoding = field(body, "encoding_format", str, "float")
    require(
        encoding in ("float", "base64"),
        f"'{encoding}' is not one of ['float', 'base64'].",
        param="encoding_format",
    )
    _inputs(body.get("input"))
    return str(model)


def answer(body: JsonObject) -> JsonObject:
    """The list of embeddings for a request that was checked."""
    inputs = _inputs(body["input"])
    dimensions = body.get("dimensions") or DIMENSIONS
    tokens = sum(len(one) if isinstance(one, list) else count_words(one) for one in inputs)
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _encoded(vector(_as_text(one), dimensions), body.get("encoding_format")),
            }
            for index, one in enumerate(inputs)
        ],
        "model": body["model"],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _inputs(given: Any) -> list[Any]:
    """The texts (or lists of token ids) to embed: a string, strings, token ids, or lists of token ids."""
    message = "'$.input' is invalid. Please check the API reference."
    if isinstance(given, str):
        given = [given]
    require(isinstance(given, list) and bool(given), message)
    if all(_is_token(one) for one in given):
        return [given]
    for one in given:
        fits = isinstance(one, str) or (isinstance(one, list) and all(_is_token(token) for token in one))
        require(fits and bool(one), message)
    return list(given)


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _as_text(one: Any) -> str:
    return one if isinstance(one, str) else " ".join(map(str, one))


def _encoded(values: list[float], encoding: str | None) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
    return values
