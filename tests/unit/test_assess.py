"""What is judged of an answer: its form, its words, its own check, and whether others say the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from isthmus.confidence.assess import assess
from isthmus.confidence.form import misfit
from isthmus.confidence.self_check import probability_of_yes
from isthmus.core.answers import in_words, same_as
from isthmus.core.call import Call, ResponseFormat
from isthmus.core.pieces import (
    Finish,
    FinishReason,
    Piece,
    RefusalDelta,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStart,
    tokens_of,
)
from isthmus.strategies.plan.comparison import preferred
from isthmus.strategies.plan.node import Acceptance, Assess, Kept, Verdict

USUAL = Acceptance()


def _call(schema: Any = None) -> Call:
    form = ResponseFormat(kind="json_schema", schema=schema) if schema is not None else None
    return Call(dialect="openai", operation="chat", model="r", response_format=form)


def _said(*texts: str, finish: FinishReason = "stop", logprobs: tuple[float, ...] = ()) -> tuple[Piece, ...]:
    told = [[{"token": text, "logprob": it}] for text, it in zip(texts, logprobs, strict=False)]
    told += [None] * (len(texts) - len(told))  # type: ignore[list-item]
    pieces = [TextDelta(text=text, logprobs=it) for text, it in zip(texts, told, strict=True)]
    return (*pieces, Finish(reason=finish))


def _tool(name: str, arguments: str) -> tuple[Piece, ...]:
    start = ToolCallStart(index=0, id="call_1", name=name)
    return (start, ToolArgumentsDelta(index=0, text=arguments), Finish(reason="tool_calls"))


def _verdict(answer: tuple[Piece, ...], by: Acceptance = USUAL, *beside: str) -> Verdict:
    others = tuple(Kept("other", 2, _said(text)) for text in beside)
    return assess(Assess(Kept("small", 1, answer), by, others), _call())


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (_said("42"), "accepted"),
        (_tool("tide", "{}"), "accepted"),
        (_said(" \n"), "it says nothing"),
        ((Finish(reason="stop"),), "it says nothing"),
        (_said("42", finish="length"), "it was cut short (length)"),
        (_said("I\u2019m sorry, I can't."), "it refuses"),
        (_said("Unfortunately, no."), "it refuses"),
        ((RefusalDelta(text="No."), Finish(reason="stop")), "it refuses"),
        (_said("The word is sorry"), "accepted"),
    ],
)
def test_what_is_always_demanded(answer: tuple[Piece, ...], why: str) -> None:
    assert _verdict(answer).why == why


def test_what_is_not_demanded_is_not_missed() -> None:
    anything = Acceptance(complete=False, refuses=True)
    assert _verdict(_said("I'm sorry", finish="length"), anything).accepted
    assert not _verdict(_said(""), anything).accepted
    assert anything.demands_nothing()
    assert not Acceptance().demands_nothing()


def test_an_answer_is_as_sure_as_its_tokens_and_the_others() -> None:
    answer = _said("4", "2", logprobs=(-0.1, -0.5))
    assert _verdict(answer).confidence == pytest.approx(2.718281828**-0.3)
    assert _verdict(answer, Acceptance(), "42", "41").confidence == 0.5
    assert _verdict(answer, Acceptance(agreement=0.6), "42.", "41").why == "1 of 2 others say the same"
    assert _verdict(answer, Acceptance(agreement=0.6)).why == "0 of 0 others say the same"
    assert _verdict(answer, Acceptance(logprob=-0.3)).accepted
    assert not _verdict(answer, Acceptance(logprob=-0.2)).accepted
    assert _verdict(_said("42"), Acceptance(logprob=-9)).why == "its model tells no log-probabilities"
    assert _verdict(_said("42"), Acceptance(self_check=0.5)).why == "it could not be checked"


def test_an_end_mark_that_only_whole_answers_tell_makes_nobody_less_sure() -> None:
    """llama.cpp's server: `('Yes', -0.7), ('', -0.3)` in whole answers, `('Yes', -0.7)` in streams."""
    streamed = TextDelta(text="Yes", logprobs=[{"token": "Yes", "logprob": -0.7}])
    whole = TextDelta(text="Yes", logprobs=[*(streamed.logprobs or ()), {"token": "", "logprob": -0.3}])
    assert list(tokens_of([whole])) == list(tokens_of([streamed])) == [("Yes", -0.7)]


