"""Which recorded requests teach a choice, and by which odds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest

from isthmus.core.decision import Decision
from isthmus.core.evaluation import Sample
from isthmus.core.feedback import Feedback
from isthmus.core.portfolio import Model
from isthmus.core.record import AttemptRecord, Record, Timings
from isthmus.core.usage import Usage
from isthmus.evals.recorded import Mark, Noted, is_still, scored

CALL = {"strategy": "call", "model": "a"}


def _attempt(model: str, output: int = 7, **facts: Any) -> AttemptRecord:
    usage = Usage(input=3, output=output)
    told: dict[str, Any] = {"number": 1, "provider": "p", "model_id": model, "outcome": "ok", "usage": usage}
    return AttemptRecord(model=model, started_ms=0, **(told | facts))


def _record(plan: Any = CALL, propensity: float = 0.25, **facts: Any) -> Record:
    decision = Decision(
        route="r",
        operation="chat",
        allowed=("a", "b"),
        refused=(),
        plan=plan,
        reasons=(),
        propensity=propensity,
        config_hash="",
    )
    told: dict[str, Any] = {"id": "one", "decision": decision, "model": "a", "attempts": (_attempt("a"),)}
    return Record(
        at_us=1,
        dialect="openai",
        operation="chat",
        route="r",
        stream=False,
        status=200,
        outcome="ok",
        timings=Timings(queue_ms=0, overhead_ms=0, first_token_ms=None, total_ms=0),
        config_hash="",
        request_body=b"secret",
        **(told | facts),
    )


def _copy(preference: float | None) -> Record:
    shadow = _attempt("b", 5, purpose="shadow", confidence=preference)
    return _record(id="copy", mirrors="one", attempts=(shadow, _attempt("j", purpose="judge")))


def _marks(record: Record, *copies: Record, score: float = 0.6, today: tuple[str, ...] = ("a", "b")) -> Any:
    """The marks of the record, or the reason why there are none."""
    noted, left_out = Noted(), Counter[str]()
    samples = [
        Sample(id=it.id, request={}, metadata={"score": score}) for it in noted.noting([record, *copies])
    ]
    found = list(scored(samples, noted, ("a", "b"), lambda it, _: it.model in today, left_out))
    return found[0].marks if found else next(iter(left_out))


@pytest.mark.parametrize("beside", ["grade", "shadow"])
def test_whom_a_draw_asked_counts_by_its_odds(beside: str) -> None:
    assert _marks(_record()) == {"a": Mark(0.6, 0.25, 7)}
    assert _marks(_record({"strategy": beside, "of": CALL})) == {"a": Mark(0.6, 0.25, 7)}


@pytest.mark.parametrize(("preference", "score"), [(0.0, 0.3), (0.5, 0.6), (1.0, 0.8)])
def test_a_shadow_has_the_middle_of_what_its_comparison_leaves_open(preference: float, score: float) -> None:
    marks = _marks(_record(propensity=1), _copy(preference))
    assert marks == {"a": Mark(0.6, 1, 7), "b": Mark(pytest.approx(score), 1, 5)}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("record", "copies", "reason"),
    [
        (_record(propensity=1), (), "no draw chose"),
        (_record(propensity=1), (_copy(None),), "no draw chose"),
        (_record({"strategy": "fallback", "plans": [CALL]}), (), "more than one call"),
        (_record(None), (), "more than one call"),
        (_record(decision=None), (), "more than one call"),
        (_record(model="b"), (), "more than one call"),
        (_record({"strategy": "call", "model": "c"}, model="c"), (), "not chosen from"),
    ],
)
def test_what_was_not_drawn_and_has_no_shadow_teaches_nothing(
    record: Record, copies: tuple[Record, ...], reason: str
) -> None:
    assert reason in _marks(record, *copies)


def test_what_may_not_go_to_every_model_or_was_another_one_teaches_nothing() -> None:
    record = _record()
    assert record.decision is not None
    assert "another one now" in _marks(record, today=("b",))
    assert "another one now" in _marks(_record(propensity=1), _copy(1.0), today=("a",))
    alone = msgspec.structs.replace(record.decision, allowed=("a",))
    assert "not all models" in _marks(_record(decision=alone))


def test_texts_and_what_nobody_scored_are_not_kept() -> None:
    noted = Noted()
    (record,) = noted.noting([_record(), _copy(1.0)])
    assert record.request_body == b"secret"
    assert noted.records["one"].request_body is None
    silent = Feedback(id="f", record_id="one", at_us=1, comment="well")
    assert noted.heeding(lambda ids: {"one": [silent]})(["one"]) == {"one": [silent]}
    assert (noted.records, noted.unscored) == ({}, 1)


def test_a_model_that_loads_other_weights_by_its_old_id_is_another_one() -> None:
    model = Model(name="a", provider="p", id="a", kind="local", weights="/new.gguf")
    was = msgspec.structs.replace(model, weights="/old.gguf")
    assert is_still(model, _attempt("a"), model)
    assert is_still(model, _attempt("a"), None)
    assert not is_still(model, _attempt("a"), was)
    assert not is_still(model, _attempt("a", model_id="b"), model)
