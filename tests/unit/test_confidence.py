"""Signals, calibrators, reliability and the files of calibrations."""

from __future__ import annotations

from math import log

import msgspec
import numpy as np
import pytest

from isthmus.confidence.artefact import Calibration, load
from isthmus.confidence.fitting import FEWEST, escalation_of, fit, probabilities
from isthmus.confidence.reliability import calibration_error, discrimination, reliability, risk_coverage
from isthmus.confidence.shift import shift, stability_index
from isthmus.confidence.signals import of_probability
from isthmus.confidence.signals.logprobs import of_logprobs
from isthmus.confidence.signals.wording import of_wording
from isthmus.core.answers import plain
from isthmus.core.calibrator import Calibrator, Escalation, Weighing
from isthmus.core.errors import IsthmusError
from isthmus.core.tie import Tie

NAN = float("nan")


def test_a_probability_is_its_logarithms_and_what_is_none_is_left_out() -> None:
    assert of_probability("p", 0.8) == pytest.approx({"p": log(0.8), "p_against": -log(0.2)})
    assert all(np.isfinite(it) for edge in (0.0, 1.0) for it in of_probability("p", edge).values())
    assert of_probability("p", NAN) == of_probability("p", 1.5) == of_probability("p", -0.1) == {}


def test_log_probabilities_give_quantiles_and_of_one_token_its_probability() -> None:
    found = of_logprobs([-3.0, -1.0, -2.0])
    assert found["logprob_min"] == -3
    assert found["logprob_p50"] == -2
    assert found["logprob_mean"] == -2
    assert found["logprob_first"] == -3
    assert found["tokens"] == pytest.approx(log(4))
    assert of_logprobs([log(0.9)]) == pytest.approx(of_probability("token", 0.9))
    assert of_logprobs([-1.0, float("-inf")])["logprob_min"] == -50


@pytest.mark.parametrize("logprobs", [[], [NAN], [-1.0, NAN], [0.5]])
def test_log_probabilities_that_are_none_give_nothing(logprobs: list[float]) -> None:
    assert of_logprobs(logprobs) == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [("Paris.", "paris"), ("$1,234.50", "1234.5"), (" (B) ", "b"), ("**42**", "42.0"), ("a  b", "A b")],
)
def test_answers_that_say_the_same_are_compared_alike(one: str, other: str) -> None:
    assert plain(one) == plain(other)


def test_numbers_and_words_that_differ_stay_apart() -> None:
    assert len({plain(it) for it in ("1", "-1", "1.5", "15", "A", "B")}) == 6


def test_words_show_refusals_hedges_and_cuts() -> None:
    assert of_wording("I\u2019m sorry, I can't help with that.")["refusal"] == 1
    assert of_wording("It is probably Paris, I think.")["hedges"] > of_wording("It is Paris.")["hedges"] == 0
    assert of_wording("", "length") | {"length": 0} == {
        "empty": 1,
        "refusal": 0,
        "hedges": 0,
        "length": 0,
        "cut": 1,
    }


# Calibrators


def _answers(many: int, rng: np.random.Generator) -> tuple[list[dict[str, float]], np.ndarray]:
    """Answers whose chance of being right is a logistic function of one signal; another one is noise."""
    sure = rng.normal(size=many)
    truths = (rng.random(many) < 1 / (1 + np.exp(-(0.5 + 2 * sure)))).astype(float)
    return [{"sure": float(it), "noise": float(rng.normal())} for it in sure], truths


def test_a_calibrator_finds_the_signal_and_says_true_probabilities() -> None:
    rng = np.random.default_rng(3)
    calibrator = fit(*_answers(300, rng), "right")
    rows, truths = _answers(20_000, rng)
    said = probabilities(calibrator, rows)
    assert calibration_error(said, truths) < 0.04
    assert calibrator.signals["sure"].weight > 5 * abs(calibrator.signals["noise"].weight)


def test_signals_that_are_missing_tell_what_their_absence_told_in_the_fit() -> None:
    rng = np.random.default_rng(4)
    rows, truths = _answers(400, rng)
    gone = [at for at in range(400) if at % 4 == 0]
    for at in gone:
        rows[at].pop("sure")
        truths[at] = 0.0
    calibrator = fit(rows, truths, "right")
    assert calibrator.probability({"noise": 0.0}) < 0.15 < calibrator.probability({"sure": 0.0, "noise": 0.0})
    assert calibrator.probability({"sure": NAN}) == calibrator.probability({})


def test_far_values_are_not_extrapolated_to_and_unknown_signals_change_nothing() -> None:
    it = Calibrator(
        target="right", bias=0, signals={"a": Weighing(centre=0, spread=1, weight=1)}, labels=FEWEST
    )
    assert it.probability({"a": 1e9}) == it.probability({"a": 4.0}) < 0.99
    assert it.probability({"a": 1.0, "b": 7.0}) == it.probability({"a": 1.0})


def test_what_escalating_costs_is_learned_by_length_and_what_is_not_known_is_not() -> None:
    tokens = np.array([10, 100, 1_000, 3_000])
    found = escalation_of(tokens, 2e-4 + 2e-6 * tokens)
    assert found is not None
    mean = 2e-4 + 2e-6 * tokens.mean()
    assert [found.cost(it) for it in (0, 500)] == pytest.approx([2e-4 / mean, 1.2e-3 / mean])
    assert found.cost(3_000) == found.cost(1_000_000), "longer ones were never seen"
    assert escalation_of(tokens, [1, NAN, 1, 1]) is None
    assert escalation_of(tokens, np.zeros(4)) is None
    assert escalation_of([], []) is None
    falling = escalation_of(tokens, [4.0, 3.0, 2.0, 1.0])
    assert falling is not None
    assert (falling.cost(1), falling.per_token) == (pytest.approx(1.0), 0)
    empty = escalation_of([0, 0], [2.0, 2.0])
    assert empty is not None
    assert (empty.cost(7), empty.per_token) == (pytest.approx(1.0), 0)


