"""What of a run is a label, what makes a calibration stale, and what a config makes of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.confidence.artefact import Calibration
from isthmus.config.calibrations import tie_of
from isthmus.config.config import Config
from isthmus.config.faults import Code
from isthmus.config.load import parse
from isthmus.config.nodes import nodes_in
from isthmus.core.calibrator import Calibrator, Weighing
from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.core.usage import Charge
from isthmus.evals.calibration import labelled
from isthmus.store.runs import Kept, Place
from isthmus.strategies.plan import Cascade

CONFIG = """
providers: {server: {dialect: openai, base_url: "http://127.0.0.1:9/v1"}}
models: {small: {provider: server}, large: {provider: server}, other: {provider: server}}
routes: {r: PLAN}
"""
CALIBRATED = "{cascade: [{model: small, accept: {calibration: sub/c.json}}, large]}"


CHARGE = Charge(nanousd=1_000_000_000, basis="config", snapshot="")


def _parsed(folder: Path, plan: str, text: str = CONFIG) -> tuple[Config | None, dict[Code, str]]:
    config, faults = parse(text.replace("PLAN", plan), str(folder / "isthmus.yaml"))
    return config, {it.code: it.message for it in faults if it.code != Code.UNUSED}


def _config(folder: Path, plan: str, text: str = CONFIG) -> Config:
    config, faults = _parsed(folder, plan, text)
    assert config is not None, faults
    return config


def _written(folder: Path, **changes: Any) -> Calibration:
    config = _config(folder, "{cascade: [small, large]}")
    (cascade,) = nodes_in(config.routes["r"].plan, Cascade)
    made = Calibration(
        tie=tie_of("r", cascade, config.models, config.providers),
        made_at_us=1,
        asked_at_us=1,
        calibrator=Calibrator(
            target="helps", bias=0, signals={"tokens": Weighing(centre=1, spread=1, weight=1)}, labels=100
        ),
        threshold=0.5,
        risk="added",
        max_risk=0.05,
        delta=0.1,
        promise="",
        labels=200,
        confidences=(0.5,),
    )
    made = msgspec.structs.replace(made, **changes)
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "c.json").write_bytes(made.dump())
    return made


def _calibrated(config: Config) -> Cascade:
    (cascade,) = nodes_in(config.routes["r"].plan, Cascade)
    return cascade


def test_a_calibration_is_a_part_of_what_a_config_means(tmp_path: Path) -> None:
    made = _written(tmp_path)
    config, faults = _parsed(tmp_path, CALIBRATED)
    assert config is not None
    assert not faults
    calibration = _calibrated(config).stages[0].accept.calibration
    assert calibration is not None
    assert (calibration.calibrator, calibration.threshold) == (made.calibrator, 0.5)
    assert config.files == (tmp_path / "sub" / "c.json",)
    assert config.stale_calibrations == {("r",): 0.0}
    hash(config.routes["r"].plan)
    _written(tmp_path, threshold=0.6)
    assert _config(tmp_path, CALIBRATED).hash != config.hash


@pytest.mark.parametrize(
    "plan",
    [
        "{fallback: [CALIBRATED, other]}",
        "{split: [{plan: CALIBRATED}, {model: other}]}",
        "{shadow: other, of: CALIBRATED}",
        "{cascade: [{plan: CALIBRATED, accept: {logprob: -1}}, other]}",
        "{plan: other, thrift: {plan: CALIBRATED}}",
    ],
)
def test_it_is_found_wherever_the_cascade_stands(tmp_path: Path, plan: str) -> None:
    _written(tmp_path)
    config = _config(tmp_path, plan.replace("CALIBRATED", CALIBRATED))
    route = config.routes["r"]
    found = nodes_in(route.plan_for(thrifty=True), Cascade)[0].stages[0].accept.calibration
    assert found is not None
    assert found.calibrator is not None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("large: {provider: server}", "large: {provider: server, id: larger}", "large is another model"),
        ("small: {provider: server}", "small: {provider: server, id: huge}", "small is another model"),
        ("127.0.0.1:9", "127.0.0.1:8", "config has changed"),
        ("large]}", "{model: large, context: with_attempt}]}", "template has changed"),
        ("routes: {r:", "routes: {q:", "made for the route r"),
    ],
)
def test_what_its_answers_depend_on_makes_it_stale(tmp_path: Path, old: str, new: str, words: str) -> None:
    _written(tmp_path)
    text = CONFIG.replace("PLAN", CALIBRATED)
    assert old in text
    config, faults = _parsed(tmp_path, "", text.replace(old, new))
    assert config is not None
    assert words in faults[Code.STALE_CALIBRATION]
    assert set(config.stale_calibrations.values()) == {1.0}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("large: {provider: server}", "large: {provider: server, price: {input: 1, output: 2}}"),
        ("other: {provider: server}", "other: {provider: server, id: another}"),
        ("sub/c.json}", "sub/c.json, refuses: true, logprob: -2}"),
        ("large]}", "large], unsure: deliver, on_stale: warn}"),
        ("routes:", "gateway: {port: 5000}\nroutes:"),
    ],
)
def test_what_they_do_not_depend_on_does_not(tmp_path: Path, old: str, new: str) -> None:
    _written(tmp_path)
    text = CONFIG.replace("PLAN", CALIBRATED)
    assert old in text
    config, faults = _parsed(tmp_path, "", text.replace(old, new))
    assert config is not None
    assert not faults


def test_other_weights_are_another_model(tmp_path: Path) -> None:
    text = """
