"""Feedback on real answers, through the endpoint, by whom it may come from."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.core.feedback import LONGEST_CORRECTION, Feedback
from isthmus.store.feedback import SqliteFeedback
from isthmus.store.keys import SqliteKeys

from .gateway import OPENAI, Caller, Served, simulated

ROUTES = {"echo": "openai/sim-echo", "stuck": "openai/sim-stall"}


async def given(served: Served, record_id: str) -> list[Feedback]:
    store = SqliteFeedback(served.house.ledger_path)
    return (await asyncio.to_thread(store.of, [record_id])).get(record_id, [])


async def test_a_score_beyond_all_numbers_is_none(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        body = {"request_id": "req_1", "score": msgspec.Raw(b"1" * 400)}
        answer = await served.post("/v1/feedback", body)
        assert (answer.status, answer.error["param"]) == (400, "score")


@pytest.mark.parametrize("mode", ["batched", "strict"])
async def test_feedback_is_taken_at_once_and_stands_with_its_record(tmp_path: Path, mode: str) -> None:
    async with simulated(ROUTES, tmp_path, ledger={"mode": mode}) as (_, served):
        # Nothing is waited for: the client may be faster than the ledger's writer.
        answers = [await served.ask("echo", stream=stream) for stream in (False, True)]
        for answer in answers:
            request_id = answer.headers["x-request-id"]
            body = {"request_id": request_id, "thumb": "down", "correction": "42", "comment": "no é"}
            receipt = await served.post("/v1/feedback", {**body, "metadata": {"app": "web"}})
            assert receipt.status == 200, receipt.body
            [one] = await given(served, request_id)
            assert receipt.json == {
                "id": one.id,
                "object": "feedback",
                "request_id": request_id,
                "created": one.at_us // 1_000_000,
                "score": 0.0,
            }
            assert (one.score, one.correction, one.comment, one.metadata) == (
                0.0,
                "42",
                "no é",
                {"app": "web"},
            )
        assert {it.id for it in await served.records()} == {it.headers["x-request-id"] for it in answers}


async def test_a_key_judges_its_own_requests_and_those_of_keys_it_replaced(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        local = await served.ask("echo")
        keys = SqliteKeys(served.house.ledger_path)
        old, other = keys.create("a", (), 0), keys.create("b", (), 0)
        new = keys.rotate(old.key.id, time.time_ns() // 1000, 3600)
        await asyncio.to_thread(served.house.gateway.ring.refresh)

        def bearing(secret: str) -> dict[str, str]:
            return {"authorization": f"Bearer {secret}"}

        mine = await served.ask("echo", headers=bearing(old.secret))
        statuses = {}
        for name, key, answer in (
            ("old", old, mine),
            ("new", new, mine),
            ("other", other, mine),
            ("local", new, local),
        ):
            body = {"request_id": answer.headers["x-request-id"], "score": 1}
            statuses[name] = (await served.post("/v1/feedback", body, bearing(key.secret))).status
        assert statuses == {"old": 200, "new": 200, "other": 404, "local": 404}
        assert (await served.post("/v1/feedback", {"request_id": "x", "score": 1})).status == 401


async def test_an_answer_that_has_not_ended_takes_no_feedback_yet(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        caller = await Caller.ask(served, "stuck", OPENAI)
        head = await caller.until(b"\r\n\r\n")
        request_id = next(
            line.partition(b": ")[2].decode()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"x-request-id")
        )
        refused = await served.post("/v1/feedback", {"request_id": request_id, "score": 0.5})
        assert (refused.status, refused.error["code"]) == (404, "unknown_request")
        await caller.leave()


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"score": 1}, 400, "request_id"),
        ({"request_id": "r"}, 400, "score"),
        ({"request_id": "r", "score": 1.5}, 400, "score"),
        ({"request_id": "r", "score": "good"}, 400, "score"),
        ({"request_id": "r", "thumb": "sideways"}, 400, "thumb"),
        ({"request_id": "r", "thumb": "up", "score": 1}, 400, "thumb"),
        ({"request_id": "r", "score": 1, "stars": 5}, 400, "stars"),
        ({"request_id": "r", "correction": "x" * (LONGEST_CORRECTION + 1)}, 400, "correction"),
        ({"request_id": "r", "score": 1, "metadata": {"a": 1}}, 400, "metadata"),
        ({"request_id": "r", "score": 1, "metadata": {"a" * 65: ""}}, 400, "metadata"),
        (b"[1]", 400, None),
        (b'{"request_id": "\\ud800", "score": 1}', 400, None),
        (b"x" * (1 << 20) + b"x", 413, None),
        ({"request_id": "r", "score": 1}, 404, "request_id"),
    ],
)
async def test_what_is_no_feedback_is_refused_and_nothing_is_kept(
    tmp_path: Path, body: Any, status: int, param: str | None
) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        refused = await served.post("/v1/feedback", body)
        assert (refused.status, refused.error["param"]) == (status, param)
        assert SqliteFeedback(served.house.ledger_path).list() == []
