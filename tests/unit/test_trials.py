"""What is made of the arms of an experiment, without a gateway."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from types import FunctionType, MethodType, ModuleType
from typing import Literal

import pytest

from isthmus.core.errors import Fault
from isthmus.core.record import Outcome, answered
from isthmus.evals.trials.evidence import Evidence, Scores, best_of
from isthmus.evals.trials.subjects import Subjects
from isthmus.statistics.betting import Bet
from isthmus.store.trials import Dealt, Opinion, Tried
from isthmus.strategies.plan import CallModel, Split
from isthmus.strategies.plan.node import Circumstances
from isthmus.strategies.plan.split import Arm, Bandit, Stop

NAMES = ("a", "b", "c")

Sticky = Literal["key", "user"] | None


def split(
    many: int = 2,
    stop: Stop | None = None,
    bandit: Bandit | None = None,
    *,
    sticky: Sticky = None,
    salt: str = "",
    weights: tuple[float, ...] = (1, 1, 1),
) -> Split:
    arms = tuple(
        Arm(plan=CallModel(model=name), weight=weight)
        for name, weight in zip(NAMES[:many], weights, strict=False)
    )
    return Split(arms=arms, stop=stop, bandit=bandit, sticky=sticky, salt=salt)


def seen(rules: Split, many: int, seed: int, **answers: float) -> Evidence:
    """Evidence of so many requests of each arm, which are answered with these probabilities."""
    rng, evidence = random.Random(seed), Evidence(rules)
    for _ in range(many):
        for arm, share in answers.items():
            evidence.see(Tried(arm, rng.random() < share, 1_000, 500.0))
    return evidence


def test_a_bet_against_what_is_true_seldom_grows_and_against_what_is_false_does() -> None:
    rng = random.Random(1)

    def p(mean: float) -> float:
        bet = Bet(0.5)
        for _ in range(400):
            bet.observe(float(rng.random() < mean))
        return bet.p

    assert sum(p(0.5) <= 0.05 for _ in range(100)) <= 9
    assert sum(p(0.4) <= 0.05 for _ in range(50)) == 0
    assert sum(p(0.7) <= 0.05 for _ in range(20)) == 20
    for wrong in (0.0, 1.0):
        with pytest.raises(ValueError, match="claim"):
            Bet(wrong)


def test_an_arm_that_answers_fewer_is_a_loser_beyond_the_margin_alone() -> None:
    (loser,) = seen(split(stop=Stop()), 500, 2, a=0.99, b=0.85).losers({})
    assert (loser.arm, loser.than, loser.measure) == ("b", "a", "answered")
    assert loser.in_words().startswith("b answers fewer requests than a (p = ")
    assert not list(seen(split(stop=Stop(margin=0.2)), 500, 2, a=0.99, b=0.85).losers({}))
    assert not list(seen(split(stop=Stop()), 500, 3, a=0.9, b=0.9).losers({}))


def test_time_cost_and_feedback_are_guards_too() -> None:
    evidence = Evidence(split(stop=Stop(seconds=1, usd=0.01)))
    for _ in range(200):
        evidence.see(Tried("a", True, 1_000, 500.0))
        evidence.see(Tried("b", True, 50_000_000, 1_500.0))
        evidence.hear(Opinion("a", 0.9))
        evidence.hear(Opinion("b", 0.2))
        evidence.see(Tried("gone", True, 0, 1.0))
        evidence.hear(Opinion("gone", 1.0))
    measures = {worse.measure for worse in evidence.worse() if worse.arm == "b"}
    assert measures == {"in time", "within cost", "feedback"}
    assert [worse.arm for worse in evidence.losers({})] == ["b"]
    assert not list(evidence.losers({"b": None}))


def test_an_unknown_price_says_nothing_of_cost() -> None:
    evidence = Evidence(split(stop=Stop(usd=0.01)))
    for _ in range(300):
        evidence.see(Tried("a", True, 1_000, 1.0))
        evidence.see(Tried("b", True, None, 1.0))
    assert not list(evidence.losers({}))


def test_failures_of_an_arm_without_a_price_do_not_stand_for_its_cost() -> None:
    evidence, rng = Evidence(split(stop=Stop(usd=0.01))), random.Random(3)
    for _ in range(4_000):
        arm, failed = rng.choice("ab"), rng.random() < 0.02
        paid = 0 if failed else None if arm == "b" else 1_000
        evidence.see(Tried(arm, not failed, paid, 1.0))
    assert not list(evidence.losers({}))


def test_the_last_arm_is_never_stopped() -> None:
    evidence = seen(split(3, Stop()), 500, 4, a=0.99, b=0.7, c=0.4)
    losers = {worse.arm for worse in evidence.losers({})}
    assert losers == {"b", "c"}
    assert evidence.weights(dict.fromkeys(losers), random.betavariate) == (("b", 0.0), ("c", 0.0))
    assert not list(evidence.losers(dict.fromkeys(losers)))


def test_equal_arms_are_seldom_stopped() -> None:
    stopped = [bool(list(seen(split(3, Stop()), 150, n, a=0.8, b=0.8, c=0.8).losers({}))) for n in range(40)]
    assert sum(stopped) <= 4


def test_a_bandits_shares_follow_the_scores_and_never_leave_an_arm_untried() -> None:
    rng = random.Random(5)
    evidence = Evidence(split(3, bandit=Bandit(explore=0.3)))
    even = dict(evidence.weights({}, rng.betavariate))
    assert sum(even.values()) == pytest.approx(1)
    assert all(0.2 < share < 0.47 for share in even.values())
    for _ in range(100):
        evidence.hear(Opinion("a", 0.9))
        evidence.hear(Opinion("b", 0.5))
        evidence.hear(Opinion("c", 0.4))
    learned = dict(evidence.weights({}, rng.betavariate))
    assert learned == pytest.approx({"a": 0.8, "b": 0.1, "c": 0.1})
    assert dict(evidence.weights({"a": None}, rng.betavariate))["a"] == 0


def test_thompsons_shares_are_the_chances_to_be_the_best() -> None:
    """P(X > Y) of Beta(1, 2) and Beta(2, 1) is 1/6: the integral of 2(1 - x) x^2 over [0, 1]."""
    shares = best_of([Scores(1, 0.0), Scores(1, 1.0)], random.Random(6).betavariate)
    assert shares[0] == pytest.approx(1 / 6, abs=0.03)
    assert sum(shares) == pytest.approx(1)


# -- what is remembered


def kept_by(evidence: Evidence) -> int:
    """How many references its objects hold, all together: of a queue of numbers, one for each."""
    seen: dict[int, object] = {}
    ahead: list[object] = [evidence]
    held = 0
    while ahead:
        one = ahead.pop()
        if id(one) not in seen and not isinstance(one, type | ModuleType | FunctionType | MethodType):
            seen[id(one)] = one
            ahead += (more := gc.get_referents(one))
            held += len(more)
    return held


def test_what_is_kept_does_not_grow_with_the_requests_of_one_arm() -> None:
    evidence = Evidence(split(3, Stop(seconds=1, usd=1), weights=(90, 5, 5)))
    dealt = Dealt(weights=(("b", 0.0),))

    def more(many: int) -> None:
        for at in range(many):
            evidence.see(Tried("a", True, 1_000 + at, 500.5 + at, dealt))
            evidence.hear(Opinion("a", 1 / (1 + at), dealt))

    more(50)
    little = kept_by(evidence)
    more(5_000)
    assert kept_by(evidence) == little


def test_of_many_subjects_a_sample_counts_and_none_twice() -> None:
    subjects = Subjects(most=100)
    names = [f"user {number}" for number in range(2_000)]
    counted: list[str] = []
    for _ in range(3):
        for name in names:
            if subjects.first(name):
                counted.append(name)
            assert len(subjects) <= 100
    assert len(counted) == len(set(counted))
    assert counted[:100] == names[:100]
    assert 200 < len(counted) < 600
    assert subjects.first(None)
    assert subjects.first(None)


def test_who_is_remembered_has_nothing_to_do_with_the_arm() -> None:
    rules, subjects = split(sticky="user"), Subjects(most=200)
    names = [f"user {number}" for number in range(4_000)]
    late = [name for name in names if subjects.first(name)][200:]
    drawn = [rules.choose(Circumstances(draw=0.5, user=name)).arms[0] for name in late]
    assert len(late) > 300
    assert 0.4 < drawn.count("a") / len(drawn) < 0.6


# -- validity

RUNS = 80
MOST_FALSE = 9
"""Where each of 80 runs is wrong with a chance of 5 %, more are in 0.7 % of cases."""


def false_stops(
    rules: Callable[[str], Split], answers: Callable[[random.Random], Callable[[int, int], bool]]
) -> int:
    """In how many runs an arm is stopped that is no worse: what is answered is asked without the arm."""
    return sum(_stops(rules(str(seed)), random.Random(seed), answers) for seed in range(RUNS))


def _stops(
    rules: Split, rng: random.Random, answers: Callable[[random.Random], Callable[[int, int], bool]]
) -> bool:
    evidence, answered_ = Evidence(rules), answers(rng)
    for at in range(1_200):
        # Few send nearly all: the busiest of 300 has a quarter of the traffic or so.
        user = min(int(rng.paretovariate(0.7)), 300)
        arm = rules.choose(Circumstances(draw=rng.random(), user=f"user {user}")).arms[0]
        evidence.see(Tried(arm, answered_(at, user), 1_000, 1.0, Dealt(None, f"user {user}")))
        if at % 60 == 59 and list(evidence.losers({})):
            return True
    return False


def by_user(rng: random.Random) -> Callable[[int, int], bool]:
    """Some users always fail, and the others never."""
    failing = {user for user in range(301) if rng.random() < 0.15}
    return lambda at, user: user not in failing


def by_outages(rng: random.Random) -> Callable[[int, int], bool]:
    """For a while nothing works, whoever asks."""
    begins = rng.randrange(100, 400)
    return lambda at, user: not begins <= at % 500 < begins + 80


@pytest.mark.parametrize("weights", [(1, 1), (9, 1)])
def test_equal_arms_are_seldom_stopped_whoever_sends_how_much(weights: tuple[float, ...]) -> None:
    """Where arms are dealt to people, one who always fails is one failure, and not hundreds."""
    stop = Stop(alpha=0.05)
    assert (
        false_stops(lambda salt: split(stop=stop, sticky="user", salt=salt, weights=weights), by_user)
        <= MOST_FALSE
    )
    assert false_stops(lambda salt: split(stop=stop, weights=weights), by_user) <= MOST_FALSE


@pytest.mark.parametrize("weights", [(1, 1), (9, 1)])
def test_equal_arms_are_seldom_stopped_for_bad_times(weights: tuple[float, ...]) -> None:
    """Values are held against what is drawn at the same time, and not against those of other times."""
    assert false_stops(lambda salt: split(stop=Stop(alpha=0.05), weights=weights), by_outages) <= MOST_FALSE


def test_a_worse_arm_is_found_among_people_too() -> None:
    rules, rng = split(stop=Stop(), sticky="user", weights=(9, 1)), random.Random(7)
    evidence = Evidence(rules)
    for user in range(1_500):
        arm = rules.choose(Circumstances(draw=0.0, user=str(user))).arms[0]
        for _ in range(2):
            evidence.see(
                Tried(arm, rng.random() < (0.98 if arm == "a" else 0.5), 1, 1.0, Dealt(None, str(user)))
            )
    assert [worse.arm for worse in evidence.losers({})] == ["b"]
    assert sum(evidence.requests.values()) == 3_000
    assert sum(evidence.counted.values()) == 1_500


def test_the_margin_holds_however_the_traffic_is_dealt() -> None:
    """An arm that is worse by the margin alone is no loser; by far more, it is."""

    def stopped(worse_by: float, seed: int) -> bool:
        rules, rng = split(stop=Stop(margin=0.2), weights=(3, 1)), random.Random(seed)
        evidence = Evidence(rules)
        for _ in range(1_000):
            arm = rules.choose(Circumstances(draw=rng.random())).arms[0]
            good = 0.9 - (worse_by if arm == "b" else 0.0)
            evidence.see(Tried(arm, rng.random() < good, 1, 1.0))
        return bool(list(evidence.losers({})))

    assert sum(stopped(0.2, seed) for seed in range(40)) <= 6
    assert all(stopped(0.7, seed) for seed in range(10))


# -- what counts


def fails_of_b(rules: Split, dealt: Dealt) -> Evidence:
    evidence = Evidence(rules)
    for _ in range(200):
        evidence.see(Tried("a", True, 1, 1.0, dealt))
        evidence.see(Tried("b", False, 1, 1.0, dealt))
        evidence.hear(Opinion("a", 1.0, dealt))
        evidence.hear(Opinion("b", 0.0, dealt))
    return evidence


def test_only_what_was_drawn_tells_one_arm_from_another() -> None:
    assert [it.arm for it in fails_of_b(split(stop=Stop()), Dealt()).losers({})] == ["b"]
    # Who was kept where it was is no new draw; nor is one between arms of which one has no part any more, or
    # may not be reached.
    for dealt in (Dealt(drawn=False), Dealt(weights=(("a", 0.0),)), Dealt(refused=("a",))):
        evidence = fails_of_b(split(stop=Stop()), dealt)
        assert not list(evidence.worse())
        assert evidence.requests == {"a": 200, "b": 200}
        assert evidence.scores["a"] == Scores(200, 200.0), "a bandit learns from all"


def test_an_arm_out_of_reach_is_not_held_against_the_others() -> None:
    """Requests that one arm may not have are of another kind: the others have them, and it has not."""
    evidence = Evidence(split(3, Stop()))
    for _ in range(300):
        for arm in ("a", "b"):
            evidence.see(Tried(arm, False, 1, 1.0, Dealt(refused=("c",))))
        for arm in NAMES:
            evidence.see(Tried(arm, True, 1, 1.0))
    assert not list(evidence.worse())


def test_who_is_not_known_counts_each_time_and_who_is_once() -> None:
    for sticky, dealt, counted in (
        ("user", Dealt("k", "u"), 1),
        ("user", Dealt("k", None), 3),
        ("key", Dealt("k", None), 1),
        ("key", Dealt(None, "u"), 3),
        (None, Dealt("k", "u"), 3),
    ):
        evidence = Evidence(split(stop=Stop(), sticky=sticky))  # type: ignore[arg-type]
        for _ in range(3):
            evidence.see(Tried("a", True, 1, 1.0, dealt))
        assert evidence.counted == {"a": counted, "b": 0}
        assert evidence.requests["a"] == 3


@pytest.mark.parametrize(
    ("outcome", "fault", "told"),
    [
        ("ok", None, True),
        ("error", Fault.UPSTREAM_ERROR, False),
        ("error", Fault.TIMEOUT, False),
        ("error", Fault.TOOK_TOO_LONG, False),
        ("error", Fault.BROKEN_STREAM, False),
        ("error", Fault.MALFORMED_ANSWER, False),
        ("error", Fault.UNREACHABLE, False),
        ("error", Fault.OVERLOADED, False),
        ("error", Fault.RATE_LIMITED, False),
        ("error", Fault.UNAVAILABLE, False),
        ("error", Fault.UPSTREAM_AUTHENTICATION, False),
        ("error", Fault.UPSTREAM_NOT_FOUND, False),
        ("error", Fault.CONTEXT_TOO_LONG, False),
        ("error", Fault.TOO_LARGE, False),
        ("error", Fault.UNSUPPORTED, False),
        ("error", Fault.INVALID_REQUEST, None),
        ("error", Fault.BUDGET_SPENT, None),
        ("error", Fault.NOT_PERMITTED, None),
        ("error", Fault.CANCELLED, None),
        ("error", Fault.INTERNAL, None),
        ("error", None, None),
        ("cancelled", Fault.TIMEOUT, None),
        ("interrupted", Fault.UNAVAILABLE, None),
    ],
)
def test_an_arm_is_blamed_for_what_its_models_did(
    outcome: Outcome, fault: str | None, told: bool | None
) -> None:
    assert answered(outcome, fault) is told
