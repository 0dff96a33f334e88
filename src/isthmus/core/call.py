"""A request, in the one canonical form that every dialect decodes to and encodes from."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

Operation: TypeAlias = Literal["chat", "embeddings", "count_tokens"]
Role: TypeAlias = Literal["system", "developer", "user", "assistant"]


class Text(msgspec.Struct, frozen=True, tag="text"):
    """Plain text. `extra` keeps the caller's fields beside it (cache_control, citations...) for the same
    dialect.
    """

    text: str
    extra: dict[str, Any] = {}


class Image(msgspec.Struct, frozen=True, tag="image"):
    """A picture, by `url` or as base64 `data` of a `media_type`; `detail` is OpenAI's hint of resolution."""

    url: str | None = None
    data: str | None = None
    media_type: str | None = None
    detail: str | None = None
    extra: dict[str, Any] = {}


class Document(msgspec.Struct, frozen=True, tag="document"):
    """A file: base64 `data` of a `media_type`, plain `text`, a `url`, or a provider's `file_id`."""

    data: str | None = None
    media_type: str | None = None
    text: str | None = None
    url: str | None = None
    file_id: str | None = None
    name: str | None = None
    extra: dict[str, Any] = {}


class Audio(msgspec.Struct, frozen=True, tag="audio"):
    """Sound as base64 `data` in a `format` such as wav or mp3."""

    data: str
    format: str
    extra: dict[str, Any] = {}


class ToolUse(msgspec.Struct, frozen=True, tag="tool_use"):
    """A call of a tool that the assistant asked for; `arguments` is the JSON text as the model wrote it.

    `signature` is a provider's opaque token that must come back unchanged (Gemini's thoughtSignature).
    """

    id: str
    name: str
    arguments: str
    signature: str | None = None
    extra: dict[str, Any] = {}


class ToolResult(msgspec.Struct, frozen=True, tag="tool_result"):
    """What a tool answered to the ToolUse of the same `id`."""

    id: str
    parts: tuple[Text | Image | Document, ...]
    is_error: bool = False
    name: str | None = None
    extra: dict[str, Any] = {}


class Reasoning(msgspec.Struct, frozen=True, tag="reasoning"):
    """A model's thinking; `signature` or `encrypted` is opaque and bound to the `dialect` that issued it."""

    text: str = ""
    signature: str | None = None
    encrypted: str | None = None
    id: str | None = None
    dialect: str = ""
    extra: dict[str, Any] = {}


class Refusal(msgspec.Struct, frozen=True, tag="refusal"):
    """An assistant's earlier refusal, in its own words."""

    text: str
    extra: dict[str, Any] = {}


class Opaque(msgspec.Struct, frozen=True, tag="opaque"):
    """A part that only its own `dialect` understands: it survives there and is left out, and reported,
    elsewhere.
    """

    dialect: str
    value: Any

    @property
    def kind(self) -> str:
        """What its dialect calls it, as reports name it."""
        kind = self.value.get("type") if isinstance(self.value, dict) else None
        return kind if isinstance(kind, str) else f"{self.dialect}_block"


Part: TypeAlias = Text | Image | Document | Audio | ToolUse | ToolResult | Reasoning | Refusal | Opaque


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One turn. Tool results are parts of a `user` message, wherever the dialect puts them on the wire."""

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None
    extra: dict[str, Any] = {}


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call; `parameters` is its JSON Schema.

    A provider's built-in tool (web search, code interpreter...) has no schema: it is kept whole in `opaque`.
    """

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    opaque: Opaque | None = None
    extra: dict[str, Any] = {}


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Whether and which tools the model must call; `name` only with `mode` tool."""

    mode: Literal["auto", "none", "required", "tool"]
    name: str | None = None


class ResponseFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The form of the answer: free text, any JSON object, or JSON that satisfies `schema`."""

    kind: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class Thinking(msgspec.Struct, frozen=True, kw_only=True):
    """How much the model may think: an `effort` in words, a `budget` in tokens, or off (`enabled` False)."""

    enabled: bool | None = None
    effort: str | None = None
    budget: int | None = None
    summary: str | None = None


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A request as every dialect can say it.

    `model` is what the client asked for (a route). None means "not said" everywhere. `extra` holds top-level
    fields that the canonical form has no word for, under their own names and as decoded JSON; only the same
    `dialect` can say them again. `inputs` is used by embeddings alone: texts, or token ids.
    """

    dialect: str
    operation: Operation
    model: str
    messages: tuple[Message, ...] = ()
    inputs: tuple[str | tuple[int, ...], ...] = ()
    stream: bool = False
    include_usage: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    thinking: Thinking | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    dimensions: int | None = None
    encoding_format: str | None = None
    extra: dict[str, Any] = {}


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A request read just far enough to route it: the outside of the letter.

    `fields` maps each top-level name to its raw JSON, so that one field can be rewritten and the rest passed
    on byte for byte. `user` is the caller's end user, where said: the unit of sticky splits.
    """

    dialect: str
    operation: Operation
    model: str
    stream: bool
    include_usage: bool
    user: str | None
    fields: dict[str, msgspec.Raw]
