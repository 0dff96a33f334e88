"""Anthropic's token counts, and its words for why an answer ended.

Source: platform.claude.com/docs/en/api/messages (usage, stop_reason), .../api/service-tiers, and of
.../build-with-claude: prompt-caching, fast-mode, data-residency. `input_tokens` excludes what was read from
or written to the cache, `output_tokens` includes thinking.
"""

from __future__ import annotations

from typing import Any

import msgspec

from isthmus.core.pieces import Finish, FinishReason
from isthmus.core.usage import Usage
from isthmus.dialects.reported import Count, believable, served, tools_run, whole

_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop_sequence",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "refusal",
    "pause_turn": "pause",
    "model_context_window_exceeded": "context_length",
}
_WORDS: dict[FinishReason, str] = {reason: word for word, reason in _REASONS.items()} | {
    "content_filter": "refusal",
}


def finish_reason(word: str) -> FinishReason:
    """Anthropic's `stop_reason` in canonical form; `other` for a word that is not documented."""
    return _REASONS.get(word, "other")


def stop_reason(finish: Finish, called_tools: bool) -> str:
    """The end of an answer as `stop_reason`. Where Anthropic has no word for it that is the provider's own,
    and never `end_turn`: clients must expect new words (platform.claude.com/docs/en/api/versioning), and
    would take that one for a whole answer.

    Some servers say plain `stop` after tool calls, where Anthropic's clients wait for `tool_use`.
    """
    if finish.reason == "stop" and called_tools:
        return "tool_use"
    return _WORDS.get(finish.reason) or finish.raw or finish.reason


class CacheCreation(msgspec.Struct):
    """Tokens written to the cache, by time to live."""

    ephemeral_5m_input_tokens: Count = None
    ephemeral_1h_input_tokens: Count = None


class OutputDetails(msgspec.Struct):
    """What part of the output was thinking."""

    thinking_tokens: Count = None


class Counts(msgspec.Struct):
    """The `usage` object of a Message, of message_start or of message_delta; all counts are cumulative."""

    input_tokens: Count = None
    output_tokens: Count = None
    cache_creation_input_tokens: Count = None
    cache_read_input_tokens: Count = None
    cache_creation: CacheCreation | None = None
    output_tokens_details: OutputDetails | None = None
    service_tier: Any = None
    speed: Any = None
    inference_geo: Any = None
    server_tool_use: Any = None


class Meter:
    """The usage of one answer, as reports of it come in.

    A later report replaces an earlier one field by field. Counts only ever grow, so a server that repeats a
    field as 0 does not erase what it said before.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._beyond: set[str] = set()

    def add(self, counts: Counts) -> None:
        """Takes in one report."""
        self._grow("input", counts.input_tokens)
        self._grow("output", counts.output_tokens)
        self._grow("written", counts.cache_creation_input_tokens)
        self._grow("read", counts.cache_read_input_tokens)
        if counts.cache_creation is not None:
            self._grow("5m", counts.cache_creation.ephemeral_5m_input_tokens)
            self._grow("1h", counts.cache_creation.ephemeral_1h_input_tokens)
        if counts.output_tokens_details is not None:
            self._grow("thinking", counts.output_tokens_details.thinking_tokens)
        for told in (
            served("tier", counts.service_tier),
            served("speed", counts.speed),
            served("geo", counts.inference_geo),
            tools_run(counts.server_tool_use),
        ):
            self._beyond.update(told)

    def usage(self) -> Usage | None:
        """The counts as a partition, or None while nothing `believable` was reported.

        Tokens written to the cache without a time to live count as written for 5 minutes, Anthropic's
        default.
        """
        if not self._counts:
            return None
        get = self._counts.get
        written = max(get("written", 0), get("5m", 0) + get("1h", 0))
        output = get("output", 0)
        usage = Usage(
            input=get("input", 0),
            output=output,
            cache_read=get("read", 0),
            cache_write_5m=written - get("1h", 0),
            cache_write_1h=get("1h", 0),
            reasoning=min(get("thinking", 0), output),
            beyond=tuple(sorted(self._beyond)),
        )
        return believable(usage)

    def _grow(self, name: str, count: Count) -> None:
        if count is not None:
            self._counts[name] = max(self._counts.get(name, 0), whole(count))


def usage_of(counts: Counts | None) -> Usage | None:
    """The usage of a whole answer."""
    meter = Meter()
    if counts is not None:
        meter.add(counts)
    return meter.usage()


def usage_json(usage: Usage) -> dict[str, Any]:
    """A usage as the `usage` object of a Message."""
    said: dict[str, Any] = {
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "cache_creation_input_tokens": usage.cache_write_5m + usage.cache_write_1h,
        "cache_read_input_tokens": usage.cache_read,
    }
    if usage.cache_write_5m or usage.cache_write_1h:
        said["cache_creation"] = {
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        }
    if usage.reasoning:
        said["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return said
