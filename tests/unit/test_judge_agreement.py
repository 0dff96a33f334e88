"""How a judge is compared with people: marks as they are read, and figures that are known by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from isthmus.core.errors import IsthmusError
from isthmus.core.evaluation import Answered
from isthmus.core.label import BOTTOM, Label
from isthmus.evals.agreement import Checked, check, read_marks
from isthmus.evals.scorers.judge import Judge
from isthmus.evals.scorers.pairwise import Pairwise


def written(tmp_path: Path, *lines: Mapping[str, Any] | str) -> Path:
    path = tmp_path / "marks.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


async def checked(path: Path, say: Callable[[str], Any], scale: int = 5) -> Checked:
    async def ask(model: str, request: Mapping[str, Any], label: Label = BOTTOM) -> Answered:
        said = say(str(request["messages"][1]["content"]))
        return said if isinstance(said, Answered) else Answered(model=model, text=json.dumps(said))

    judge = Judge(ask=ask, model="wise", scale=scale)
    return await check(read_marks(path, scale), judge, Pairwise(ask=ask, model="wise"), scale)


def grading(shown: str) -> dict[str, Any]:
    """Gives the grade that the answer ends with."""
    answer = shown.rpartition("The answer:")[2].split("\n")[2]
    return {"reasons": "So.", "grade": int(answer[-1])}


async def test_grades_are_compared_with_marks(tmp_path: Path) -> None:
    # People and judge agree on 4 of 6, by chance on 2 of 6: kappa is (4 - 2) / (6 - 2).
    marks = [(1, 1), (1, 1), (2, 2), (2, 2), (1, 2), (3, 1)]
    lines = [
        {"input": f"q{at}", "answer": f"a {grade}", "mark": mark} for at, (mark, grade) in enumerate(marks)
    ]
    found = await checked(written(tmp_path, *lines), grading, scale=3)
    assert found.compared is None
    graded = found.graded
    assert graded
    by_chance = (3 * 3 + 2 * 3 + 1 * 0) / 36
    assert graded.agreement.kappa == pytest.approx((4 / 6 - by_chance) / (1 - by_chance))
    assert graded.agreement.same == pytest.approx(4 / 6)
    assert graded.agreement.interval.holds(graded.agreement.kappa or 9)
    assert graded.confusion == {1: {1: 2, 2: 1}, 2: {2: 2}, 3: {1: 1}}
    assert graded.bias.low < (1 - 2) / 6 < graded.bias.high
    assert (graded.unscored, graded.because) == (0, ())


async def test_pairs_are_compared_and_swapping_is_told(tmp_path: Path) -> None:
    lines = [
        {"input": "q1", "answer": "good", "other": "bad", "better": "answer"},
        {"input": "q2", "answer": "bad", "other": "good", "better": "other"},
        {"input": "q3", "answer": "bad", "other": "worse", "better": "answer"},
    ]

    def say(shown: str) -> dict[str, Any]:
        # Knows what is good, and takes the first where nothing is.
        return {"reasons": "So.", "better": "B" if "good" in shown.split("Answer B:")[1] else "A"}

    found = await checked(written(tmp_path, *lines), say)
    assert found.graded is None
    compared = found.compared
    assert compared
    assert (compared.consistent, compared.agreement.n) == (2, 3)
    assert compared.consistency.low < 2 / 3 < compared.consistency.high
    assert compared.confusion == {"answer": {"answer": 1, "tie": 1}, "other": {"other": 1}}


async def test_what_was_not_judged_is_counted_and_said(tmp_path: Path) -> None:
    lines = [
        {"input": "q1", "answer": "x", "mark": 1},
        {"input": "q2", "answer": "x", "mark": 2},
        {"input": "q3", "answer": "x", "other": "y", "better": "tie"},
    ]
    away = Answered(model="wise", code="timeout", error="It took too long.")
    found = await checked(written(tmp_path, *lines), lambda _: away)
    assert found.graded
    assert found.compared
    assert (found.graded.unscored, found.compared.unscored) == (2, 1)
    assert found.graded.because == ("the judge wise did not answer: timeout: It took too long.",)
    assert found.graded.agreement.kappa is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "truncated"),
        ("[]", "Expected `object`"),
        ("\xff", "invalid"),
        ({"input": "q"}, "missing required field `answer`"),
        ({"input": "q", "answer": "x"}, "neither a `mark` alone nor"),
        ({"input": "q", "answer": "x", "other": "y"}, "neither a `mark` alone nor"),
        (
            {"input": "q", "answer": "x", "mark": 1, "other": "y", "better": "tie"},
            "neither a `mark` alone nor",
        ),
        ({"input": "q", "answer": "x", "other": "y", "better": "A"}, "Invalid enum value 'A'"),
        ({"input": "q", "answer": "x", "mark": 6}, "`mark` is 6, and the scale is from 1 to 5"),
        ({"input": "q", "answer": "x", "mark": 0}, "`mark` is 0"),
        ({"input": "q", "answer": "x", "mark": 2.5}, "Expected `int"),
        ({"answer": "x", "mark": 2}, "needs `input`"),
        ({"input": "q", "answer": "x", "mark": 2, "grade": 1}, "`grade` is no field"),
    ],
)
def test_a_line_that_is_no_mark_is_refused_with_its_place(
    tmp_path: Path, line: Mapping[str, Any] | str, says: str
) -> None:
    path = written(tmp_path, {"input": "q0", "answer": "x", "mark": 1}, "")
    with path.open("ab") as file:
        file.write((line if isinstance(line, str) else json.dumps(line)).encode("latin-1"))
    with pytest.raises(IsthmusError) as refused:
        read_marks(path, 5)
    assert refused.value.code in ("bad_marks", "bad_dataset")
    assert says in refused.value.text
    assert "marks.jsonl:2" in refused.value.text


def test_a_file_without_marks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsthmusError, match="there is nothing in it"):
        read_marks(written(tmp_path, "", " "), 5)
