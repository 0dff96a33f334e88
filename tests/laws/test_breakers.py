"""Laws of the breaker, for any history and any leap of the clock."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from isthmus.accounting.breaker import Breaker
from isthmus.core.portfolio import BreakerSettings

leaps = st.one_of(st.just(0.0), st.floats(0.0, 5.0), st.floats(0.0, 1e6))


class BreakerMachine(RuleBasedStateMachine):
    """Attempts begin as the breaker permits them and end in any order, while time passes."""

    @initialize(
        failures=st.integers(1, 4),
        cooldown=st.floats(0.1, 20.0),
        max_cooldown=st.floats(0.1, 60.0),
        recovery=st.sampled_from([0.0, 10.0]),
        start=st.floats(0.0, 1e6),
    )
    def begin(
        self, failures: int, cooldown: float, max_cooldown: float, recovery: float, start: float
    ) -> None:
        self.settings = BreakerSettings(
            failures=failures, cooldown=cooldown, max_cooldown=max_cooldown, recovery=recovery
        )
        self.well_since: float | None = None
        self.successes = 0
        self.breaker = Breaker(self.settings)
        self.now = start
        self.failed_in_a_row = 0
        self.opened_at: float | None = None
        self.probe_at: float | None = None

    @rule(leap=leaps)
    def time_passes(self, leap: float) -> None:
        self.now += leap

    @rule()
    def an_attempt_asks(self) -> None:
        before = self.breaker.state(self.now)
        permitted = self.breaker.permits(self.now)
        if before == "half-open" and self.well_since is not None:
            # Nobody here is under way but in words: there is room for one, and one more for each success.
            assert permitted
            self.breaker.under_way = self.successes + 1
            assert not self.breaker.permits(self.now)
            self.breaker.under_way = 0
            return
        assert permitted == (before == "closed" or (before == "half-open" and not self.probe_is_out()))
        if permitted and before == "half-open":
            self.probe_at = self.now

    @rule()
    def one_succeeds(self) -> None:
        before = self.breaker.state(self.now)
        self.breaker.succeeded(self.now)
        after = self.breaker.state(self.now)
        if before == "half-open":
            self.well_since = self.now if self.well_since is None else self.well_since
            self.successes += 1
            back = self.now - self.well_since >= self.settings.recovery
            assert after == ("closed" if back else "half-open")
            self.probe_at = None
        else:
            assert after == before
        if after == "closed":
            self.failed_in_a_row = 0
            self.probe_at = self.well_since = None
            self.successes = 0

    @rule(retry_after_s=st.none() | st.floats(0.0, 1e5))
    def one_fails(self, retry_after_s: float | None) -> None:
        before = self.breaker.state(self.now)
        waited = self.breaker.wait_s(self.now)
        self.breaker.failed(self.now, retry_after_s)
        if before == "open":
            assert self.breaker.wait_s(self.now) == waited
            return
        self.failed_in_a_row += 1
        if before == "half-open" or self.failed_in_a_row >= self.settings.failures:
            assert self.breaker.state(self.now) == "open"
            self.probe_at = self.well_since = None
            self.successes = 0
            asked = min(retry_after_s or 0.0, self.settings.max_cooldown)
            shortest = min(self.settings.cooldown, self.settings.max_cooldown)
            # The sum of a large clock and a small pause is not exact.
            assert self.breaker.wait_s(self.now) >= max(asked, shortest) - 1e-6
        else:
            assert self.breaker.state(self.now) == "closed"

    @rule()
    def one_is_cancelled(self) -> None:
        before = self.breaker.state(self.now)
        self.breaker.released()
        self.probe_at = None
        assert self.breaker.state(self.now) == before

    def probe_is_out(self) -> bool:
        return self.probe_at is not None and self.now < self.probe_at + self.settings.max_cooldown

    @invariant()
    def it_is_never_closed_to_everybody_for_longer_than_the_bound(self) -> None:
        if hasattr(self, "breaker"):
            assert 0.0 <= self.breaker.wait_s(self.now) <= self.settings.max_cooldown + 1e-6
            later = self.now + 2 * self.settings.max_cooldown + 1.0
            assert self.breaker.state(later) != "open"
            assert self.breaker.wait_s(later) == 0.0


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_the_cool_down_doubles_up_to_its_bound_and_starts_over_after_a_success() -> None:
    breaker = Breaker(BreakerSettings(failures=2, cooldown=5.0, max_cooldown=30.0))
    now = 100.0
    breaker.failed(now)
    assert breaker.permits(now)
    pauses = []
    for _ in range(4):
        breaker.failed(now)
        pauses.append(breaker.wait_s(now))
        now += pauses[-1]
        assert breaker.permits(now)
    assert pauses == [5.0, 10.0, 20.0, 30.0]
    breaker.succeeded(now)
    breaker.failed(now)
    breaker.failed(now)
    assert breaker.wait_s(now) == 5.0


def test_one_probe_at_a_time_and_a_silent_one_is_replaced() -> None:
    breaker = Breaker(BreakerSettings(failures=1, cooldown=5.0, max_cooldown=30.0))
    breaker.failed(0.0)
    assert [breaker.permits(4.9), breaker.permits(5.0), breaker.permits(6.0)] == [False, True, False]
    assert breaker.wait_s(6.0) == 29.0
    assert [breaker.permits(34.9), breaker.permits(35.0), breaker.permits(35.0)] == [False, True, False]


def test_the_provider_says_for_how_long() -> None:
    breaker = Breaker(BreakerSettings(failures=1, cooldown=5.0, max_cooldown=30.0))
    breaker.failed(0.0, retry_after_s=12.0)
    assert breaker.wait_s(0.0) == 12.0
    breaker.failed(12.0, retry_after_s=86_400.0)
    assert breaker.wait_s(12.0) == 30.0


def test_late_failures_of_earlier_attempts_do_not_prolong_the_cool_down() -> None:
    breaker = Breaker(BreakerSettings(failures=1, cooldown=5.0, max_cooldown=30.0))
    breaker.failed(0.0)
    breaker.failed(4.0)
    breaker.succeeded(4.5)
    assert breaker.state(4.9) == "open"
    assert breaker.permits(5.0)
