"""What goes out with pseudonyms holds none of the values, and what comes back has them all."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from isthmus.core.label import Finding, Label
from isthmus.core.pieces import Finish, Piece, ReasoningDelta, TextDelta, ToolArgumentsDelta
from isthmus.perimeter.detectors import Detector
from isthmus.perimeter.policy import Policy, Rule
from isthmus.perimeter.pseudonyms import Hidden, Pseudonyms, hide, session_of
from isthmus.perimeter.restore import Restored, Restorer
from isthmus.perimeter.scanner import Scanner

KEY = b"k" * 32
POLICY = Policy(rules=(Rule(when="pii", level="confidential", pseudonymise=True),))
HERE = Pseudonyms(KEY, b"here")

# What a value may be, and what stands around it: nothing of the one occurs in the other.
values = st.text(st.sampled_from('abcé"\\\n@.- 7'), min_size=3, max_size=12).filter(
    lambda value: value.strip() == value
)
around = st.text(st.sampled_from("XYZ ,;{}:_Ω"), max_size=12)


class Known(Detector):
    """Finds the values that it was told, wherever they stand by themselves."""

    name = "known"

    def __init__(self, told: list[str]) -> None:
        self._told = told

    def find(self, text: str) -> list[Finding]:
        return sorted(
            (
                Finding("pii.name", at, at + len(value), self.name)
                for value in self._told
                for at in range(len(text))
                if text.startswith(value, at)
            ),
            key=lambda finding: finding.start,
        )


def _hidden(value: Any, told: list[str], pseudonyms: Pseudonyms = HERE) -> Hidden | None:
    scanner = Scanner([Known(told)], KEY)
    return hide(value, scanner.scan(value), lambda it, heed: heed(scanner.scan(it)), POLICY, (), pseudonyms)


def _request(texts: list[str]) -> dict[str, Any]:
    return {"model": "r", "messages": [{"role": "user", "content": text} for text in texts]}


def _cut(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


def _said(pieces: list[Piece], kind: type[Piece]) -> str:
    return "".join(piece.text for piece in pieces if type(piece) is kind)  # type: ignore[attr-defined]


@given(st.lists(values, min_size=1, max_size=4, unique=True), st.lists(around, min_size=5, max_size=5))
def test_what_is_hidden_is_gone_and_comes_back(told: list[str], between: list[str]) -> None:
    text = between[0] + "".join(f" {value} {between[at + 1]}" for at, value in enumerate(told))
    asked = _request([text, f"({told[0]})"])
    hidden = _hidden(asked, told)
    assert hidden is not None
    assert hidden.label == Label("internal")
    sent = msgspec.json.decode(hidden.body)
    for message in sent["messages"]:
        assert not [value for value in told if value in message["content"]]
    back = Restored(hidden.values)
    assert [back.text(message["content"]) for message in sent["messages"]] == [text, f"({told[0]})"]


@given(
    st.lists(values, min_size=1, max_size=3, unique=True),
    st.lists(around, min_size=4, max_size=4),
    st.lists(st.integers(0, 200), max_size=40),
)
def test_an_answer_is_restored_however_it_is_cut(
    told: list[str], between: list[str], cuts: list[int]
) -> None:
    named = {HERE.of("pii.name", value): value for value in told}
    answer = between[0] + "".join(name + between[at + 1] for at, name in enumerate(named))
    wanted = between[0] + "".join(value + between[at + 1] for at, value in enumerate(named.values()))
    restorer = Restorer(named, in_json=False)
    longest = max(map(len, named))
    received, pieces = 0, []
    for part in _cut(answer, cuts):
        pieces += restorer.feed([TextDelta(text=part)])
        received += len(part)
        told_back = Restored({value: name for name, value in named.items()}).text(_said(pieces, TextDelta))
        assert received - len(told_back) < longest, "more was held back than the length of a pseudonym"
    pieces += restorer.feed([Finish(reason="stop")])
    assert _said(pieces, TextDelta) == wanted
    assert isinstance(pieces[-1], Finish)
    assert not restorer.close()


@given(
    st.dictionaries(st.sampled_from("pqrs"), values, min_size=1, max_size=3),
    st.booleans(),
    st.lists(st.integers(0, 200), max_size=40),
)
def test_arguments_of_tools_stay_json(told: dict[str, str], escaped: bool, cuts: list[int]) -> None:
    named = {HERE.of("pii.name", value): value for value in told.values()}
    arguments = json.dumps(
        {key: f"Ω {HERE.of('pii.name', value)}!" for key, value in told.items()}, ensure_ascii=escaped
    )
    restorer = Restorer(named, in_json=False)
    pieces: list[Piece] = []
    for part in _cut(arguments, cuts):
        # Two calls at once, and a thought between them, which are told in turns.
        both = [ToolArgumentsDelta(index=index, text=part) for index in (0, 1)]
        pieces += restorer.feed([*both, ReasoningDelta(text="hm ")])
    pieces += restorer.feed([Finish(reason="tool_calls")])
    for index in (0, 1):
        own = [it for it in pieces if isinstance(it, ToolArgumentsDelta) and it.index == index]
        assert json.loads("".join(it.text for it in own)) == {k: f"Ω {v}!" for k, v in told.items()}


@given(values, values, around)
def test_only_what_this_request_has_hidden_is_restored(mine: str, other: str, text: str) -> None:
    of_another_session = Pseudonyms(KEY, b"there").of("pii.name", mine)
    of_another_key = Pseudonyms(b"j" * 32, b"here").of("pii.name", mine)
    never_issued = HERE.of("pii.name", other + "!")
    answer = f"{text}{of_another_session} {of_another_key} {never_issued} NAME_AAAAAAAA"
    hidden = {HERE.of("pii.name", mine): mine}
    assert Restored(hidden).text(answer) == answer
    restorer = Restorer(hidden, in_json=True)
    pieces = restorer.feed([TextDelta(text=answer), Finish(reason="stop")])
    assert _said(pieces, TextDelta) == answer


@given(st.lists(values, min_size=1, max_size=3, unique=True), around)
def test_a_conversation_keeps_its_pseudonyms(told: list[str], more: str) -> None:
    first = _request([f" {value} " for value in told])
    later = _request([*(f" {value} " for value in told), more, f" {told[-1]} "])
    assert session_of(first) == session_of(later)
    before, after = _hidden(first, told), _hidden(later, told)
    assert before is not None
    assert after is not None
    assert before.values == after.values
    sent, longer = msgspec.json.decode(before.body), msgspec.json.decode(after.body)
    assert longer["messages"][: len(told)] == sent["messages"]


@given(values, st.sampled_from(["number", "blind", "cut in two"]))
def test_what_cannot_be_hidden_keeps_the_label_up(value: str, why: str) -> None:
    told = [value, "4155550100"]
    asked = _request([f" {value} "])
    match why:
        case "number":
            asked["metadata"] = {"phone": 4155550100}
        case "blind":
            asked["previous_response_id"] = "resp_1"
        case "cut in two":
            asked["messages"] = _request([value, "Ω" + value[:1], value[1:]])["messages"]
    scanner = Scanner([Known(told)], KEY)
    unhidden = POLICY.label(scanner.scan(asked))
    hidden = _hidden(asked, told)
    assert (hidden.label if hidden else unhidden).level == (
        "restricted" if why == "blind" else "confidential"
    )


def test_a_kind_is_hidden_only_where_every_rule_about_it_says_so() -> None:
    asked = _request(["Anna"])
    strict = Policy(rules=(*POLICY.rules, Rule(when="pii.name", level="restricted")))
    scanner = Scanner([Known(["Anna"])], KEY)
    seen = scanner.scan(asked)
    assert strict.hideable(seen) == []
    assert hide(asked, seen, lambda it, heed: heed(scanner.scan(it)), strict, (), HERE) is None


def test_what_may_not_be_hidden_is_not_lost_in_what_may() -> None:
    class Plans(Known):
        def find(self, text: str) -> list[Finding]:
            at = text.find("Anna plan")
            return [*super().find(text), *([Finding("term.plan", at, at + 9, "t")] if at >= 0 else [])]

    asked = _request(["Send the Anna plan."])
    policy = Policy(rules=(*POLICY.rules, Rule(when="term.plan", level="restricted")))
    scanner = Scanner([Plans(["Anna"])], KEY)
    hidden = hide(asked, scanner.scan(asked), lambda it, heed: heed(scanner.scan(it)), policy, (), HERE)
    assert hidden is not None
    assert hidden.label.level == "restricted"


class Across(Known):
    """Takes also the end of one text and the beginning of the next for a name: `reach` letters of either."""

    def __init__(self, told: list[str], reach: int) -> None:
        super().__init__(told)
        self._reach = reach

    def find(self, text: str) -> list[Finding]:
        start = text.find("u-3") - self._reach
        across = Finding("pii.name", start, start + 2 * self._reach, self.name)
        return [*super().find(text), *([across] if start >= 0 else [])]


@given(st.integers(min_value=1, max_value=3))
def test_what_a_pseudonym_makes_with_the_text_beside_it_is_nothing(reach: int) -> None:
    scanner = Scanner([Across(["Anna"], reach)], KEY)

    def left(first: str) -> Hidden | None:
        asked = _request([first, "u-3"])
        return hide(asked, scanner.scan(asked), lambda it, heed: heed(scanner.scan(it)), POLICY, (), HERE)

    alone, amid = left("Tell Anna"), left("Anna: tell Otto")
    assert alone is not None
    assert alone.label.level == POLICY.default
    assert amid is not None
    assert amid.label.level == "confidential"


@given(values, st.booleans(), st.booleans())
def test_a_value_is_hidden_where_it_stands_escaped_in_json(value: str, escaped: bool, twice: bool) -> None:
    """Detectors see such a spelling only by chance; it is the same value, and has the same pseudonym."""
    value = f"é{value}"
    # Two of a row of backslashes are the value of another, shorter row: what was meant cannot be known.
    assume(not value.endswith("\\"))
    said = json.dumps({"who": value}, ensure_ascii=escaped)
    if twice:
        said = json.dumps([said])
    asked = _request([f" {value} ", said])
    hidden = _hidden(asked, [value])
    assert hidden is not None
    assert list(hidden.values.values()) == [value]
    (name,) = hidden.values
    sent = msgspec.json.decode(hidden.body)["messages"][1]["content"]
    inner = json.loads(json.loads(sent)[0] if twice else sent)
    assert inner == {"who": name}


def test_a_value_that_was_found_in_json_is_what_it_says() -> None:
    value = 'Ann "é" Lee'
    spelled = json.dumps(value)[1:-1]
    hidden = _hidden(_request([json.dumps([value]), f"{value}?"]), [spelled, value])
    assert hidden is not None
    assert list(hidden.values.values()) == [value]


def test_a_lone_text_is_the_first_turn_of_its_conversation() -> None:
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    assert session_of({"input": "Hello"}) == session_of({"input": turns}) != session_of({"input": "Bye"})


def test_floors_are_never_lowered_by_hiding() -> None:
    asked = _request(["Anna"])
    scanner = Scanner([Known(["Anna"])], KEY)
    floors = (Label("confidential"),)
    seen = scanner.scan(asked)
    hidden = hide(asked, seen, lambda it, heed: heed(scanner.scan(it)), POLICY, floors, HERE)
    assert hidden is not None
    assert hidden.label.level == "confidential"


def test_the_words_of_the_protocol_and_the_route_stay() -> None:
    asked = {"model": "user", "messages": [{"role": "user", "content": "user model"}], "stream": True}
    hidden = _hidden(asked, ["user", "model"])
    assert hidden is not None
    sent = msgspec.json.decode(hidden.body)
    assert (sent["model"], sent["messages"][0]["role"], sent["stream"]) == ("user", "user", True)
    assert "user" not in sent["messages"][0]["content"]


def test_a_value_within_a_word_is_none() -> None:
    hidden = _hidden(_request(["Ann met Anna and Ann."]), ["Ann"])
    assert hidden is not None
    assert "Anna" in msgspec.json.decode(hidden.body)["messages"][0]["content"]
