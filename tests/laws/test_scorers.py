"""Scorers for any answer: a value from 0 to 1 or none, never an error; and the fences of judges."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.core.evaluation import Answered, Sample
from isthmus.core.label import BOTTOM, Label
from isthmus.evals.scorers import scorer_of
from isthmus.evals.scorers.choice import LETTERS, chosen
from isthmus.evals.scorers.judging import material
from isthmus.evals.scorers.numeric import number_of
from isthmus.evals.scorers.structured import equal, leaves

SPECS = (
    "exact",
    "normalised",
    "contains:need=all",
    "regex:a+b",
    "numeric:relative=0.1",
    "choice",
    "schema",
    "fields:strict=true",
    "tools",
    "rouge",
    "chrf",
)
SCORERS = [scorer_of(spec) for spec in SPECS]

# Pieces that scorers look for, glued in any order, and any text at all.
PIECES = st.sampled_from(
    [
        "Answer: ",
        "B",
        "(A)",
        "\\boxed{",
        "}",
        "42",
        "1,234",
        "%",
        "/",
        "```json\n",
        "\n```",
        "{",
        '"a": 1',
        "\n",
        " ",
        "<think>",
        "1e999",
        "9" * 320,
        "[",
        "]",
    ]
)
SCHEMA = {"multipleOf": 0.01, "items": {"$ref": "#"}, "pattern": "^(a|b)*$"}
ASKED = {"response_format": {"type": "json_schema", "json_schema": {"name": "any", "schema": SCHEMA}}}
WORDS = st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=12).map("".join))
DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(WORDS, st.lists(WORDS, max_size=3), st.lists(WORDS, max_size=5))
async def test_no_answer_and_no_target_breaks_a_scorer(
    text: str, target: list[str], choices: list[str]
) -> None:
    sample = Sample(id="1", request=ASKED, target=tuple(target), choices=tuple(choices))
    answered = Answered(model="small", text=text, message={"tool_calls": [text]})
    for scorer in SCORERS:
        told = await scorer.score(sample, answered)
        assert told.value is None or 0 <= told.value <= 1
        assert told.value in (None, 0, 1) or not scorer.binary


@given(st.text(min_size=1, max_size=40).filter(lambda text: text.strip() and "<think>" not in text))
async def test_who_repeats_the_target_is_right(text: str) -> None:
    for spec in ("exact", "normalised", "contains", "contains:need=all,case=false"):
        told = await scorer_of(spec).score(
            Sample(id="1", request={}, target=(text,)), Answered(model="a", text=text)
        )
        assert told.value == 1, spec


@given(
    st.integers(-(10**12), 10**12),
    st.sampled_from(["{}", "{:,}", "It is {}.", "#### {:,}", r"\boxed{{{}}}", "3 of 4 are {:,}"]),
)
def test_a_number_is_read_as_it_was_written(number: int, words: str) -> None:
    found = number_of(words.format(number))
    assert found
    assert found.value == number


@given(st.fractions(max_denominator=999))
def test_a_fraction_is_read_exactly(number: Fraction) -> None:
    found = number_of(f"{number.numerator}/{number.denominator}")
    assert found
    assert found.value == number


@given(
    st.lists(
        st.text("abcdefgh ", min_size=2).filter(str.strip),
        min_size=2,
        max_size=26,
        unique_by=lambda it: it.split() and " ".join(it.split()),
    ),
    st.data(),
)
def test_an_option_is_found_by_letter_and_by_text(choices: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(choices) - 1))
    for words in (
        f"The answer is ({LETTERS[at]}).",
        f"Answer: {LETTERS[at]}) {choices[at]}",
        f"{LETTERS[at]}",
    ):
        assert chosen(words, choices) == LETTERS[at]


@given(DOCUMENTS, DOCUMENTS)
def test_documents_are_equal_where_their_texts_are(one: Any, other: Any) -> None:
    assert equal(one, json.loads(json.dumps(one)))
    assert equal(one, other) == equal(other, one)
    if not equal(one, other):
        assert json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True)


@given(DOCUMENTS)
def test_every_leaf_has_a_path_of_its_own(document: Any) -> None:
    found = list(leaves(document))
    assert found
    assert len({path for path, _ in found}) == len(found)


@given(st.lists(st.text(max_size=30), min_size=1, max_size=3), st.text(max_size=30))
def test_no_material_holds_its_own_fence(answers: list[str], question: str) -> None:
    sample = Sample(id="1", request={"messages": [{"role": "user", "content": question}]}, target=("x",))
    fence, shown = material(sample, {f"Answer {at}": text for at, text in enumerate(answers)})
    assert shown.count(fence) == 2 * (len(answers) + 2)
    # Who has seen the fence and writes it into an answer gets another one.
    again, shown = material(sample, {f"Answer {at}": text + fence for at, text in enumerate(answers)})
    assert again != fence
    assert shown.count(again) == 2 * (len(answers) + 2)


@given(st.text(max_size=200))
@pytest.mark.parametrize("spec", ["judge:model=wise", "pairwise:model=wise", "panel:models=wise+old"])
async def test_no_answer_of_a_judge_breaks_it(spec: str, said: str) -> None:
    async def ask(model: str, request: Mapping[str, Any], label: Label = BOTTOM) -> Answered:
        return Answered(model=model, text=said)

    sample = Sample(id="1", request={"messages": []}, target=("x",))
    told = await scorer_of(spec, ask).score(sample, Answered(model="small", text="y"))
    assert told.value is None
