"""What a simulated upstream says, and how it misbehaves while saying it."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec
from msgspec import Struct

Finish = Literal["stop", "length", "tools", "sequence", "filter", "refusal", "blocked", "pause", "context"]
"""The neutral reasons for which an answer ends; each wire has its own word for them."""


class ToolCall(Struct, frozen=True):
    """One call of a tool, with its arguments as the very JSON text that a model wrote."""

    name: str
    arguments: str = "{}"

    @property
    def input(self) -> dict[str, Any]:
        """The arguments as an object; empty where the text is not a JSON object.

        Anthropic and Gemini parse the arguments before they send them, OpenAI passes on what the model wrote.
        """
        try:
            parsed = msgspec.json.decode(self.arguments)
        except msgspec.DecodeError:
            return {}
        return parsed if isinstance(parsed, dict) else {}


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens as a partition: no token is in two fields, so any wire's sums can be made from them."""

    uncached: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def cache_write(self) -> int:
        """Tokens written to the prompt cache, whatever their time to live."""
        return self.cache_write_5m + self.cache_write_1h

    @property
    def prompt(self) -> int:
        """All tokens of the prompt, as OpenAI and Gemini count them: cached ones included."""
        return self.uncached + self.cache_read + self.cache_write

    @property
    def completion(self) -> int:
        """All generated tokens, as OpenAI and Anthropic count them: reasoning included."""
        return self.output + self.reasoning

    @property
    def total(self) -> int:
        """Every token of the call."""
        return self.prompt + self.completion


class Refusal(Struct, frozen=True, kw_only=True):
    """An answer that is an error from the start, told in the error shape of the wire."""

    status: int
    reason: Literal["", "context", "quota", "filter"] = ""
    """A cause that the vendors tell apart from others of the same status."""
    retry_after_s: int | None = None
    retry_after_as: Literal["seconds", "date", "milliseconds"] = "seconds"


class RawAnswer(Struct, frozen=True, kw_only=True):
    """Bytes that are sent in place of any answer, such as a proxy's page of apology."""

    status: int = 200
    content_type: str = "application/json"
    body: bytes = b""
    location: str | None = None


class Fault(Struct, frozen=True, kw_only=True):
    """How the upstream misbehaves; a default Fault misbehaves in nothing, and fields can be combined.

    `*_after` counts pieces: parts of a stream that say something (text, reasoning, arguments). After that
    many, the misfortune comes in the midst of the next one. A body that is not streamed counts as one
    piece.
    """

    refuse: Refusal | None = None
    raw: RawAnswer | None = None
    disconnect: bool = False
    """The connection closes before a byte of the answer."""
    cut_after: int | None = None
    """The connection closes inside a chunk."""
    reset: bool = False
    """A cut is a TCP reset instead of an orderly close."""
    truncate_after: int | None = None
    """The stream ends as HTTP wishes, but no finish, usage or terminal event is sent."""
    error_after: int | None = None
    """The vendor's error event comes inside the stream, which then ends as HTTP wishes."""
    stall_after: int | None = None
    """Nothing more is sent until the simulator is told to release."""
    no_terminal: bool = False
    """The last event of the wire ([DONE], message_stop, ...) never comes."""
    usage: Literal["normal", "missing", "every-chunk"] = "normal"
    bad_utf8: bool = False
    """The second piece holds bytes that are not UTF-8."""
    bad_json: bool = False
    """The second piece is not JSON."""
    content_type: str | None = None
    newline: Literal["\n", "\r\n"] | None = None
    """What ends the lines of a stream; None is the wire's own habit."""
    write_size: int | None = None
    """Bytes in each chunk, each a write of its own; None is one event in each."""
    spaced_json: bool = False
    """JSON has a space after `:` and `,`, and escapes whatever is not ASCII, as Python's json module does."""
    tight_fields: bool = False
    """No space after the colon of an SSE field: `data:{...}`."""
    heartbeats: bool = False
    """Comment lines between the events, as proxies send to keep a connection alive."""
    strange_events: bool = False
    """Events and fields that no documentation names, as a new version of an API would send."""
    tool_index_zero: bool = False
    """OpenAI Chat: every parallel tool delta has index 0; only the ids differ."""
    tool_repeat_id: bool = False
    """OpenAI Chat: id and name are repeated in every tool delta."""
    empty_tool_calls: bool = False
    """OpenAI Chat: `tool_calls: []` beside every text."""
    reasoning_field: Literal["reasoning_content", "reasoning"] = "reasoning_content"
    """OpenAI Chat: where the reasoning of an open model is put."""
    close_after: bool = False
    """The connection closes right after a complete answer that promised to keep it."""


class Script(Struct, frozen=True, kw_only=True):
    """A whole answer, told without regard to a wire: the same Script can be said in every dialect."""

    text: tuple[str, ...] = ()
    """Pieces of text; each is a delta of its own and counts as one token."""
    reasoning: tuple[str, ...] = ()
    redacted: tuple[str, ...] = ()
    """Anthropic: texts sealed into redacted_thinking blocks; other wires hide them."""
    refusal: tuple[str, ...] = ()
    """Pieces of a refusal: a field of its own for OpenAI, plain text elsewhere."""
    tools: tuple[ToolCall, ...] = ()
    choices: tuple[tuple[str, ...], ...] = ()
    """Texts of the second, third... choice when more than one is asked for; the first's where absent."""
    finish: Finish | str | None = None
    """Why it ends; a word that is no Finish is sent as it is. None: `tools` after a tool call, or `stop`."""
    stop_sequence: str | None = None
    usage: Usage | None = None
    """None counts the words of the request and the pieces of the answer."""
    logprobs: tuple[float, ...] = ()
    """Natural logarithms for the pieces of text, sent when asked for; -0.1 where absent."""
    fragment_bytes: int = 8
    """The most bytes of tool arguments in one delta; characters stay whole."""
    first_delay_s: float = 0.0
    """Seconds before the first piece, after the head of a stream. `release()` ends any delay at once."""
    piece_delay_s: float = 0.0
    fault: Fault = Fault()

    @property
    def ending(self) -> str:
        """Why the answer ends, in a Finish or in the word that the author chose."""
        return self.finish or ("tools" if self.tools else "stop")

    def choice(self, index: int) -> tuple[str, ...]:
        """The text of a choice; the first choice's where the script has none of its own for it."""
        if 0 < index <= len(self.choices):
            return self.choices[index - 1]
        return self.text

    def fragments(self, call: ToolCall) -> list[str]:
        """The arguments of a call in deltas of at most `fragment_bytes` bytes."""
        return fragments(call.arguments, self.fragment_bytes)


def words(text: str) -> tuple[str, ...]:
    """The words of a text, each with the space before it: joined, they are the text again."""
    return tuple(re.findall(r"\s*\S+|\s+$", text))


def fragments(text: str, size: int) -> list[str]:
    """The text in parts of at most `size` bytes of UTF-8 (a character that is longer stands alone)."""
    parts: list[str] = []
    part, room = "", size
    for character in text:
        width = len(character.encode())
        if part and width > room:
            parts.append(part)
            part, room = "", size
        part += character
        room -= width
    return [*parts, part] if part else parts
