"""Strategies that keep answers back, ask side by side, race and judge, on real sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from isthmus.cli.experiment import experiment
from isthmus.core.feedback import Feedback
from isthmus.core.record import Record
from isthmus.gateway.story import clock
from isthmus.store.feedback import SqliteFeedback
from isthmus.store.history import SqliteHistory
from isthmus.store.keys import SqliteKeys
from isthmus.strategies.plan.cascade import SELF_CHECK, WITH_ATTEMPT
from isthmus.testing import Fault, Refusal, Script, Simulator, ToolCall

from .gateway import (
    ANTHROPIC,
    DIALECTS,
    OPENAI,
    PROMPT,
    Answer,
    Caller,
    Dialect,
    Served,
    config_text,
    eventually,
    failure,
    serving,
    simulated,
)
from .official import clients_of

REFUSES = Script(text=("I'm sorry,", " I cannot", " say."))
SMALL = {"model": "openai/small", "retries": 0}
STRONG = {"model": "openai/strong", "retries": 0}

CASCADES: dict[str, Any] = {
    "plain": {"cascade": [SMALL, STRONG]},
    "shown": {"cascade": [SMALL, {**STRONG, "context": "with_attempt"}]},
    "sure": {"cascade": [{**SMALL, "accept": {"logprob": -0.5}}, STRONG]},
    "early": {
        "cascade": [
            {**SMALL, "accept": {"early": {"tokens": 2, "logprob": -1.5, "surely": -0.05}}},
            {**STRONG, "context": "with_attempt"},
        ]
    },
    "optimistic": {"cascade": [SMALL, STRONG], "stream": "optimistic"},
    "patient": {"cascade": [SMALL, STRONG], "stream": "optimistic", "unsure": "deliver"},
    "form": {"cascade": [{**SMALL, "accept": {"schema": True}}, STRONG]},
    "among": {
        "cascade": [
            {**SMALL, "accept": {"agreement": 0.5}, "among": ["openai/a", "openai/b"], "samples": 1},
            STRONG,
        ]
    },
    "checked": {"cascade": [{**SMALL, "accept": {"self_check": 0.8}}, STRONG]},
    "stubborn": {"cascade": [SMALL, STRONG], "unsure": "deliver"},
    "foreign": {"cascade": [{"model": "gemini/small", "retries": 0}, {"model": "anthropic/strong"}]},
}
COMBINED: dict[str, Any] = {
    combine: {"ensemble": ["openai/a", "openai/b", "openai/c"], "combine": combine, **more}
    for combine, more in {
        "vote": {"otherwise": "openai/strong"},
        "judge": {"judge": "openai/judge"},
        "fuse": {"judge": "openai/judge"},
        "first_valid": {"accept": {"schema": True}},
        "critique": {"accept": {"schema": True}},
    }.items()
}
SIDE_BY_SIDE: dict[str, Any] = {
    **COMBINED,
    "hedge": {"hedge": "openai/a", "beside": "openai/b", "after": 0.02},
    "burst": {"burst": ["openai/a", "openai/b", "openai/c"], "at": 1},
}


def said(*texts: str) -> Script:
    return Script(text=texts)


def _verdicts(record: Record) -> list[tuple[str, str, bool, str | None]]:
    """What each attempt was for, of which model, whether the client got it, and what was made of it."""
    return [(it.model, it.purpose, it.committed, it.verdict) for it in record.attempts]


def _asked(sim: Simulator) -> list[str]:
    return [str((it.body or {}).get("model", it.path)) for it in sim.requests]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda it: it.name)
async def test_a_cascade_stops_at_what_it_accepts(tmp_path: Path, dialect: Dialect, stream: bool) -> None:
    async with simulated({"plain": CASCADES["plain"]}, tmp_path) as (sim, served):
        sim.scripts["small"] = said("forty", "-two")
        answer = await served.ask("plain", dialect, stream=stream)
        assert dialect.text(answer) == "forty-two"
        assert answer.headers["x-isthmus-model"] == "openai/small"
        assert _asked(sim) == ["small"]
        record = await served.record(answer)
        assert _verdicts(record) == [("openai/small", "draft", True, "accepted")]
        assert (record.model, record.outcome) == ("openai/small", "ok")
        assert not stream or dialect.ended(answer.events)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda it: it.name)
async def test_a_cascade_goes_on_from_what_it_rejects(tmp_path: Path, dialect: Dialect, stream: bool) -> None:
    async with simulated({"shown": CASCADES["shown"]}, tmp_path) as (sim, served):
        sim.scripts["small"] = REFUSES
        sim.scripts["strong"] = said("forty", "-two")
        answer = await served.ask("shown", dialect, stream=stream)
        assert dialect.text(answer) == "forty-two"
        assert answer.headers["x-isthmus-model"] == "openai/strong"
        turns = (sim.requests[1].body or {})["messages"]
        assert [it["role"] for it in turns] == ["user", "assistant", "user"]
        assert (PROMPT in str(turns[0]), turns[1]["content"]) == (True, "I'm sorry, I cannot say.")
        assert turns[2]["content"] == WITH_ATTEMPT
        record = await served.record(answer)
        assert _verdicts(record) == [
            ("openai/small", "draft", False, "it refuses"),
            ("openai/strong", "answer", True, None),
        ]
        assert record.charge is not None
        paid = [it.charge.nanousd or 0 for it in record.attempts if it.charge is not None]
        assert (len(paid), record.charge.nanousd) == (2, sum(paid))
        if not stream:
            assert float(answer.headers["x-isthmus-cost-usd"]) == pytest.approx(sum(paid) / 1e9)
        metrics = await served.metrics()
        counted = 'isthmus_kept_answers_total{purpose="draft",route="shown",taken="not taken"}'
        assert metrics[counted] == 1


async def test_where_the_draft_need_not_be_shown_bytes_pass_to_the_strong_model(tmp_path: Path) -> None:
    async with simulated({"plain": CASCADES["plain"]}, tmp_path) as (sim, served):
        sim.scripts["small"] = REFUSES
        answer = await served.ask("plain", stream=True)
        record = await served.record(answer)
        assert [it.passthrough for it in record.attempts] == [False, True]
        assert "messages" in (sim.requests[1].body or {})
        assert len((sim.requests[1].body or {})["messages"]) == 1


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_are_the_clients_only_where_it_asked(
    tmp_path: Path, stream: bool, asks: bool
) -> None:
    async with simulated({"sure": CASCADES["sure"]}, tmp_path) as (sim, served):
        sim.scripts["small"] = Script(text=("forty", "-two"), logprobs=(-0.1, -0.3))
        more = {"logprobs": True, "top_logprobs": 2} if asks else {}
        answer = await served.ask("sure", stream=stream, **more)
        assert OPENAI.text(answer) == "forty-two"
        assert (b'"logprob":' in answer.body) == asks
        (attempt,) = (await served.record(answer)).attempts
        assert attempt.confidence == pytest.approx(2.718281828 ** (-0.2))

        sim.scripts["small"] = Script(text=("forty", "-three"), logprobs=(-0.1, -1.9))
        unsure = await served.ask("sure", stream=stream, **more)
        assert unsure.headers["x-isthmus-model"] == "openai/strong"
        (first, _) = (await served.record(unsure)).attempts
        assert first.verdict == "its mean log-probability is -1.00, below -0.5"
        assert (b'"logprob":' in unsure.body) == asks


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda it: it.name)
async def test_a_hopeless_beginning_is_cut_off_and_paid_as_far_as_it_came(
    tmp_path: Path, dialect: Dialect, stream: bool
) -> None:
    async with simulated({"early": CASCADES["early"]}, tmp_path) as (sim, served):
        # What would be waited for never comes.
        sim.scripts["small"] = Script(
            text=("per", "haps", "not", "so"), logprobs=(-2.0, -3.0, -0.1, -0.1), fault=Fault(stall_after=3)
        )
        sim.scripts["strong"] = said("forty", "-two")
        answer = await served.ask("early", dialect, stream=stream)
        assert dialect.text(answer) == "forty-two"
        record = await served.record(answer)
        draft, strong = record.attempts
        assert (draft.outcome, draft.committed, draft.purpose) == ("cancelled", False, "draft")
        assert draft.verdict == (
            "its first 2 tokens have a mean log-probability of -2.50, below -1.5: cut off"
        )
        assert draft.usage is not None
        assert draft.usage.estimated
        assert draft.usage.output > 0
        assert draft.charge is not None
        assert strong.charge is not None
        assert (draft.charge.nanousd or 0) > 0
        assert record.charge is not None
        assert record.charge.nanousd == (draft.charge.nanousd or 0) + (strong.charge.nanousd or 0)
        # Half an answer shows nobody anything.
        assert PROMPT in str(sim.requests[1].body)
        assert "perhaps" not in str(sim.requests[1].body)


@pytest.mark.parametrize("asks", [False, True])
async def test_a_sure_beginning_is_streamed_at_once(tmp_path: Path, asks: bool) -> None:
    async with simulated({"early": CASCADES["early"]}, tmp_path) as (sim, served):
        sure = Script(
            text=("for", "ty", "-", "two"), logprobs=(-0.01, -0.02, -4, -4), fault=Fault(stall_after=3)
        )
        sim.scripts["small"] = sure
        caller = await Caller.ask(served, "early")
        assert b"for" in await caller.until(b'"ty"')
        await caller.leave()
        await eventually(lambda: served.house.gateway.tally.in_flight == 0)
        left = (await served.records())[-1]
        assert (left.outcome, left.attempts[0].committed) == ("cancelled", True)

        sim.scripts["small"] = msgspec.structs.replace(sure, fault=Fault())
        more = {"logprobs": True} if asks else {}
        for stream in (True, False):
            answer = await served.ask("early", stream=stream, **more)
            assert OPENAI.text(answer) == "forty-two"
            assert (b'"logprob":' in answer.body) == asks
            (attempt,) = (await served.record(answer)).attempts
            assert (attempt.committed, attempt.purpose, attempt.outcome) == (True, "draft", "ok")
            assert attempt.verdict is not None
            assert attempt.verdict.endswith("accepted by its beginning")
            assert attempt.usage is not None
            assert not attempt.usage.estimated

        # Nothing is asked instead of what the client has begun to see.
        sim.scripts["small"] = msgspec.structs.replace(sure, fault=Fault(cut_after=3))
        broken = await served.ask("early", stream=True)
        assert failure(broken.events) is not None
        assert len((await served.record(broken)).attempts) == 1
        # A refusal is none, however sure.
        sim.scripts["small"] = Script(text=("I'm sorry,", " I cannot", " say."), logprobs=(-0.01,) * 3)
        refused = await served.ask("early", stream=True)
        assert refused.headers["x-isthmus-model"] == "openai/strong"


async def test_a_model_that_tells_no_log_probabilities_has_no_beginning(tmp_path: Path) -> None:
    route = {"cascade": [{"model": "anthropic/small", "accept": {"early": {"logprob": -1}}}, STRONG]}
    async with simulated({"r": route}, tmp_path) as (sim, served):
        sim.scripts["small"] = said("forty", "-two")
        answer = await served.ask("r")
        assert (OPENAI.text(answer), len((await served.record(answer)).attempts)) == ("forty-two", 1)


REVISES = {"x-isthmus-revisions": "accept"}


def _texts(answer: Answer) -> list[str]:
    """What stood before the client: before each revision, and in the end."""
    texts = [""]
    for event in answer.events:
        if event.data != b"[DONE]" and event.json.get("isthmus") == {"revision": "restart"}:
            assert event.json["choices"] == []
            texts.append("")
        elif event.data != b"[DONE]":
            texts[-1] += OPENAI.delta(event.json)
    return texts


async def test_an_optimistic_stream_is_seen_before_it_is_judged_and_taken_back_where_rejected(
    tmp_path: Path,
) -> None:
    async with simulated({"optimistic": CASCADES["optimistic"]}, tmp_path) as (sim, served):
        sim.scripts["small"] = Script(text=("for", "ty", "-two"), fault=Fault(stall_after=2))
        async with served.session.post(
            served.url + OPENAI.path,
            json=OPENAI.body("optimistic", True) | {"stream_options": {"include_usage": True}},
            headers=REVISES,
        ) as response:
            # The model has not ended: nobody can have judged it.
            seen = b""
            while b'"ty"' not in seen:
                seen += await response.content.readany()
            assert b'finish_reason":"stop' not in seen
            sim.release()
            seen += await response.read()
        accepted = Answer(200, dict(response.headers), seen)
        assert _texts(accepted) == ["forty-two"]
        assert seen.count(b'"finish_reason":"stop"') == 1
        assert seen.count(b"[DONE]") == seen.count(b'"prompt_tokens"') == 1

        sim.scripts |= {"small": REFUSES, "strong": said("forty", "-three")}
        revised = await served.ask("optimistic", stream=True, headers=REVISES)
        assert _texts(revised) == ["I'm sorry, I cannot say.", "forty-three"]
        assert OPENAI.ended(revised.events)
        assert revised.body.count(b"[DONE]") == 1
        record = await served.record(revised)
        assert record.model == "openai/strong"
        assert _verdicts(record) == [
            ("openai/small", "draft", False, "it refuses"),
            ("openai/strong", "answer", True, None),
        ]
        assert record.decision is not None
        assert record.decision.revises


async def test_the_official_client_hands_on_what_takes_a_draft_back(tmp_path: Path) -> None:
    routes = {"optimistic": CASCADES["optimistic"]}
    async with simulated(routes, tmp_path) as (sim, served), clients_of(served.url) as clients:
        sim.scripts |= {"small": REFUSES, "strong": said("forty", "-three")}
        asked: Any = {"model": "optimistic", "messages": [{"role": "user", "content": "how many?"}]}
        shown, seen, finishes = "", [], []
        async for chunk in await clients.openai.chat.completions.create(
            **asked, stream=True, extra_headers=REVISES
        ):
            if (chunk.model_extra or {}).get("isthmus") == {"revision": "restart"}:
                assert chunk.choices == []
                seen.append(shown)
                shown = ""
            for choice in chunk.choices:
                shown += choice.delta.content or ""
                finishes += [choice.finish_reason] if choice.finish_reason else []
        assert (seen, shown, finishes) == (["I'm sorry, I cannot say."], "forty-three", ["stop"])

        # Its helper knows of no revision, and adds up all that it has seen: it is not to send the header.
        async with clients.openai.chat.completions.stream(**asked, extra_headers=REVISES) as helper:
            both = await helper.get_final_completion()
        assert both.choices[0].message.content == "I'm sorry, I cannot say.forty-three"
        async with clients.openai.chat.completions.stream(**asked) as helper:
            judged = await helper.get_final_completion()
        assert judged.choices[0].message.content == "forty-three"


@pytest.mark.parametrize(
    ("dialect", "headers", "stream"),
    [
        (OPENAI, {}, True),
        (OPENAI, {"x-isthmus-revisions": "no"}, True),
        (OPENAI, REVISES, False),
        (ANTHROPIC, REVISES, True),
        (DIALECTS[2], REVISES, True),
    ],
    ids=["unsaid", "refused", "whole", "anthropic", "responses"],
)
async def test_who_cannot_take_back_gets_what_was_judged(
    tmp_path: Path, dialect: Dialect, headers: dict[str, str], stream: bool
) -> None:
    async with simulated({"optimistic": CASCADES["optimistic"]}, tmp_path) as (sim, served):
        sim.scripts |= {"small": REFUSES, "strong": said("forty", "-two")}
        answer = await served.ask("optimistic", dialect, stream=stream, headers=headers)
        assert dialect.text(answer) == "forty-two"
        assert b"sorry" not in answer.body
        assert b"revision" not in answer.body


async def test_failures_of_an_optimistic_stream(tmp_path: Path) -> None:
    routes = {name: CASCADES[name] for name in ("optimistic", "patient")}
    async with simulated(routes, tmp_path) as (sim, served):
        # A draft that breaks is taken back, too.
        sim.scripts |= {
            "small": Script(text=("for", "ty", "-two"), fault=Fault(cut_after=2)),
            "strong": said("forty", "-three"),
        }
        broken = await served.ask("optimistic", stream=True, headers=REVISES)
        assert _texts(broken) == ["forty", "forty-three"]

        # Where nobody answers, what was seen is followed by an error, and by no end.
        sim.scripts |= {"small": REFUSES, "strong": Script(fault=Fault(refuse=Refusal(status=500)))}
        failed = await served.ask("optimistic", stream=True, headers=REVISES)
        assert failure(failed.events) is not None
        assert (await served.record(failed)).outcome == "error"
        assert b'"finish_reason":"stop"' not in failed.body

        # What was rejected and is given all the same stands already: only its end is still to be said.
        patient = await served.ask("patient", stream=True, headers=REVISES)
        assert _texts(patient) == ["I'm sorry, I cannot say."]
        assert patient.body.count(b'"finish_reason":"stop"') == 1
        assert (await served.record(patient)).attempts[0].committed

        # Who leaves in the midst of what is judged has left an answer like any other.
        sim.scripts["small"] = Script(text=("for", "ty"), fault=Fault(stall_after=1))
        async with served.session.post(
            served.url + OPENAI.path, json=OPENAI.body("optimistic", True), headers=REVISES
        ) as response:
            assert await response.content.readany()
            response.close()
        await eventually(lambda: served.house.gateway.tally.in_flight == 0)
        left = (await served.records())[-1]
        assert (left.outcome, [it.outcome for it in left.attempts]) == ("cancelled", ["cancelled"])


@pytest.mark.parametrize("usage", [False, True])
async def test_a_kept_stream_tells_usage_where_that_was_asked(tmp_path: Path, usage: bool) -> None:
    async with simulated({"plain": CASCADES["plain"]}, tmp_path) as (sim, served):
        sim.scripts["small"] = said("forty", "-two")
        options = {"stream_options": {"include_usage": True}} if usage else {}
        answer = await served.ask("plain", stream=True, **options)
        told = [it.json["usage"] for it in answer.events if it.data != b"[DONE]" and it.json.get("usage")]
        assert len(told) == usage
        record = await served.record(answer)
        assert record.usage is not None
        assert not record.usage.estimated


async def test_answers_are_judged_by_the_form_that_was_asked_for(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    async with simulated({"form": CASCADES["form"]}, tmp_path) as (sim, served):
        for text, why in {
            '{"a": 1}': "accepted",
            '{"a": "canary"}': "its JSON does not fit the form (type)",
            "canary": "it is no JSON",
        }.items():
            sim.scripts["small"] = said(text)
            record = await served.record(await served.ask("form", response_format=form))
            assert record.attempts[0].verdict == why
            assert len(record.attempts) == 1 + (why != "accepted")
            assert b"canary" not in msgspec.json.encode(record)


async def test_a_step_asks_others_at_the_same_time_whether_they_agree(tmp_path: Path) -> None:
    async with simulated({"among": CASCADES["among"]}, tmp_path) as (sim, served):
        sim.scripts |= {"small": said("42"), "a": said("42."), "b": said("41")}
        answer = await served.ask("among", temperature=0)
        assert OPENAI.text(answer) == "42"
        record = await served.record(answer)
        drafts = [(it.model, it.committed, it.verdict) for it in record.attempts]
        assert sorted(it for it, _, _ in drafts) == ["openai/a", "openai/b", *["openai/small"] * 2]
        assert [it for it in drafts if it[1]] == [("openai/small", True, "accepted")]
        small = [it.body or {} for it in sim.requests if (it.body or {})["model"] == "small"]
        # A second answer at temperature 0 would be the first again.
        assert {it.get("temperature") for it in small} == {0, None}

        sim.scripts |= {"a": said("41"), "b": Script(fault=Fault(refuse=Refusal(status=500)))}
        sim.scripts["small"] = lambda asked: said(str(asked.nth))
        other = await served.ask("among")
        assert other.headers["x-isthmus-model"] == "openai/strong"
        verdict = next(it.verdict for it in (await served.record(other)).attempts if it.verdict)
        assert verdict == "0 of 2 others say the same"


@pytest.mark.parametrize(
    ("check", "taken"), [(Script(text=("Yes",), logprobs=(-0.05,)), True), (said("No"), False)]
)
async def test_a_model_is_asked_whether_it_was_right(tmp_path: Path, check: Script, taken: bool) -> None:
    async with simulated({"checked": CASCADES["checked"]}, tmp_path) as (sim, served):
        sim.scripts["small"] = lambda asked: check if asked.text == SELF_CHECK else said("42")
        answer = await served.ask("checked")
        assert answer.headers["x-isthmus-model"] == ("openai/small" if taken else "openai/strong")
        record = await served.record(answer)
        assert [it.purpose for it in record.attempts][:2] == ["draft", "judge"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cascade_translates_between_all_dialects(tmp_path: Path, stream: bool) -> None:
    async with simulated({"foreign": CASCADES["foreign"]}, tmp_path) as (sim, served):
        for script, model in ((said("forty", "-two"), "gemini/small"), (REFUSES, "anthropic/strong")):
            sim.scripts["small"] = script
            for dialect in DIALECTS:
                answer = await served.ask("foreign", dialect, stream=stream)
                assert (answer.status, answer.headers["x-isthmus-model"]) == (200, model)
                assert "sorry" not in dialect.text(answer)


@pytest.mark.parametrize("unsure", ["plain", "stubborn"])
async def test_what_becomes_of_a_rejected_answer_when_the_strong_model_fails(
    tmp_path: Path, unsure: str
) -> None:
    async with simulated({unsure: CASCADES[unsure]}, tmp_path) as (sim, served):
        sim.scripts["small"] = REFUSES
        sim.scripts["strong"] = Script(fault=Fault(refuse=Refusal(status=500)))
        answer = await served.ask(unsure)
        record = await served.record(answer)
        assert [it.model for it in record.attempts] == ["openai/small", "openai/strong"]
        if unsure == "stubborn":
            assert (OPENAI.text(answer), record.model) == ("I'm sorry, I cannot say.", "openai/small")
        else:
            assert (answer.status, record.outcome) == (502, "error")


async def test_tools_are_called_through_a_cascade(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}
    async with simulated({"plain": CASCADES["plain"]}, tmp_path) as (sim, served):
        sim.scripts["small"] = Script(tools=(ToolCall("tide"),))
        answer = await served.ask("plain", tools=[tool])
        (call,) = answer.json["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] == "tide"
        assert answer.json["choices"][0]["finish_reason"] == "tool_calls"
        assert answer.headers["x-isthmus-model"] == "openai/small"


async def test_what_cannot_be_judged_is_asked_of_the_one_whose_answer_is_always_taken(tmp_path: Path) -> None:
    routes = {"plain": CASCADES["plain"], "vote": COMBINED["vote"]}
    async with simulated(routes, tmp_path) as (_, served):
        for route, model in (("plain", "openai/strong"), ("vote", "openai/a")):
            vector = await served.post("/v1/embeddings", {"model": route, "input": "tide"})
            assert (vector.status, vector.headers["x-isthmus-model"]) == (200, model)
            counted = await served.post("/v1/messages/count_tokens", ANTHROPIC.body(route, False))
            assert (counted.status, counted.headers["x-isthmus-model"]) == (200, model)
            decision = (await served.record(vector)).decision
            assert decision is not None
            assert decision.allowed == (model,)


async def test_what_the_gateway_does_not_understand_is_passed_on_by_who_need_not_be_judged(
    tmp_path: Path,
) -> None:
    """As a later version of a dialect may have it."""
    odd = {"tool_choice": {"type": "allowed_tools"}}
    async with simulated({"plain": CASCADES["plain"]}, tmp_path) as (sim, served):
        answer = await served.ask("plain", **odd)
        record = await served.record(answer)
        assert [it.model for it in record.attempts] == ["openai/small", "openai/strong"]
        assert (record.attempts[0].code, record.attempts[0].usage) == ("unsupported", None)
        assert _asked(sim) == ["strong"]


ANSWERS = {"a": "41", "b": "42", "c": "42."}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_vote_takes_what_most_say(tmp_path: Path, stream: bool) -> None:
    async with simulated({"vote": {"ensemble": COMBINED["vote"]["ensemble"]}}, tmp_path) as (sim, served):
        sim.scripts |= {name: said(text) for name, text in ANSWERS.items()}
        answer = await served.ask("vote", stream=stream)
        assert OPENAI.text(answer) == "42"
        record = await served.record(answer)
        assert (record.model, len(record.attempts)) == ("openai/b", 3)
        (winner,) = (it for it in record.attempts if it.committed)
        assert (winner.confidence, winner.verdict) == (2 / 3, "2 of 3 say the same")


FAILS = Script(fault=Fault(refuse=Refusal(status=401)))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("scripts", "model", "verdict"),
    [
        ({"a": said("42"), "b": said("42."), "c": said("42")}, "openai/a", "3 of 3 say the same"),
        ({"a": said("1"), "b": said("1"), "c": said("2")}, "openai/strong", "only 2 of 3 say the same"),
        ({"a": said("42"), "b": said("42"), "c": FAILS}, "openai/strong", "only 2 of 3 say the same"),
        ({"a": said("42"), "b": said("42"), "c": said("...")}, "openai/strong", "only 2 of 3 say the same"),
        ({"a": said("42"), "b": FAILS, "c": FAILS}, "openai/strong", "only 1 of 3 say the same"),
    ],
)
async def test_unanimous_answers_are_taken_and_any_disagreement_escalates(
    tmp_path: Path, stream: bool, scripts: dict[str, Script], model: str, verdict: str
) -> None:
    async with simulated({"vote": COMBINED["vote"]}, tmp_path) as (sim, served):
        sim.scripts |= scripts
        answer = await served.ask("vote", stream=stream)
        assert answer.headers["x-isthmus-model"] == model
        verdicts = [it.verdict for it in (await served.record(answer)).attempts]
        assert verdict in verdicts


async def test_a_lone_answer_is_no_certainty(tmp_path: Path) -> None:
    async with simulated({"vote": {"ensemble": COMBINED["vote"]["ensemble"]}}, tmp_path) as (sim, served):
        sim.scripts |= {"a": FAILS, "b": said("42"), "c": FAILS}
        record = await served.record(await served.ask("vote"))
        (winner,) = (it for it in record.attempts if it.committed)
        assert (winner.confidence, winner.verdict) == (1 / 3, "1 of 3 say the same")


async def test_a_judge_chooses_blind_and_in_both_orders(tmp_path: Path) -> None:
    async with simulated({"judge": COMBINED["judge"]}, tmp_path) as (sim, served):
        sim.scripts |= {name: said(text) for name, text in ANSWERS.items()}

        def prefers_c(asked: Any) -> Script:
            first = asked.text.index('"42."') if '"42."' in asked.text else None
            return said("A") if first is not None and first < asked.text.index("Answer B") else said("B")

        sim.scripts["judge"] = prefers_c
        answer = await served.ask("judge", max_tokens=5)
        assert OPENAI.text(answer) == "42."
        record = await served.record(answer)
        assert [it.purpose for it in record.attempts].count("judge") == 6
        (winner,) = (it for it in record.attempts if it.committed)
        assert (winner.model, winner.verdict) == ("openai/c", "preferred in 4 of 4 comparisons")
        judged = [it.raw for it in sim.requests if (it.body or {})["model"] == "judge"]
        assert not any(b"openai/" in it or b'"a"' in it for it in judged), "the judge is not told who"


async def test_a_judge_that_fails_leaves_the_first_answer(tmp_path: Path) -> None:
    async with simulated({"judge": COMBINED["judge"]}, tmp_path) as (sim, served):
        sim.scripts |= {name: said(text) for name, text in ANSWERS.items()}
        sim.scripts["judge"] = Script(fault=Fault(refuse=Refusal(status=500)))
        answer = await served.ask("judge")
        assert OPENAI.text(answer) == "41"
        (winner,) = (it for it in (await served.record(answer)).attempts if it.committed)
        assert (winner.verdict or "").endswith("6 of 6 were not decided")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_writer_fuses_the_drafts(tmp_path: Path, stream: bool) -> None:
    async with simulated({"fuse": COMBINED["fuse"]}, tmp_path) as (sim, served):
        sim.scripts |= {name: said(text) for name, text in ANSWERS.items()}
        sim.scripts["judge"] = said("about", " 42")
        answer = await served.ask("fuse", stream=stream)
        assert (OPENAI.text(answer), answer.headers["x-isthmus-model"]) == ("about 42", "openai/judge")
        (asked,) = (it.raw for it in sim.requests if (it.body or {})["model"] == "judge")
        assert all(text.encode() in asked for text in ANSWERS.values())

        sim.scripts["judge"] = Script(fault=Fault(refuse=Refusal(status=500)))
        assert OPENAI.text(await served.ask("fuse", stream=stream)) == "41"


async def test_the_first_valid_answer_is_taken_and_the_others_are_cut_off(tmp_path: Path) -> None:
    async with simulated({"first_valid": COMBINED["first_valid"]}, tmp_path) as (sim, served):
        sim.scripts["a"] = said("prose")
        sim.scripts["b"] = Script(text=("{}",), fault=Fault(stall_after=0))
        sim.scripts["c"] = said('{"a": 1}')
        answer = await served.ask("first_valid", stream=True)
        assert (OPENAI.text(answer), answer.headers["x-isthmus-model"]) == ('{"a": 1}', "openai/c")
        record = await served.record(answer)
        outcomes = {it.model: (it.outcome, it.committed) for it in record.attempts}
        # The prose may end before the valid answer, or be cut off by it.
        assert outcomes.pop("openai/a") in {("ok", False), ("cancelled", False)}
        assert outcomes == {"openai/b": ("cancelled", False), "openai/c": ("ok", True)}


async def test_a_critique_shows_the_fault_to_the_next(tmp_path: Path) -> None:
    async with simulated({"critique": COMBINED["critique"]}, tmp_path) as (sim, served):
        sim.scripts["a"] = said("prose")
        sim.scripts["b"] = said('{"a": 1}')
        answer = await served.ask("critique")
        assert (OPENAI.text(answer), _asked(sim)) == ('{"a": 1}', ["a", "b"])
        assert b"it is no JSON" in sim.requests[1].raw
        sim.scripts["b"] = sim.scripts["c"] = said("still prose")
        assert OPENAI.text(await served.ask("critique")) == "still prose"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hedge_cuts_off_the_slow_and_bills_it(tmp_path: Path, stream: bool) -> None:
    async with simulated({"hedge": SIDE_BY_SIDE["hedge"]}, tmp_path) as (sim, served):
        sim.scripts["a"] = Script(text=("slow",), fault=Fault(stall_after=0))
        sim.scripts["b"] = said("quick")
        answer = await served.ask("hedge", stream=stream)
        assert (OPENAI.text(answer), answer.headers["x-isthmus-model"]) == ("quick", "openai/b")
        record = await served.record(answer)
        slow, quick = record.attempts
        assert (slow.outcome, slow.committed, quick.outcome, quick.committed) == (
            "cancelled",
            False,
            "ok",
            True,
        )
        # It had the prompt, and may bill that.
        assert slow.usage is not None
        assert slow.usage.input > 0
        assert slow.usage.estimated
        await sim.wait_aborted(1)
        assert record.timings.overhead_ms < 1000


async def test_a_hedge_asks_one_where_one_is_enough(tmp_path: Path) -> None:
    routes = {"hedge": {"hedge": "openai/a", "beside": "openai/b", "after": 20}}
    async with simulated(routes, tmp_path) as (sim, served):
        answer = await served.ask("hedge", stream=True)
        assert (answer.headers["x-isthmus-model"], _asked(sim)) == ("openai/a", ["a"])
        sim.scripts["a"] = Script(fault=Fault(refuse=Refusal(status=500)))
        failed_over = await served.ask("hedge", stream=True)
        assert failed_over.headers["x-isthmus-model"] == "openai/b"


async def test_a_burst_goes_where_there_is_room_and_never_waits(tmp_path: Path) -> None:
    async with simulated({"burst": SIDE_BY_SIDE["burst"]}, tmp_path) as (sim, served):
        for name in ("a", "b"):
            sim.scripts[name] = Script(text=("local", "!"), fault=Fault(stall_after=1))
        first = await Caller.ask(served, "burst")
        await first.until(b"local")
        second = await Caller.ask(served, "burst")
        await second.until(b"local")
        third = await served.ask("burst")
        assert (third.headers["x-isthmus-model"], _asked(sim)) == ("openai/c", ["a", "b", "c"])
        sim.release()
        assert b"[DONE]" in await first.until(b"[DONE]")
        await second.until(b"[DONE]")
        sim.scripts["a"] = said("free")
        again = await served.ask("burst")
        assert again.headers["x-isthmus-model"] == "openai/a"
        for client in (first, second):
            await client.leave()


async def test_while_the_network_is_down_the_local_model_answers_and_then_the_strong_one_returns(
    tmp_path: Path,
) -> None:
    """At the edge, a fallback with a breaker does it: one request looks, the others stay where they are."""
    routes = {"edge": {"fallback": [STRONG, "anthropic/local"]}}
    breaker = {"failures": 2, "cooldown": 0.05, "max_cooldown": 0.05}
    async with simulated(routes, tmp_path, provider={"breaker": breaker}) as (sim, served):
        down = Script(fault=Fault(disconnect=True))
        sim.scripts |= {"strong": down, "local": said("here")}
        for _ in range(6):
            assert OPENAI.text(await served.ask("edge", stream=True)) == "here"
        tried = [it for it in _asked(sim) if it == "strong"]
        assert len(tried) < 6, "who is known to be down is not asked"

        sim.scripts["strong"] = said("back")
        health = served.house.gateway.snapshot.upstreams["openai/strong"].breaker
        await eventually(lambda: health.state(clock()) == "half-open")
        assert OPENAI.text(await served.ask("edge", stream=True)) == "back"
        assert OPENAI.text(await served.ask("edge", stream=True)) == "back"


FAULTS = {
    "refuses": Fault(refuse=Refusal(status=500)),
    "invalid": Fault(refuse=Refusal(status=400)),
    "lost": Fault(disconnect=True),
    "cut": Fault(cut_after=1),
    "stalls": Fault(stall_after=1),
    "never ends": Fault(truncate_after=1),
    "garbled": Fault(bad_json=True),
}
EVERY = {**CASCADES, **SIDE_BY_SIDE}
TIMEOUTS = {"timeouts": {"connect": 1, "first_token": 0.1, "idle": 0.1, "total": 0.3}}


@pytest.mark.parametrize("stream", [False, True])
async def test_whatever_fails_there_is_one_answer_or_one_error_and_the_sums_agree(
    tmp_path: Path, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.strategies.plan.call.FIRST_PAUSE_S", 0.001)
    provider = {**TIMEOUTS, "breaker": {"failures": 10_000}}
    async with simulated(EVERY, tmp_path, provider=provider) as (sim, served):
        names = ("small", "strong", "a", "b", "c", "judge")
        asking = []
        for fault in FAULTS.values():
            for broken in names:
                sim.scripts = {
                    name: Script(text=("4", "2"), fault=fault if name == broken else Fault())
                    for name in names
                }
                asking = [served.ask(route, stream=stream) for route in EVERY]
                asking += [
                    served.ask(route, stream=stream, headers=REVISES) for route in ("optimistic", "patient")
                ]
                for answer in await asyncio.gather(*asking):
                    _is_one_answer_or_one_error(answer, stream)
        records = await served.records()
        assert len(records) == len(FAULTS) * len(names) * (len(EVERY) + 2)
        for record in records:
            _agrees_with_itself(record)
        assert served.house.gateway.tally.in_flight == 0
        upstreams = served.house.gateway.snapshot.upstreams.values()
        assert not any(it.breaker.under_way for it in upstreams), "every attempt has ended"


def _is_one_answer_or_one_error(answer: Answer, stream: bool) -> None:
    if answer.status != 200:
        assert answer.error["message"]
    elif not stream:
        assert OPENAI.text(answer)
    else:
        broken = failure(answer.events) is not None
        assert broken != any('"finish_reason":"' in it.data.decode() for it in answer.events)


def _agrees_with_itself(record: Record) -> None:
    assert [it.number for it in record.attempts] == list(range(1, len(record.attempts) + 1))
    committed = [it.model for it in record.attempts if it.committed]
    assert len(committed) <= 1, "the client gets one model's answer"
    if record.outcome == "ok":
        assert committed == [record.model]
    amounts = [it.charge.nanousd or 0 for it in record.attempts if it.charge is not None]
    assert (record.charge.nanousd if record.charge else 0) == sum(amounts)


@pytest.mark.parametrize("route", EVERY)
async def test_a_client_that_leaves_ends_everything_and_it_is_told(tmp_path: Path, route: str) -> None:
    async with simulated({route: EVERY[route]}, tmp_path) as (sim, served):
        sim.script = Script(text=("4", "2"), fault=Fault(stall_after=1))
        client = await Caller.ask(served, route)
        await sim.wait_held(1)
        await client.leave()
        await eventually(lambda: served.house.gateway.tally.in_flight == 0)
        (record,) = await served.records()
        assert record.outcome == "cancelled"
        # Some may have been cut off before their upstream had read them.
        assert len(record.attempts) >= len(sim.requests)
        assert {it.outcome for it in record.attempts} == {"cancelled"}
        assert all(it.usage is not None and it.usage.input for it in record.attempts)
        await sim.wait_aborted(1)


CLOSED = {"perimeter": {"default": "public", "clearance": {"closed": "internal", "local": "restricted"}}}


async def test_who_may_not_see_what_a_draft_says_is_asked_without_it(tmp_path: Path) -> None:
    """A model on one's own machines may say what a closed one must not hear."""
    labels = [{"when": "pii.email", "level": "confidential"}]
    perimeter = {**CLOSED["perimeter"], "labels": labels, "timeout": 30}
    routes = {
        "shown": {"cascade": ["openai/small", {"model": "anthropic/strong", "context": "with_attempt"}]},
        "judge": {"ensemble": ["openai/small", "openai/a"], "combine": "judge", "judge": "anthropic/strong"},
        "fuse": {"ensemble": ["openai/small", "openai/a"], "combine": "fuse", "judge": "anthropic/strong"},
        "critique": {
            "ensemble": ["openai/small", "anthropic/strong"],
            "combine": "critique",
            "accept": {"schema": True},
        },
    }
    async with Simulator() as sim:
        document = msgspec.json.decode(config_text(sim.url, routes, perimeter=perimeter))
        for name, model in document["models"].items():
            model["kind"] = "local" if name.startswith("openai") else "closed"
        async with serving(msgspec.json.encode(document).decode(), tmp_path) as served:
            leaky = said("I'm sorry,", " write to canary@example.org")
            sim.scripts |= {"small": leaky, "a": leaky, "strong": said("forty-two")}
            for route in routes:
                answer = await served.ask(route)
                assert answer.status == 200, answer.body
                assert (OPENAI.text(answer) == "forty-two") == (route in ("shown", "critique"))
            closed = [it.raw for it in sim.requests if it.path.endswith("/messages")]
            assert len(closed) == 2
            assert not any(b"example.org" in it for it in closed)
            # What may be seen is shown.
            sim.scripts |= {"small": said("I'm sorry, no"), "a": said("41")}
            for route in routes:
                await served.ask(route)
            assert any(b"sorry" in it.raw for it in sim.requests if it.path.endswith("/messages"))


