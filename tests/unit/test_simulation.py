"""Simulations: tables of outcomes, strategies in the config's words, and what is told of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from isthmus.cli.simulate import simulate as command
from isthmus.core.errors import IsthmusError
from isthmus.evals.simulation.outcomes import Outcomes, read_outcomes
from isthmus.evals.simulation.playing import hull, simulate, usual_strategies
from isthmus.evals.simulation.specs import (
    Cascade,
    Choose,
    Ensemble,
    Oracle,
    Random,
    Single,
    strategy_of,
    written,
)

CASCADE = "{cascade: [{model: small, accept: {max_risk: 0.1}}, {model: large}]}"
BY_COSTS = "{cascade: [{model: small, accept: {max_risk: 0.1, costs: true}}, {model: large}]}"


def _outcomes(many: int = 600, *, dear: float = 10.0, late: float = 0.0) -> Outcomes:
    """A small model that knows when it is wrong, and a large one that is nearly always right.

    `late` moves its confidences up, without its being right more often.
    """
    rng = np.random.default_rng(1)
    sure = rng.random(many)
    small = (rng.random(many) < sure).astype(float)
    large = (rng.random(many) < 0.95).astype(float)
    scores = np.column_stack((large, small))
    return Outcomes(
        models=("large", "small"),
        tasks=("t",) * many,
        prompts=(None,) * many,
        scores=scores,
        confidences=np.column_stack((np.full(many, np.nan), np.minimum(sure + late, 1))),
        costs=np.tile([dear, 1.0], (many, 1)),
        latencies=np.tile([200.0, 50.0], (many, 1)),
        answers=None,
        left_out=0,
    )


# Strategies in words


@pytest.mark.parametrize(
    "text",
    [
        "{call: small}",
        CASCADE,
        "{cascade: [{model: a, accept: {max_risk: 0.02, delta: 0.2, risk: accepted}}, {model: b}]}",
        "{cascade: [{model: a, accept: {max_risk: 0.02, costs: true}}, {model: b}]}",
        "{cascade: [{model: a, accept: {confidence: 0.75}}, {model: b}]}",
        "{choose: {from: [a, b], minimise: cost, quality_at_least: 0.8}}",
        "{choose: {from: [a, b], cost_at_most: 0.002}}",
        "{ensemble: {models: [a, b, c], combine: vote, otherwise: d}}",
        "oracle",
        "random",
        '{call: "a, b"}',
        '{call: "yes"}',
        '{call: "7"}',
        "{call: org/model-7b:free}",
    ],
)
def test_a_strategy_is_written_as_it_is_read(text: str) -> None:
    assert written(strategy_of(text)) == text


def test_a_name_alone_is_a_single_model() -> None:
    assert strategy_of("small") == Single("small") == strategy_of("call: small")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "no YAML"),
        ("", "none of"),
        ("7", "none of"),
        ("{fallback: [a, b]}", "none of"),
        ("{cascade: [{model: a}, {model: b}]}", "needs `accept"),
        ("{cascade: [{model: a, accept: {max_risk: 2}}, {model: b}]}", "< 1"),
        ("{cascade: [{model: a, accept: {max_risc: 0.1}}, {model: b}]}", "max_risc"),
        ("{cascade: [{model: a, accept: {max_risk: 0.1, confidence: 0.5}}, {model: b}]}", "needs `accept"),
        ("{cascade: [{model: a, accept: {confidence: 0.5, costs: true}}, {model: b}]}", "with `max_risk`"),
        ("{cascade: [{model: a, accept: {max_risk: .nan}}, {model: b}]}", "is no strategy"),
        ("{cascade: [{model: a, accept: {max_risk: 0.1}}]}", "two steps"),
        (
            "{cascade: [{model: a, accept: {max_risk: 0.1}}, {model: b, accept: {confidence: 1}}]}",
            "last step",
        ),
        ("{choose: {from: [a, b]}}", "quality_at_least"),
        ("{choose: {from: [a], quality_at_least: 0.5}}", "length >= 2"),
        ("{ensemble: {models: [a, b], combine: judge}}", "judge"),
        ("&a [*a]", "is no strategy"),
    ],
)
def test_what_is_no_strategy_is_refused_in_words(text: str, why: str) -> None:
    with pytest.raises(IsthmusError) as refusal:
        strategy_of(text)
    assert refusal.value.code == "bad_strategy"
    assert why in refusal.value.message


# Playing


def test_single_models_are_what_the_table_says() -> None:
    outcomes = _outcomes()
    found = simulate(outcomes, [Single("large"), Single("small"), Random(), Oracle()], draws=20)
    large, small, chance, oracle = found.results
    assert found.reference == "large"
    assert large.quality.value == pytest.approx(outcomes.scores[:, 0].mean(), abs=1e-9)
    assert (large.gain.value, large.cost_usd, large.latency_ms) == (0, 10, 200)
    assert small.saving is not None
    assert small.saving.value == pytest.approx(0.9)
    assert small.gain.high < 0
    assert small.gain.low < small.gain.value
    assert small.quality.value < chance.quality.value < large.quality.value
    assert oracle.quality.value == pytest.approx(outcomes.scores.max(1).mean())
    assert oracle.cost_usd < 6


def test_a_cascade_saves_and_keeps_its_promise() -> None:
    (found,) = simulate(_outcomes(), [strategy_of(CASCADE)]).results
    assert found.guarantee is not None
    assert found.guarantee.promised == 5
    assert found.guarantee.broken <= 2
    assert found.guarantee.risk is not None
    assert 0.02 < found.guarantee.risk <= 0.1
    assert found.saving is not None
    assert found.saving.low > 0.1
    assert found.gain.value >= -0.1
    assert found.escalated is not None
    assert found.cost_usd == pytest.approx(1 + 10 * found.escalated, rel=0.02)
    assert found.latency_ms == pytest.approx(50 + 200 * found.escalated, rel=0.02)
    assert found.verdict == ""


def test_a_cascade_that_costs_more_is_not_to_be_used() -> None:
    (found,) = simulate(_outcomes(dear=1.2), [strategy_of(CASCADE)]).results
    assert found.verdict.startswith("do not cascade")


def test_a_confidence_without_a_promise_is_taken_as_it_is() -> None:
    text = "{cascade: [{model: small, accept: {confidence: 0.5}}, {model: large}]}"
    (found,) = simulate(_outcomes(), [strategy_of(text)]).results
    assert found.guarantee is None
    assert found.escalated == pytest.approx(0.5, abs=0.05)


def test_too_few_labels_give_no_guarantee_and_ask_the_strong_model() -> None:
    (found,) = simulate(_outcomes(120), [strategy_of(CASCADE)]).results
    assert found.verdict == "no guarantee: 60 labels are too few: 100 are the least"
    assert found.escalated == 1


def _uneven(many: int = 2000) -> Outcomes:
    """One query in four is long, for which the large model costs twenty times as much."""
    rng = np.random.default_rng(5)
    outcomes = _outcomes(many)
    long = rng.random(many) < 0.25
    costs = np.column_stack((np.where(long, 20.0, 1.0), np.full(many, 0.1)))
    return outcomes._replace(prompts=tuple("word " * (400 if it else 20) for it in long), costs=costs)


def test_a_cascade_by_costs_pays_less_for_the_same_promise() -> None:
    plain, by_costs = simulate(_uneven(), [strategy_of(CASCADE), strategy_of(BY_COSTS)]).results
    assert by_costs.cost_usd < plain.cost_usd * 0.9
    assert by_costs.guarantee is not None
    assert by_costs.guarantee.promised == 5
    assert by_costs.guarantee.broken <= 2
    assert by_costs.guarantee.risk is not None
    assert 0.05 < by_costs.guarantee.risk <= 0.1
    assert by_costs.escalated is not None
    assert 0 < by_costs.escalated < 1


def test_a_cascade_by_costs_needs_as_many_labels_again() -> None:
    outcomes = _uneven(360)
    plain, by_costs = simulate(outcomes, [strategy_of(CASCADE), strategy_of(BY_COSTS)]).results
    assert not plain.verdict.startswith("no guarantee")
    assert by_costs.verdict == "no guarantee: 90 labels are too few: 100 are the least"
    (few,) = simulate(_uneven(50), [strategy_of(BY_COSTS)]).results
    assert few.verdict.startswith("no guarantee")
    assert few.escalated == 1


def test_a_cascade_by_costs_is_parted_by_chance_whatever_the_order_of_the_table() -> None:
    """The hard ones stand first: by the easy ones alone nearly every answer might be kept."""
    easy = np.arange(800) >= 400
    small = np.where(easy, np.arange(800) % 50 > 0, np.arange(800) % 2 > 0).astype(float)
    table = _outcomes(800)._replace(
        scores=np.column_stack((np.ones(800), small)),
        confidences=np.column_stack((np.full(800, np.nan), np.full(800, 0.7))),
        prompts=("the same",) * 800,
    )
    (found,) = simulate(table, [strategy_of(BY_COSTS)], later=table).results
    # A quarter is lost by keeping all, and nothing tells the answers apart.
    assert found.verdict.startswith("no guarantee"), found
    assert found.escalated == 1


def test_whether_a_cascade_pays_is_a_question_of_its_own_strong_model() -> None:
    outcomes = _outcomes()
    dear = Outcomes(
        models=("dearest", *outcomes.models),
        tasks=outcomes.tasks,
        prompts=outcomes.prompts,
        scores=np.column_stack((np.ones(600), outcomes.scores)),
        confidences=np.column_stack((np.full(600, np.nan), outcomes.confidences)),
        costs=np.column_stack((np.full(600, 50.0), np.tile([1.2, 1.0], (600, 1)))),
        latencies=np.column_stack((np.full(600, 300.0), outcomes.latencies)),
        answers=None,
        left_out=0,
    )
    found = simulate(dear, [strategy_of(CASCADE)])
    (cascade,) = found.results
    assert found.reference == "dearest"
    assert cascade.saving is not None
    assert cascade.saving.low > 0.9
    assert cascade.verdict.startswith("do not cascade")


def test_each_order_of_a_cascade_has_its_curve() -> None:
    curves = simulate(_uneven(), [strategy_of(CASCADE), strategy_of(BY_COSTS)]).curves
    plain, by_costs = (curves[f"small, then large{it}"] for it in ("", ", by costs"))
    # Both begin with the small model alone and end with all escalated; between, costs are spent better.
    assert plain[0] == by_costs[0]
    assert plain[-1] == pytest.approx(by_costs[-1])
    assert np.interp(3.0, *zip(*by_costs, strict=True)) > np.interp(3.0, *zip(*plain, strict=True))


def test_confidences_that_are_no_probabilities_may_go_by_costs() -> None:
    outcomes = _uneven()
    logits = outcomes._replace(confidences=np.log(outcomes.confidences / (1 - outcomes.confidences)))
    (found,) = simulate(logits, [strategy_of(BY_COSTS)]).results
    assert found.guarantee is not None
    assert found.guarantee.promised == 5
    assert found.escalated is not None
    assert 0 < found.escalated < 0.9


def test_what_came_later_and_is_shifted_has_no_guarantee_here() -> None:
    early = _outcomes()
    same = simulate(early, [strategy_of(CASCADE)], later=_outcomes(400))
    assert (same.later, same.draws, same.results[0].verdict) == (400, 1, "")
    shifted = simulate(early, [strategy_of(CASCADE)], later=_outcomes(400, late=0.2))
    assert shifted.results[0].verdict.startswith("no guarantee here: the confidences are others")
    assert shifted.results[0].guarantee is not None
    assert shifted.results[0].guarantee.broken == 1


def test_what_came_later_and_errs_more_at_the_same_confidence_has_no_guarantee_here() -> None:
    later = _outcomes(400)
    worse = np.column_stack((np.ones(400), later.scores[:, 1] * (np.arange(400) % 2)))
    (found,) = simulate(_outcomes(), [strategy_of(CASCADE)], later=later._replace(scores=worse)).results
    assert found.verdict == "no guarantee here: what came later has more errors at the same confidence"


def test_choice_learns_which_tasks_are_easy() -> None:
    rng = np.random.default_rng(0)
    base = _outcomes(600)
    hard = np.arange(600) % 2 == 0
    scores = np.column_stack((np.full(600, 0.95), np.where(hard, 0.2, 0.95)))
    outcomes = base._replace(
        tasks=tuple("hard" if it else "easy" for it in hard),
        prompts=tuple(f"{'prove' if it else 'name'} {rng.integers(9)}" for it in hard),
        scores=(rng.random((600, 2)) < scores).astype(float),
    )
    text = "{choose: {from: [large, small], minimise: cost, quality_at_least: 0.8}}"
    (found,) = simulate(outcomes, [strategy_of(text)], draws=2).results
    assert found.saving is not None
    assert found.saving.value == pytest.approx(0.45, abs=0.05)
    assert found.gain.value > -0.05


def _voters(accuracies: tuple[float, ...], many: int = 600) -> Outcomes:
    rng = np.random.default_rng(0)
    scores = (rng.random((many, len(accuracies))) < accuracies).astype(float)
    answers = tuple(tuple("yes" if it else f"no {rng.integers(9)}" for it in row) for row in scores)
    filled = np.ones_like(scores)
    names = tuple("abc"[: len(accuracies)])
    return Outcomes(names, (None,) * many, (None,) * many, scores, filled, filled, filled, answers, 0)


def test_a_vote_of_equals_gains_and_one_beside_a_better_model_is_that_model() -> None:
    vote = Ensemble(models=("a", "b", "c"))
    (gained,) = simulate(_voters((0.75, 0.75, 0.74)), [vote]).results
    assert gained.gain.low > 0
    assert gained.cost_usd == 3
    (alone,) = simulate(_voters((0.9, 0.6, 0.6)), [vote]).results
    assert (alone.gain.value, alone.cost_usd, alone.verdict) == (0, 1, "nobody else is near it")


def test_who_does_not_agree_asks_another() -> None:
    ensemble = Ensemble(models=("b", "c"), otherwise="a")
    (found,) = simulate(_voters((0.95, 0.7, 0.7)), [ensemble]).results
    assert found.escalated is not None
    assert 0.2 < found.escalated < 0.8
    assert found.gain.value > -0.05


def test_the_hull_holds_what_mixing_can_do() -> None:
    assert hull([(1, 0.5), (2, 0.6), (3, 0.9), (4, 0.8)]) == ((1, 0.5), (3, 0.9))
    assert hull([(1, 0.5)]) == ((1, 0.5),)
    assert hull([(1, 0.5), (1, 0.7), (2, 0.7)]) == ((1, 0.7),)


def test_the_usual_strategies_are_those_that_the_table_allows() -> None:
    found = usual_strategies(_outcomes(), 0.05, 0.1)
    assert found[:2] == [Single("large"), Single("small")]
    assert [type(it) for it in found[2:]] == [Cascade, Random, Oracle]
    kinds = {type(it) for it in usual_strategies(_voters((0.75, 0.75, 0.74)), 0.05, 0.1)}
    assert Ensemble in kinds
    assert Choose not in kinds
    by_costs = [it for it in usual_strategies(_uneven(), 0.05, 0.1) if isinstance(it, Cascade)]
    assert [it.first.accept.costs for it in by_costs if it.first.accept] == [False, True]


@pytest.mark.parametrize(
    ("outcomes", "text", "says"),
    [
        (_outcomes(10), "small", "10 queries"),
        (_outcomes(), "medium", "no model 'medium'"),
        (
            _outcomes(),
            "{cascade: [{model: large, accept: {max_risk: 0.1}}, {model: small}]}",
            "confidence of large",
        ),
        (_outcomes(), BY_COSTS, "no prompt for some"),
        (_outcomes(), "{ensemble: {models: [small, large]}}", "no answers"),
        (_outcomes(), "{choose: {from: [small, large], quality_at_least: 0.5}}", "neither prompts nor tasks"),
        (_outcomes(dear=float("nan")), "large", "no cost of large"),
    ],
)
def test_what_the_table_lacks_is_said(outcomes: Outcomes, text: str, says: str) -> None:
    with pytest.raises(IsthmusError, match=says):
        simulate(outcomes, [strategy_of(text)])


# Tables and the command


def _write(path: Path, outcomes: Outcomes) -> Path:
    lines = ["qid,model,score,confidence,cost_usd,latency_ms"]
    for row in range(len(outcomes.scores)):
        for at, model in enumerate(outcomes.models):
            sure = outcomes.confidences[row, at]
            cells = (row, model, outcomes.scores[row, at], "" if np.isnan(sure) else sure, 1.0, 5)
            lines.append(",".join(map(str, cells)))
    path.write_text("\n".join(lines))
    return path


def test_tables_of_each_form_are_read_alike(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    rows = [
        {"query": str(at), "model": model, "score": at % 2, "cost": 0.5, "task": "t", "prompt": "p"}
        for at in range(3)
        for model in ("b", "a")
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.json", "a.parquet"):
        found = read_outcomes(tmp_path / name)
        assert found.models == ("a", "b")
        assert found.scores.tolist() == [[0, 0], [1, 1], [0, 0]]
        assert found.costs.tolist() == [[0.5, 0.5]] * 3
        assert (found.tasks, found.prompts, found.answers) == (("t",) * 3, ("p",) * 3, None)
        assert np.isnan(found.confidences).all()


def test_queries_that_a_model_has_not_answered_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("qid,model,score\n1,a,1\n1,b,0\n2,a,1\n")
    found = read_outcomes(path)
    assert (len(found.scores), found.left_out) == (1, 1)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "There is no row"),
        ("qid,model\n1,a\n", "no column score"),
        ("qid,model,score\n1,a,2\n", ":2: A score is from 0 to 1"),
        ("qid,model,score\n1,a,nan\n", ":2: `score` is no number"),
        ("qid,model,score\n1,a,high\n", "no number"),
        ("qid,model,score\n1,a,1\n1,a,0\n", ":3: a has answered this query"),
        ("qid,model,score\n1,a,1\n1,,1\n", ":3: This row has no model"),
        ("qid,model,score,cost_usd\n1,a,1,-1\n", "not below zero"),
        ("qid,model,score\n1,a,1\n2,b,1\n", "No query was answered by every model"),
        ('{"qid": 1, "model": "a", "score": 1}\n[1]\n', "no row of a table"),
        ("\x00\x01\x02\n\x03", "no column"),
    ],
)
def test_a_wrong_table_is_refused_with_its_place(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "table"
    path.write_text(content)
    with pytest.raises(IsthmusError, match=says):
        read_outcomes(path)


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_the_command_tells_in_markdown_html_and_json(tmp_path: Path) -> None:
    table = _write(tmp_path / "t.csv", _outcomes(400))
    page = tmp_path / "page.html"
    prices = ("--cost", "large=0.01", "--cost", "small=0.001")
    found = _run(str(table), "-s", CASCADE, "-s", "oracle", *prices, "--html", str(page))
    assert found.exit_code == 0, found.output
    assert "small, then large at 0.1 added" in found.stdout
    assert CASCADE in found.stdout
    assert "<svg" in page.read_text()
    data = json.loads(_run(str(table), *prices, "--draws", "2", "--json").stdout)
    assert data["reference"] == "large"
    assert {it["strategy"] for it in data["results"]} >= {"oracle", "random", "{call: small}"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("missing.csv",), "cannot be read: No such file"),
        ((".",), "is a directory"),
        (("TABLE", "--cost", "large"), "is not MODEL=USD"),
        (("TABLE", "--cost", "large=-1"), "is not MODEL=USD"),
        (("TABLE", "--cost", "large=nan"), "is not MODEL=USD"),
        (("TABLE", "--cost", "huge=1"), "no model 'huge'"),
        (("TABLE", "--reference", "huge"), "no model 'huge'"),
        (("TABLE", "-s", "{"), "is no strategy"),
        (("TABLE", "--max-risk", "0"), "0"),
        (("TABLE", "--later", "missing.csv"), "cannot be read"),
    ],
)
def test_wrong_arguments_are_told_in_words(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    table = str(_write(tmp_path / "t.csv", _outcomes(40)))
    found = _run(*(table if it == "TABLE" else it for it in arguments))
    assert found.exit_code in (1, 2)
    assert says in found.output
    assert "Traceback" not in found.output
