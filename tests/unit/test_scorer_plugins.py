"""Scorers of one's own, those of inspect-ai, and those that libraries count for us."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from isthmus.core.errors import IsthmusError
from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.evals.scorers import scorer_of
from isthmus.evals.scorers.inspect_ai import value_of

SAMPLE = Sample(
    id="1",
    request={
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "What is 6 × 7?"}, {"type": "image_url"}]},
        ]
    },
    target=("42",),
    metadata={"task": "sums"},
)

SCORERS = """
import asyncio, sys
from isthmus.core.evaluation import Score

def longer(sample, answered): return len(answered.text) > len(sample.target[0])
def half(sample, answered): return 0.5
async def later(sample, answered):
    await asyncio.sleep(0)
    return 1
def promised(sample, answered): return later(sample, answered)
def whole(sample, answered): return Score(value=0.25, said="x", why="so")
def much(sample, answered): return 7
def boast(sample, answered): return Score(value=1.7)
def nothing(sample, answered): return None
def odd(sample, answered): return float("nan")
def failing(sample, answered): raise RuntimeError("oh")
def leaving(sample, answered): sys.exit(3)
def few(sample): return 1
sure = lambda sample, answered: True
sure.binary = True
seven = 7
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own scorers.py"
    path.write_text(SCORERS)
    return path


async def score(spec: str, text: str = "It is 42.", **fields: Any) -> Score:
    return await scorer_of(spec).score(SAMPLE, Answered(model="small", text=text, **fields))


# One's own


@pytest.mark.parametrize(
    ("function", "value"), [("longer", 1), ("half", 0.5), ("later", 1), ("promised", 1), ("whole", 0.25)]
)
async def test_a_function_scores(own: Path, function: str, value: float) -> None:
    assert (await score(f"{own}:{function}")).value == value


async def test_a_function_of_a_module_scores(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = own.parent / "own_package"
    package.mkdir()
    (package / "marks.py").write_text(SCORERS)
    monkeypatch.syspath_prepend(own.parent)
    assert (await score("own_package.marks:half")).value == 0.5
    assert scorer_of("own_package.marks:half").name == "own_package.marks:half"
    del sys.modules["own_package.marks"]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("much", "gave 7, which is no number from 0 to 1"),
        ("boast", "gave 1.7, which is no number from 0 to 1"),
        ("nothing", "gave None"),
        ("odd", "gave nan"),
        ("failing", "failed: RuntimeError: oh"),
        ("leaving", "failed: SystemExit: 3"),
        ("few", "failed: TypeError"),
    ],
)
async def test_what_is_wrong_with_a_function_is_no_score_and_no_crash(
    own: Path, function: str, says: str
) -> None:
    told = await score(f"{own}:{function}")
    assert told.value is None
    assert says in (told.why or "")


async def test_a_function_says_whether_it_is_binary(own: Path) -> None:
    assert scorer_of(f"{own}:sure").binary
    assert not scorer_of(f"{own}:half").binary


async def test_a_function_is_not_asked_of_what_failed(own: Path) -> None:
    assert (await score(f"{own}:half", code="timeout")).value is None


@pytest.mark.parametrize(
    ("spec", "code", "says"),
    [
        ("{own}:missing", "invalid_scorer", "has no function `missing`"),
        ("{own}:seven", "invalid_scorer", "has no function `seven`"),
        ("nowhere.py:half", "invalid_scorer", "nowhere.py cannot be loaded: FileNotFoundError"),
        ("{own}", "unknown_scorer", "There is no scorer"),
        ("json:nothing", "invalid_scorer", "json has no function `nothing`"),
        ("nowhere.at.all:half", "unknown_scorer", "no scorer `nowhere.at.all`, and no Python module"),
        ("numeri:half", "unknown_scorer", "Did you mean `numeric`?"),
    ],
)
def test_a_function_that_is_missing_is_refused(own: Path, spec: str, code: str, says: str) -> None:
    with pytest.raises(IsthmusError) as refused:
        scorer_of(spec.format(own=own))
    assert refused.value.code == code
    assert says in refused.value.text


@pytest.mark.parametrize("content", ["raise ValueError('oh')", "import sys; sys.exit(1)", "def f(:", "\0"])
def test_a_file_that_cannot_be_loaded_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(content)
    with pytest.raises(IsthmusError, match="cannot be loaded"):
        scorer_of(f"{path}:f")