@pytest.mark.parametrize(
    ("said", "logprobs", "sure"),
    [
        (("Yes",), (-0.1,), 0.9048),
        (("**", "yes", "**"), (-0.5, -0.1, -0.1), 0.9048),
        (("No", "."), (-0.1,), 0.0952),
        (("Ye", "s"), (-0.1, 0.0), 0.9048),
        (("yes",), (), 1.0),
        (("no",), (), 0.0),
        (("Yesterday",), (-0.1,), None),
        (("",), (), None),
    ],
)
def test_what_a_model_thinks_of_its_answer(
    said: tuple[str, ...], logprobs: tuple[float, ...], sure: float | None
) -> None:
    found = probability_of_yes(_said(*said, logprobs=logprobs))
    assert found is None if sure is None else found == pytest.approx(sure, abs=1e-4)


OBJECT = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("text", "schema", "why"),
    [
        ('{"a": 1}', OBJECT, None),
        ('{"a": "secret"}', OBJECT, "its JSON does not fit the form (type)"),
        ("{}", OBJECT, "its JSON does not fit the form (required)"),
        ('{"a": 1, "secret": 2}', OBJECT, "its JSON does not fit the form (additionalProperties)"),
        ("[1, 2]", None, None),
        ("secret", OBJECT, "it is no JSON"),
        ("[" * 100_000, OBJECT, "it is no JSON"),
        ("1", {"type": 12}, "the form that was asked for cannot be checked"),
        ("1", {"$ref": "http://127.0.0.1:9/elsewhere"}, "the form that was asked for cannot be checked"),
        ("1", {"$ref": "#"}, "the form that was asked for cannot be checked"),
        ('{"x1": 1}', {"patternProperties": {"^x": {}}, "additionalProperties": False}, None),
    ],
)
def test_the_form_of_an_answer(text: str, schema: Any, why: str | None) -> None:
    assert misfit(text, _call(schema)) == why


def test_a_form_that_asks_for_too_much_is_not_checked_to_its_end() -> None:
    doubling = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)}
    schema = {"$defs": {**doubling, "d60": {}}, "$ref": "#/$defs/d0"}
    assert misfit("1", _call(schema)) == "the form that was asked for cannot be checked"
    distinct = json.dumps([[n] for n in range(5_000)])
    assert misfit(distinct, _call({"uniqueItems": True})) == "the form that was asked for cannot be checked"


def test_no_expression_of_a_form_is_run() -> None:
    """Each of these would take until the end of the world, in whatever edition it hides."""
    edition = {"$schema": "http://json-schema.org/draft-07/schema#"}
    endless = {**edition, "pattern": "^(a+)+$", "patternProperties": {"^(a+)+$": {}}}
    schema = {"$defs": {"e": endless}, "allOf": [endless, {"$ref": "#/$defs/e"}], **edition}
    assert misfit(json.dumps("a" * 60 + "b"), _call(schema)) is None
    assert misfit(json.dumps({"a" * 60 + "b": 1}), _call(schema)) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (_said("The answer: 42."), _said("answer 42"), True),
        (_said("42"), _said("41"), False),
        (_said("**Paris**."), _said("paris"), True),
        (_said('{"a": 1, "b": 2}'), _said('{"b":2,"a":1}'), True),
        (_tool("tide", '{"at": 1}'), _tool("tide", '{"at":1}'), True),
        (_tool("tide", '{"at": 1}'), _tool("tide", '{"at":2}'), False),
        (_tool("tide", "{}"), _said(""), False),
        (_said("ﬁve"), _said("five"), True),
    ],
)
def test_when_two_answers_say_the_same(one: tuple[Piece, ...], other: tuple[Piece, ...], same: bool) -> None:
    assert same_as(one, other) == same == same_as(other, one)


def test_a_judge_reads_calls_of_tools_as_words() -> None:
    assert in_words(_tool("tide", '{"at": 1}')) == '[calls the tool tide with {"at": 1}]'


@pytest.mark.parametrize(
    ("said", "better"),
    [
        ("A", "A"),
        ("b.", "B"),
        ("Answer B", "B"),
        ("**A**", "A"),
        ("A\n\nIt is shorter.", "A"),
        ("B is better", "B"),
        ("A good question", None),
        ("Both", None),
        ("A and B are alike", None),
        ("", None),
    ],
)
def test_what_a_judge_prefers(said: str, better: str | None) -> None:
    assert preferred(Kept("judge", 1, _said(said))) == better
    assert preferred(None) is None
