"""Calibrations hold: what serves decides as what was tested, and chance breaks promises as seldom as said."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.confidence.artefact import load
from isthmus.confidence.assess import assess
from isthmus.confidence.signals.answer import of_answer
from isthmus.confidence.thresholds import risk_of
from isthmus.core.calibrator import Calibrator, Weighing
from isthmus.core.call import Call
from isthmus.core.pieces import Finish, Piece, TextDelta, tokens_of
from isthmus.core.tie import Tie
from isthmus.evals.calibration import Labelled, Trial, calibrate
from isthmus.strategies.plan import CallModel, Cascade
from isthmus.strategies.plan.cascade import Step
from isthmus.strategies.plan.node import Acceptance, Assess, Calibrated, Circumstances, Kept, Node
from tests.laws.plans import drive, plans, result_of

TIE = Tie(route="r", models={"a": "1", "b": "2"}, template="", config="")
CALL = Call(dialect="openai", operation="chat", model="r")

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
)


@settings(max_examples=50)
@given(calibrators, texts, logprobs, st.floats(0, 1))
def test_what_serves_is_as_sure_as_what_was_tested(
    calibrator: Calibrator, text: str, told: list[float], threshold: float
) -> None:
    kept = _pieces(text, told)
    # What a run keeps of an answer is read of its pieces by the same function.
    sure = calibrator.confidence(of_answer(text, "stop", [it for _, it in tokens_of(kept)]))
    calibration = Calibrated(file="c.json", calibrator=calibrator, threshold=threshold)
    by = Acceptance(calibration=calibration, refuses=True, complete=False)
    verdict = assess(Assess(Kept("a", 1, kept), by), CALL)
    assert 0 <= sure <= 1
    if not told:
        assert (verdict.accepted, verdict.confidence) == (False, None)
    else:
        assert verdict.confidence == sure
        assert verdict.accepted == (bool(text.strip()) and sure >= threshold)


@settings(max_examples=25)
@given(st.integers(0, 260), st.integers(0, 2**32), st.floats(0, 1), st.floats(0.01, 0.3))
def test_a_calibration_is_made_where_a_promise_is_kept_and_nowhere_else(
    many: int, seed: int, informed: float, max_risk: float
) -> None:
    trial = _calibrated(_population(many, np.random.default_rng(seed), informed), max_risk)
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


def test_a_calibrated_cascade_breaks_its_promise_as_seldom_as_it_says() -> None:
    """Labels are drawn from a population whose risk is known; delta is 0.1, and three points are noise."""
    rng = np.random.default_rng(0)
    population = _population(500, rng, 0.5)
    losses = [max(0.0, it.strong - it.weak) for it in population]
    made = broken = 0
    for draw in range(100):
        places = rng.integers(0, len(population), 300)
        drawn = [population[at]._replace(sample=f"{draw}-{n}") for n, at in enumerate(places)]
        calibration = _calibrated(drawn, 0.06).calibration
        if calibration is None or calibration.threshold is None:
            continue
        sure = np.array([calibration.calibrator.confidence(it.signals) for it in population])
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


def _pieces(text: str, told: list[float]) -> tuple[Piece, ...]:
    tokens: list[object] = [{"token": "", "logprob": it} for it in told]
    return TextDelta(text=text, logprobs=tokens), Finish(reason="stop")


def _population(many: int, rng: np.random.Generator, informed: float) -> list[Labelled]:
    """Answers whose log-probabilities tell more or less of how good they are."""
    found = []
    for number in range(many):
        sure = rng.random()
        right = rng.random() < informed * sure + (1 - informed) * 0.8
        told = [math.log(max(0.01, sure)), -0.1]
        found.append(
            Labelled(
                f"s{number}", of_answer("word", "stop", told), float(right), float(rng.random() < 0.9), 1, 10
            )
        )
    return found


def _calibrated(labels: list[Labelled], max_risk: float) -> Trial:
    return calibrate(labels, TIE, ("a", "b"), max_risk=max_risk, delta=0.1, made_at_us=1)
