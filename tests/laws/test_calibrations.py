"""Calibrations hold: what serves decides as what was tested, and chance breaks promises as seldom as said."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.confidence.artefact import load
from isthmus.confidence.assess import assess
from isthmus.confidence.signals.answer import of_answer
from isthmus.confidence.thresholds import risk_of
from isthmus.core.calibrator import Calibrator, Escalation, Weighing
from isthmus.core.call import Call, Message, Text
from isthmus.core.pieces import Finish, Piece, TextDelta, tokens_of
from isthmus.core.tie import Tie
from isthmus.dialects.counting import estimate_tokens
from isthmus.evals.calibration import Labelled, Trial, calibrate
from isthmus.strategies.plan import CallModel, Cascade
from isthmus.strategies.plan.cascade import Step
from isthmus.strategies.plan.node import Acceptance, Assess, Calibrated, Circumstances, Kept, Node
from tests.laws.plans import drive, plans, result_of

TIE = Tie(route="r", models={"a": "1", "b": "2"}, template="", config="")

texts = st.text(max_size=40)
logprobs = st.lists(st.floats(-30, 0.01), max_size=8)
weights = st.floats(-5, 5)
calibrators = st.builds(
    Calibrator,
    target=st.sampled_from(["helps", "right"]),
    bias=weights,
    signals=st.dictionaries(
        st.sampled_from(["logprob_mean", "logprob_min", "token", "hedges", "length", "unheard_of"]),
        st.builds(Weighing, centre=weights, spread=st.floats(0.01, 5), weight=weights, missing=weights),
    ),
    labels=st.integers(30, 1000),
    escalation=st.none()
    | st.builds(Escalation, base=st.floats(0, 3), per_token=st.floats(0, 0.1), longest=st.integers(0, 5_000)),
)


@settings(max_examples=50)
@given(calibrators, texts, texts, logprobs, st.floats(0, 1))
def test_what_serves_is_as_sure_as_what_was_tested(
    calibrator: Calibrator, asked: str, text: str, told: list[float], threshold: float
) -> None:
    kept, call = _pieces(text, told), _call(asked)
    # What a run keeps of an answer is read of its pieces by the same function.
    signals = of_answer(text, "stop", [it for _, it in tokens_of(kept)])
    sure = calibrator.confidence(signals, estimate_tokens(call).tokens)
    calibration = Calibrated(file="c.json", calibrator=calibrator, threshold=threshold)
    by = Acceptance(calibration=calibration, refuses=True, complete=False)
    verdict = assess(Assess(Kept("a", 1, kept), by), call)
    assert 0 <= sure <= 1
    if not told:
        assert (verdict.accepted, verdict.confidence) == (False, None)
    else:
        assert verdict.confidence == sure
        assert verdict.accepted == (bool(text.strip()) and sure >= threshold)


@settings(max_examples=50)
@given(calibrators, logprobs, st.integers(0, 10_000), st.integers(0, 10_000))
def test_what_is_dearer_to_escalate_is_kept_the_sooner(
    calibrator: Calibrator, told: list[float], one: int, other: int
) -> None:
    signals = of_answer("word", "stop", told)
    short, long = (calibrator.confidence(signals, it) for it in sorted((one, other)))
    assert short <= long


@settings(max_examples=25)
@given(st.integers(0, 260), st.integers(0, 2**32), st.floats(0, 1), st.floats(0.01, 0.3), st.booleans())
def test_a_calibration_is_made_where_a_promise_is_kept_and_nowhere_else(
    many: int, seed: int, informed: float, max_risk: float, costs: bool
) -> None:
    trial = _calibrated(_population(many, np.random.default_rng(seed), informed), max_risk, costs)
    assert trial.labels == trial.fitted + trial.tested == many
    assert (trial.calibration is not None) == (trial.verdict == "cascade")
    if trial.calibration is None:
        return
    assert trial.promise.kept
    assert trial.tested >= trial.promise.needed
    assert (trial.promise.observed or 0) <= max_risk
    assert trial.saving is not None
    assert trial.saving.low > 0
    assert load(trial.calibration.dump()) == trial.calibration
    assert (trial.calibration.calibrator.escalation is not None) == costs == trial.weighs_costs


@pytest.mark.parametrize("unknown", [None, 0.0])
def test_what_is_not_paid_for_is_kept_by_confidence(unknown: float | None) -> None:
    labels = [it._replace(strong_usd=unknown) for it in _population(200, np.random.default_rng(0), 0.5)]
    trial = _calibrated(labels, 0.2)
    assert not trial.weighs_costs
    assert trial.promise.kept


@pytest.mark.parametrize("costs", [True, False])
def test_a_calibrated_cascade_breaks_its_promise_as_seldom_as_it_says(costs: bool) -> None:
    """Labels are drawn from a population whose risk is known; delta is 0.1, and three points are noise."""
    rng = np.random.default_rng(0)
    population = _population(500, rng, 0.5)
    losses = [max(0.0, it.strong - it.weak) for it in population]
    made = broken = 0
    for draw in range(100):
        places = rng.integers(0, len(population), 300)
        drawn = [population[at]._replace(sample=f"{draw}-{n}") for n, at in enumerate(places)]
        calibration = _calibrated(drawn, 0.06, costs).calibration
        if calibration is None or calibration.threshold is None:
            continue
        sure = np.array([calibration.calibrator.confidence(it.signals, it.tokens) for it in population])
        made += 1
        broken += (risk_of(sure >= calibration.threshold, losses, "added") or 0) > 0.06
    assert made >= 60, "where nothing is promised, nothing is tested"
    assert broken / 100 <= 0.13


@settings(max_examples=50)
@given(plans, st.floats(0, 1, exclude_max=True))
def test_a_stale_cascade_asks_its_last_step_alone_unless_it_is_told_otherwise(
    plan: Node, draw: float
) -> None:
    stale = Acceptance(calibration=Calibrated(file="c.json", stale=("a is another model than it was",)))
    cascade = Cascade(stages=(Step(plan=CallModel(model="weak"), accept=stale), Step(plan=plan)))
    drawn = Circumstances(draw=draw)
    choice = cascade.choose(drawn)
    assert choice.node == plan.choose(drawn).node
    assert "another model" in choice.reasons[0]
    going_on = Cascade(stages=cascade.stages, on_stale="warn").choose(drawn)
    assert going_on.node.models()[0] == "weak"
    assert "another model" in going_on.reasons[0]
    effects, _ = drive(going_on.node, lambda name: result_of(name, "ok"), lambda: True)
    assert effects[0].amendment is not None  # type: ignore[union-attr]
    assert effects[0].amendment.logprobs  # type: ignore[union-attr]


def _call(asked: str) -> Call:
    turns = (Message(role="user", parts=(Text(asked),)),)
    return Call(dialect="openai", operation="chat", model="r", messages=turns)


def _pieces(text: str, told: list[float]) -> tuple[Piece, ...]:
    tokens: list[object] = [{"token": "t", "logprob": it} for it in told]
    return TextDelta(text=text, logprobs=tokens), Finish(reason="stop")


def _population(many: int, rng: np.random.Generator, informed: float) -> list[Labelled]:
    """Answers whose log-probabilities tell more or less of how good they are."""
    found = []
    for number in range(many):
        sure = rng.random()
        right = rng.random() < informed * sure + (1 - informed) * 0.8
        told = [math.log(max(0.01, sure)), -0.1]
        tokens = int(rng.integers(10, 1_000))
        found.append(
            Labelled(
                sample=f"s{number}",
                signals=of_answer("word", "stop", told),
                tokens=tokens,
                weak=float(right),
                strong=float(rng.random() < 0.9),
                weak_usd=1,
                strong_usd=tokens / 50,
            )
        )
    return found


def _calibrated(labels: list[Labelled], max_risk: float, costs: bool = True) -> Trial:
    when = {"made_at_us": 1, "asked_at_us": 1}
    return calibrate(labels, TIE, ("a", "b"), max_risk=max_risk, delta=0.1, costs=costs, **when)
