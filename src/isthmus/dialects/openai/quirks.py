"""Where servers that speak Chat Completions differ, as data."""

from __future__ import annotations

from typing import Literal

import msgspec


class Quirks(msgspec.Struct, frozen=True, kw_only=True):
    """What one server understands; the defaults suit most compatible servers (vLLM, SGLang, llama.cpp,
    Together).

    `max_tokens_field` is its name for the limit of the answer. `developer_role` False turns `developer`
    messages into `system`. `reasoning_field` is where it wants the model's earlier thinking back, None for
    nowhere; answers are read from `reasoning_content` and `reasoning` alike. `stream_options` says whether a
    stream can be asked for usage. `top_k` says whether it takes that sampler. `short_tool_ids` rewrites ids
    of tool calls to nine letters and digits (Mistral refuses others). `finish_reason` False takes `[DONE]`
    for the end of a stream that says no reason for it.
    """

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    developer_role: bool = False
    reasoning_field: Literal["reasoning_content"] | None = "reasoning_content"
    stream_options: bool = True
    top_k: bool = True
    short_tool_ids: bool = False
    finish_reason: bool = True


COMPATIBLE = Quirks()
OPENAI = Quirks(
    max_tokens_field="max_completion_tokens", developer_role=True, reasoning_field=None, top_k=False
)
