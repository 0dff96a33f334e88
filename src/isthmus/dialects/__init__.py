"""The wire formats: pure codecs between bytes and the canonical form, one room a dialect."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from isthmus.core.call import Operation
from isthmus.core.codec import ClientWire, EndpointWire
from isthmus.dialects.anthropic import AnthropicMessages
from isthmus.dialects.counting import AnthropicCountTokens, GeminiCountTokens
from isthmus.dialects.embeddings import GeminiEmbeddings, OpenAIEmbeddings
from isthmus.dialects.gemini import GeminiGenerateContent
from isthmus.dialects.openai import OpenAIChat, Quirks
from isthmus.dialects.responses import OpenAIResponses

WIRES: dict[str, type[EndpointWire]] = {
    wire.name: wire
    for wire in (
        OpenAIChat,
        OpenAIResponses,
        AnthropicMessages,
        GeminiGenerateContent,
        OpenAIEmbeddings,
        GeminiEmbeddings,
        AnthropicCountTokens,
        GeminiCountTokens,
    )
}
"""Every wire that an endpoint may speak, by the name that presets and records give it."""

CLIENT_WIRES: dict[str, ClientWire] = {
    wire.name: wire
    for wire in (
        OpenAIChat(),
        OpenAIResponses(),
        AnthropicMessages(),
        OpenAIEmbeddings(),
        AnthropicCountTokens(),
    )
}
"""Every wire that a client may speak."""


def operation_of(wire: str) -> Operation:
    """What a wire is for."""
    return WIRES[wire].operation


def endpoint_wires(names: Iterable[str], quirks: Collection[str]) -> tuple[EndpointWire, ...]:
    """The codecs for an endpoint that speaks these wires with these quirks (see `catalog.presets.QUIRKS`)."""
    chat = OpenAIChat(
        Quirks(
            max_tokens_field="max_completion_tokens" if "max_completion_tokens" in quirks else "max_tokens",
            developer_role="no_developer_role" not in quirks,
            reasoning_field=None if "no_reasoning_field" in quirks else "reasoning_content",
            stream_options="no_stream_options" not in quirks,
            top_k="no_top_k" not in quirks,
            short_tool_ids="short_tool_ids" in quirks,
            finish_reason="no_finish_reason" not in quirks,
        )
    )
    return tuple(chat if name == chat.name else WIRES[name]() for name in names)
