"""What a run teaches a router, what the verdict on it is, and what its file says of where it comes from."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import numpy as np
import pytest

from isthmus.catalog.prices import UNKNOWN, Period, Price, PriceList, Rates
from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.core.foresight import Foresight, Outlook
from isthmus.core.label import Label
from isthmus.core.portfolio import Model
from isthmus.core.tie import Tie
from isthmus.core.usage import Charge, Usage
from isthmus.dialects.openai import OpenAIChat
from isthmus.evals.choosing import Lesson, Trial, lessons, teach
from isthmus.evals.choosing_report import choosing_report
from isthmus.gateway.foresight import Foresights
from isthmus.reports.markdown import markdown
from isthmus.routing.learned.header import parted
from isthmus.routing.learned.predictor import Predictor
from isthmus.routing.route import Route
from isthmus.store.runs import Kept, Place
from isthmus.strategies.plan import Choose
from isthmus.strategies.plan.node import Circumstances, Learned

MODELS = ("small", "large")
TIE = Tie(route="r", models={"small": "1", "large": "2"}, template="", config="")
EASY, HARD = "add the numbers {} and two", "prove the theorem of order {}"


def price(nanousd: int) -> Price:
    classes = ("cache_read", "cache_write_5m", "cache_write_1h", "input_audio", "output_audio", "reasoning")
    rates = Rates(input=nanousd, output=nanousd, **dict.fromkeys(classes, nanousd))
    return Price((PriceList(basis="config", snapshot="", periods=(Period(base=rates),)),))


PRICES = {"small": price(100), "large": price(5_000)}


def taught(
    many: int = 400, *, small_knows: float = 0.97, dear: float = 0.01, usd: bool = True
) -> list[Lesson]:
    """The small model answers easy texts, the large one all."""
    rng = np.random.default_rng(3)
    found = []
    for at in range(many):
        hard = at % 2
        right = float(rng.random() < (0.05 if hard else small_knows))
        found.append(
            Lesson(
                sample=f"s{at}",
                words=(HARD if hard else EASY).format(rng.integers(50)),
                task="hard" if hard else "easy",
                tokens=20,
                max_output=None,
                label=Label("confidential" if at == 7 else "internal"),
                scores=(right, 1.0),
                usd=(0.0001, dear) if usd else (0.0001, None),
                outputs=(10, 30),
            )
        )
    return found


def tried(
    some: list[Lesson], choose: Choose, *, prices: dict[str, Price] | None = None, named: bool = False
) -> tuple[Trial, bytes | None]:
    limits: dict[str, Any] = {"max_risk": 0.05, "delta": 0.1, "made_at_us": 1, "asked_at_us": 1}
    return teach(some, choose, TIE, prices or PRICES, embedding=None, named=named, **limits)


CHEAPEST = Choose(among=MODELS, quality_at_least=0.8)


@pytest.mark.parametrize("named", [False, True])
def test_a_choice_that_pays_is_advised_and_its_file_says_where_it_is_from(named: bool) -> None:
    trial, content = tried(taught(), CHEAPEST, named=named)
    assert (trial.verdict, trial.reference, trial.learned, trial.tested) == ("choose", "large", 200, 200)
    assert trial.shares["small"] == pytest.approx(0.5, abs=0.1)
    assert trial.saving is not None
    assert 0.3 < trial.saving.low < 0.55 < trial.saving.high < 0.7
    policies = {it.name: it for it in trial.policies}
    assert policies["oracle"].quality == 1.0
    assert policies["random"].quality == pytest.approx(policies["small alone"].quality / 2 + 0.5)
    assert policies["choice"].gain == pytest.approx(policies["choice"].quality - 1.0)
    assert policies["choice"].usd_per_thousand < policies["large alone"].usd_per_thousand  # type: ignore[operator]
    assert content is not None
    header, _ = parted(content)
    assert header.models == MODELS
    assert header.origin.tie == TIE
    assert header.origin.label == trial.label == Label("confidential")
    assert header.origin.outputs == {"small": 10, "large": 30}
    said = markdown(choosing_report("r", trial))
    assert "Choose: with a chance of at least 0.9" in said
    assert "confidential" in said


def test_what_does_not_pay_is_not_advised() -> None:
    dear, content = tried(taught(dear=0.0001), CHEAPEST)
    assert (dear.verdict, content) == ("do not choose", None)
    assert "no saving against asking large alone can be shown" in dear.why
    unknown, _ = tried(taught(usd=False), CHEAPEST)
    assert unknown.verdict == "do not choose"
    assert "a price is not known" in unknown.why
    assert {it.usd_per_thousand for it in unknown.policies if it.name != "small alone"} == {None}
    bad, _ = tried(taught(small_knows=0.7), Choose(among=MODELS, quality_at_least=0.3))
    assert bad.verdict == "no guarantee"
    assert "it cannot be shown that it loses less than 0.05" in bad.why


def dealt(some: list[Lesson]) -> list[Lesson]:
    """The same, where a coin chose whom to ask, and only that answer was scored."""
    rng = np.random.default_rng(5)
    found = []
    for lesson in some:
        asked = int(rng.random() < 0.5)
        scores = tuple(it if at == asked else None for at, it in enumerate(lesson.scores))
        odds = tuple(0.5 if at == asked else 0.0 for at in range(2))
        found.append(lesson._replace(scores=scores, odds=odds))
    return found


def test_half_of_the_scores_tell_the_same_of_the_models_and_promise_less() -> None:
    every, _ = tried(taught(1_000), CHEAPEST)
    half, content = tried(dealt(taught(1_000)), CHEAPEST)
    assert (half.verdict, half.reference, half.recorded) == ("choose", "large", 1_000)
    assert content is not None
    assert half.shares["small"] == pytest.approx(every.shares["small"], abs=0.05)
    known, guessed = ({it.name: it for it in trial.policies} for trial in (every, half))
    for name in ("choice", "small alone", "large alone"):
        assert guessed[name].interval.low <= known[name].quality <= guessed[name].interval.high
        assert guessed[name].gain_interval.width >= known[name].gain_interval.width
    assert "1,000 are people's and 0 judges'" in markdown(choosing_report("r", half))


def test_scores_that_tell_of_some_models_only_promise_nothing() -> None:
    recorded = dealt(taught(1_000))
    small = [it for it in recorded if it.scores[1] is None]
    trial, content = tried(small, CHEAPEST)
    assert (trial.verdict, content) == ("no guarantee", None)
    assert "no answer of large was scored" in trial.why
    chosen = [it for at, it in enumerate(recorded) if it.scores[1] is None or at % 4 == 0]
    trial, content = tried(chosen, CHEAPEST)
    assert (trial.verdict, content) == ("no guarantee", None)
    assert "answers of small and large were scored more or less often" in trial.why


def test_few_samples_promise_nothing() -> None:
    for many in (0, 1, 199):
        trial, content = tried(taught(many), CHEAPEST)
        assert (trial.verdict, content, trial.needed) == ("no guarantee", None, 200)
        assert "No guarantee: at least 100" in markdown(choosing_report("r", trial))


def test_under_a_price_a_gain_has_to_be_shown() -> None:
    within = Choose(among=MODELS, cost_at_most=0.02)
    trial, content = tried(taught(), within)
    assert (trial.verdict, trial.reference, content) == ("do not choose", "large", None)
    assert "no gain over asking large alone" in trial.why
    none = tried(taught(), Choose(among=MODELS, cost_at_most=0.0000001))[0]
    assert (none.reference, none.shares["small"]) == ("small", 1.0), "none is within: the cheapest"
    assert none.verdict == "do not choose"
    # Each knows what the other does not.
    apart = [it._replace(scores=(0.0, 1.0) if at % 2 else (1.0, 0.0)) for at, it in enumerate(taught())]
    gain, learned = tried(apart, within)
    assert gain.verdict == "choose"
    assert gain.policies[0].gain > 0.4
    assert learned is not None


def test_a_price_that_is_not_known_is_not_chosen_for_being_cheap() -> None:
    prices = {"small": UNKNOWN, "large": price(5_000)}
    trial, _ = tried(taught(), CHEAPEST, prices=prices)
    assert trial.shares == {"small": 0.0, "large": 1.0}


def test_only_samples_that_every_model_answered_teach() -> None:
    samples = [
        Sample(
            id=f"s{at}",
            request={"messages": [{"role": "user", "content": f"question {at}"}], "max_tokens": 7},
            metadata={"task": "sums"} if at else {"task": 3},
        )
        for at in range(4)
    ]
    answers, marks = {}, {}
    for at, model in ((at, model) for at in range(4) for model in MODELS):
        place = Place(model, f"s{at}")
        answered = Answered(
            model=model,
            text="yes",
            usage=Usage(input=3, output=9),
            charge=Charge(nanousd=2_000_000_000, basis="config", snapshot=""),
            label=Label("confidential"),
            code="timeout" if (at, model) == (2, "small") else None,
        )
        answers[place] = Kept(id=f"{at}{model}", key=None, at_us=1, run="run", answered=answered)
        marks[place] = Score(value=None if (at, model) == (3, "large") else 0.5)
    found, left = lessons(MODELS, samples, answers, marks, {"max_tokens": 5})
    assert [it.sample for it in found] == ["s0", "s1"]
    assert left == {"not answered by every model": 1, "without a score of every answer": 1}
    assert (found[0].words, found[0].task, found[0].max_output) == ("question 0", None, 5)
    assert (found[1].task, found[1].usd, found[1].outputs) == ("sums", (2.0, 2.0), (9, 9))
    assert found[1].label == Label("confidential"), "what was found of its answer counts, too"
    assert msgspec.json.encode(found[1].scores) == b"[0.5,0.5]"


class _Known:
    """Stands for a learned router that has always learned of the same two models."""

    def foresee(self, *_: Any) -> Foresight:
        outlooks = (Outlook("large", 0.95, 30), Outlook("small", 0.85, 10))
        return Foresight(by="one", supported=True, why="", input=20, outlooks=outlooks)


@pytest.mark.parametrize(
    "choose",
    [
        # Stale, and so the best on the whole for that price: the large one costs too much.
        Choose(among=("large", "small"), cost_at_most=0.00002),
        Choose(among=("large", "small"), quality_at_least=0.8, on_stale="warn"),
    ],
)
def test_new_weights_of_a_model_are_chosen_where_the_old_ones_were(choose: Choose) -> None:
    learned = Learned(file="r", sha256="one", overall=(("large", 0.95), ("small", 0.85)))
    stale = msgspec.structs.replace(learned, stale=("small@v2 has other weights",))
    new = {"small": "small@v2"}

    def asked(by: Learned, names: dict[str, str]) -> str:
        plan = msgspec.structs.replace(choose, by=by).renamed(lambda name: names.get(name, name))
        prices = {names.get(name, name): price for name, price in PRICES.items()}
        models = {
            now: Model(name=now, provider="p", id=now, kind="local", version_of=was if now != was else None)
            for was in PRICES
            for now in [names.get(was, was)]
        }
        route = Route(name="r", plan=plan)
        foresights = Foresights({"r": route}, {"one": cast("Any", _Known())}, prices, models)
        envelope = OpenAIChat().peek(b'{"model": "r", "messages": [{"role": "user", "content": "hi"}]}')
        seen = foresights.of("r", envelope, "", 1)
        return plan.choose(Circumstances(draw=0.0, foreseen=seen)).node.models()[0]

    assert asked(learned, {}) == "small"
    assert asked(stale, new) == "small@v2"


@pytest.mark.parametrize("named", [False, True])
def test_what_was_not_judged_by_names_does_not_serve_by_them(named: bool) -> None:
    _, content = tried(taught(), CHEAPEST, named=named)
    assert content is not None
    predictor = Predictor(content, "sha", None)
    plain, by_name = (predictor.foresee("a word", task, 5) for task in (None, "no such task"))
    assert (plain == by_name) is not named
