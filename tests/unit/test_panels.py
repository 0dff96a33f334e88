"""Panels: learned of labelled answers, kept as files, named in a config, stale where things have changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from isthmus.confidence.artefact import Calibration, LearnedPanel, load_panel
from isthmus.confidence.voting import Panel, panel_of, vote
from isthmus.config.config import CalibrationFile, Config
from isthmus.config.digests import Digests
from isthmus.config.doubts import doubted
from isthmus.config.faults import Code
from isthmus.config.learned import learned_in
from isthmus.config.load import parse
from isthmus.config.panels import tie_of
from isthmus.config.rollouts import rolled
from isthmus.core.alarm import Alarm
from isthmus.core.calibrator import Calibrator
from isthmus.core.errors import IsthmusError
from isthmus.core.rollout import Reempanelled, Turn, Version
from isthmus.core.tie import Tie
from isthmus.evals.calibration import halves
from isthmus.evals.panel_report import panel_report
from isthmus.evals.panels import Trial, Voted, empanel
from isthmus.reports.markdown import markdown
from isthmus.strategies.plan import Ensemble
from isthmus.strategies.plan.node import Empanelled

TIE = Tie(route="r", models={"a": "1", "b": "2", "c": "3"}, template="", config="")


def voted(accuracies: dict[str, float], many: int, seed: int = 0) -> list[Voted]:
    """Independent members; a wrong answer is one of many."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(many):
        right = {name: bool(rng.random() < share) for name, share in accuracies.items()}
        said = {name: "yes" if it else f"no {rng.integers(9)}" for name, it in right.items()}
        scores = {name: float(it) for name, it in right.items()}
        found.append(Voted(f"s{number}", said, scores, dict.fromkeys(accuracies, 0.001)))
    return found


def learned(samples: list[Voted], delta: float = 0.1) -> tuple[Trial, LearnedPanel | None]:
    members = tuple(samples[0].answers)
    return empanel(samples, members, TIE, delta=delta, made_at_us=2, asked_at_us=1)


def test_equals_vote_by_what_half_of_them_taught_and_the_other_half_judges_it() -> None:
    samples = voted({"a": 0.75, "b": 0.74, "c": 0.73}, 600)
    trial, panel = learned(samples)
    assert panel is not None
    fits, tests = halves(samples)
    # What serves is what a simulation would make of the half that teaches.
    assert panel.panel == panel_of([it.answers for it in fits], [it.scores for it in fits])
    assert (trial.verdict, set(panel.panel.weights)) == ("vote", {"a", "b", "c"})
    together, *singles = trial.policies
    ballots = [vote(panel.panel, it.answers) for it in tests]
    given = [it.scores[ballot.model] for it, ballot in zip(tests, ballots, strict=True) if ballot]
    assert together.name == "vote of a, b, c"
    assert together.quality == pytest.approx(np.mean(given))
    assert together.usd_per_thousand == pytest.approx(3)
    assert 0 < together.gain_interval.low < together.gain < together.gain_interval.high
    assert [it.name for it in singles] == ["a alone", "b alone", "c alone"]
    assert 0.2 < trial.unanimous < 0.6
    assert trial.unanimous_quality == pytest.approx(1, abs=0.05)
    told = markdown(panel_report("support", trial, escalates=True))
    assert "Vote: with a chance of at least 0.9, it is better than" in told
    assert "what not all say is escalated" in told


@pytest.mark.parametrize(
    ("accuracies", "why"),
    [
        ({"a": 0.9, "b": 0.6, "c": 0.5}, "nobody else is near it by the half that taught"),
        ({"a": 0.8, "b": 0.79}, "the half that taught does not show that a vote is better than"),
    ],
)
def test_without_a_gain_the_best_serves_alone(accuracies: dict[str, float], why: str) -> None:
    trial, panel = learned(voted(accuracies, 600))
    assert panel is not None
    assert trial.verdict == "the best alone"
    assert panel.panel.weights == {trial.best: 1.0}
    assert trial.why.startswith(why)
    assert f"The best alone, {trial.best}: " in markdown(panel_report("r", trial, escalates=False))
    assert panel.ranking[0][0] == trial.best


def test_a_gain_that_the_other_half_does_not_show_is_none() -> None:
    samples = voted({"a": 0.75, "b": 0.74, "c": 0.73}, 600)
    _, tests = halves(samples)
    judge = {it.sample for it in tests}
    # Where it judges, all say what one says.
    same = [
        it._replace(
            answers=dict.fromkeys("abc", it.answers["a"]), scores=dict.fromkeys("abc", it.scores["a"])
        )
        if it.sample in judge
        else it
        for it in samples
    ]
    trial, panel = learned(same)
    assert panel is not None
    assert (trial.verdict, len(panel.panel.weights)) == ("the best alone", 1)
    assert trial.why.startswith("the half that judged does not show")
    assert panel.panel.why == trial.why


def test_few_samples_teach_nothing() -> None:
    trial, panel = learned(voted({"a": 0.75, "b": 0.74, "c": 0.73}, 198))
    assert (trial.verdict, trial.needed, panel) == ("no guarantee", 200, None)
    assert "No guarantee: at least 100 samples" in markdown(panel_report("r", trial, escalates=False))


