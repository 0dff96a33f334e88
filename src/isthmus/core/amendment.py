"""How a strategy changes what it asks: turns added after the conversation, and the form of the answer.

Nothing of what the caller said is ever left out or changed.
"""

from __future__ import annotations

from typing import Any

import msgspec

from isthmus.core.call import Call, Message, Text


class Amendment(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked beside, or instead of, the answer that the caller wants.

    `turns` come after the conversation. `plain` asks for words alone: no tools, no other form, one choice, no
    thinking. `logprobs` asks for the log-probabilities of the answer's tokens. None leaves what the caller
    said.
    """

    turns: tuple[Message, ...] = ()
    plain: bool = False
    logprobs: bool = False
    max_tokens: int | None = None
    temperature: float | None = None

    def join(self, other: Amendment | None) -> Amendment:
        """This change, and after it the other."""
        if other is None:
            return self
        return Amendment(
            turns=self.turns + other.turns,
            plain=self.plain or other.plain,
            logprobs=self.logprobs or other.logprobs,
            max_tokens=self.max_tokens if other.max_tokens is None else other.max_tokens,
            temperature=self.temperature if other.temperature is None else other.temperature,
        )


def turn(role: Any, text: str) -> Message:
    """A turn of words alone."""
    return Message(role=role, parts=(Text(text),))


def amended(call: Call, amendment: Amendment) -> Call:
    """The call with the change."""
    changes: dict[str, Any] = {"messages": call.messages + amendment.turns}
    if amendment.plain:
        changes |= {
            "tools": (),
            "tool_choice": None,
            "parallel_tool_calls": None,
            "response_format": None,
            "n": None,
            "stop": (),
            "thinking": None,
            "logprobs": None,
            "top_logprobs": None,
            "logit_bias": None,
        }
    if amendment.logprobs:
        changes["logprobs"] = True
    if amendment.max_tokens is not None:
        changes["max_tokens"] = amendment.max_tokens
    if amendment.temperature is not None:
        changes["temperature"] = amendment.temperature
    return msgspec.structs.replace(call, **changes)