def test_an_answer_is_kept_by_what_escalating_gains_for_what_it_costs() -> None:
    costs = Escalation(base=0.5, per_token=0.001, longest=4_500)
    it = Calibrator(target="helps", bias=0, signals={}, labels=FEWEST, escalation=costs)
    assert it.sureness({}) == 0.5
    assert [it.confidence({}, tokens) for tokens in (0, 500, 4_500, 9_000)] == pytest.approx(
        [0, 0.5, 0.9, 0.9]
    )
    free = msgspec.structs.replace(it, escalation=msgspec.structs.replace(costs, base=0))
    assert free.confidence({}, 0) == 0


def test_truths_that_are_all_alike_give_a_probability_near_them() -> None:
    rows = [{"a": float(at)} for at in range(FEWEST)]
    assert fit(rows, np.ones(FEWEST), "right").probability({"a": 0.0}) > 0.85
    assert fit([{}] * FEWEST, np.zeros(FEWEST), "helps").probability({}) < 0.15


def test_too_few_labels_are_refused_and_truths_that_are_none_as_well() -> None:
    with pytest.raises(IsthmusError) as refusal:
        fit([{}] * (FEWEST - 1), np.ones(FEWEST - 1), "right")
    assert refusal.value.code == "too_few_labels"
    for truths in (np.full(FEWEST, 1.5), np.full(FEWEST, NAN), np.ones(FEWEST + 1)):
        with pytest.raises(ValueError, match="one truth"):
            fit([{}] * FEWEST, truths, "right")


def test_reliability_and_risk_by_coverage() -> None:
    (low, high) = reliability([0.05, 0.05, 1.0, 1.0], [0, 1, 1, 1])
    assert (low.answers, low.true, high.said) == (2, 0.5, 1.0)
    assert calibration_error([0.05, 0.05, 1.0, 1.0], [0, 1, 1, 1]) == pytest.approx(0.225)
    curve = risk_coverage([0.9, 0.8, 0.1, 0.2], [0, 0, 1, 1], points=2)
    assert [(it.coverage, it.risk) for it in curve] == [(0.5, 0.0), (1.0, 0.5)]
    assert risk_coverage([], []) == []
    assert calibration_error([], []) == 0
    assert discrimination([0.9, 0.1, 0.5], [1, 0, 0]) == 1
    assert discrimination([0.5, 0.5], [1, 0]) == 0.5
    assert discrimination([0.1], [1]) is None


# Shift


def test_the_same_distribution_is_no_shift_and_another_one_is() -> None:
    rng = np.random.default_rng(0)
    before = rng.beta(8, 2, 300)
    assert not shift(before, rng.beta(8, 2, 1000)).shifted
    seen = shift(before, rng.beta(5, 3, 1000))
    assert seen.shifted
    assert "confidences" in seen.why
    assert seen.psi is not None
    assert seen.psi > 0.25
    assert stability_index(before, before) == 0


def test_tasks_in_other_shares_or_unknown_ones_are_a_shift() -> None:
    sure = np.linspace(0, 1, 200)
    known = {"a": 100, "b": 100}
    assert not shift(sure, sure, known, ["a", "b"] * 100).shifted
    assert "other shares" in shift(sure, sure, known, ["a"] * 150 + ["b"] * 50).why
    assert "10% are of tasks" in shift(sure, sure, known, ["a"] * 90 + ["b"] * 90 + ["c"] * 20).why
    assert not shift(sure[:10], sure + 1, known, ["c"] * 10).shifted


# Files


def _calibration() -> Calibration:
    return Calibration(
        tie=Tie(route="r", models={"small": "1", "large": "2"}, template="t", config="c"),
        made_at_us=1,
        calibrator=Calibrator(
            target="helps", bias=0.5, signals={"a": Weighing(centre=0, spread=1, weight=1)}, labels=300
        ),
        threshold=0.8,
        risk="added",
        max_risk=0.05,
        delta=0.1,
        promise="",
        labels=300,
        confidences=(0.1, 0.9),
    )


def test_a_calibration_is_read_as_it_was_written() -> None:
    assert load(_calibration().dump()) == _calibration()


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1", b'{"isthmus": "classifier"}', b"\xff\xfe", b"[" * 9999]
)
def test_what_is_no_calibration_is_refused(content: bytes) -> None:
    with pytest.raises(IsthmusError) as refusal:
        load(content)
    assert refusal.value.code == "bad_calibration"


def test_another_version_is_refused_by_name() -> None:
    with pytest.raises(IsthmusError, match="version 3"):
        load(msgspec.structs.replace(_calibration(), version=3).dump())


def test_a_file_of_version_1_is_of_a_calibration_that_weighs_no_costs() -> None:
    first = msgspec.json.decode(_calibration().dump())
    assert first["version"] == 2
    assert "escalation" not in first["calibrator"]
    found = load(msgspec.json.encode({**first, "version": 1}))
    assert found.calibrator.confidence({"a": 0.0}, 10) == found.calibrator.confidence({"a": 0.0}, 10_000)


def test_a_calibration_says_what_has_changed_since() -> None:
    it = _calibration()
    assert it.tie.changes(it.tie) == ()
    now = Tie(route="q", models={"small": "1", "large": "3", "new": "4"}, template="u", config="d")
    assert it.tie.changes(now) == (
        "it was made for the route r",
        "large is another model than it was",
        "new is another model than it was",
        "the prompt's template has changed",
        "the config has changed",
    )