providers: {here: {engine: builtin}}
models: {small: {provider: here, weights: ./small.gguf}, large: {provider: here, weights: ./large.gguf}}
routes: {r: {cascade: [small, large]}}
"""
    ties = []
    for content in (b"one", b"two"):
        (tmp_path / "small.gguf").write_bytes(content)
        (tmp_path / "large.gguf").write_bytes(b"same")
        config = _config(tmp_path, "", text)
        ties.append(tie_of("r", _calibrated(config), config.models, config.providers))
    then = _written(tmp_path, tie=ties[0])
    assert then.tie.changes(ties[0]) == ()
    assert then.tie.changes(ties[1]) == ("small is another model than it was",)


@pytest.mark.parametrize(
    ("plan", "code", "words"),
    [
        (
            "{cascade: [small, {model: other, accept: {calibration: sub/c.json}}, large]}",
            Code.UNREACHABLE,
            "Only the first step",
        ),
        (
            "{cascade: [{fallback: [small, other], accept: {calibration: sub/c.json}}, large]}",
            Code.CONFLICT,
            "from one model to another",
        ),
        (
            "{cascade: [{model: small, accept: {calibration: sub/c.json}}, {model: other}, large]}",
            Code.CONFLICT,
            "from one model to another",
        ),
        (
            "{cascade: [{model: small, accept: {calibration: sub}}, large]}",
            Code.UNUSABLE_FILE,
            "cannot be read",
        ),
        (
            "{cascade: [{model: small, accept: {calibration: 7}}, large]}",
            Code.WRONG_TYPE,
            "Expected a text",
        ),
        (
            "{ensemble: [small, large], combine: first_valid, accept: {calibration: sub/c.json}}",
            Code.UNREACHABLE,
            "does not look at `calibration`",
        ),
    ],
)
def test_a_calibration_that_nothing_heeds_is_refused(
    tmp_path: Path, plan: str, code: Code, words: str
) -> None:
    _written(tmp_path)
    config, faults = _parsed(tmp_path, plan)
    assert config is None
    assert words in faults[code]


def _kept(**answered: Any) -> Kept:
    return Kept(id="i", key=None, at_us=1, run="r", answered=Answered(model="m", **answered))


def test_only_what_both_models_answered_and_was_scored_is_a_label() -> None:
    good: dict[str, Any] = {"text": "42", "logprobs": (-0.1,), "charge": CHARGE}
    weak = {
        "whole": _kept(**good),
        "failed": _kept(code="timeout"),
        "silent": _kept(text="42"),
        "unscored": _kept(**good),
        "alone": _kept(**good),
        "refused": _kept(**good),
    }
    answers = {Place("weak", name): kept for name, kept in weak.items()}
    answers |= {Place("strong", name): _kept(text="42") for name in weak if name not in ("alone", "refused")}
    answers[Place("strong", "refused")] = _kept(code="no_model_allowed")
    answers[Place("weak", "whole", 1)] = _kept(**good)
    answers[Place("third", "elsewhere")] = _kept(**good)
    marks = {place: Score(value=None if place.sample == "unscored" else 1.0) for place in answers}
    asked = [
        Sample(id=name, request={"messages": [{"role": "user", "content": "Six times seven?"}]})
        for name in (*weak, "elsewhere", "never")
    ]
    found, left_out = labelled("weak", "strong", asked, answers, marks)
    assert [(it.sample, it.tokens, it.weak, it.strong, it.weak_usd, it.strong_usd) for it in found] == [
        ("whole", 8, 1.0, 1.0, 1.0, None)
    ]
    assert left_out == {
        "not answered by both models": 3,
        "without a score of both answers": 1,
        "without log-probabilities of the weak answer": 1,
    }
