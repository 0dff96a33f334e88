"""Off-policy estimates against policies whose worth is known, because the world was made."""

from __future__ import annotations

import numpy as np
import pytest

from isthmus.statistics import off_policy
from isthmus.statistics.off_policy import Logged

WORTH = np.array([[0.9, 0.6, 0.3], [0.2, 0.5, 0.8]])
"""How often each of three actions succeeds, on requests of two kinds."""


def _log(
    rng: np.random.Generator, n: int, policy: list[float], other: list[float], guess: float = 0.0
) -> Logged:
    kinds = rng.integers(0, 2, n)
    actions = rng.choice(3, n, p=policy)
    taken, wanted = np.array(policy), np.array(other)
    guessed = np.clip(WORTH + guess, 0, 1)
    return Logged(
        rewards=(rng.random(n) < WORTH[kinds, actions]).astype(float),
        propensities=taken[actions],
        wanted=wanted[actions],
        unseen=np.full(n, wanted[taken == 0].sum()),
        expected=guessed[kinds, actions],
        promised=guessed[kinds] @ np.where(taken > 0, wanted, 0),
    )


def test_the_estimates_find_what_another_policy_is_worth() -> None:
    rng = np.random.default_rng(1)
    other = [0.1, 0.1, 0.8]
    truth = float((WORTH.mean(0) * other).sum())
    logs = [_log(rng, 300, [0.6, 0.2, 0.2], other, guess=0.15) for _ in range(25)]
    for estimate in (
        off_policy.ips,
        off_policy.doubly_robust,
        lambda log: off_policy.snips(log, rng),
    ):
        found = [estimate(log) for log in logs]
        values = np.array([it.value for it in found])
        assert values.mean() == pytest.approx(truth, abs=4 * values.std() / 25**0.5 + 0.005)
        assert sum(it.interval.holds(truth) for it in found) >= 21
        assert all(it.unseen == 0 for it in found)


def test_guesses_make_the_interval_narrower() -> None:
    log = _log(np.random.default_rng(2), 2000, [0.6, 0.2, 0.2], [0.1, 0.1, 0.8])
    assert off_policy.doubly_robust(log).interval.width < off_policy.ips(log).interval.width


def test_what_was_never_done_is_told_apart() -> None:
    log = _log(np.random.default_rng(3), 500, [0.9, 0.1, 0.0], [0.2, 0.5, 0.3])
    it = off_policy.ips(log)
    assert it.unseen == pytest.approx(0.3)
    assert it.interval.holds(float((WORTH.mean(0)[:2] @ [0.2, 0.5]) / 0.7))
    assert it.possible.low <= 0.7 * it.interval.low + 1e-9
    assert it.possible.high >= 0.3 + 0.7 * it.interval.low


def test_a_log_without_support_does_not_tell() -> None:
    log = _log(np.random.default_rng(4), 500, [1.0, 0.0, 0.0], [0.0, 0.0, 1.0])
    for it in (off_policy.ips(log), off_policy.snips(log, np.random.default_rng(4))):
        assert it.value is None
        assert (it.interval.low, it.interval.high) == (0.0, 1.0)
        assert it.unseen == 1.0
        assert it.effective == 0.0


def test_an_empty_log_does_not_tell() -> None:
    it = off_policy.ips(Logged(rewards=[], propensities=[], wanted=[]))
    assert it.value is None
    assert it.unseen == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        Logged(rewards=[1.0], propensities=[0.0], wanted=[1.0]),
        Logged(rewards=[2.0], propensities=[1.0], wanted=[1.0]),
        Logged(rewards=[1.0], propensities=[1.0, 1.0], wanted=[1.0]),
        Logged(rewards=[1.0], propensities=[float("nan")], wanted=[1.0]),
    ],
)
def test_a_log_that_cannot_be_is_refused(wrong: Logged) -> None:
    with pytest.raises(ValueError, match=r"propensity|reward|finite"):
        off_policy.ips(wrong)


def test_a_doubly_robust_estimate_needs_guesses() -> None:
    with pytest.raises(ValueError, match="expected"):
        off_policy.doubly_robust(Logged(rewards=[1.0], propensities=[1.0], wanted=[1.0]))
