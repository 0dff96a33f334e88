"""What a call can cost at most, before it is made. Pure.

A token stands for at least one byte of text, so a prompt has no more tokens than its request has bytes, JSON
included, plus what the endpoint adds by itself. That is about four times what it will be for English; what is
not used is given back when the call has ended. Pictures count for themselves; of a file, whose text may be
compressed, only the model's context bounds the tokens.
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

LEAST_ANSWER = 16
"""The least limit that every endpoint takes: Responses takes none below it, and a smaller one is raised to
it."""

IMAGE_TOKENS = 65_536
"""What a picture may count, however few its bytes are: one of a single colour has next to none. The most that
we know of is gpt-4o-mini's high detail: 2,833 tokens and 5,667 for each of up to eight tiles
(platform.openai.com/docs/guides/images-vision)."""


_UNBOUNDING = frozenset(
    # What a provider does besides: tools, searches, other models.
    {"mcp_servers", "models", "plugins", "search_parameters", "web_search_options"}
    # llama.cpp's word for the limit of the answer, which goes before `max_tokens` there.
    | {"n_predict"}
)
_WITHOUT_END = 2**63


class Bound(msgspec.Struct, frozen=True):
    """At most so many tokens in and out, and so many nano-USD; None where there is no telling."""

    tokens: int | None
    nanousd: int | None
    why: str = ""


def bound(call: Call | None, size: int, model: Model, price: Price, at_us: int) -> Bound:
    """What a call of this model can use at most, where `size` bytes are sent to it; None is a call that only
    its endpoint understands."""
    prompt = _prompt_bound(call, size, model) if call is not None else None
    output = most_said(call, model) if call is not None else None
    if prompt is None or output is None:
        why = "nothing bounds its answer"
        if prompt is None:
            why = "it holds a file, points to texts elsewhere, or uses tools of the provider"
        # What is free is so in any amount.
        return Bound(None, 0 if dearest(price, _WITHOUT_END, _WITHOUT_END, at_us) == 0 else None, why)
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
    parts = list(_parts(call.messages))
    if _does_more(call, parts):
        return None
    pictures = sum(isinstance(part, Image) for part in parts)
    readable = not any(isinstance(part, Document) and _is_packed(part) for part in parts)
    tokens = size + ENDPOINT_TOKENS + pictures * IMAGE_TOKENS if readable else None
    # Texts to embed are read one by one.
    most = None if model.context is None else model.context * max(1, len(call.inputs))
    return min((it for it in (tokens, most) if it is not None), default=None)


def most_said(call: Call, model: Model) -> int | None:
    """So many tokens the answers to this call have at most, all choices together; None where nothing bounds
    them."""
    if call.operation != "chat":
        return 0
    asked = None if call.max_tokens is None else max(call.max_tokens, LEAST_ANSWER)
    said = [it for it in (asked, model.max_output, model.context) if it is not None]
    return (call.n or 1) * min(said) if said else None


def _does_more(call: Call, parts: Iterable[Part]) -> bool:
    """True where the provider may read or do more than the call says."""
    return (
        any(isinstance(part, Opaque) for part in parts)
        or any(tool.opaque is not None for tool in call.tools)
        or any(call.extra.get(name) for name in _UNBOUNDING)
    )


def _is_packed(part: Document) -> bool:
    """True for a file whose text is not in the call as it is: it stands elsewhere, or is compressed."""
    if part.url is not None or part.file_id is not None:
        return True
    return part.data is not None and not (part.media_type or "").startswith("text/")


def _parts(messages: Iterable[Message]) -> Iterable[Part]:
    for message in messages:
        for part in message.parts:
            yield part
            if isinstance(part, ToolResult):
                yield from part.parts
