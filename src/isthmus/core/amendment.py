"""How a strategy changes what it asks: turns added after the conversation, and the form of the answer.

Nothing of what the caller said is ever left out or changed.
"""

from __future__ import annotations

from typing import Any

import msgspec

from isthmus.core.call import Call, Message, Text, ToolChoice, ToolResult, ToolUse


class Amendment(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked beside, or instead of, the answer that the caller wants.

    `turns` come after the conversation. `plain` asks for words alone: no calls of tools, no other form, one
    choice, no thinking, sampled as the model is by default. `varied` asks for an answer that may differ from
    others to the same question. `logprobs` asks for the log-probabilities of the answer's tokens. `streamed`
    asks for it as it comes, whatever the client wants. None leaves what the caller said.

    Not every model may see the turns, which may hold what the conversation does not. `optional` turns are
    left out for such a model; without those that are not, there is nothing to ask it.
    """

    turns: tuple[Message, ...] = ()
    optional: bool = False
    plain: bool = False
    logprobs: bool = False
    max_tokens: int | None = None
    varied: bool = False
    streamed: bool = False

    def join(self, other: Amendment | None) -> Amendment:
        """This change, and after it the other."""
        if other is None:
            return self
        return Amendment(
            turns=self.turns + other.turns,
            optional=(self.optional or not self.turns) and (other.optional or not other.turns),
            plain=self.plain or other.plain,
            logprobs=self.logprobs or other.logprobs,
            max_tokens=self.max_tokens if other.max_tokens is None else other.max_tokens,
            varied=self.varied or other.varied,
            streamed=self.streamed or other.streamed,
        )

    def without_turns(self) -> Amendment:
        """What is left of this change for a model that may not see the turns."""
        return msgspec.structs.replace(self, turns=())


def turn(role: Any, text: str) -> Message:
    """A turn of words alone."""
    return Message(role=role, parts=(Text(text),))


def amended(call: Call, amendment: Amendment) -> Call:
    """The call with the change."""
    changes: dict[str, Any] = {"messages": call.messages + amendment.turns}
    if amendment.plain:
        # Anthropic takes no conversation in which tools were used without being told of the tools.
        tools = call.tools if uses_tools(call) else ()
        changes |= {
            "tools": tools,
            "tool_choice": ToolChoice(mode="none") if tools else None,
            "parallel_tool_calls": None,
            "response_format": None,
            "n": None,
            "stop": (),
            "thinking": None,
            "logprobs": None,
            "top_logprobs": None,
            "logit_bias": None,
            "temperature": None,
            "top_p": None,
            "top_k": None,
            "frequency_penalty": None,
            "presence_penalty": None,
        }
    if amendment.logprobs:
        changes["logprobs"] = True
    if amendment.streamed:
        changes |= {"stream": True, "include_usage": True}
    if amendment.max_tokens is not None:
        changes["max_tokens"] = amendment.max_tokens
    if amendment.varied:
        changes["seed"] = None
        if call.temperature == 0:
            changes["temperature"] = None
    return msgspec.structs.replace(call, **changes)


def uses_tools(call: Call) -> bool:
    """True for a conversation in which tools have been called."""
    return any(isinstance(part, ToolUse | ToolResult) for it in call.messages for part in it.parts)