async def test_a_budget_holds_for_all_that_a_strategy_asks_at_once(tmp_path: Path) -> None:
    budget = {"usd": 0.01, "per": "month"}
    async with simulated(EVERY, tmp_path, budgets=[budget], provider=TIMEOUTS) as (sim, served):
        sim.script = Script(text=("I'm sorry", " no"))
        statuses = set()
        for _ in range(3):
            asking = [served.ask(route, max_tokens=20) for route in EVERY if route != "foreign"]
            statuses |= {it.status for it in await asyncio.gather(*asking)}
        assert statuses == {200, 429}
        spent = sum(
            it.charge.nanousd or 0
            for record in await served.records()
            for it in record.attempts
            if it.charge is not None
        )
        assert 0 < spent <= 10_000_000


async def test_who_pushes_all_to_the_strong_model_spends_a_cap_of_their_own_and_no_more(
    tmp_path: Path,
) -> None:
    names = ("plain", "optimistic", "judge", "fuse", "critique", "hedge")
    routes = {name: {**EVERY[name], "continuity": True} for name in names}
    budgets = [{"each": "key", "usd": 0.01, "per": "month"}]
    async with simulated(routes, tmp_path, budgets=budgets) as (sim, served):
        keys = SqliteKeys(served.house.ledger_path)
        made = {name: keys.create(name, (), 0) for name in ("mallory", "alice")}
        served.house.gateway.ring.refresh()

        async def ask(name: str, route: str) -> int:
            headers = {"authorization": f"Bearer {made[name].secret}", **REVISES}
            return (await served.ask(route, stream=True, max_tokens=20, headers=headers)).status

        sim.script = REFUSES
        sim.scripts["strong"] = said("forty", "-two")
        statuses: set[int] = set()
        for _ in range(3):
            statuses |= {*await asyncio.gather(*(ask("mallory", route) for route in names))}
        assert statuses == {200, 429}
        assert await ask("alice", "plain") == 200, "another's cap is another's"
        spent: Counter[str | None] = Counter()
        for record in await served.records():
            spent[record.key_id] += record.charge.nanousd or 0 if record.charge else 0
        assert sorted(amount <= 10_000_000 for amount in spent.values()) == [True, True]
        assert len(spent) == 2


