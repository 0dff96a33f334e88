"""What a run says, by answers and scores that are known: figures, verdicts, gates and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.core.usage import Charge, Usage
from isthmus.evals.comparison import Side, compare
from isthmus.evals.outcome import Outcome, failed_gates, outcome, prompt_of
from isthmus.evals.report import comparison_report, pilot_report
from isthmus.reports.document import Document, Scatter, Table
from isthmus.reports.html import html
from isthmus.reports.markdown import markdown
from isthmus.store.runs import Candidate, Kept, Place, Run

SAMPLES = tuple(
    Sample(
        id=f"s{number:03}",
        request={"messages": [{"role": "user", "content": f"q {number}"}]},
        target=("yes",),
    )
    for number in range(100)
)


def run_of(models: Sequence[str], samples: Sequence[Sample] = SAMPLES, **more: Any) -> Run:
    return Run(
        id=more.pop("id", "run_1"),
        identity="i",
        at_us=1_700_000_000_000_000,
        dataset="work.jsonl",
        dataset_hash="d" * 64,
        sample_ids=tuple(it.id for it in samples),
        models=tuple(Candidate(name=it, id=it, provider="p", kind="closed") for it in models),
        scorers=("exact",),
        config_hash="c" * 64,
        **more,
    )


def answered(model: str, **more: Any) -> Answered:
    said: dict[str, Any] = {
        "model": model,
        "text": "yes",
        "finish": "stop",
        "usage": Usage(input=10, output=2),
        "charge": Charge(nanousd=2_000_000, basis="config", snapshot="s"),
        "first_token_ms": 5.0,
        "total_ms": 10.0,
    }
    return Answered(**{**said, **more})


def failed(model: str, code: str) -> Answered:
    return Answered(model=model, code=code, error="why")


def kept(answers: Mapping[Place, Answered]) -> dict[Place, Kept]:
    return {
        place: Kept(id=f"{number}", key=None, at_us=1, run="run_1", answered=it)
        for number, (place, it) in enumerate(answers.items())
    }


def drawn(right: Mapping[str, int], **more: Any) -> Outcome:
    """Models of which the first so many samples are answered well."""
    run = run_of(list(right), **more)
    places = [Place(model, it.id) for model in right for it in SAMPLES]
    scores = {it: Score(value=float(int(it.sample[1:]) < right[it.model])) for it in places}
    return outcome(run, SAMPLES, kept({it: answered(it.model) for it in places}), {"exact": scores})


def test_a_share_has_the_exact_interval_and_pairs_are_told_apart() -> None:
    found = drawn({"good": 90, "bad": 60, "also-bad": 58})
    good = found.standings[0].qualities[0]
    assert (good.mean, good.n, good.unscored) == (0.9, 100, 0)
    # Clopper and Pearson's interval of 90 of 100.
    assert (round(good.interval.low, 4), round(good.interval.high, 4)) == (0.8238, 0.951)
    verdicts = {(it.a, it.b): it.verdict for it in found.pairs}
    assert verdicts == {
        ("good", "bad"): "better",
        ("good", "also-bad"): "better",
        ("bad", "also-bad"): "cannot be told",
    }
    small = found.pairs[2]
    assert small.difference == pytest.approx(0.02)
    assert small.needed is not None
    assert small.needed > 100
    assert [it.p <= it.adjusted_p for it in found.pairs] == [True] * 3


def test_cost_latency_and_tokens_are_those_of_the_answers() -> None:
    run = run_of(["m"], SAMPLES[:4])
    times = [10.0, 20.0, 30.0, 400.0]
    answers = {
        Place("m", it.id): answered("m", total_ms=ms, first_token_ms=ms / 10)
        for it, ms in zip(SAMPLES, times, strict=False)
    }
    standing = outcome(run, SAMPLES[:4], kept(answers), {}).standings[0]
    assert (standing.total_ms.p50, standing.total_ms.p95) == (20.0, 400.0)
    assert standing.first_token_ms.p50 == 2.0
    assert standing.usd_per_thousand == pytest.approx(2.0)
    assert (standing.tokens_in, standing.tokens_out) == (10, 2)


def test_an_unknown_price_is_unknown_and_failures_cost_what_they_cost() -> None:
    run = run_of(["m", "n"], SAMPLES[:2])
    unknown = Charge(nanousd=None, basis="unknown", snapshot="s")
    answers = {
        Place("m", "s000"): answered("m", charge=unknown),
        Place("m", "s001"): answered("m"),
        Place("n", "s000"): answered("n"),
        Place("n", "s001"): failed("n", "unreachable"),
    }
    first, second = outcome(run, SAMPLES[:2], kept(answers), {}).standings
    assert first.usd_per_thousand is None
    assert second.usd_per_thousand == pytest.approx(1.0)


def test_what_is_no_answer_is_told_apart() -> None:
    run = run_of(["m"], SAMPLES[:8])
    said = [
        answered("m"),
        answered("m", finish="length"),
        answered("m", finish="refusal"),
        failed("m", "timeout"),
        failed("m", "no_model_allowed"),
        answered("m"),
        answered("m"),
    ]
    answers = {Place("m", it.id): one for it, one in zip(SAMPLES, said, strict=False)}
    values = [1.0, 0.0, 0.0, 0.0, None, None, 1.0]
    scores = {Place("m", it.id): Score(value=one) for it, one in zip(SAMPLES, values, strict=False)}
    found = outcome(run, SAMPLES[:8], kept(answers), {"exact": scores})
    it = found.standings[0]
    assert (it.asked, it.answered, it.left, it.not_permitted) == (8, 5, 1, 1)
    assert it.failed == {"timeout": 1}
    assert (it.truncated, it.refused) == (1, 1)
    assert (it.qualities[0].n, it.qualities[0].mean, it.qualities[0].unscored) == (5, 0.4, 1)
    assert not found.complete
    text = markdown(pilot_report(found))
    for words in ("NOT COMPLETE", "timeout", "cut off", "refused", "not permitted", "not scored by exact"):
        assert words in text


def test_pairs_are_compared_over_what_both_may_see() -> None:
    run = run_of(["m", "n"], SAMPLES[:3])
    answers = {Place(model, it.id): answered(model) for model in "mn" for it in SAMPLES[:3]}
    answers[Place("n", "s000")] = failed("n", "no_model_allowed")
    scores = {it: Score(value=None if answers[it].code else 1.0) for it in answers}
    (pair,) = outcome(run, SAMPLES[:3], kept(answers), {"exact": scores}).pairs
    assert pair.n == 2


def test_of_samples_asked_several_times_the_mean_counts_once() -> None:
    run = run_of(["m"], SAMPLES[:2], repeat=2)
    scores = {
        Place("m", "s000", 0): Score(value=1.0),
        Place("m", "s000", 1): Score(value=0.0),
        Place("m", "s001", 0): Score(value=1.0),
        Place("m", "s001", 1): Score(value=1.0),
    }
    found = outcome(run, SAMPLES[:2], kept({it: answered("m") for it in scores}), {"exact": scores})
    quality = found.standings[0].qualities[0]
    assert (quality.mean, quality.n) == (0.75, 2)
    assert found.standings[0].asked == 4


def test_the_frontier_leaves_out_who_is_dearer_and_no_better() -> None:
    run = run_of(["cheap", "dear", "best", "twin"], SAMPLES[:2])
    price = {"cheap": 1, "dear": 5, "best": 9, "twin": 1}
    value = {"cheap": 0.5, "dear": 0.4, "best": 1.0, "twin": 0.5}
    places = [Place(it.name, sample.id) for it in run.models for sample in SAMPLES[:2]]
    answers = {
        it: answered(it.model, charge=Charge(nanousd=price[it.model], basis="config", snapshot="s"))
        for it in places
    }
    scores = {it: Score(value=value[it.model]) for it in places}
    found = outcome(run, SAMPLES[:2], kept(answers), {"rouge": scores})
    assert found.frontier == ("cheap", "twin", "best")


def test_gates_fail_by_value_by_evidence_and_by_what_is_missing() -> None:
    found = drawn({"base": 90, "worse": 60, "like": 88})
    assert failed_gates(found) == []
    assert failed_gates(found, fail_under=0.5) == []
    assert failed_gates(found, fail_under=0.7) == ["the quality of worse is 0.600, below 0.7"]
    assert failed_gates(found, baselines=["base"]) == ["worse is worse than base by 0.300"]
    assert failed_gates(found, baselines=["worse"]) == []
    left = outcome(run_of(["m"]), SAMPLES, {}, {})
    assert failed_gates(left, fail_under=0.1) == [
        "the run is not complete",
        "the quality of m is unknown, below 0.1",
    ]


@pytest.mark.parametrize("marked", [True, False])
def test_a_gate_fails_where_what_has_no_score_may_be_worth_nothing(marked: bool) -> None:
    places = [Place("m", it.id) for it in SAMPLES]
    scores = {it: Score(value=1.0) for it in places[:90]}
    if marked:
        scores |= {it: Score(value=None, why="the judge did not answer") for it in places[90:]}
    found = outcome(run_of(["m"]), SAMPLES, kept({it: answered("m") for it in places}), {"judge": scores})
    assert found.standings[0].qualities[0].unscored == 10
    assert failed_gates(found, fail_under=0.9) == []
    assert failed_gates(found, fail_under=0.95) == [
        "the quality of m may be 0.900, below 0.95: 10 samples have no score"
    ]


def test_a_report_can_be_made_of_next_to_nothing() -> None:
    nothing = outcome(run_of(["m"]), SAMPLES, {}, {})
    assert "NOT COMPLETE" in markdown(pilot_report(nothing))
    assert "<h1>" in html(pilot_report(nothing))
    assert msgspec.json.encode(nothing)


def test_reports_show_samples_where_models_differ_and_a_chart() -> None:
    found = drawn({"good": 51, "bad": 50})
    (differing,) = found.differing
    assert (differing.sample, differing.prompt, differing.target) == ("s050", "q 50", ("yes",))
    assert [(it.model, it.value) for it in differing.said] == [("good", 1.0), ("bad", 0.0)]
    document = pilot_report(found)
    (chart,) = blocks(document, Scatter)
    assert [(it.name, it.marked) for it in chart.points] == [("good", True), ("bad", False)]
    page = html(document)
    assert page.count("<circle") == 2
    assert "good" in page


def blocks(document: Document, kind: type[Any]) -> list[Any]:
    return [it for section in document.sections for it in section.blocks if isinstance(it, kind)]


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]}, "a"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "x"}]}]}, "b"),
        ({"messages": []}, ""),
        ({}, ""),
    ],
)
def test_the_prompt_is_the_last_text(request_: dict[str, Any], told: str) -> None:
    assert prompt_of(Sample(id="s", request=request_)) == told


def side(right: int, name: str = "m", samples: Sequence[Sample] = SAMPLES, scorer: str = "exact") -> Side:
    run = run_of([name], samples, id=f"run_{name}{right}")
    scores = {Place(name, it.id): Score(value=float(n < right)) for n, it in enumerate(samples)}
    return Side(run, tuple(samples), {scorer: scores})


def test_two_runs_of_the_same_samples_are_compared_sample_by_sample() -> None:
    (change,) = compare(side(60), side(80)).changes
    assert (change.verdict, change.paired, change.n) == ("better", True, 100)
    assert change.difference == pytest.approx(0.2)
    assert compare(side(80), side(60)).changes[0].verdict == "worse"
    assert compare(side(80), side(79)).changes[0].verdict == "cannot be told"


def test_a_sample_that_was_changed_is_not_the_same() -> None:
    edited = [msgspec.structs.replace(it, target=("no",)) if n < 50 else it for n, it in enumerate(SAMPLES)]
    (change,) = compare(side(60), side(80, samples=edited)).changes
    assert change.n == 50


def test_runs_without_a_common_sample_are_told_apart_with_caution() -> None:
    others = [msgspec.structs.replace(it, id=f"o{it.id}") for it in SAMPLES]
    (far,) = compare(side(10), side(90, samples=others)).changes
    assert (far.verdict, far.paired, far.p) == ("better", False, None)
    assert compare(side(90), side(10, samples=others)).changes[0].verdict == "worse"
    assert compare(side(50), side(55, samples=others)).changes[0].verdict == "cannot be told"
    assert "unpaired" in markdown(comparison_report(compare(side(50), side(55, samples=others))))


def test_other_models_are_compared_each_with_each_and_other_scorers_not_at_all() -> None:
    found = compare(side(60, "old"), side(80, "new"))
    assert [(it.a, it.b, it.verdict) for it in found.changes] == [("old", "new", "better")]
    assert any("old" in row for table in blocks(comparison_report(found), Table) for row in table.rows)
    none = compare(side(60), side(80, scorer="rouge"))
    assert none.changes == ()
    assert "no scorer in common" in markdown(comparison_report(none))
