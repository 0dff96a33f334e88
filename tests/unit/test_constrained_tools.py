"""Tools through a grammar: what the model is asked, and what its replies are turned into."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.laws.calls import Folded, calls, folded, json_objects, texts

from isthmus.core.call import (
    Call,
    Message,
    Opaque,
    ResponseFormat,
    Text,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
)
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.pieces import Finish, FinishReason, Piece, Start, TextDelta, UsageReport
from isthmus.core.usage import Usage
from isthmus.dialects.constrained_tools import ToolReader, constrain
from isthmus.dialects.grammar_schema import grammar_schema

WEATHER = Tool(
    name="get_weather",
    description="The weather of a city.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
TIME = Tool(name="get_time")


def call_of(*messages: Message, **fields: Any) -> Call:
    fields = {"tools": (WEATHER, TIME), **fields}
    return Call(dialect="openai", operation="chat", model="m", messages=messages, **fields)


def user(text: str) -> Message:
    return Message(role="user", parts=(Text(text),))


def text_of(message: Message) -> str:
    return "".join(part.text for part in message.parts if isinstance(part, Text))


def schema_of(call: Call) -> dict[str, Any]:
    form = constrain(call).response_format
    assert form is not None
    assert form.schema is not None
    assert form.kind == "json_schema"
    assert form.strict is True
    return form.schema


def forms_of(call: Call) -> list[list[str]]:
    """The fields of each form that a reply may take."""
    schema = schema_of(call)
    return [list(form["properties"]) for form in schema.get("anyOf", [schema])]


def tools_of(call: Call) -> list[str]:
    schema = schema_of(call)
    return [form["properties"]["tool"]["const"] for form in schema.get("anyOf", [schema])]


def read(call: Call, reply: str, reason: FinishReason = "stop", cuts: list[int] | None = None) -> list[Piece]:
    """What a reader makes of a reply that arrives in pieces cut at `cuts`."""
    edges = [0, *sorted(cuts or []), len(reply)]
    deltas = [TextDelta(text=reply[a:b], logprobs=[{}]) for a, b in itertools.pairwise(edges)]
    reader = ToolReader(call)
    fed = [
        piece for delta in [Start(id="x"), *deltas, Finish(reason=reason)] for piece in reader.feed([delta])
    ]
    return fed + reader.close()


def test_the_model_is_told_of_the_tools_and_may_answer() -> None:
    constrained = constrain(call_of(user("Hi")))
    assert constrained.tools == ()
    assert constrained.tool_choice is None
    told = text_of(constrained.messages[0])
    assert constrained.messages[0].role == "system"
    assert "get_weather: The weather of a city." in told
    assert '"city"' in told
    assert tools_of(call_of(user("Hi"))) == ["get_weather", "get_time", "none"]
    assert constrained.messages[1:] == (user("Hi"),)


@pytest.mark.parametrize(
    ("choice", "offered"),
    [
        (ToolChoice(mode="required"), ["get_weather", "get_time"]),
        (ToolChoice(mode="tool", name="get_time"), ["get_time"]),
        (ToolChoice(mode="auto"), ["get_weather", "get_time", "none"]),
    ],
)
def test_the_choice_decides_which_forms_there_are(choice: ToolChoice, offered: list[str]) -> None:
    assert tools_of(call_of(user("Hi"), tool_choice=choice)) == offered


def test_without_a_choice_of_tools_nothing_is_constrained() -> None:
    call = call_of(user("Hi"), tool_choice=ToolChoice(mode="none"))
    assert constrain(call).messages == call.messages
    assert constrain(call).response_format is None
    assert folded(read(call, '{"tool": "get_time", "arguments": {}}')).calls == {}


def test_several_calls_only_where_they_were_asked_for() -> None:
    assert forms_of(call_of(user("Hi"), parallel_tool_calls=True)) == [["calls"], ["tool", "answer"]]
    for said in (None, False):
        assert ["calls"] not in forms_of(call_of(user("Hi"), parallel_tool_calls=said))


def test_the_instruction_joins_the_system_message_that_is_there() -> None:
    system = Message(role="system", parts=(Text("You are brief."),))
    messages = constrain(call_of(system, user("Hi"))).messages
    assert [message.role for message in messages] == ["system", "user"]
    assert text_of(messages[0]).startswith("You are brief.\n\n# Tools")


def test_the_answer_keeps_the_schema_that_the_caller_demanded() -> None:
    wanted = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    call = call_of(user("2+2?"), response_format=ResponseFormat(kind="json_schema", name="n", schema=wanted))
    assert schema_of(call)["$defs"]["answer"]["properties"] == wanted["properties"]
    assert folded(read(call, '{"tool": "none", "answer": {"sum": 4}}')).text == {0: '{"sum": 4}'}
    assert folded(read(call, '{"tool": "none", "answer": 4}')).text == {0: "4"}


def test_earlier_calls_and_results_become_turns_that_alternate() -> None:
    messages = constrain(
        call_of(
            user("Weather in Rome?"),
            Message(role="assistant", parts=(ToolUse("c1", "get_weather", '{"city":"Rome"}'),)),
            Message(
                role="user", parts=(ToolResult("c1", (Text("sunny"),)), ToolResult("c2", (), is_error=True))
            ),
            user("And now?"),
            Message(role="assistant", parts=(Text("Sunny."),)),
        )
    ).messages
    assert [message.role for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert json.loads(text_of(messages[2])) == {"tool": "get_weather", "arguments": {"city": "Rome"}}
    assert "Result: sunny" in text_of(messages[3])
    assert "Error: " in text_of(messages[3])
    assert text_of(messages[3]).endswith("And now?")
    assert json.loads(text_of(messages[4])) == {"tool": "none", "answer": "Sunny."}


def test_log_probabilities_are_not_asked_for_and_not_passed_on() -> None:
    call = call_of(user("Hi"), logprobs=True, top_logprobs=3)
    assert constrain(call).logprobs is None
    assert constrain(call).top_logprobs is None
    pieces = read(call, '{"tool": "none", "answer": "Hi"}')
    assert all(piece.logprobs is None for piece in pieces if isinstance(piece, TextDelta))


def test_a_tool_of_another_provider_is_refused() -> None:
    search = Tool(name="web_search", opaque=Opaque("responses", {"type": "web_search"}))
    with pytest.raises(IsthmusError) as caught:
        constrain(call_of(user("Hi"), tools=(WEATHER, search)))
    assert (caught.value.fault, caught.value.param) == (Fault.UNSUPPORTED, "tools[1]")


def test_a_choice_of_an_unknown_tool_is_refused() -> None:
    with pytest.raises(IsthmusError) as caught:
        constrain(call_of(user("Hi"), tool_choice=ToolChoice(mode="tool", name="nope")))
    assert (caught.value.fault, caught.value.param) == (Fault.INVALID_REQUEST, "tool_choice")


@given(calls())
def test_a_constrained_call_holds_no_tool_any_more(call: Call) -> None:
    constrained = constrain(call)
    assert constrained.tools == ()
    parts = [part for message in constrained.messages for part in message.parts]
    assert not any(isinstance(part, ToolUse | ToolResult) for part in parts)
    assert all(
        not (one.role == other.role == "user")
        for one, other in zip(constrained.messages, constrained.messages[1:], strict=False)
    )


@st.composite
def replies(draw: st.DrawFn) -> tuple[str, Folded]:
    """A reply in any of its forms, spaced and escaped in any way, and what it means."""
    indent, ascii_only = draw(st.sampled_from([None, 2])), draw(st.booleans())
    spaces = draw(st.sampled_from([None, (",", ":")]))

    def written(value: Any) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=ascii_only, separators=spaces)

    if draw(st.booleans()):
        text = draw(texts)
        return written({"tool": "none", "answer": text}), Folded(text={0: text}, finish={0: "stop"})
    used = draw(st.lists(json_objects, min_size=1, max_size=3))
    form: Any = [{"tool": "get_weather", "arguments": arguments} for arguments in used]
    reply = written({"calls": form} if len(used) > 1 or draw(st.booleans()) else form[0])
    return reply, Folded(
        calls={(0, at): ["", "get_weather", said] for at, said in enumerate(used)}, finish={0: "tool_calls"}
    )


@given(st.data(), replies())
def test_a_reply_in_any_cut_means_the_same(data: st.DataObject, reply: tuple[str, Folded]) -> None:
    text, expected = reply
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=8) | st.just(list(range(len(text)))))
    said = folded(read(call_of(user("Hi")), text, cuts=places))
    assert said.text == expected.text
    assert said.finish == expected.finish
    assert [(key, name, json.loads(arguments)) for key, (_, name, arguments) in said.calls.items()] == [
        (key, name, arguments) for key, (_, name, arguments) in expected.calls.items()
    ]
    ids = [tool_id for tool_id, _, _ in said.calls.values()]
    assert len(set(ids)) == len(ids)


def test_text_and_arguments_are_streamed_as_they_arrive() -> None:
    reader = ToolReader(call_of(user("Hi")))
    assert reader.feed([TextDelta(text='{"tool": "none", "ans')]) == []
    assert reader.feed([TextDelta(text='wer": "Go')]) == [TextDelta(text="Go")]
    assert reader.feed([TextDelta(text="od\\n")]) == [TextDelta(text="od\n")]
    reader = ToolReader(call_of(user("Hi")))
    began = reader.feed([TextDelta(text='{"tool": "get_weather", "arguments": {"ci')])
    assert folded(began).calls.popitem()[1][1:] == ["get_weather", '{"ci']


def test_a_call_that_was_cut_by_the_limit_says_so() -> None:
    said = folded(read(call_of(user("Hi")), '{"tool": "get_weather", "arguments": {"city": "Ro', "length"))
    assert said.finish == {0: "length"}
    assert [arguments for _, _, arguments in said.calls.values()] == ['{"city": "Ro']


@pytest.mark.parametrize("reply", ["Just text.", '["a"]', '{"other": "x"}', '{"tool": "get_time"'])
def test_a_reply_of_another_form_stays_the_text_that_it_is(reply: str) -> None:
    assert folded(read(call_of(user("Hi")), reply)).text == {0: reply}


def test_ids_differ_from_those_of_earlier_turns() -> None:
    reply = '{"tool": "get_time", "arguments": {}}'
    first = call_of(user("Hi"))
    earlier = Message(role="assistant", parts=(ToolUse("c", "get_time", "{}"),))
    second = call_of(user("Hi"), earlier)
    assert folded(read(first, reply)).calls[0, 0][0] != folded(read(second, reply)).calls[0, 0][0]


def test_choices_and_other_pieces_are_kept_apart() -> None:
    reader = ToolReader(call_of(user("Hi"), n=2))
    usage = UsageReport(usage=Usage(input=1))
    pieces = reader.feed(
        [
            TextDelta(text='{"tool": "none", "answer": "a', choice=0),
            TextDelta(text='{"tool": "get_time", "arguments": {}}', choice=1),
            TextDelta(text='b"}', choice=0),
            Finish(reason="stop", choice=1),
            Finish(reason="stop", choice=0),
            usage,
        ]
    )
    said = folded(pieces)
    assert said.text == {0: "ab"}
    assert list(said.calls) == [(1, 0)]
    assert said.finish == {0: "stop", 1: "tool_calls"}
    assert pieces[-1] == usage


def test_references_of_a_tool_point_into_its_own_definition() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"tag": {"$ref": "#/$defs/Tag"}, "self": {"$ref": "#"}},
        "$defs": {"Tag": {"type": "object", "properties": {"name": {"type": "string"}}}},
    }
    clean = grammar_schema(schema, "tool0")
    assert clean["properties"]["tag"] == {"$ref": "#/$defs/tool0/$defs/Tag"}
    assert clean["properties"]["self"] == {"$ref": "#/$defs/tool0"}
    assert "name" in clean["$defs"]["Tag"]["properties"]
    assert "$schema" not in clean


def test_what_a_grammar_cannot_hold_is_left_out() -> None:
    schema = {
        "type": "object",
        "properties": {
            "mail": {
                "type": "string",
                "pattern": "@",
                "format": "email",
                "maxLength": 10_000,
                "minLength": 3,
            },
            "day": {"type": "string", "format": "date"},
            "any": {"description": "whatever you like"},
            "sure": True,
        },
        "required": ["mail", "ghost"],
    }
    clean = grammar_schema(schema, "t")
    assert clean["properties"]["mail"] == {"type": "string", "minLength": 3}
    assert clean["properties"]["day"] == {"type": "string", "format": "date"}
    assert "object" in clean["properties"]["any"]["type"]
    assert "string" in clean["properties"]["sure"]["type"]
    assert clean["required"] == ["mail"]
    assert clean["additionalProperties"] is False


def test_an_object_without_properties_stays_open() -> None:
    assert grammar_schema({"type": "object"}, "t") == {"type": "object"}
    free = {"type": "object", "properties": {}, "additionalProperties": True}
    assert "additionalProperties" not in grammar_schema(free, "t")


def test_the_call_is_otherwise_unchanged() -> None:
    call = call_of(user("Hi"), max_tokens=9, temperature=0.5, stop=("x",), extra={"lora": []})
    same = msgspec.structs.replace(
        constrain(call), messages=call.messages, tools=call.tools, response_format=None
    )
    assert same == call