# As a file

KEPT = LearnedPanel(
    tie=TIE,
    made_at_us=2,
    asked_at_us=1,
    panel=Panel(weights={"a": 1.2, "b": 1.0}, best="a", gain=0.1, why="+10.0% on answers that were held out"),
    overall={"c": 0.5, "b": 0.75, "a": 0.75},
    learned=100,
    tested=100,
)


def test_a_panel_is_read_as_it_was_written() -> None:
    assert load_panel(KEPT.dump()) == KEPT
    assert json.loads(KEPT.dump())["isthmus"] == "panel"
    assert KEPT.ranking == (("a", 0.75), ("b", 0.75), ("c", 0.5))


def _with(**more: Any) -> bytes:
    return json.dumps({**json.loads(KEPT.dump()), **more}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04pickle",
        b"[" * 100_000,
        _with(isthmus="calibration"),
        _with(version=2),
        _with(overall={"a": 0.5}),
        _with(panel={"weights": {}, "best": "a", "gain": 0, "why": ""}),
        _with(panel={"weights": {"a": 1}, "best": "b", "gain": 0, "why": ""}),
        _with(panel={"weights": {"a": -1}, "best": "a", "gain": 0, "why": ""}),
    ],
    ids=range(9),
)
def test_what_is_no_panel_is_refused(content: bytes) -> None:
    with pytest.raises(IsthmusError) as found:
        load_panel(content)
    assert found.value.code == "bad_calibration"


# In a config

CONFIG = """
providers: {there: {dialect: openai, base_url: "http://127.0.0.1:9/v1"}}
models: {a: {provider: there}, b: {provider: there}, c: {provider: there}, d: {provider: there, id: other}}
routes: {vote: {ensemble: [a, b, c], by: panels/vote.json}}
drift: [{route: vote, since: 2026-11-02}]
"""


def configured(text: str, folder: Path) -> tuple[Config | None, dict[Code, str]]:
    """The config, and what is wrong with it."""
    config, faults = parse(text, str(folder / "isthmus.yaml"))
    return config, {it.code: it.message for it in faults if it.code is not Code.UNUSED}


def _tied(folder: Path, text: str = CONFIG) -> Config:
    """The config with a panel beside it that holds for it."""
    bare, _ = configured(text.replace(", by: panels/vote.json", ", weights: {a: 1}"), folder)
    assert bare is not None
    plan = bare.routes["vote"].plan
    assert isinstance(plan, Ensemble)
    tie = tie_of("vote", plan, bare.models, bare.providers)
    (folder / "panels").mkdir(exist_ok=True)
    (folder / "panels/vote.json").write_bytes(msgspec.structs.replace(KEPT, tie=tie).dump())
    config, faults = configured(text, folder)
    assert config is not None
    assert not faults
    return config


def _by(config: Config) -> Empanelled:
    plan = config.routes["vote"].plan
    assert isinstance(plan, Ensemble)
    assert plan.by is not None
    return plan.by


def test_a_vote_goes_by_the_panel_that_it_names(tmp_path: Path) -> None:
    config = _tied(tmp_path)
    by = _by(config)
    assert (by.weights, by.overall, by.stale) == ((("a", 1.2), ("b", 1.0)), KEPT.ranking, ())
    assert [(it.kind, it.route, it.stale) for it in config.calibrations] == [("panel", "vote", False)]
    assert learned_in(config.routes["vote"]) == [by]
    # The order in which they stand says nothing of them.
    other, faults = configured(CONFIG.replace("[a, b, c]", "[c, b, a]"), tmp_path)
    assert other is not None
    assert not faults