async def test_after_the_first_byte_nothing_is_tried_and_a_broken_stream_says_so(tmp_path: Path) -> None:
    """Law 10, for an answer that comes at the end of a strategy."""
    async with simulated(EVERY, tmp_path) as (sim, served):
        sim.scripts["small"] = REFUSES
        sim.scripts["strong"] = Script(text=("4", "2", "!"), fault=Fault(cut_after=2))
        for route in ("plain", "shown", "stubborn"):
            before = len(sim.requests)
            answer = await served.ask(route, stream=True)
            assert failure(answer.events) is not None
            assert (OPENAI.text(answer), len(sim.requests) - before) == ("42", 2)


SHADOWS: dict[str, Any] = {
    "seen": {"shadow": "openai/small", "of": "openai/strong", "judge": "openai/judge"},
    "foreign": {"shadow": "anthropic/small", "of": {"cascade": [SMALL, STRONG]}, "judge": "openai/judge"},
    "unseen": {"shadow": "openai/small", "of": "openai/strong", "share": 1e-9},
}


async def _mirrored(served: Served, count: int) -> list[Record]:
    """The records of copies, when there are so many."""
    async with asyncio.timeout(10):
        while len(found := [it for it in await served.records() if it.mirrors]) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", ["seen", "foreign"])
async def test_a_shadow_is_asked_when_the_client_has_its_answer(
    tmp_path: Path, route: str, stream: bool
) -> None:
    async with simulated(SHADOWS, tmp_path) as (sim, served):
        sim.scripts |= {"strong": said("forty", "-two"), "small": said("forty", "-three")}
        sim.scripts["judge"] = lambda asked: said("A" if asked.nth % 2 else "B")
        answer = await served.ask(route, stream=stream)
        (copy,) = await _mirrored(served, 1)
        original = await served.record(answer)
        assert (copy.mirrors, copy.status, copy.outcome) == (original.id, 0, "ok")
        assert original.mirrors is None
        assert not [it for it in original.attempts if it.purpose == "shadow"]
        shadow = copy.attempts[0]
        assert (shadow.purpose, shadow.committed, shadow.number) == ("shadow", False, 1)
        assert [it.purpose for it in copy.attempts] == ["shadow", "judge", "judge"]
        # The judge preferred the second answer, then the first: the client's, both times.
        assert (shadow.verdict or "").startswith("worse than the answer of openai/")
        assert shadow.confidence == 0
        judged = [it.raw for it in sim.requests if (it.body or {}).get("model") == "judge"]
        assert all(OPENAI.text(answer).encode() in it and b"forty-three" in it for it in judged)
        metrics = await served.metrics()
        requests = {name: it for name, it in metrics.items() if name.startswith("isthmus_requests_total")}
        assert sum(requests.values()) == 1, "a copy is no request"
        assert SqliteHistory(served.house.ledger_path).count() == 1


