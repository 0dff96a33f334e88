"""What the simulator says, and what its parts do by themselves."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus import testing
from isthmus.testing import BEHAVIOURS, MODELS, Asked, Received, Script, ToolCall, Usage, echo, words
from isthmus.testing.behaviours import behaviour_of, settled
from isthmus.testing.embeddings import vector
from isthmus.testing.schema import instance
from isthmus.testing.script import fragments
from isthmus.testing.seals import seal, unseal
from isthmus.testing.wire import Offered, count_words

RECEIVED = Received(
    method="POST", path="/", query={}, headers={"authorization": "secret"}, raw=b"", body=None
)
TOOLS = (Offered("f", {"type": "object", "properties": {"n": {"type": "integer"}}}), Offered("g"))


def asked(text: str = "", **more: Any) -> Asked:
    return Asked(wire="w", model="m", text=text, received=RECEIVED, **more)


@given(st.text())
def test_words_joined_are_the_text(text: str) -> None:
    assert "".join(words(text)) == text
    assert count_words([text, {"x": text}, 5, None]) == 2 * len(words(text))


@given(st.text(), st.integers(1, 9))
def test_fragments_joined_are_the_text_and_are_small(text: str, size: int) -> None:
    parts = fragments(text, size)
    assert "".join(parts) == text
    assert all(len(part.encode()) <= size or len(part) == 1 for part in parts)


@given(st.text(), st.text(max_size=4), st.integers(0, 200))
def test_a_seal_opens_for_its_organisation_alone(text: str, other: str, position: int) -> None:
    sealed = seal("org", text)
    assert unseal("org", sealed) == text
    assert unseal(f"org{other}!", sealed) is None
    at = position % len(sealed)
    changed = sealed[:at] + ("A" if sealed[at] != "A" else "B") + sealed[at + 1 :]
    # The last character before padding holds bits that base64 ignores.
    assert unseal("org", changed) is None or changed.rstrip("=")[:-1] == sealed.rstrip("=")[:-1]


def test_a_seal_hides_its_text() -> None:
    assert "thought" not in seal("org", "thought")
    assert unseal("org", "no base64!") is None


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string"}, "text"),
        ({"type": "string", "minLength": 6}, "text.."),
        ({"type": "string", "format": "date"}, "2026-01-01"),
        ({"enum": ["b", "a"]}, "b"),
        ({"const": 7}, 7),
        ({"type": "integer", "minimum": 3}, 3),
        ({"type": "number", "maximum": -1}, -1),
        ({"type": ["null", "string"]}, None),
        ({"type": "BOOLEAN"}, True),
        ({"anyOf": [{"type": "boolean"}, {"type": "string"}]}, True),
        ({"type": "array", "items": {"type": "string"}, "minItems": 2}, ["text", "text"]),
        ({"properties": {"a": {"type": "null"}}}, {"a": None}),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"const": 1}}}, 1),
        (
            {"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]},
            {"a": 1, "b": 2},
        ),
    ],
)
def test_an_instance_satisfies_its_schema(schema: dict[str, Any], value: Any) -> None:
    assert instance(schema) == value


def test_an_instance_of_an_endless_schema_ends() -> None:
    assert msgspec.json.encode(instance({"type": "object", "properties": {"self": {"$ref": "#"}}}))


def test_usage_partitions_tokens() -> None:
    usage = Usage(uncached=1, cache_read=2, cache_write_5m=4, cache_write_1h=8, output=16, reasoning=32)
    assert (usage.cache_write, usage.prompt, usage.completion, usage.total) == (12, 15, 48, 63)


def test_arguments_that_are_no_object_are_an_empty_input() -> None:
    assert [ToolCall("f", text).input for text in ('{"a":1}', "[1]", '{"a"')] == [{"a": 1}, {}, {}]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (asked("a b"), Script(text=("a", " b"))),
        (asked(), Script(text=("ok",))),
        (asked("please call f", tools=TOOLS), Script(tools=(ToolCall("f", '{"n":1}'),))),
        (
            asked('call g {"x": {"y": "}"}} now', tools=TOOLS),
            Script(tools=(ToolCall("g", '{"x": {"y": "}"}}'),)),
        ),
        (asked("call g {broken", tools=TOOLS), Script(tools=(ToolCall("g", "{}"),))),
        (asked("call h", tools=TOOLS), Script(text=("call", " h"))),
        (asked("x", tools=TOOLS, forced="*"), Script(tools=(ToolCall("f", '{"n":1}'),))),
        (asked("call f", tools=TOOLS, forced="g"), Script(tools=(ToolCall("g", "{}"),))),
        (asked("x", schema={}), Script(text=("{}",))),
        (asked("x", schema={"properties": {"k": {"const": 1}}}), Script(text=('{"k"', ":1}"))),
    ],
)
def test_echo(request_: Asked, said: Script) -> None:
    assert echo(request_) == said


def test_a_script_is_said_as_far_as_the_request_lets_it() -> None:
    script = Script(text=("a", " b", " c"))
    assert settled(asked(), script) == script
    cut = settled(asked(max_tokens=2), script)
    assert (cut.text, cut.ending) == (("a", " b"), "length")
    stopped = settled(asked(stop=("c", " b")), script)
    assert (stopped.text, stopped.ending, stopped.stop_sequence) == (("a",), "sequence", " b")
    assert settled(asked(max_tokens=1, stop=("b",)), script).ending == "length"
    told = Script(text=("a", " b"), finish="stop")
    assert settled(asked(max_tokens=1), told) == told


def test_embeddings_of_texts_that_share_words_are_close() -> None:
    def closeness(one: str, other: str) -> float:
        return sum(x * y for x, y in zip(vector(one), vector(other), strict=True))

    assert closeness("red fox runs", "red fox runs") == pytest.approx(1)
    assert closeness("red fox runs", "red fox sleeps") > closeness("red fox runs", "tax law") + 0.3
    assert len(vector("", 5)) == 5


def test_models_are_described_once_and_in_the_docstring() -> None:
    assert len(MODELS) == len(BEHAVIOURS)
    assert testing.__doc__ is not None
    for behaviour in BEHAVIOURS:
        assert behaviour.model.startswith("sim-")
        assert f"{behaviour.model} " in testing.__doc__
        assert behaviour.summary in testing.__doc__
    assert behaviour_of("gpt-x") is echo


def test_a_request_shows_no_secret() -> None:
    assert "secret" not in repr(RECEIVED)
    assert "secret" not in repr(asked())


SCHEMA_KEYS = st.sampled_from(
    ["type", "properties", "items", "enum", "anyOf", "allOf", "$ref", "minItems", "format"]
)
SCHEMA_LEAVES = st.sampled_from(["object", "array", "#", "#/properties", None, 2, True])
SCHEMAS = st.recursive(
    SCHEMA_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCHEMA_KEYS, inner, max_size=4)
)


@given(SCHEMAS)
def test_a_schema_that_is_malformed_has_an_instance_too(schema: Any) -> None:
    assert msgspec.json.encode(instance(schema))
