"""Tools for models that cannot call them: the call becomes a JSON Schema, the answer becomes tool calls
again.

Small local models write tool calls in forms that no server recognises, but they follow a grammar. So
`constrain` turns tools into an instruction and a response format, and `ToolReader` reads what the model then
says:

    {"tool": "get_weather", "arguments": {...}}     a call
    {"tool": "none", "answer": "..."}               text, where the choice of tools is `auto`
    {"calls": [{"tool": ..., "arguments": ...}]}    several calls, only where `parallel_tool_calls` is true

The words were chosen by trial with Qwen2.5-Coder-0.5B: asked for a tool's name first, with `none` among them,
it chose rightly in 11 of 12 simple requests; offered a call or a bare answer, in 7.

One call at a time is the default although OpenAI's is several: models of half a billion parameters, offered
an array, fill it with the same call again and again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from isthmus.core.call import Call, Message, Opaque, Part, ResponseFormat, Text, Tool, ToolResult, ToolUse
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.pieces import Finish, Piece, Start, TextDelta, ToolArgumentsDelta, ToolCallStart
from isthmus.dialects.grammar_schema import grammar_schema, refer_to

MAX_PARALLEL_CALLS = 8

_AFTER_RESULTS = 'If this answers the question, reply with {"tool": "none", "answer": ...}.'
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


def constrain(call: Call) -> Call:
    """The same call without tools: their use is an instruction, a response format, and turns of plain text.

    Where the choice is `none`, or no tool is offered, only earlier turns are rewritten. Raises IsthmusError:
    UNSUPPORTED for a provider's built-in tool, INVALID_REQUEST for a choice that names no offered tool.
    """
    tools = _offered(call)
    changes: dict[str, Any] = {"tools": (), "tool_choice": None, "parallel_tool_calls": None}
    if not tools:
        changes["messages"] = _as_text(call.messages, _Told())
    else:
        messages = _as_text(call.messages, _Constrained(may_answer=_may_answer(call)))
        changes["messages"] = _instructed(messages, _instruction(call, tools))
        schema = _schema(call, tools)
        changes["response_format"] = ResponseFormat(
            kind="json_schema", name="reply", schema=schema, strict=True
        )
        # Under a grammar an engine reports the probabilities of the unconstrained model.
        changes["logprobs"] = changes["top_logprobs"] = None
    return msgspec.structs.replace(call, **changes)


class ToolReader:
    """Turns the pieces of a constrained answer into those of an answer with tool calls.

    `call` is the call before `constrain`. Text and arguments are handed on as they arrive. An answer that is
    not in the constrained form, since the engine minded no grammar, stays the text that it is.
    """

    def __init__(self, call: Call) -> None:
        self._active = bool(_offered(call))
        self._raw_answer = _answer_schema(call) is not None
        # Ids must differ from those of earlier turns, also where an engine gives its answers no id.
        self._seed = str(
            sum(isinstance(part, ToolUse) for message in call.messages for part in message.parts)
        )
        self._choices: dict[int, _ReplyReader] = {}

    def feed(self, pieces: Iterable[Piece]) -> list[Piece]:
        """The pieces that these mean."""
        if not self._active:
            return list(pieces)
        return [meant for piece in pieces for meant in self._meaning(piece)]

    def close(self) -> list[Piece]:
        """What is left where the answer had no finish."""
        return [piece for reader in self._choices.values() for piece in reader.rest()]

    def _meaning(self, piece: Piece) -> list[Piece]:
        match piece:
            case Start():
                self._seed += piece.id
            case TextDelta():
                return self._reader(piece.choice).feed(piece.text)
            case Finish():
                reader = self._reader(piece.choice)
                rest = reader.rest()
                if reader.called and piece.reason == "stop":
                    piece = msgspec.structs.replace(piece, reason="tool_calls")
                return [*rest, piece]
            case _:
                pass
        return [piece]

    def _reader(self, choice: int) -> _ReplyReader:
        if choice not in self._choices:
            self._choices[choice] = _ReplyReader(
                choice, f"{self._seed}:{choice}", raw_answer=self._raw_answer
            )
        return self._choices[choice]


class _ReplyReader:
    """Reads one reply, character by character: the few forms above, in JSON of any spacing.

    `_value` reads the value of the field that is open; between values only braces, commas and keys are
    passed.
    """

    def __init__(self, choice: int, seed: str, *, raw_answer: bool) -> None:
        self.called = 0
        self._choice = choice
        self._seed = seed
        self._raw_answer = raw_answer
        self._seen = ""
        self._plain = False
        self._spoke = False
        self._tool = ""
        self._key: str | None = None
        self._value: _Value | None = None

    def feed(self, text: str) -> list[Piece]:
        if self._plain:
            return [TextDelta(text=text, choice=self._choice)] if text else []
        if not self._spoke:
            self._seen += text
            if self._seen.lstrip()[:1] not in ("{", ""):
                self._plain = True
                return [TextDelta(text=self._seen, choice=self._choice)]
        pieces: list[Piece] = []
        at = 0
        while at < len(text):
            if self._value is None:
                pieces += self._structure(text[at])
                at += 1
                continue
            at, said = self._value.feed(text, at)
            pieces += self._say(said)
            if self._value.whole:
                self._end(self._value)
        return pieces

    def rest(self) -> list[Piece]:
        """What was held back: a reply in which no field was recognised is text."""
        held, self._seen = self._seen, ""
        if self._spoke or self._plain or not held:
            return []
        self._spoke = True
        return [TextDelta(text=held, choice=self._choice)]

    def _structure(self, character: str) -> list[Piece]:
        if character == '"':
            self._key = None
            self._value = _Value(raw=False, opened=True)
        elif character == ":" and self._key in ("tool", "answer", "arguments"):
            raw = self._key == "arguments" or (self._key == "answer" and self._raw_answer)
            self._value = _Value(raw=raw)
            if self._key == "arguments":
                return self._begin_call()
        return []

    def _begin_call(self) -> list[Piece]:
        """Only `arguments` make a call of what `tool` has named."""
        self._spoke = True
        index, self.called = self.called, self.called + 1
        return [ToolCallStart(index=index, id=self._id(index), name=self._tool, choice=self._choice)]

    def _say(self, said: str) -> list[Piece]:
        if not said or self._key not in ("answer", "arguments"):
            return []
        self._spoke = True
        if self._key == "answer":
            return [TextDelta(text=said, choice=self._choice)]
        return [ToolArgumentsDelta(index=self.called - 1, text=said, choice=self._choice)]

    def _end(self, value: _Value) -> None:
        """A key is whole, or the value of one."""
        self._value = None
        if self._key is None:
            self._key = value.text
        elif self._key == "tool":
            self._tool = value.text

    def _id(self, index: int) -> str:
        return "call_" + hashlib.sha256(f"{self._seed}:{index}".encode()).hexdigest()[:16]


class _Value:
    """One JSON value while it arrives: a string is decoded, `raw` keeps any value as its own text."""

    def __init__(self, *, raw: bool, opened: bool = False) -> None:
        self.whole = False
        self.text = ""
        self._raw = raw
        self._begun = opened
        self._depth = 0
        self._in_string = opened
        self._escape = ""
        self._high = 0

    def feed(self, text: str, at: int) -> tuple[int, str]:
        """Reads on from `at`: where it stopped, and what was new."""
        said: list[str] = []
        while at < len(text) and not self.whole:
            character = text[at]
            if not self._begun and character.isspace():
                at += 1
                continue
            if self._is_end_of_scalar(character):
                self.whole = True
                break
            at += 1
            new = self._raw_step(character) if self._raw else self._string_step(character)
            if new:
                said.append(new)
        new = "".join(said)
        self.text += new
        return at, new

    def _is_end_of_scalar(self, character: str) -> bool:
        return self._begun and not self._in_string and self._depth == 0 and character in ",}] \n"

    def _raw_step(self, character: str) -> str:
        self._begun = True
        if self._in_string:
            if self._escape:
                self._escape = ""
            elif character == "\\":
                self._escape = character
            elif character == '"':
                self._in_string = False
                self.whole = self._depth == 0
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            self.whole = self._depth == 0
        return character

    def _string_step(self, character: str) -> str:
        if not self._begun:
            if character != '"':
                self._raw = True
                return self._raw_step(character)
            self._begun = self._in_string = True
        elif self._escape:
            return self._escaped(character)
        elif character == "\\":
            self._escape = character
        elif character == '"':
            self._in_string = False
            self.whole = True
        else:
            return character
        return ""

    def _escaped(self, character: str) -> str:
        """One more character of an escape; half of a surrogate pair waits for the other (RFC 8259 section
        7)."""
        self._escape += character
        if self._escape[1] != "u":
            self._escape = ""
            return _ESCAPES.get(character, character)
        if len(self._escape) < 6:
            return ""
        digits, self._escape = self._escape[2:], ""
        unit = int(digits, 16) if set(digits) <= _HEX_DIGITS else 0xFFFD
        high, self._high = self._high, 0
        if 0xD800 <= unit < 0xDC00:
            self._high = unit
            return ""
        if 0xDC00 <= unit < 0xE000:
            return chr(0x10000 + ((high - 0xD800) << 10) + unit - 0xDC00) if high else "\ufffd"
        return chr(unit)


def _offered(call: Call) -> tuple[Tool, ...]:
    """The tools that the model may call now."""
    choice = call.tool_choice
    for at, tool in enumerate(call.tools):
        if tool.opaque is not None:
            raise IsthmusError(
                Fault.UNSUPPORTED,
                f"`tools[{at}]`: `{tool.name}` is built into another provider; this model takes functions.",
                hint="Offer a function of your own, or route the request to that provider's model.",
                param=f"tools[{at}]",
            )
    if choice is None or choice.mode in ("auto", "required"):
        return call.tools
    if choice.mode == "none":
        return ()
    named = tuple(tool for tool in call.tools if tool.name == choice.name)
    if not named:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            "`tool_choice` names a tool that is not among `tools`.",
            code="invalid_request",
            param="tool_choice",
        )
    return named


def _may_answer(call: Call) -> bool:
    return call.tool_choice is None or call.tool_choice.mode == "auto"


def _answer_schema(call: Call) -> dict[str, Any] | None:
    """The schema of an answer in words, where the caller demands JSON; None for free text."""
    form = call.response_format
    if form is None or form.kind == "text":
        return None
    return form.schema if form.schema is not None else {"type": "object"}


def _schema(call: Call, tools: tuple[Tool, ...]) -> dict[str, Any]:
    """The form of the reply. Schemas of tools stand in `$defs`, so that references inside them can be
    kept."""
    definitions = {f"tool{at}": _parameters(tool, f"tool{at}") for at, tool in enumerate(tools)}
    several = call.parallel_tool_calls is True
    forms = [
        _closed({"tool": {"const": tool.name}, "arguments": {"$ref": refer_to(f"tool{at}")}})
        for at, tool in enumerate(tools)
    ]
    if several:
        item = {"anyOf": forms} if len(forms) > 1 else forms[0]
        forms = [
            _closed(
                {"calls": {"type": "array", "items": item, "minItems": 1, "maxItems": MAX_PARALLEL_CALLS}}
            )
        ]
    if _may_answer(call):
        answer = _answer_schema(call)
        if answer is None:
            forms.append(_closed({"tool": {"const": "none"}, "answer": {"type": "string"}}))
        else:
            definitions["answer"] = grammar_schema(answer, "answer")
            forms.append(_closed({"tool": {"const": "none"}, "answer": {"$ref": refer_to("answer")}}))
    return {**({"anyOf": forms} if len(forms) > 1 else forms[0]), "$defs": definitions}


def _parameters(tool: Tool, name: str) -> dict[str, Any]:
    return grammar_schema(tool.parameters or {"type": "object", "properties": {}}, name)


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _instruction(call: Call, tools: tuple[Tool, ...]) -> str:
    """What the model must know, since it sees no grammar: the tools, and the forms of a reply."""
    lines = ["# Tools"]
    for tool in tools:
        about = f": {tool.description}" if tool.description else ""
        lines.append(f"- {tool.name}{about} Arguments: {_json(tool.parameters or {})}")
    form = '{"tool": "NAME", "arguments": {...}}'
    if call.parallel_tool_calls is True:
        form = f'{{"calls": [{form}, {form}]}}: one call or several'
    if not _may_answer(call):
        return "\n".join([*lines, "", f"Reply with one JSON object: {form}"])
    answer = _answer_schema(call)
    words = '"YOUR ANSWER"' if answer is None else f"a value of the JSON Schema {_json(answer)}"
    return "\n".join(
        [
            *lines,
            "",
            "Reply with one JSON object. First decide which tool the last message needs.",
            f"If it asks for something that a tool can do or look up: {form}",
            f'Otherwise, and whenever a result is already given: {{"tool": "none", "answer": {words}}}',
        ]
    )


def _instructed(messages: tuple[Message, ...], instruction: str) -> tuple[Message, ...]:
    """The turns with the instruction in front: in the system message that is there, else in a new one."""
    if messages and messages[0].role in ("system", "developer"):
        first, *others = messages
        parts = (*first.parts, Text(instruction if not first.parts else f"\n\n{instruction}"))
        return (msgspec.structs.replace(first, parts=_joined(parts)), *others)
    return (Message(role="system", parts=(Text(instruction),)), *messages)


class _Told:
    """How earlier turns say calls and answers where the model has no tools now: in plain words."""

    after_results = "Answer the question in words, from this result."

    def call(self, use: ToolUse) -> str:
        return f"I use {use.name} with {use.arguments or '{}'}.\n"

    def text(self, text: str) -> str:
        return text


class _Constrained:
    """How earlier turns say them under a grammar: in its own forms, so that no example contradicts it."""

    def __init__(self, *, may_answer: bool) -> None:
        self._may_answer = may_answer
        self.after_results = _AFTER_RESULTS if may_answer else ""

    def call(self, use: ToolUse) -> str:
        return f'{{"tool": {_json(use.name)}, "arguments": {use.arguments or "{}"}}}\n'

    def text(self, text: str) -> str:
        return _json({"tool": "none", "answer": text}) if self._may_answer else text


def _as_text(messages: tuple[Message, ...], style: _Told | _Constrained) -> tuple[Message, ...]:
    """The turns with calls and results as text.

    A user's turn after results joins theirs, since many chat templates demand that roles alternate.
    """
    turns: list[Message] = []
    after_results = False
    for message in messages:
        results = any(isinstance(part, ToolResult) for part in message.parts)
        parts = _words(message, style)
        if results and style.after_results:
            parts = (*parts, Text(style.after_results))
        if after_results and message.role == "user":
            parts = (*turns.pop().parts, Text("\n\n"), *parts)
        after_results = results
        turns.append(msgspec.structs.replace(message, parts=_joined(parts)))
    return tuple(turns)


def _words(message: Message, style: _Told | _Constrained) -> tuple[Part, ...]:
    words: list[Part] = []
    only_text = message.role == "assistant" and not any(isinstance(part, ToolUse) for part in message.parts)
    for part in message.parts:
        match part:
            case ToolUse():
                words.append(Text(style.call(part)))
            case ToolResult():
                words += _result(part)
            case Text(text=text) if only_text:
                words.append(Text(style.text(text)))
            case Opaque():
                continue
            case _:
                words.append(part)
    return tuple(words)


def _result(result: ToolResult) -> list[Part]:
    said = "".join(part.text for part in result.parts if isinstance(part, Text))
    others = [part for part in result.parts if not isinstance(part, Text)]
    of = f" of {result.name}" if result.name else ""
    return [Text(f"{'Error' if result.is_error else 'Result'}{of}: {said}\n"), *others]


def _joined(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Neighbouring texts as one."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and joined and isinstance(joined[-1], Text):
            joined[-1] = Text(joined[-1].text + part.text)
        else:
            joined.append(part)
    return tuple(joined)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