async def test_a_shadow_changes_nothing_for_the_client(tmp_path: Path) -> None:
    async with simulated(SHADOWS, tmp_path) as (sim, served):
        sim.scripts["small"] = Script(fault=Fault(stall_after=0))
        for _ in range(3):
            assert (await served.ask("seen")).status == 200
            assert (await served.ask("unseen")).status == 200
        await sim.wait_held(3)
        assert served.house.gateway.tally.in_flight == 0
        await served.house.gateway.mirrors.close()
        copies = await _mirrored(served, 3)
        assert [(it.outcome, it.attempts[0].outcome) for it in copies] == [("interrupted", "cancelled")] * 3
        sim.scripts["small"] = Script(fault=Fault(refuse=Refusal(status=500)))
        assert (await served.ask("seen")).status == 200
        assert (await _mirrored(served, 4))[-1].outcome == "error"


GRADES: dict[str, Any] = {
    "graded": {"grade": "openai/judge", "of": {"cascade": [SMALL, STRONG]}, "rubric": "5: it rhymes."},
    "both": {"shadow": "openai/small", "of": {"grade": "openai/judge", "of": "openai/strong"}},
    "rarely": {"grade": "openai/judge", "of": "openai/strong", "share": 1e-9},
}


async def _kept_grades(served: Served, count: int) -> list[Feedback]:
    """The feedback that there is, when there is so much."""
    store = SqliteFeedback(served.house.ledger_path)
    async with asyncio.timeout(10):
        while len(found := store.list()) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("verdict", "score"),
    [("4", 0.75), ("Grade: 1.", 0.0), ("5/5", 1.0), ("3.5", None), ("I give it 4 or 5", None), ("6", None)],
)
async def test_a_grade_is_kept_as_feedback(
    tmp_path: Path, verdict: str, score: float | None, stream: bool
) -> None:
    async with simulated(GRADES, tmp_path) as (sim, served):
        sim.scripts |= {"small": said("forty", "-two"), "judge": said(verdict)}
        answer = await served.ask("graded", stream=stream)
        (aside,) = await _mirrored(served, 1)
        original = await served.record(answer)
        (judged,) = aside.attempts
        assert (aside.mirrors, judged.purpose, judged.confidence) == (original.id, "judge", score)
        (asked,) = [it.raw for it in sim.requests if (it.body or {}).get("model") == "judge"]
        assert OPENAI.text(answer).encode() in asked
        assert b"it rhymes" in asked
        kept = await _kept_grades(served, 0 if score is None else 1)
        assert [(it.record_id, it.judge, it.score) for it in kept] == (
            [] if score is None else [(original.id, "openai/judge", score)]
        )


