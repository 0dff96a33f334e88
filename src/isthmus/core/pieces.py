"""An answer, as the sequence of pieces that every dialect decodes to and encodes from.

A streamed answer yields them as they arrive, a whole body yields them all at once: there is one form, so
streaming and non-streaming answers cannot diverge. `choice` numbers the alternatives of a call with n > 1;
`index` numbers the content blocks or tool calls inside a choice, in order of appearance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeAlias

import msgspec

from isthmus.core.usage import Usage

FinishReason: TypeAlias = Literal[
    "stop",
    "stop_sequence",
    "length",
    "tool_calls",
    "content_filter",
    "refusal",
    "pause",
    "context_length",
    "interrupted",
    "other",
]
"""Why an answer ended. `interrupted`: the provider says itself that it is none, or not all of one, since a
failure of its own ended it. `other`: for a reason that nobody here knows, so it may not be whole either."""


class Start(msgspec.Struct, frozen=True, kw_only=True, tag="start"):
    """The answer begins. `model` is what the provider says answered; `created` is in seconds since the epoch,
    if said.
    """

    id: str = ""
    model: str = ""
    created: int | None = None
    extra: dict[str, Any] = {}


class TextDelta(msgspec.Struct, frozen=True, kw_only=True, tag="text"):
    """More text of one choice. `logprobs` is a list in OpenAI's `content` form (token, logprob, bytes,
    top_logprobs).
    """

    text: str
    choice: int = 0
    logprobs: list[Any] | None = None


class RefusalDelta(msgspec.Struct, frozen=True, kw_only=True, tag="refusal"):
    """More text of a refusal."""

    text: str
    choice: int = 0


class ReasoningDelta(msgspec.Struct, frozen=True, kw_only=True, tag="reasoning"):
    """More of the model's thinking in words."""

    text: str
    choice: int = 0


class ReasoningSeal(msgspec.Struct, frozen=True, kw_only=True, tag="reasoning_seal"):
    """What closes a block of thinking: a `signature`, or `encrypted` content, opaque and bound to
    `dialect`.
    """

    dialect: str
    signature: str | None = None
    encrypted: str | None = None
    id: str | None = None
    choice: int = 0


class ToolCallStart(msgspec.Struct, frozen=True, kw_only=True, tag="tool_call"):
    """A tool call begins: id and name are said once. `index` is unique within the choice."""

    index: int
    id: str
    name: str
    choice: int = 0
    signature: str | None = None


class ToolArgumentsDelta(msgspec.Struct, frozen=True, kw_only=True, tag="tool_arguments"):
    """More of the JSON text of the arguments of tool call `index`."""

    index: int
    text: str
    choice: int = 0


class OpaqueBlock(msgspec.Struct, frozen=True, kw_only=True, tag="opaque"):
    """A block that only its own `dialect` understands (a server tool's result, say); other dialects leave it
    out.
    """

    dialect: str
    value: Any
    choice: int = 0


class EmbeddingVector(msgspec.Struct, frozen=True, kw_only=True, tag="embedding"):
    """The vector of input `index`: numbers, or base64 of little-endian float32 where that was asked for."""

    index: int
    vector: list[float] | str


class TokenCount(msgspec.Struct, frozen=True, kw_only=True, tag="token_count"):
    """The answer to a count_tokens call: tokens of the prompt; `estimated` where no tokenizer was asked."""

    tokens: int
    estimated: bool = False


class Finish(msgspec.Struct, frozen=True, kw_only=True, tag="finish"):
    """A choice is complete. `raw` is the provider's own word for why; `stop_sequence` the one that was
    met.
    """

    reason: FinishReason
    raw: str | None = None
    choice: int = 0
    stop_sequence: str | None = None


class UsageReport(msgspec.Struct, frozen=True, kw_only=True, tag="usage"):
    """What the provider says was consumed so far; a later report replaces an earlier one."""

    usage: Usage


Piece: TypeAlias = (
    Start
    | TextDelta
    | RefusalDelta
    | ReasoningDelta
    | ReasoningSeal
    | ToolCallStart
    | ToolArgumentsDelta
    | OpaqueBlock
    | EmbeddingVector
    | TokenCount
    | Finish
    | UsageReport
)


def text_of(pieces: Iterable[Piece], choice: int = 0) -> str:
    """The words of an answer, without its thinking; a refusal is words, too."""
    return "".join(
        piece.text
        for piece in pieces
        if isinstance(piece, TextDelta | RefusalDelta) and piece.choice == choice
    )


def tokens_of(pieces: Iterable[Piece]) -> Iterator[tuple[str, float]]:
    """Each token of the first choice's words with its log-probability, where the model told it.

    Rounding makes some engines' surest tokens a little too sure: none is above 0. What has no text is none of
    its words: llama.cpp tells the mark of the end, which is empty, in whole answers and not in streams, and
    what was calibrated by the one would not hold for the other.
    """
    for piece in pieces:
        if isinstance(piece, TextDelta) and piece.choice == 0:
            for token in piece.logprobs or ():
                if not isinstance(token, dict) or not token.get("token"):
                    continue
                said = token.get("logprob")
                if isinstance(said, int | float) and not math.isnan(said):
                    yield str(token["token"]), min(0.0, float(said))
