"""What an experiment reads of the ledger, and that it reads the same again."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from isthmus.config.config import Config
from isthmus.core.decision import Decision, Previous, Refused
from isthmus.core.errors import Fault
from isthmus.core.feedback import Feedback
from isthmus.core.ids import feedback_id
from isthmus.core.portfolio import SecretRef
from isthmus.core.record import AttemptRecord, Record, Timings, answered
from isthmus.evals.trials.referee import SETTLED_US, Referee
from isthmus.store.feedback import SqliteFeedback
from isthmus.store.ledger import SqliteLedger
from isthmus.store.rows import DAY_US
from isthmus.store.trials import BEGINNING, SqliteTrials
from isthmus.strategies.plan.node import Circumstances

from .gateway import config_of, config_text

START_US = 1_700_000_000_000_000
MANY = 10**6


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def decision(arm: str | None = "b", **facts: object) -> Decision:
    arms = () if arm is None else (arm,)
    of_this = Decision(
        route="r",
        operation="chat",
        allowed=("a", "b"),
        refused=(),
        plan=None,
        reasons=(),
        propensity=0.5,
        config_hash="c",
        arms=arms,
    )
    return msgspec.structs.replace(of_this, **facts)


def attempt(number: int, code: str | None = None, fault: Fault | None = None) -> AttemptRecord:
    return AttemptRecord(
        number=number,
        model="b",
        provider="p",
        model_id="b",
        outcome="error" if fault else "ok",
        started_ms=0,
        fault=fault,
        code=code or fault,
    )


def record(number: int, code: str | None = None, *attempts: AttemptRecord, **facts: object) -> Record:
    of_this = Record(
        id=f"req_{number:06}",
        at_us=START_US + number,
        dialect="openai",
        operation="chat",
        route="r",
        stream=False,
        status=200,
        outcome="error" if code else "ok",
        code=code,
        attempts=attempts,
        decision=decision(),
        timings=Timings(queue_ms=0.0, overhead_ms=0.0, first_token_ms=None, total_ms=1.0),
        config_hash="c",
    )
    return msgspec.structs.replace(of_this, **facts)


async def write(path: Path, *records: Record) -> None:
    ledger = SqliteLedger(path)
    for one in records:
        ledger.append(one)
    await ledger.flush()
    await ledger.close()


async def test_what_the_caller_or_the_gateway_did_is_not_held_against_an_arm(path: Path) -> None:
    refused = attempt(1, "unknown_parameter", Fault.INVALID_REQUEST)
    died = attempt(1, None, Fault.UPSTREAM_ERROR)
    cases: list[tuple[Record, bool | None]] = [
        (record(1), True),
        (record(2, "upstream_error", died), False),
        (record(3, "first_byte_timeout", attempt(1, "first_byte_timeout", Fault.TIMEOUT)), False),
        (record(4, "broken_stream", attempt(1, None, Fault.BROKEN_STREAM)), False),
        (record(5, "breaker_open", attempt(1, "breaker_open", Fault.UNAVAILABLE)), False),
        (record(6, "unknown_parameter", refused), None),
        (record(7, "budget_spent", attempt(1, None, Fault.BUDGET_SPENT)), None),
        (record(8, "internal"), None),
        (record(9, "upstream_error", died, outcome="cancelled"), None),
        # What ended the request decides, and not what was tried before.
        (record(10, "budget_spent", died, attempt(2, None, Fault.BUDGET_SPENT)), None),
        (record(11, "upstream_error", refused, attempt(2, None, Fault.UPSTREAM_ERROR)), False),
        (record(12, None, died, attempt(2)), True),
        (record(13, "model_not_permitted", died), None),
    ]
    await write(path, *(it for it, _ in cases))
    found, place = SqliteTrials(path).tried("r", ["c"], BEGINNING, START_US + MANY, 100)
    assert [it.answered for it in found] == [told for _, told in cases if told is not None]
    assert place == (START_US + 13, "req_000013")
    # The report goes by whole records, and finds the same.
    assert [answered(it.outcome, it.fault) for it, _ in cases] == [told for _, told in cases]


async def test_a_request_comes_with_how_it_was_dealt(path: Path) -> None:
    left_out = (Refused("b", "clearance", "too low"), Refused("x", "needless", "nothing to do"))
    await write(
        path,
        record(1, key_id="key_1", user="alice", decision=decision("a", refused=left_out)),
        record(2, decision=decision("a", weights=(("b", 0.0),), previous=Previous(model="a"))),
        # No arm was drawn, or one of the plan for the time when money is short, or for a copy.
        record(3, decision=decision(None)),
        record(4, decision=decision(thrifty=True)),
        record(5, mirrors="req_000001"),
        record(6, decision=None),
        # The same decision on another day is another row.
        record(7, at_us=START_US + DAY_US, decision=decision("a")),
    )
    trials = SqliteTrials(path)
    found, place = trials.tried("r", ["c"], BEGINNING, START_US + 2 * DAY_US, 100)
    assert [it.dealt for it in found] == [
        ("key_1", "alice", (), ("b",), True),
        (None, None, (("b", 0.0),), (), False),
        (None, None, (), (), True),
    ]
    assert trials.tried("r", ["c"], place, START_US + 2 * DAY_US, 100) == ([], place)
    feedback = SqliteFeedback(path)
    for at, number in enumerate((4, 1, 1)):
        at_us = START_US + at
        feedback.add(
            Feedback(id=feedback_id(at_us, at), record_id=f"req_{number:06}", at_us=at_us, score=at / 4)
        )
    heard, _ = trials.opinions("r", ["c"], 0, 100)
    assert [(it.arm, it.score, it.dealt.user) for it in heard] == [("a", 0.25, "alice")]


def referee(path: Path, config: Config, now_us: Callable[[], int]) -> Referee:
    async def post(hook: SecretRef, body: bytes) -> None:
        raise AssertionError("there is no webhook")

    return Referee(SqliteTrials(path), lambda: config, post, random.Random(1).betavariate, now_us)


async def test_after_a_restart_the_same_is_known(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read little by little, and what is read at once, comes to the same."""
    monkeypatch.setattr("isthmus.evals.trials.referee.MOST_AT_ONCE", 70)
    route = {"split": {"openai/a": 3, "openai/b": 1}, "sticky": "user", "stop": {"seconds": 1}}
    config = config_of(config_text("http://127.0.0.1:9", {"r": route}))
    rules, rng = config.routes["r"].plan, random.Random(2)
    died = attempt(1, None, Fault.UPSTREAM_ERROR)

    def asked(number: int) -> Record:
        user = f"user {int(rng.paretovariate(0.5)) % 400}"
        arm = rules.choose(Circumstances(draw=rng.random(), user=user)).arms[0]
        fails = arm == "openai/b" and rng.random() < 0.8
        facts = {"user": user, "decision": decision(arm), "config_hash": config.hash}
        return record(number, *(("upstream_error", died) if fails else ()), **facts)

    await write(path, *(asked(number) for number in range(900)))
    clock = iter(range(START_US, START_US + MANY, 40))
    first = referee(path, config, lambda: SETTLED_US + next(clock))
    first.recall()
    while next(clock) < START_US + 900:
        await first.look()
    (before,) = first._live.values()
    assert [it.arm for it in before.standing.stopped] == ["openai/b"]
    again = referee(path, config, lambda: START_US + SETTLED_US + MANY)
    again.recall()
    assert again.weights == first.weights
    await again.look()
    (after,) = again._live.values()
    assert after.standing == before.standing
    assert list(after.evidence.worse()) == list(before.evidence.worse())
    assert after.evidence.requests == before.evidence.requests
    assert after.evidence.counted == before.evidence.counted
    assert 0 < sum(after.evidence.counted.values()) < sum(after.evidence.requests.values()) == 900