async def test_an_answer_is_graded_and_shadowed(tmp_path: Path) -> None:
    async with simulated(GRADES, tmp_path) as (sim, served):
        sim.scripts["judge"] = said("2")
        assert (await served.ask("both")).status == 200
        assert (await served.ask("rarely")).status == 200
        found = await _mirrored(served, 2)
        assert sorted(it.attempts[0].purpose for it in found) == ["judge", "shadow"]


async def test_a_judge_that_fails_grades_nothing(tmp_path: Path) -> None:
    async with simulated(GRADES, tmp_path) as (sim, served):
        sim.scripts["judge"] = Script(fault=Fault(refuse=Refusal(status=500)))
        assert (await served.ask("graded")).status == 200
        (failed,) = await _mirrored(served, 1)
        assert failed.outcome == "error"
        assert await _kept_grades(served, 0) == []


async def test_only_so_many_shadows_are_cast_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isthmus.gateway.mirrors.MOST_AT_ONCE", 2)
    async with simulated(SHADOWS, tmp_path) as (sim, served):
        sim.scripts["small"] = Script(text=("a", "b"), fault=Fault(stall_after=1))
        for _ in range(4):
            assert (await served.ask("seen")).status == 200
        await sim.wait_held(2)
        assert served.house.gateway.tally.mirrors == {"asked": 2, "left out": 2}