# Of inspect-ai


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("C", 1.0),
        ("I", 0.0),
        ("P", 0.5),
        ("N", 0.0),
        ("maybe", None),
        (True, 1.0),
        (1, 1.0),
        (0.3, 0.3),
        (3, None),
        (float("nan"), None),
        ({"tone": "C", "facts": 0.5}, 0.75),
        (["C", "I"], 0.5),
        ({"tone": "C", "facts": None}, None),
        ({}, None),
        (None, None),
    ],
)
def test_values_of_inspect_ai_are_numbers(value: Any, number: float | None) -> None:
    assert value_of(value) == number


INSPECT = """
from inspect_ai.scorer import Score, Target, accuracy, match, scorer
from inspect_ai.solver import TaskState

@scorer(metrics=[accuracy()])
def seen():
    async def score(state: TaskState, target: Target) -> Score:
        assert state.input_text == "What is 6 × 7?", state.input_text
        assert state.metadata == {"task": "sums"}
        assert state.output.stop_reason == "max_tokens"
        assert state.output.message.tool_calls[0].arguments == {"a": 6}
        assert [message.role for message in state.messages] == ["system", "user", "assistant"]
        return Score(value="P", answer=state.output.completion, explanation=target.text)
    return score

@scorer(metrics=[accuracy()])
def unscored():
    async def score(state, target): return Score.unscored(explanation="cannot be said")
    return score

@scorer(metrics=[accuracy()])
def failing():
    async def score(state, target): raise ValueError("oh")
    return score

def choosy(needed): return match()
def none(): return 7
"""


@pytest.fixture
def inspect_scorers(tmp_path: Path) -> str:
    if importlib.util.find_spec("inspect_ai") is None:
        pytest.skip("inspect-ai is not installed: pip install 'isthmus[inspect]'")
    path = tmp_path / "marks.py"
    path.write_text(INSPECT)
    return f"inspect:{path}"


async def test_a_scorer_of_inspect_ai_sees_what_it_would_there(inspect_scorers: str) -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "multiply", "arguments": '{"a": 6}'}}]
    told = await score(f"{inspect_scorers}:seen", finish="length", message={"tool_calls": calls})
    assert told == Score(value=0.5, said="It is 42.", why="42")
    assert (await score("inspect:inspect_ai.scorer:match")).value == 1
    assert (await score("inspect:inspect_ai.scorer:match", text="It is 43.")).value == 0


async def test_what_inspect_ai_cannot_say_is_no_score(inspect_scorers: str) -> None:
    assert (await score(f"{inspect_scorers}:unscored")) == Score(value=None, why="cannot be said")
    assert "ValueError: oh" in ((await score(f"{inspect_scorers}:failing")).why or "")
    for name in ("choosy", "none"):
        with pytest.raises(IsthmusError, match="no scorer"):
            scorer_of(f"{inspect_scorers}:{name}")


def test_without_inspect_ai_its_scorers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    with pytest.raises(IsthmusError) as refused:
        scorer_of("inspect:inspect_ai.scorer:match")
    assert refused.value.code == "extra_missing"
    assert "pip install 'isthmus[inspect]'" in refused.value.text


# Of libraries


@pytest.mark.parametrize(
    ("spec", "text", "value"),
    [
        # Of 4 and 6 words 3 are common, in order.
        ("rouge", "the cat sat there", 0.6),
        ("rouge:kind=rouge1", "mat the on", 6 / 9),
        ("rouge:kind=rouge2", "mat the on", 0.0),
        ("rouge", "", 0.0),
        ("chrf", "the cat sat on the mat", 1.0),
        ("chrf:words=2", "the cat sat on the mat", 1.0),
        ("chrf", "xyz", 0.0),
        ("chrf", "", 0.0),
    ],
)
async def test_words_and_characters_in_common_are_counted(spec: str, text: str, value: float) -> None:
    sample = Sample(id="1", request={}, target=("the cat sat on the mat", "quite another"))
    told = await scorer_of(spec).score(sample, Answered(model="small", text=text))
    assert told.value == pytest.approx(value)


async def test_words_of_every_script_count() -> None:
    sample = Sample(id="1", request={}, target=("Привет мир",))
    assert (await scorer_of("rouge").score(sample, Answered(model="small", text="привет, мир!"))).value == 1


def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for spec, module in (("rouge", "rouge_score"), ("chrf", "sacrebleu"), ("schema", "jsonschema")):
        for name in [it for it in sys.modules if it.partition(".")[0] == module]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(IsthmusError, match=f"{module}.* is not installed") as refused:
            scorer_of(spec)
        assert "pip install 'isthmus[evals]'" in refused.value.text
