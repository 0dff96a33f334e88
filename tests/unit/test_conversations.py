"""By what a conversation is known, and how that outlives a process and an ill disk, without a gateway."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.core.decision import Previous
from isthmus.core.errors import IsthmusError
from isthmus.core.label import BOTTOM, TOP, Label
from isthmus.dialects import CLIENT_WIRES
from isthmus.gateway import conversations
from isthmus.gateway.conversations import Conversations, Trail
from isthmus.store.conversations import SqliteStandings, Standing, secret_beside
from isthmus.store.memory import MemoryStandings
from isthmus.store.schema import unavailable

STANDING = Standing(Label("confidential"))


def known_to(
    standings: MemoryStandings | SqliteStandings | None = None, secret: bytes = b"s" * 32, now_us: int = 1
) -> Conversations:
    return Conversations(standings or MemoryStandings(), secret, lambda: now_us)


def trail(known: Conversations, body: dict[str, Any], wire: str = "openai", key: str | None = None) -> Trail:
    envelope = CLIENT_WIRES[wire].peek(msgspec.json.encode({"model": "r", **body}))
    found = known.trail(envelope, key, None)
    assert found is not None
    return found


def said(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_a_request_finds_the_one_before_whatever_has_become_of_the_answer_and_the_system_prompt() -> None:
    known = known_to()
    first = trail(known, said(("system", "it is noon"), ("user", "a"), ("user", "b")))
    assert first.before is None
    parts = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]
    after = (("system", "it is one"), ("user", parts), ("user", "b"), ("assistant", "changed"), ("user", "c"))
    second = trail(known, said(*after), "anthropic")
    assert second.before == first.now
    assert trail(known, said(("user", "a"), ("assistant", "x"), ("user", "c"))).before != first.now


def test_a_conversation_is_its_callers_alone() -> None:
    known = known_to()
    body = said(("user", "a"))
    trails = [trail(known, body), trail(known, body, key="k"), trail(known, {**body, "user": "ada"})]
    assert len({it.now for it in trails}) == 3
    assert trail(known_to(secret=b"t" * 32), body).now != trails[0].now, (
        "nobody can tell turns by their digest"
    )


def test_the_responses_api_may_name_a_conversation_itself() -> None:
    known = known_to()
    one = trail(known, {"input": "a", "conversation": "conv_1"}, "responses")
    other = trail(known, {"input": "b", "conversation": {"id": "conv_1"}}, "responses")
    assert one == other
    assert one.before == one.now
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "4"},
    ]
    assert trail(known, {"input": items}, "responses").before == trail(known, {"input": "a"}, "responses").now


def test_a_request_may_point_to_the_answer_that_it_goes_on_from() -> None:
    known = known_to()
    pointing = {"input": "b", "previous_response_id": "resp_1"}
    assert trail(known, pointing, "responses") == Trail(None, None, known.answer(None, "resp_1"))
    assert trail(known, pointing, "responses", key="k").pointed != known.answer(None, "resp_1")
    named = trail(known, {**pointing, "conversation": "conv_1"}, "responses")
    assert (named.pointed, named.before) == (known.answer(None, "resp_1"), named.now)
    for nothing in (None, "", 7, ["resp_1"]):
        assert trail(known, {"input": "b", "previous_response_id": nothing}, "responses").pointed is None
    assert trail(known, {**said(("user", "a")), "previous_response_id": "resp_1"}).pointed is None


async def known_by(conversations: Conversations, digest: bytes) -> Standing | None:
    return (await conversations.known(Trail(digest, digest))).get(digest)


async def test_what_is_known_outlives_the_process_and_is_shared(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.db"
    one, other = (known_to(SqliteStandings(path), secret_beside(path)) for _ in range(2))
    said_so = trail(one, said(("user", "a")))
    assert said_so.now is not None
    assert trail(other, said(("user", "a"))) == said_so
    one.keep(said_so.now, STANDING)
    assert await known_by(one, said_so.now) == STANDING, "it counts before it is written"
    assert await known_by(other, said_so.now) is None
    await one.write()
    assert await known_by(other, said_so.now) == STANDING
    other.keep(said_so.now, Standing(Label("internal"), previous=Previous(model="m")))
    raised = Standing(Label("confidential"), previous=Previous(model="m"))
    assert await known_by(other, said_so.now) == raised, "a label only rises"
    await other.close()
    assert await known_by(one, said_so.now) == raised
    await one.close()
    content = b"".join(it.read_bytes() for it in path.parent.iterdir() if it.suffix != ".secret")
    assert secret_beside(path) not in content
    assert (path.parent / "ledger.db.secret").stat().st_mode & 0o777 == 0o600


async def test_what_rested_too_long_is_forgotten() -> None:
    standings = MemoryStandings()
    now = {"us": 1}
    known = Conversations(standings, b"s" * 32, lambda: now["us"], kept_days=2)
    known.keep(b"a", STANDING)
    await known.write()
    now["us"] += 2 * conversations.DAY_US
    assert await known_by(known, b"a") == STANDING
    now["us"] += 1
    assert await known_by(known, b"a") is None
    await known.close()


class Ill(MemoryStandings):
    """A disk that can be ill, and says when it has written."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = self.writes = True
        self.written = threading.Event()

    def find(self, digests: Collection[bytes], since_us: int) -> dict[bytes, Standing]:
        if not self.reads:
            raise unavailable("disk I/O error")
        return super().find(digests, since_us)

    def keep(self, standings: Mapping[bytes, Standing], at_us: int) -> None:
        if not self.writes:
            raise unavailable("database or disk is full")
        super().keep(standings, at_us)
        self.written.set()


