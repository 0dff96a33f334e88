"""What is made of the arms of an experiment, without a gateway."""

from __future__ import annotations

import random

import pytest

from isthmus.evals.trials.evidence import Evidence, Scores, best_of
from isthmus.statistics.betting import Bet
from isthmus.store.trials import Opinion, Tried
from isthmus.strategies.plan import CallModel, Split
from isthmus.strategies.plan.split import Arm, Bandit, Stop

NAMES = ("a", "b", "c")


def split(many: int = 2, stop: Stop | None = None, bandit: Bandit | None = None) -> Split:
    arms = tuple(Arm(plan=CallModel(model=name)) for name in NAMES[:many])
    return Split(arms=arms, stop=stop, bandit=bandit)


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