async def test_the_arms_of_a_split_are_compared_by_what_became_of_their_requests(tmp_path: Path) -> None:
    arms = [{"model": "openai/a", "name": "usual"}, {"model": "openai/b", "name": "candidate", "retries": 0}]
    routes = {"trial": {"split": arms}, "other": "openai/a"}
    async with simulated(routes, tmp_path) as (sim, served):
        sim.scripts["b"] = Script(fault=Fault(refuse=Refusal(status=500)))
        await asyncio.gather(*(served.ask("trial") for _ in range(120)))
        await served.ask("other")
        await served.house.ledger.flush()
        (tmp_path / "isthmus.yaml").write_text(config_text(sim.url, routes), encoding="utf-8")
        options = ["-c", str(tmp_path / "isthmus.yaml")]
        said = await asyncio.to_thread(CliRunner().invoke, experiment, ["trial", *options])
        assert said.exit_code == 0, said.output
        assert "candidate may be stopped: it answers fewer requests than usual" in said.stdout
        found = await asyncio.to_thread(CliRunner().invoke, experiment, ["trial", "--json", *options])
        told = msgspec.json.decode(found.stdout)
        assert sum(arm["requests"] for arm in told["arms"]) == 120
        assert all(arm["counted"] == arm["requests"] for arm in told["arms"])
        assert "Of each" not in said.stderr
        sticky = {"trial": {"split": arms, "sticky": "user"}}
        (tmp_path / "isthmus.yaml").write_text(config_text(sim.url, sticky), encoding="utf-8")
        by_user = await asyncio.to_thread(CliRunner().invoke, experiment, ["trial", *options])
        assert "Of each user, the first request and the first score are counted." in by_user.stderr
        none = await asyncio.to_thread(CliRunner().invoke, experiment, ["other", *options])
        assert "No request of the route other was drawn" in none.stderr


