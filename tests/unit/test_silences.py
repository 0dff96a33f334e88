"""How long models are silent, as far as hedges go by it: what is measured, what counts, and what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from isthmus.config.config import Config
from isthmus.config.load import parse
from isthmus.core.decision import Silence
from isthmus.core.record import AttemptRecord, Record, Timings
from isthmus.gateway.silences import LEAST, Silences, awaited_by, awaited_in
from isthmus.store.ledger import SqliteLedger
from isthmus.store.recent import recent_attempts
from isthmus.strategies.plan import Hedge, Node
from isthmus.strategies.plan.node import Attempt, Circumstances, Draft, Race, kept

TEXT = """
providers: {p: {dialect: openai, kind: open, base_url: "http://127.0.0.1:9/v1"}}
models: {a: {provider: p}, b: {provider: p}, c: {provider: p}}
routes:
  r: {hedge: a, beside: b, after: p90}
  thrifty: {call: c, thrift: {plan: {fallback: [{hedge: b, beside: c, after: p50}, c]}}}
  fixed: {hedge: c, beside: a, after: 2}
"""
P90 = Hedge(model="a", beside="b", after="p90")


def config_of(text: str = TEXT) -> Config:
    config, faults = parse(text, "isthmus.yaml")
    assert config is not None, faults
    return config


def measuring(text: str = TEXT) -> Silences:
    silences = Silences()
    silences.heed(config_of(text))
    return silences


def spoke(ms: float, model: str = "a", /, **more: object) -> AttemptRecord:
    """An attempt whose first token came then."""
    facts = {"outcome": "ok", "first_token_ms": ms, "total_ms": ms + 5_000, **more}
    return msgspec.convert(
        {"number": 1, "model": model, "provider": "p", "model_id": model, "started_ms": 0.0, **facts},
        AttemptRecord,
    )


def silent(ms: float, outcome: str = "cancelled", **more: object) -> AttemptRecord:
    """An attempt that was cut off then, and had said nothing."""
    return spoke(0, first_token_ms=None, total_ms=ms, outcome=outcome, **more)


def record(
    *attempts: AttemptRecord, stream: bool = True, number: int = 0, mirrors: str | None = None
) -> Record:
    return Record(
        id=f"req_{number:032x}",
        at_us=1_700_000_000_000_000 + number,
        dialect="openai",
        operation="chat",
        route="r",
        stream=stream,
        status=200,
        outcome="ok",
        mirrors=mirrors,
        attempts=tuple(
            msgspec.structs.replace(it, number=place) for place, it in enumerate(attempts, start=1)
        ),
        timings=Timings(queue_ms=0, overhead_ms=0, first_token_ms=None, total_ms=1),
        config_hash="c",
    )


def fed(silences: Silences, attempts: Sequence[AttemptRecord], *, stream: bool = True) -> Silences:
    for attempt in attempts:
        silences.hear(record(attempt, stream=stream))
    return silences


def known(silences: Silences, *, stream: bool = True) -> tuple[Silence, ...]:
    return silences.of(awaited_in(P90), "chat", stream)


def seconds(silences: Silences) -> float:
    (silence,) = known(silences)
    assert (silence.model, silence.quantile) == ("a", "p90")
    return silence.seconds


# What is measured


def test_only_what_a_hedge_goes_by_is_measured() -> None:
    assert awaited_by(config_of()) == (("a", "p90"), ("b", "p50"))
    assert awaited_in(Hedge(model="a", beside="b", after=1.0)) == ()
    silences = fed(measuring(), [spoke(100, "a"), spoke(100, "c")] * LEAST)
    assert silences.of((("c", "p90"),), "chat", True) == ()
    assert silences.gauge() == {("a", "p90", "chat", "true"): 0.1}


def test_it_is_known_from_twenty_first_tokens_on() -> None:
    silences = fed(measuring(), [spoke(100)] * 19)
    assert known(silences) == ()
    assert seconds(fed(silences, [spoke(200)])) == 0.1
    assert seconds(fed(silences, [spoke(200)] * 3)) == 0.2


def test_streamed_and_whole_answers_are_told_apart() -> None:
    silences = fed(measuring(), [spoke(100)] * LEAST)
    assert known(silences, stream=False) == ()
    fed(silences, [spoke(3_000)] * LEAST, stream=False)
    assert [it.seconds for it in known(silences, stream=False)] == [3.0]
    assert seconds(silences) == 0.1


def test_seconds_have_three_digits_so_that_decisions_are_alike() -> None:
    assert seconds(fed(measuring(), [spoke(123.456789)] * LEAST)) == 0.123


@pytest.mark.parametrize(
    "attempt",
    [
        spoke(9_000, purpose="draft"),
        spoke(9_000, provider="elsewhere"),
        spoke(9_000, model_id="another"),
        silent(9_000, outcome="error", fault="rate_limited"),
        silent(9_000, outcome="error", fault="unreachable"),
        silent(9_000, outcome="ok"),
    ],
)
def test_what_says_nothing_of_the_model_does_not_count(attempt: AttemptRecord) -> None:
    silences = fed(measuring(), [spoke(100)] * LEAST)
    assert seconds(fed(silences, [attempt] * 200)) == 0.1


def test_copies_of_requests_do_not_count() -> None:
    silences = fed(measuring(), [spoke(100)] * LEAST)
    for _ in range(200):
        silences.hear(record(spoke(9_000), mirrors="req_1"))
    assert seconds(silences) == 0.1


@pytest.mark.parametrize(
    "attempt",
    [
        silent(400),
        silent(400, outcome="interrupted"),
        silent(400, outcome="error", fault="timeout"),
        silent(400, outcome="error", fault="took_too_long"),
    ],
)
def test_who_was_silent_to_the_end_counts_as_slower_than_that(attempt: AttemptRecord) -> None:
    silences = fed(measuring(), [*[spoke(100)] * 20, *[spoke(500)] * 3])
    assert seconds(silences) == 0.5
    assert seconds(fed(silences, [attempt] * 20)) == 0.5, "no earlier for having been cut off earlier"
    silences = fed(measuring(), [spoke(100)] * 30)
    assert seconds(fed(silences, [attempt] * 5)) == 0.4, "at least"


def test_clients_that_leave_at_once_make_a_model_neither_quick_nor_slow() -> None:
    silences = fed(measuring(), [spoke(ms) for ms in range(100, 200)])
    before = seconds(silences)
    assert seconds(fed(silences, [silent(1)] * 100)) == before


# What is kept


def test_a_reload_keeps_what_is_known_of_the_same_models() -> None:
    silences = fed(measuring(), [spoke(100)] * LEAST)
    assert silences.heed(config_of()) == ()
    assert seconds(silences) == 0.1
    moved = TEXT.replace("a: {provider: p}", "a: {provider: p, id: newer}")
    assert silences.heed(config_of(moved)) == ("a",)
    assert known(silences) == ()
    none = TEXT.replace("p90", "1").replace("p50", "1")
    assert silences.heed(config_of(none)) == ()
    assert fed(silences, [spoke(100)] * LEAST).gauge() == {}


async def test_what_the_ledger_has_is_known_as_if_it_had_been_heard(tmp_path: Path) -> None:
    heard = measuring()
    ledger = SqliteLedger(tmp_path / "ledger.db", "batched", listeners=[heard.hear])
    for number in range(300):
        attempts = [spoke(100 + number % 50), spoke(9_000, "b")]
        if number % 7 == 0:
            attempts[0] = silent(140)
        mirrors = "req_1" if number % 11 == 0 else None
        ledger.append(record(*attempts, number=number, stream=number % 2 == 0, mirrors=mirrors))
    await ledger.close()
    recalled = measuring()
    recalled.recall(("a", "b"), recent_attempts(tmp_path / "ledger.db", ("a", "b")))
    assert recalled.gauge() == heard.gauge()
    assert len(heard.gauge()) == 4
    recalled.recall(("a", "b"), recent_attempts(tmp_path / "ledger.db", ("a", "b")))
    assert recalled.gauge() == heard.gauge(), "nothing counts twice"


# What is decided by it


def effect_of(node: Node) -> object:
    return next(node.steps())


def test_a_hedge_goes_by_what_is_known() -> None:
    silences = (
        Silence(model="b", quantile="p90", seconds=9.0),
        Silence(model="a", quantile="p95", seconds=8.0),
        Silence(model="a", quantile="p90", seconds=0.25),
    )
    choice = P90.choose(Circumstances(draw=0, silences=silences))
    assert choice.node == Hedge(model="a", beside="b", after=0.25)
    assert choice.reasons == ("p90 of a's times to the first token is 0.25 s now",)
    assert effect_of(choice.node) == Race(Attempt("a"), Attempt("b"), 0.25)


def test_while_nothing_is_known_the_other_is_asked_only_where_the_first_fails() -> None:
    choice = P90.choose(Circumstances(draw=0, silences=(Silence(model="a", quantile="p95", seconds=1.0),)))
    assert choice.node == P90
    assert choice.node.words() == "a, and b where it fails"
    assert choice.reasons == ("too few first tokens of a were measured to know their p90",)
    assert effect_of(choice.node) == Race(Attempt("a"), Attempt("b"), None)
    assert next(kept(choice.node.steps())) == Draft("a")


def test_seconds_are_what_the_config_says() -> None:
    fixed = Hedge(model="a", beside="b", after=2.0)
    silences = (Silence(model="a", quantile="p90", seconds=0.25),)
    choice = fixed.choose(Circumstances(draw=0, silences=silences))
    assert (choice.node, choice.reasons) == (fixed, ())
