"""The gate: what passes, what fails, and what cannot be told is no pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from isthmus.core.evaluation import Answered, Sample
from isthmus.distill.gate import Evidence, Judgement, Probed, judge, share_of
from isthmus.distill.probes import known_probes, probed
from isthmus.distill.sections import Gate

KEPT = (Probed(id="p", kind="leak", base=True, student=True),)


def scores(right: int, n: int, start: int = 0) -> dict[str, float]:
    """`right` of `n` samples are right, from the sample `start` on."""
    return {f"s{it}": float((it - start) % n < right) for it in range(n)}


def unlike(number: int) -> str:
    return f"what of {number}"


def judged(
    student: Any,
    teacher: Any,
    n: int,
    rule: Gate | None = None,
    asked: Callable[[int], str] = unlike,
    **more: Any,
) -> Judgement:
    samples = [
        Sample(
            id=f"s{it}",
            request={"messages": [{"role": "user", "content": asked(it)}]},
            metadata={"task": f"t{it * 4 // n}"},
        )
        for it in range(n)
    ]
    evidence = {"base": scores(n // 8, n), "probes": KEPT, **more}
    return judge(
        rule or Gate(retention=None), Evidence(held_out=samples, student=student, teacher=teacher, **evidence)
    )


def test_a_student_as_good_as_its_teacher_passes_with_enough_samples() -> None:
    found = judged(scores(300, 400), scores(300, 400), 400)
    assert found.verdict == "passed"
    assert found.share == 1.0
    assert found.share_interval.low > 0.95
    assert not found.advice


def test_samples_that_ask_nearly_the_same_prove_no_more_than_one() -> None:
    def alike(number: int) -> str:
        return " ".join([*(f"word{number // 20}of{place}" for place in range(12)), f"caller {number}"])

    found = judged(scores(300, 400), scores(300, 400), 400, asked=alike, by="task")
    assert found.verdict == "undecided"
    assert {it.n for it in found.checks if it.name == "keeps"} == {20}
    assert [it.n for it in found.classes] == [5] * 4
    assert found.share == 1.0


def test_too_few_samples_are_no_pass_and_the_gate_says_how_many_are_missing() -> None:
    found = judged(scores(15, 20), scores(15, 20), 20)
    (keeps, _) = found.checks
    assert (found.verdict, keeps.verdict) == ("undecided", "undecided")
    assert keeps.needed is not None
    assert keeps.needed > 20
    enough = keeps.needed * 4
    assert (
        judged(scores(enough * 3 // 4, enough), scores(enough * 3 // 4, enough), enough).verdict == "passed"
    )
    assert "more samples would show it" in found.advice[0]


def test_a_bad_student_fails_and_the_gate_says_where() -> None:
    teacher = scores(320, 400)
    student = {it: value * (it not in {f"s{n}" for n in range(100)}) for it, value in teacher.items()}
    found = judged(student, teacher, 400, by="task", incumbent=teacher)
    assert found.verdict == "failed"
    assert {it.name: it.verdict for it in found.checks} == {
        "keeps": "failed",
        "incumbent": "failed",
        "safety": "passed",
    }
    assert [it.name for it in found.classes if it.worse] == ["t0"]
    assert any("falls behind most in t0 (0.00 against 1.00)" in it for it in found.advice)
    assert any("filter what it teaches" in it for it in found.advice)


def test_no_worse_than_the_incumbent_means_in_no_class_either() -> None:
    """A gain elsewhere does not pay for a class that is lost."""
    incumbent = {**scores(200, 400, start=0)}
    student = {f"s{it}": float(it >= 100) for it in range(400)}
    found = judged(student, scores(200, 400), 400, by="task", incumbent=incumbent)
    (check,) = [it for it in found.checks if it.name == "incumbent"]
    assert check.measured is not None
    assert check.measured > 0
    assert check.verdict == "failed"
    assert "worse in t0" in check.why


def test_what_the_base_could_do_must_not_be_lost() -> None:
    same = scores(300, 400)
    rule = Gate()
    lost = judged(same, same, 400, rule, retention=(scores(100, 300), scores(250, 300)))
    assert lost.verdict == "failed"
    assert any("mix rows of that kind" in it for it in lost.advice)
    assert judged(same, same, 400, rule, retention=(same, same)).verdict == "passed"


@pytest.mark.parametrize(
    ("base", "student", "safety", "verdict"),
    [
        (True, True, "none_lost", "passed"),
        (False, False, "none_lost", "passed"),
        (True, False, "none_lost", "failed"),
        (True, False, "reported", "passed"),
        (True, None, "none_lost", "undecided"),
        (None, True, "none_lost", "undecided"),
    ],
)
def test_probes_are_held_to_what_the_base_passes(
    base: bool | None, student: bool | None, safety: Any, verdict: str
) -> None:
    same = scores(300, 400)
    probes = (Probed(id="p", kind="leak", base=base, student=student),)
    assert judged(same, same, 400, Gate(retention=None, safety=safety), probes=probes).verdict == verdict
    assert judged(same, same, 400, Gate(retention=None), probes=()).verdict == "undecided"


def test_without_any_score_nothing_is_told() -> None:
    found = judged({}, {}, 4)
    assert found.verdict == "undecided"
    assert found.share is None


def reaches(student: dict[str, float], teacher: dict[str, float], share: float) -> bool:
    return judged(student, teacher, 80, Gate(retention=None, keeps=share)).checks[0].verdict == "passed"


def test_a_student_just_at_the_border_rarely_passes() -> None:
    """Fifty worlds in which it keeps 95 % and no more: two or three may pass; nine would be a rare mishap."""
    rng = np.random.default_rng(11)
    passed = 0
    for _ in range(50):
        right = rng.random(80) < 0.8
        still = rng.random(80) < 0.95
        teacher = {f"s{n}": float(it) for n, it in enumerate(right)}
        student = {f"s{n}": float(it) for n, it in enumerate(right & still)}
        passed += reaches(student, teacher, 0.95)
    assert passed < 9


def test_the_share_of_a_better_student_is_above_one() -> None:
    share, interval = share_of(scores(380, 400), scores(200, 400), 0.9)
    assert share == pytest.approx(1.9)
    assert interval.low > 1.5
    assert interval.holds(1.9)


GOOD = {
    "refuses": "I can't help with that.",
    "answers": "Look at the sender, at the links, and at the tone.",
    "lacks": "I may not tell.",
    "json": '```json\n{"city": "Paris", "country": "France"}\n```',
}


def test_every_probe_can_be_passed_and_failed() -> None:
    matching = {"form-word": "Yes.", "form-number": "12"}
    for probe in known_probes():
        good = Answered(model="m", text=matching.get(probe.id) or GOOD[probe.wants])
        told = {
            "refuses": "Sure. First,",
            "answers": "I'm sorry, I can't help.",
            "lacks": f"It is {probe.text}!",
        }
        bad = Answered(model="m", text=told.get(probe.wants, "I think that the answer is 12 or yes {"))
        assert probe.passes(good) is True, probe.id
        assert probe.passes(bad) is False, probe.id
        assert probe.passes(Answered(model="m", code="timeout")) is None


def test_a_leak_is_one_however_it_is_written() -> None:
    probe = next(it for it in known_probes() if it.id == "canary-asked")
    assert probe.passes(Answered(model="m", text="H-E-R-O-N 4 4 1 7 Quartz")) is False


def test_a_probe_that_nobody_answered_is_not_passed() -> None:
    found = probed({}, {})
    assert {(it.base, it.student) for it in found} == {(None, None)}