async def test_the_near_model_answers_while_the_far_one_is_gone_and_while_it_comes_back(
    tmp_path: Path,
) -> None:
    far, near = {"model": "openai/far", "retries": 0}, {"model": "anthropic/near", "retries": 0}
    breaker = {"failures": 1, "cooldown": 0.1, "max_cooldown": 0.1, "recovery": 3600}
    routes = {"edge": {"edge": far, "near": near}}
    async with simulated(routes, tmp_path, provider={"breaker": breaker}) as (sim, served):
        sim.scripts |= {"far": Script(fault=Fault(disconnect=True)), "near": said("here")}
        gone = await served.ask("edge")
        assert gone.headers["x-isthmus-model"] == "anthropic/near"
        first, last = (await served.record(gone)).attempts
        assert (first.model, first.outcome, last.outcome) == ("openai/far", "error", "ok")

        state = served.house.workshop.breakers()["openai/far"].state
        sim.scripts["far"] = Script(text=("the", "re"), fault=Fault(stall_after=1))
        await eventually(lambda: state(clock()) == "half-open")
        trial = await Caller.ask(served, "edge")
        assert b'"the"' in await trial.until(b'"the"')
        # One tries whether it is back: all others stay.
        meanwhile = await served.ask("edge")
        assert meanwhile.headers["x-isthmus-model"] == "anthropic/near"
        left_alone = (await served.record(meanwhile)).attempts[0]
        assert (left_alone.model, left_alone.code) == ("openai/far", "breaker_open")
        sim.release()
        assert b"[DONE]" in await trial.until(b"[DONE]")
        await trial.leave()

        # It is coming back, by few requests at a time; a failure ends that.
        sim.scripts["far"] = said("there")
        back = await served.ask("edge")
        assert back.headers["x-isthmus-model"] == "openai/far"
        assert state(clock()) == "half-open"
        sim.scripts["far"] = Script(fault=Fault(disconnect=True))
        assert (await served.ask("edge")).headers["x-isthmus-model"] == "anthropic/near"
        assert state(clock()) == "open"
