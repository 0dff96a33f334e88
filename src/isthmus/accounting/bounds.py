"""What a call can cost at most, before it is made. Pure.

A token stands for at least one byte of text, so a prompt has no more tokens than its request has bytes, JSON
included, plus what the endpoint adds by itself. That is about four times what it will be for English; what is
not used is given back when the call has ended.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from isthmus.catalog.prices import Price, Rates
from isthmus.core.call import Call, Document, Image, Message, Opaque, Part, ToolResult
from isthmus.core.portfolio import Model

ENDPOINT_TOKENS = 2_048
"""What an endpoint may add to a prompt: its template, and how tools are to be used. Anthropic adds up to 804
tokens for tools (platform.claude.com/docs/en/agents-and-tools/tool-use/overview)."""

IMAGE_TOKENS = 65_536
"""What a picture that is elsewhere may count. The most that we know of is gpt-4o-mini's high detail: 2,833
tokens and 5,667 for each of up to eight tiles (platform.openai.com/docs/guides/images-vision)."""


class Bound(msgspec.Struct, frozen=True):
    """At most so many tokens in and out, and so many nano-USD; None where there is no telling."""

    tokens: int | None
    nanousd: int | None
    why: str = ""


def bound(call: Call, size: int, model: Model, price: Price, at_us: int) -> Bound:
    """What a call of this model can use at most, where `size` bytes are sent to it."""
    prompt = _prompt_bound(call, size, model)
    output = _output_bound(call, model)
    if prompt is None:
        return Bound(None, None, "it points to texts elsewhere, or uses tools of the provider")
    if output is None:
        return Bound(None, None, "nothing bounds its answer")
    return Bound(prompt + output, dearest(price, prompt, output, at_us), "the model's price is not known")


def dearest(price: Price, prompt: int, output: int, at_us: int) -> int | None:
    """The highest charge, in nano-USD, that so many tokens can make at that time; None for an unknown price.

    They may be of any class: read, written to a cache, heard, thought.
    """
    for listed in price.lists:
        for period in reversed(listed.periods):
            if period.holds(at_us):
                reached = [rates for above, rates in period.tiers if prompt > above]
                return max(
                    (_most(rates, prompt, output) for rates in (period.base, *reached)),
                    key=lambda amount: -1 if amount is None else amount,
                )
    return None


def _most(rates: Rates, prompt: int, output: int) -> int | None:
    read = (rates.input, rates.cache_read, rates.cache_write_5m, rates.cache_write_1h, rates.input_audio)
    said = (rates.output, rates.reasoning, rates.output_audio)
    dear_in = max((rate for rate in read if rate is not None), default=None)
    dear_out = max((rate for rate in said if rate is not None), default=None)
    if (prompt and dear_in is None) or (output and dear_out is None):
        return None
    scaled = rates.request + prompt * (dear_in or 0) + output * (dear_out or 0)
    return -(-scaled // rates.scale)


def _prompt_bound(call: Call, size: int, model: Model) -> int | None:
    pictures, unknown = _elsewhere(call)
    if unknown:
        return None
    tokens = size + ENDPOINT_TOKENS + pictures * IMAGE_TOKENS
    return tokens if model.context is None else min(tokens, model.context)


def _output_bound(call: Call, model: Model) -> int | None:
    if call.operation != "chat":
        return 0
    said = [it for it in (call.max_tokens, model.max_output, model.context) if it is not None]
    return (call.n or 1) * min(said) if said else None


def _elsewhere(call: Call) -> tuple[int, bool]:
    """How many pictures the provider is to fetch, and whether it may read or do more than the call says."""
    parts = list(_parts(call.messages))
    pictures = sum(isinstance(part, Image) and part.url is not None for part in parts)
    unknown = (
        any(isinstance(part, Opaque) or (isinstance(part, Document) and _is_far(part)) for part in parts)
        or any(tool.opaque is not None for tool in call.tools)
        or any(
            call.extra.get(name) for name in ("previous_response_id", "conversation", "web_search_options")
        )
    )
    return pictures, unknown


def _is_far(part: Document) -> bool:
    return part.url is not None or part.file_id is not None


def _parts(messages: Iterable[Message]) -> Iterable[Part]:
    for message in messages:
        for part in message.parts:
            yield part
            if isinstance(part, ToolResult):
                yield from part.parts
