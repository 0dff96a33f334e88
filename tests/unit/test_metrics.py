"""What /metrics says, against the records that it counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from isthmus.core.record import AttemptRecord, Record, Timings
from isthmus.core.usage import Charge, Usage
from isthmus.telemetry.metrics import OVERHEAD_SECONDS, Histogram, Tally

MODELS = ("small", "large")
FAULTS = (None, "timeout", "rate_limited")

usages = st.builds(
    Usage,
    input=st.integers(0, 10**6),
    output=st.integers(0, 10**6),
    cache_read=st.integers(0, 100),
    cache_write_5m=st.integers(0, 100),
    cache_write_1h=st.integers(0, 100),
    reasoning=st.integers(0, 100),
)
charges = st.builds(
    Charge,
    nanousd=st.one_of(st.none(), st.integers(0, 10**12)),
    basis=st.just("config"),
    snapshot=st.just("s"),
)
attempts = st.builds(
    AttemptRecord,
    number=st.just(1),
    model=st.sampled_from(MODELS),
    provider=st.just("p"),
    model_id=st.just("m"),
    outcome=st.sampled_from(["ok", "error", "cancelled"]),
    started_ms=st.just(0.0),
    first_token_ms=st.one_of(st.none(), st.floats(0, 1000)),
    fault=st.sampled_from(FAULTS),
    usage=st.one_of(st.none(), usages),
    charge=st.one_of(st.none(), charges),
)
timings = st.builds(
    Timings,
    queue_ms=st.floats(0, 100),
    overhead_ms=st.floats(0, 100),
    first_token_ms=st.none(),
    total_ms=st.floats(0, 100_000),
)
records = st.builds(
    Record,
    id=st.just("req_1"),
    at_us=st.just(0),
    dialect=st.sampled_from(["openai", "anthropic"]),
    operation=st.just("chat"),
    route=st.sampled_from(["", "r", 'a"b\\c']),
    stream=st.booleans(),
    status=st.sampled_from([200, 429, 502]),
    outcome=st.sampled_from(["ok", "error", "cancelled", "interrupted"]),
    attempts=st.lists(attempts, max_size=3).map(tuple),
    timings=timings,
    config_hash=st.just("h"),
)


def _scrape(tally: Tally) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in tally.collect()
        for sample in family.samples
    }


def _sum(samples: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float:
    return sum(
        value
        for (found, has), value in samples.items()
        if found == name and labels.items() <= dict(has).items()
    )


@given(st.lists(records, max_size=8))
def test_the_counters_are_the_sums_over_the_records(counted: list[Record]) -> None:
    tally = Tally()
    for record in counted:
        tally.count(record)
    samples = _scrape(tally)
    made = [attempt for record in counted for attempt in record.attempts]
    assert _sum(samples, "isthmus_requests_total") == len(counted)
    assert _sum(samples, "isthmus_attempts_total") == len(made)
    assert _sum(samples, "isthmus_request_seconds_count") == len(counted)
    for model in MODELS:
        mine = [attempt for attempt in made if attempt.model == model]
        known = [a.charge.nanousd for a in mine if a.charge is not None and a.charge.nanousd is not None]
        unknown = [a for a in mine if a.charge is not None and a.charge.nanousd is None]
        # A float holds nano-dollars exactly up to 2**53 only, so the promise is the micro-dollar.
        assert round(_sum(samples, "isthmus_charge_usd_total", model=model) * 1e6) == round(sum(known) / 1000)
        assert _sum(samples, "isthmus_charge_unknown_total", model=model) == len(unknown)
        used = [attempt.usage for attempt in mine if attempt.usage is not None]
        tokens = {
            "input": sum(usage.input for usage in used),
            "output": sum(usage.output for usage in used),
            "cache_read": sum(usage.cache_read for usage in used),
            "cache_write": sum(usage.cache_write_5m + usage.cache_write_1h for usage in used),
            "reasoning": sum(usage.reasoning for usage in used),
        }
        for kind, expected in tokens.items():
            assert (
                samples.get(("isthmus_tokens_total", frozenset({("model", model), ("class", kind)})), 0)
                == expected
            )


@given(st.lists(records, max_size=4))
def test_any_record_can_be_printed(counted: list[Record]) -> None:
    tally = Tally()
    for record in counted:
        tally.count(record)
    registry = CollectorRegistry()
    registry.register(tally)
    assert b"isthmus_in_flight_requests 0.0" in generate_latest(registry)


@given(st.lists(st.floats(0, 2), max_size=50))
def test_buckets_are_cumulative_and_their_bounds_inclusive(seconds: list[float]) -> None:
    histogram = Histogram(OVERHEAD_SECONDS)
    for each in seconds:
        histogram.observe(each)
    buckets, total = histogram.read()
    assert total == pytest.approx(sum(seconds))
    assert buckets[-1] == ("+Inf", len(seconds))
    for bound, (shown, count) in zip(OVERHEAD_SECONDS, buckets, strict=False):
        assert float(shown) == bound
        assert count == sum(each <= bound for each in seconds)


def test_gauges_are_asked_for_when_scraped() -> None:
    tally = Tally()
    queued = 3.0
    tally.gauges["ledger_queued_records"] = ("Records that wait.", (), lambda: {(): queued})
    assert _sum(_scrape(tally), "isthmus_ledger_queued_records") == 3
    queued = 4.0
    assert _sum(_scrape(tally), "isthmus_ledger_queued_records") == 4