def test_a_panel_and_a_calibration_inside_of_its_vote_are_both_filled(tmp_path: Path) -> None:
    _tied(tmp_path)
    calibration = Calibration(
        tie=TIE,
        made_at_us=1,
        calibrator=Calibrator(target="helps", bias=0.0, signals={}, labels=100),
        threshold=0.9,
        risk="added",
        max_risk=0.05,
        delta=0.1,
        promise="",
        labels=200,
        confidences=(),
    )
    (tmp_path / "c.json").write_bytes(calibration.dump())
    cascade = "{cascade: [{model: c, accept: {calibration: c.json}}, d]}"
    vote_of = f"{{ensemble: [a, b, c], by: panels/vote.json, otherwise: {cascade}}}"
    inner = CONFIG.replace("{ensemble: [a, b, c], by: panels/vote.json}", vote_of)
    for text in (inner, inner.replace(vote_of, f"{{cascade: [{{plan: {vote_of}}}, d]}}")):
        config, _ = configured(text, tmp_path)
        assert config is not None
        assert {it.sha256 != "" for it in learned_in(config.routes["vote"])} == {True}
        assert len(learned_in(config.routes["vote"])) == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (CONFIG.replace("b: {provider: there}", "b: {provider: there, id: b-2}"), "b is another model"),
        (CONFIG.replace("[a, b, c]", "[a, b, d]"), "c is another model"),
        (CONFIG.replace(":9/v1", ":8/v1"), "the config has changed"),
        (CONFIG.replace("vote: {ensemble", "vote: {style: Be brief., ensemble"), "the prompt's template"),
    ],
    ids=["id", "members", "provider", "style"],
)
def test_a_panel_of_another_state_of_things_is_stale(tmp_path: Path, text: str, why: str) -> None:
    _tied(tmp_path)
    config, faults = configured(text, tmp_path)
    assert config is not None
    assert why in faults[Code.STALE_CALIBRATION]
    assert faults[Code.STALE_CALIBRATION].endswith("Requests go to the best alone.")
    assert why in " ".join(_by(config).stale)
    assert config.stale_calibrations == {("vote",): 1}
    going_on, said = configured(text.replace("by: panels", "on_stale: warn, by: panels"), tmp_path)
    assert going_on is not None
    assert said[Code.STALE_CALIBRATION].endswith("Requests go on by it all the same.")


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (CONFIG, Code.FILE_NOT_FOUND, "There is no file panels/vote.json."),
        (CONFIG.replace("panels/vote", "bad"), Code.UNUSABLE_FILE, "This is no panel of Isthmus."),
        (CONFIG.replace("panels/vote", "others"), Code.UNUSABLE_FILE, "others.json is about none of these"),
        (
            CONFIG.replace(", by", ", weights: {a: 2}, by"),
            Code.CONFLICT,
            "`weights` and `by` exclude each other",
        ),
        (CONFIG.replace(", by", ", combine: first_valid, by"), Code.UNREACHABLE, "counts no votes"),
        (CONFIG.replace("[a, ", "[a, a, "), Code.CONFLICT, "one stands twice"),
    ],
    ids=["missing", "no panel", "others", "weights", "combine", "twice"],
)
def test_a_panel_that_cannot_serve_is_refused(tmp_path: Path, text: str, code: Code, message: str) -> None:
    (tmp_path / "bad.json").write_text("{}")
    others = msgspec.structs.replace(
        KEPT, panel=Panel(weights={"x": 1.0}, best="x", gain=0, why=""), overall={"x": 0.5, "y": 0.4}
    )
    (tmp_path / "others.json").write_bytes(others.dump())
    config, faults = configured(text, tmp_path)
    assert config is None
    assert message in faults[code]


def test_a_vote_of_which_nothing_is_learned_says_so(tmp_path: Path) -> None:
    config, faults = configured(CONFIG.replace(", by: panels/vote.json", ""), tmp_path)
    assert config is not None
    assert "Nothing is learned for this vote" in faults[Code.NOT_LEARNED]
    for other in ("weights: {a: 2}", "otherwise: d", "combine: first_valid"):
        _, said = configured(CONFIG.replace("by: panels/vote.json", other), tmp_path)
        assert not said


@pytest.mark.parametrize(
    ("quantity", "stale"), [("quality", True), ("escalation", False), ("latency", False)]
)
def test_an_alarm_of_drift_makes_a_panel_stale(tmp_path: Path, quantity: str, stale: bool) -> None:
    config = _tied(tmp_path)
    said = Alarm(route="vote", quantity=quantity, watch=config.drift[0].identity, at_us=2_000)
    after = doubted(config, [said])
    assert bool(_by(after).stale) is stale
    assert after.stale_calibrations == {("vote",): stale}


ROLLED = CONFIG.replace("b: {provider: there}", "b: {provider: own}").replace(
    "providers: {", "providers: {own: {engine: builtin}, "
)
NEW = Version("/weights/b", "b" * 64)


def test_new_weights_of_a_member_go_by_what_was_learned_of_them(tmp_path: Path) -> None:
    config = _tied(tmp_path, ROLLED)
    own = Digests().version(config.models["b"])
    (file,) = config.calibrations
    assert isinstance(file, CalibrationFile)
    assert file.tie is not None
    anew = Reempanelled(
        route="vote",
        version=NEW.id,
        file="p2.json",
        sha256="p2",
        asked_at_us=1,
        tie=msgspec.structs.replace(file.tie, models={**file.tie.models, "b": NEW.sha256}),
        weights=(("b", 2.0), ("c", 1.0)),
        why="",
        overall=(("b", 0.9), ("c", 0.8), ("a", 0.7)),
    )
    turn = Turn(
        model="b", stage="full", share=1, ground=own, old=own, new=NEW, why="", who="", at_us=1, anew=(anew,)
    )
    assert msgspec.json.decode(msgspec.json.encode(turn), type=Turn) == turn
    after = rolled(config, [turn], {"b": own})
    by = _by(after)
    assert (by.weights, by.stale) == (((f"b@{NEW.id}", 2.0), ("c", 1.0)), ())
    assert [(it.path, it.kind) for it in after.calibrations] == [("p2.json", "panel")]
    without = rolled(config, [msgspec.structs.replace(turn, anew=())], {"b": own})
    assert _by(without).stale == (f"b@{NEW.id} has other weights",)