async def test_a_full_disk_loses_nothing_while_memory_lasts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(conversations, "MOST_UNWRITTEN", 3)
    monkeypatch.setattr(conversations, "GATHER_S", 0)
    monkeypatch.setattr(conversations, "PAUSE_S", 0)
    disk = Ill()
    disk.writes = False
    known = known_to(disk)
    keeping = asyncio.create_task(known.keep_written())
    with caplog.at_level(logging.WARNING, "isthmus.conversations"):
        for digest in (b"a", b"b", b"a", b"c", b"d"):
            known.keep(digest, STANDING)
        with pytest.raises(IsthmusError, match="full"):
            await known.write()
        assert [await known_by(known, it) for it in (b"b", b"a", b"c", b"d")] == [None, *[STANDING] * 3]
        disk.writes = True
        await asyncio.wait_for(asyncio.to_thread(disk.written.wait), 20)
        assert set(disk.find([b"a", b"b", b"c", b"d"], 0)) == {b"a", b"c", b"d"}
        keeping.cancel()
    assert [it for it in caplog.messages if "full" in it] != []
    await known.close()


async def test_what_cannot_be_read_is_restricted(caplog: pytest.LogCaptureFixture) -> None:
    disk = Ill()
    known = known_to(disk)
    known.keep(b"a", Standing(BOTTOM, previous=Previous(model="m"), perimeter="rules"))
    disk.reads = False
    assert await known_by(known, b"a") == Standing(TOP, previous=Previous(model="m"))
    assert await known_by(known, b"b") == Standing(TOP)
    assert await known.known(Trail(None, b"c")) == {}, "what begins needs nothing to be read"
    assert "disk I/O error" in caplog.text
    await known.close()


async def test_a_disk_that_does_not_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "PATIENCE_S", 0.01)
    answers = threading.Event()

    class Hangs(MemoryStandings):
        def find(self, digests: Collection[bytes], since_us: int) -> dict[bytes, Standing]:
            answers.wait()
            return super().find(digests, since_us)

    known = known_to(Hangs())
    try:
        assert await known_by(known, b"a") == Standing(TOP)
    finally:
        answers.set()
        await known.close()


def test_a_secret_that_is_not_what_was_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    first = secret_beside(path)
    assert secret_beside(path) == first
    assert secret_beside(tmp_path / "other.db") != first
    (tmp_path / "ledger.db.secret").write_bytes(b"short")
    with pytest.raises(IsthmusError) as failed:
        secret_beside(path)
    assert failed.value.code == "bad_secret"
    (tmp_path / "a_file").touch()
    with pytest.raises(IsthmusError) as failed:
        secret_beside(tmp_path / "a_file" / "ledger.db")
    assert failed.value.code == "ledger_unavailable"
