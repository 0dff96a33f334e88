"""What may be believed of the counts that a provider reports, and what they leave unsaid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

from isthmus.core.usage import Usage

Count: TypeAlias = int | float | None
"""A count as it is reported: some servers write 12.0."""

MOST_TOKENS = 2**53
"""The largest integer that JSON carries exactly (RFC 8259, section 6), far above any real count."""

_AT_LIST_PRICE = {
    "tier": frozenset({"auto", "default", "standard", "on_demand"}),
    "speed": frozenset({"standard"}),
    "geo": frozenset({"global", "not_available"}),
}
_COUNTED_IN_TOKENS = frozenset({"web_fetch", "tool_search"})
_LONGEST_NAME = 40


def believable(usage: Usage) -> Usage | None:
    """The usage, or None where a count is beyond `MOST_TOKENS`: then it counts as not told."""
    counts = (usage.prompt, usage.output, usage.reasoning, usage.input_audio, usage.output_audio)
    return usage if max(counts) <= MOST_TOKENS else None


def whole(count: Count) -> int:
    """A reported count as a whole number, 0 where it is missing or below."""
    return int(count) if count and count > 0 else 0


def wholes(*counts: Count) -> list[int]:
    """Reported counts as whole numbers, each as `whole` gives it; many are read of every answer."""
    return [int(it) if it and it > 0 else 0 for it in counts]


def served(how: Literal["tier", "speed", "geo"], said: Any) -> tuple[str, ...]:
    """How an answer was served, as `Usage.beyond` names it; nothing for what list prices are for."""
    if isinstance(said, str) and said and said not in _AT_LIST_PRICE[how]:
        return (f"{how}.{said[:_LONGEST_NAME]}",)
    return ()


def tools_run(counts: Any) -> Iterator[str]:
    """The provider's own tools that ran, by its counts of requests (`web_search_requests`), as `Usage.beyond`
    names them; without those that cost nothing but tokens."""
    for name, count in counts.items() if isinstance(counts, dict) else ():
        tool = name.removesuffix("_requests")
        if tool not in _COUNTED_IN_TOKENS and isinstance(count, int | float) and count > 0:
            yield f"tool.{tool[:_LONGEST_NAME]}"
