"""Conversations held through the vendors' own clients: one class a client API, the same few verbs in each.

Whatever a client keeps of an answer goes back into its next request as that client itself would write it,
so a second turn shows whether anything was lost. Streams are folded by the clients' own helpers.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anthropic
import openai
from anthropic.types import Message
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
"""A picture of one pixel: a PNG file in base64."""

PATIENCE_S = 30


class ToolAsk(NamedTuple):
    """A tool call, as the client hands it to its application."""

    id: str
    name: str
    arguments: Any


class Counted(NamedTuple):
    """Usage in any dialect: the prompt, what of it was cached; the answer, what of it was thought."""

    prompt: int
    cached: int
    output: int
    reasoning: int


class Said(NamedTuple):
    """An answer as its client shows it; `finish` is the dialect's own word, `raw` the client's own object."""

    text: str
    reasoning: str
    calls: list[ToolAsk]
    finish: str
    usage: Counted
    raw: Any


class Talk(ABC):
    """A conversation with one route, streamed or not; `options` go into every request."""

    name: str
    FINISH: Mapping[str, str]
    """The dialect's words for the simulator's reasons to end."""

    def __init__(
        self, route: str, *, stream: bool = False, system: str | None = None, **options: Any
    ) -> None:
        self.route = route
        self.stream = stream
        self.system = system
        self.options = options
        self.turns: list[Any] = []

    async def say(self, text: str, /, *, picture: bool = False, **options: Any) -> Said:
        """Say something, and show a picture with it."""
        self.turns.append(self._user(text, picture))
        return await self._ask(options)

    async def tell(self, results: Mapping[str, str], **options: Any) -> Said:
        """Return the results of tool calls by their ids."""
        self.turns += self._results(results)
        return await self._ask(options)

    @abstractmethod
    async def _ask(self, options: Mapping[str, Any]) -> Said: ...

    @staticmethod
    @abstractmethod
    def _user(text: str, picture: bool) -> Any: ...

    @staticmethod
    @abstractmethod
    def _results(results: Mapping[str, str]) -> list[Any]: ...

    @staticmethod
    @abstractmethod
    def tool(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        """A function that the model may call, in the form of this API."""

    @staticmethod
    @abstractmethod
    def form(schema: Mapping[str, Any]) -> dict[str, Any]:
        """The options that ask for JSON of this schema."""


class ChatTalk(Talk):
    """Chat Completions, by `openai`."""

    name = "chat"
    FINISH = {  # noqa: RUF012
        "stop": "stop",
        "length": "length",
        "tools": "tool_calls",
        "sequence": "stop",
        "filter": "content_filter",
    }

    def __init__(self, client: openai.AsyncOpenAI, route: str, **options: Any) -> None:
        super().__init__(route, **options)
        self._client = client

    async def _ask(self, options: Mapping[str, Any]) -> Said:
        system: list[Any] = [{"role": "system", "content": self.system}] if self.system else []
        request = {"model": self.route, "messages": [*system, *self.turns], **self.options, **options}
        api = self._client.chat.completions
        answer: ChatCompletion
        if self.stream:
            async with api.stream(**request, stream_options={"include_usage": True}) as stream:
                async for _ in stream:
                    pass
                # Its get_final_completion() raises for an answer that was cut short.
                answer = stream.current_completion_snapshot
        else:
            answer = await api.create(**request)
        ChatCompletion.model_validate(answer.to_dict())
        choice = answer.choices[0]
        message = choice.message
        self.turns.append(_kept(message, "role", "content", "tool_calls", "refusal", "reasoning_content"))
        assert answer.usage is not None
        return Said(
            text=message.content or message.refusal or "",
            reasoning=getattr(message, "reasoning_content", None) or "",
            calls=[
                ToolAsk(call.id, call.function.name, json.loads(call.function.arguments))
                for call in message.tool_calls or ()
                if call.type == "function"
            ],
            finish=choice.finish_reason,
            usage=Counted(
                answer.usage.prompt_tokens,
                _field(answer.usage.prompt_tokens_details, "cached_tokens"),
                answer.usage.completion_tokens,
                _field(answer.usage.completion_tokens_details, "reasoning_tokens"),
            ),
            raw=answer,
        )

    @staticmethod
    def _user(text: str, picture: bool) -> Any:
        if not picture:
            return {"role": "user", "content": text}
        url = {"url": f"data:image/png;base64,{PIXEL}"}
        return {
            "role": "user",
            "content": [{"type": "text", "text": text}, {"type": "image_url", "image_url": url}],
        }

    @staticmethod
    def _results(results: Mapping[str, str]) -> list[Any]:
        return [{"role": "tool", "tool_call_id": id_, "content": text} for id_, text in results.items()]

    @staticmethod
    def tool(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        return {"type": "function", "function": {"name": name, "parameters": schema}}

    @staticmethod
    def form(schema: Mapping[str, Any]) -> dict[str, Any]:
        named = {"name": "answer", "strict": True, "schema": schema}
        return {"response_format": {"type": "json_schema", "json_schema": named}}


class ResponsesTalk(Talk):
    """Responses, by `openai`, with nothing stored: the conversation is sent whole each time."""

    name = "responses"
    FINISH = {  # noqa: RUF012
        "stop": "completed",
        "length": "incomplete: max_output_tokens",
        "tools": "completed",
        "sequence": "completed",
        "filter": "incomplete: content_filter",
    }

    def __init__(self, client: openai.AsyncOpenAI, route: str, **options: Any) -> None:
        super().__init__(route, **options)
        self._client = client

    async def _ask(self, options: Mapping[str, Any]) -> Said:
        request = {
            "model": self.route,
            "input": self.turns,
            "store": False,
            "include": ["reasoning.encrypted_content"],
            **({"instructions": self.system} if self.system else {}),
            **self.options,
            **options,
        }
        answer: Response
        if self.stream:
            async with self._client.responses.stream(**request) as stream:
                # Its get_final_response() knows of complete ones only.
                ends = [event async for event in stream if event.type in _ENDS]
            answer = ends[-1].response
        else:
            answer = await self._client.responses.create(**request)
        self.turns += [_without_parsed(item) for item in answer.output]
        detail = answer.incomplete_details
        assert answer.usage is not None
        return Said(
            text=answer.output_text
            or "".join(
                part.refusal
                for item in answer.output
                if item.type == "message"
                for part in item.content
                if part.type == "refusal"
            ),
            reasoning="".join(
                part.text for item in answer.output if item.type == "reasoning" for part in item.summary
            ),
            calls=[
                ToolAsk(item.call_id, item.name, json.loads(item.arguments))
                for item in answer.output
                if item.type == "function_call"
            ],
            finish=f"{answer.status}: {detail.reason}" if detail else str(answer.status),
            usage=Counted(
                answer.usage.input_tokens,
                _field(answer.usage.input_tokens_details, "cached_tokens"),
                answer.usage.output_tokens,
                _field(answer.usage.output_tokens_details, "reasoning_tokens"),
            ),
            raw=answer,
        )

    @staticmethod
    def _user(text: str, picture: bool) -> Any:
        parts: list[Any] = [{"type": "input_text", "text": text}]
        if picture:
            url = f"data:image/png;base64,{PIXEL}"
            parts.append({"type": "input_image", "image_url": url, "detail": "auto"})
        return {"role": "user", "content": parts}

    @staticmethod
    def _results(results: Mapping[str, str]) -> list[Any]:
        return [
            {"type": "function_call_output", "call_id": id_, "output": text} for id_, text in results.items()
        ]

    @staticmethod
    def tool(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        return {"type": "function", "name": name, "parameters": schema, "strict": False}

    @staticmethod
    def form(schema: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "text": {"format": {"type": "json_schema", "name": "answer", "strict": True, "schema": schema}}
        }


class MessagesTalk(Talk):
    """Messages, by `anthropic`."""

    name = "messages"
    FINISH = {  # noqa: RUF012
        "stop": "end_turn",
        "length": "max_tokens",
        "tools": "tool_use",
        "sequence": "stop_sequence",
        "filter": "refusal",
    }

    def __init__(self, client: anthropic.AsyncAnthropic, route: str, **options: Any) -> None:
        super().__init__(route, **{"max_tokens": 4096, **options})
        self._client = client

    async def _ask(self, options: Mapping[str, Any]) -> Said:
        system = {"system": self.system} if self.system else {}
        request = {"model": self.route, "messages": self.turns, **system, **self.options, **options}
        answer: Message
        if self.stream:
            async with self._client.messages.stream(**request) as stream:
                answer = await stream.get_final_message()
        else:
            answer = await self._client.messages.create(**request)
        Message.model_validate(answer.to_dict())
        self.turns.append(
            {"role": "assistant", "content": [_without_parsed(block) for block in answer.content]}
        )
        usage = answer.usage
        read = usage.cache_read_input_tokens or 0
        return Said(
            text="".join(block.text for block in answer.content if block.type == "text"),
            reasoning="".join(block.thinking for block in answer.content if block.type == "thinking"),
            calls=[
                ToolAsk(block.id, block.name, block.input)
                for block in answer.content
                if block.type == "tool_use"
            ],
            finish=str(answer.stop_reason),
            usage=Counted(
                usage.input_tokens + read + (usage.cache_creation_input_tokens or 0),
                read,
                usage.output_tokens,
                _field(usage.output_tokens_details, "thinking_tokens"),
            ),
            raw=answer,
        )

    @staticmethod
    def _user(text: str, picture: bool) -> Any:
        if not picture:
            return {"role": "user", "content": text}
        source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
        return {
            "role": "user",
            "content": [{"type": "image", "source": source}, {"type": "text", "text": text}],
        }

    @staticmethod
    def _results(results: Mapping[str, str]) -> list[Any]:
        blocks = [
            {"type": "tool_result", "tool_use_id": id_, "content": text} for id_, text in results.items()
        ]
        return [{"role": "user", "content": blocks}]

    @staticmethod
    def tool(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        return {"name": name, "input_schema": schema}

    @staticmethod
    def form(schema: Mapping[str, Any]) -> dict[str, Any]:
        return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


class Clients(NamedTuple):
    """The vendors' clients of one gateway. They ask once: what a retry would hide is to be seen."""

    openai: openai.AsyncOpenAI
    anthropic: anthropic.AsyncAnthropic

    def talk(self, name: str, route: str, **options: Any) -> Talk:
        """A conversation by the API of that name: `chat`, `responses` or `messages`."""
        if name == "messages":
            return MessagesTalk(self.anthropic, route, **options)
        kind = ChatTalk if name == "chat" else ResponsesTalk
        return kind(self.openai, route, **options)


_ENDS = ("response.completed", "response.incomplete", "response.failed")

TALKS: tuple[str, ...] = ("chat", "responses", "messages")


@asynccontextmanager
async def clients_of(url: str, key: str = "none-needed-here") -> AsyncIterator[Clients]:
    """Both clients, pointed at a gateway."""
    async with (
        openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=PATIENCE_S
        ) as openai_client,
        anthropic.AsyncAnthropic(
            base_url=url, api_key=key, max_retries=0, timeout=PATIENCE_S
        ) as anthropic_client,
    ):
        yield Clients(openai_client, anthropic_client)


def _field(details: Any, name: str) -> int:
    return getattr(details, name, None) or 0


def _kept(message: Any, *names: str) -> dict[str, Any]:
    told = message.to_dict()
    return {name: told[name] for name in names if told.get(name) is not None}


def _without_parsed(item: Any) -> dict[str, Any]:
    """What the streaming helpers add for their own use is no part of the wire."""
    told: dict[str, Any] = item.to_dict()
    told.pop("parsed_output", None)
    told.pop("parsed_arguments", None)
    for part in told.get("content") or ():
        if isinstance(part, dict):
            part.pop("parsed", None)
    return told
