"""Traffic of every form becomes one kind of thing, gathered into workloads that have a place."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.core.label import Label
from isthmus.economics.workloads.advice import EASY, propose, samples_to_tell
from isthmus.economics.workloads.draft import draft, main_model
from isthmus.economics.workloads.grouping import Audit, Group, Workload, fingerprint
from isthmus.economics.workloads.tasks import complexity, task_of
from isthmus.economics.workloads.traffic import Interaction, read

ASKED = [
    {"role": "system", "content": "Summarize the report."},
    {"role": "user", "content": [{"type": "text", "text": "It went well."}]},
]
USAGE = {"prompt_tokens": 400, "completion_tokens": 30}
ANSWER = {"choices": [{"message": {"role": "assistant", "content": "Well."}}], "usage": USAGE}
BODY = {"model": "m", "messages": ASKED}


def attribute(key: str, value: Any) -> dict[str, Any]:
    kind = "intValue" if isinstance(value, int) else "stringValue"
    return {"key": key, "value": {kind: str(value)}}


SPAN = {
    "startTimeUnixNano": "1760000000000000000",
    "attributes": [
        attribute("gen_ai.request.model", "m"),
        attribute(
            "gen_ai.system_instructions", json.dumps([{"type": "text", "content": "Summarize the report."}])
        ),
        attribute(
            "gen_ai.input.messages",
            json.dumps([{"role": "user", "parts": [{"type": "text", "content": "It went well."}]}]),
        ),
        attribute(
            "gen_ai.output.messages",
            json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "Well."}]}]),
        ),
        attribute("gen_ai.usage.input_tokens", 400),
        attribute("gen_ai.usage.output_tokens", 30),
    ],
}
LITELLM = {
    "call_type": "acompletion",
    "model": "m",
    "messages": ASKED,
    "response": ANSWER,
    "prompt_tokens": 400,
    "completion_tokens": 30,
    "response_cost": 0.25,
    "startTime": 1760000000.0,
    "metadata": {"user_api_key_alias": "app"},
}
FORMS: dict[str, Any] = {
    "openai": {"request": BODY, "response": ANSWER},
    "litellm": LITELLM,
    "litellm spend log": LITELLM
    | {"messages": json.dumps(ASKED), "response": json.dumps(ANSWER), "spend": 0.25},
    "langfuse": {
        "type": "GENERATION",
        "name": "app",
        "input": {"messages": ASKED},
        "output": {"role": "assistant", "content": "Well."},
        "model": "m",
        "usageDetails": {"input": 400, "output": 30, "total": 430},
        "costDetails": {"total": 0.25},
        "startTime": "2025-10-09T08:53:20.000Z",
    },
    "opentelemetry": {
        "resourceSpans": [
            {
                "resource": {"attributes": [attribute("service.name", "app")]},
                "scopeSpans": [{"spans": [SPAN, {"name": "GET /", "attributes": []}]}],
            }
        ]
    },
    "isthmus": {
        "route": "app",
        "outcome": "ok",
        "config_hash": "c",
        "model": "m",
        "operation": "chat",
        "input_tokens": 300,
        "cache_read_tokens": 100,
        "output_tokens": 30,
        "charge_nanousd": 250_000_000,
        "at_us": 1_760_000_000_000_000,
        "request_body": base64.b64encode(json.dumps(BODY).encode()).decode(),
        "response_body": base64.b64encode(json.dumps(ANSWER).encode()).decode(),
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_tells_the_same(form: str) -> None:
    (seen,) = read(FORMS[form])
    assert seen.source in form
    assert (seen.model, seen.system, seen.words) == ("m", "Summarize the report.", "It went well.")
    assert seen.answer == "Well."
    assert seen.tokens == (400, 30)
    if form != "openai":
        assert seen.app == "app"
        assert seen.at_us == 1_760_000_000_000_000
    if form not in ("openai", "opentelemetry"):
        assert seen.usd == 0.25


def test_batch_files_bodies_and_responses_requests_are_read() -> None:
    (batched,) = read({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": BODY})
    (bare,) = read(BODY)
    (response,) = read({"model": "m", "instructions": "Summarize the report.", "input": "It went well."})
    assert batched.source == "batch"
    for seen in (batched, bare, response):
        assert (seen.system, seen.words) == ("Summarize the report.", "It went well.")
        assert seen.prompt_tokens is None
        assert seen.tokens[0] > 10


@pytest.mark.parametrize(
    "value",
    [None, 7, "text", [], {}, {"messages": "no list"}, {"type": "SPAN", "input": 1}, {"attributes": {}}],
)
def test_what_is_no_traffic_is_none(value: Any) -> None:
    assert list(read(value)) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
KEYS = sorted({key for form in FORMS.values() for key in form})


@given(
    st.dictionaries(st.sampled_from(KEYS), json_values, max_size=8), st.sampled_from(sorted(FORMS)), st.data()
)
def test_nothing_in_a_log_can_stop_an_audit(odd: dict[str, Any], form: str, data: st.DataObject) -> None:
    for value in (
        odd,
        {**FORMS[form], **{key: odd[key] for key in list(odd)[: data.draw(st.integers(0, 3))]}},
    ):
        for seen in read(value):
            assert complexity(seen, task_of(seen)) <= 1
            assert min(seen.tokens) >= 0


@pytest.mark.parametrize(
    ("system", "words", "more", "task"),
    [
        ("", "Translate this into French: good day", {}, "translation"),
        ("Classify each ticket into one of the following", "It is broken", {}, "classification"),
        ("Extract all dates as JSON", "On May 5", {"schema": True}, "extraction"),
        ("", "Fasse den Text zusammen: Zusammenfassung bitte", {}, "summarisation"),
        ("", "Why does this fail?\n```python\nx = 1\n```", {}, "code"),
        ("Answer based on the following documents", "Who?", {}, "answering from documents"),
        ("", "How many marbles are left?", {}, "reasoning"),
        ("", "Hello!", {}, "conversation"),
        ("", "Hello!", {"tools": 3}, "agent"),
        ("", "a text", {"embeds": True}, "embedding"),
    ],
)
def test_a_task_is_told_by_words_and_shape(system: str, words: str, more: Any, task: str) -> None:
    seen = Interaction(source="openai", model="m", asked={}, system=system, words=words, **more)
    assert task_of(seen) == task


def _seen(at: int, **more: Any) -> Interaction:
    values: dict[str, Any] = {
        "system": f"Classify ticket number {at} by its topic and its urgency.",
        "words": "It broke.",
    }
    return Interaction(
        source="openai", model="m", asked={"n": "x" * 400}, at_us=at * 10**9, **{**values, **more}
    )


def test_templates_that_differ_in_numbers_are_one_workload_and_others_are_not() -> None:
    audit = Audit()
    for at in range(50):
        audit.add(_seen(at), Label("internal"), False, f"f:{at}")
        audit.add(_seen(at, system="Classify the mood of this song."), Label("internal"), False, f"f:{at}")
    assert [it.requests for it in audit.gathered()] == [50, 50]
    assert fingerprint("") == 0
    assert audit.gathered()[0].examples == ["f:0", "f:1", "f:2"]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["internal", "restricted"])), max_size=30),
    st.randoms(),
)
def test_the_order_and_the_parts_of_reading_change_nothing(asked: Any, shuffled: random.Random) -> None:
    def audited(some: Any) -> Audit:
        audit = Audit()
        for at, level in some:
            audit.add(_seen(at, usd=0.5), Label(level, frozenset({"pii.name"})), False, "f")
        return audit

    def total(audit: Audit) -> Workload:
        everything = Workload.of(Group("", "conversation", 0))
        for workload in audit.gathered():
            everything.merge(workload)
        return everything

    whole = total(audited(asked))
    parts = Audit()
    shuffled.shuffle(asked)
    for one in asked:
        parts.merge(audited([one]))
    assert total(parts) == whole
    assert sum(it.requests for it in parts.gathered()) == len(asked)


def _proposed(level: str, hard: bool, usd: float | None = 10.0) -> Any:
    audit = Audit()
    more: dict[str, Any] = {"usd": usd}
    if hard:
        more |= {"system": "", "words": "Prove this theorem step by step", "tools": 0}
    for at in range(100):
        audit.add(_seen(at, **more), Label(level), False, f"f:{at}")  # type: ignore[arg-type]
    (workload,) = audit.gathered()
    return propose(workload, lambda *_: None, (1.0, 2.0), (5.0, 9.0))


@pytest.mark.parametrize(
    ("level", "hard", "place"),
    [
        ("internal", False, "open"),
        ("internal", True, "closed"),
        ("confidential", False, "open"),
        ("confidential", True, "open"),
        ("restricted", False, "local"),
        ("restricted", True, "local"),
    ],
)
def test_a_workload_belongs_where_its_label_and_its_hardness_say(level: str, hard: bool, place: str) -> None:
    proposal = _proposed(level, hard)
    assert proposal.place == place
    assert (proposal.workload.hardness_at(0.5) < EASY) != hard
    assert proposal.reasons


def test_money_is_told_with_an_interval_or_not_at_all() -> None:
    cheap = _proposed("internal", False)
    assert cheap.saving[0] <= cheap.saving[1]
    assert cheap.now_usd > 0
    assert _proposed("internal", False, usd=None).now_usd is None
    assert _proposed("restricted", False).saving is None


def test_how_many_samples_tell_a_difference() -> None:
    assert samples_to_tell(0.05) == 471
    assert samples_to_tell(0.02) > 2_900


def test_a_draft_names_every_workload_and_why() -> None:
    proposals = [_proposed("internal", True), _proposed("restricted", False)]
    text = draft(proposals, ("openai", "m"))
    assert all(it.workload.name in text and it.proof in text for it in proposals)
    assert main_model(proposals) == "m"
