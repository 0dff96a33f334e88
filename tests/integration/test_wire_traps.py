"""Traps of the wire on the whole way of a request; those of one dialect are in `golden`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from .gateway import ANTHROPIC, OPENAI, Dialect, config_text, failure, serving

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
FIRST_TOKEN_S = 0.2
BEAT_S = 0.02
IDLE_S = 1.0


class Wire(NamedTuple):
    """A stream in parts, and what keeps it alive while nothing is said."""

    dialect: Dialect
    heartbeat: bytes
    opening: bytes
    word: bytes
    ending: bytes


def _chunk(choice: bytes) -> bytes:
    head = b'{"id":"1","object":"chat.completion.chunk","created":1,"model":"m",'
    return b'data: %b"choices":[%b]}\n\n' % (head, choice)


def _event(kind: bytes, rest: bytes = b"") -> bytes:
    return b'event: %b\ndata: {"type":"%b"%b}\n\n' % (kind, kind, rest)


WIRES = (
    Wire(
        OPENAI,
        b": keep-alive\n\n",
        _chunk(b'{"index":0,"delta":{"role":"assistant"},"finish_reason":null}'),
        _chunk(b'{"index":0,"delta":{"content":"done"},"finish_reason":null}'),
        _chunk(b'{"index":0,"delta":{},"finish_reason":"stop"}') + b"data: [DONE]\n\n",
    ),
    Wire(
        ANTHROPIC,
        _event(b"ping"),
        _event(
            b"message_start",
            b',"message":{"id":"m1","type":"message","role":"assistant","model":"m","content":[],'
            b'"stop_reason":null,"usage":{"input_tokens":3,"output_tokens":1}}',
        )
        + _event(b"content_block_start", b',"index":0,"content_block":{"type":"text","text":""}'),
        _event(b"content_block_delta", b',"index":0,"delta":{"type":"text_delta","text":"done"}'),
        _event(b"content_block_stop", b',"index":0')
        + _event(b"message_delta", b',"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}')
        + _event(b"message_stop"),
    ),
)
EACH_WIRE = pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.dialect.name)
EACH_DIALECT = pytest.mark.parametrize(
    "dialect", [OPENAI, ANTHROPIC], ids=lambda dialect: f"to-{dialect.name}"
)

Play = Callable[[int, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def upstream(play: Play) -> AsyncIterator[tuple[str, list[int]]]:
    """A server that plays each stream after its head, and hangs up; its URL, and its requests by number."""
    asked: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.append(len(asked))
        writer.write(HEAD)
        try:
            await play(asked[-1], writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


def _twice(wire: Wire) -> dict[str, object]:
    """A route that asks its model again, and then another one."""
    first, second = f"{wire.dialect.name}/one", f"{wire.dialect.name}/two"
    return {"r": {"fallback": [{"model": first, "retries": 1}, second]}}


# -- heartbeats while a model thinks


@EACH_WIRE
@EACH_DIALECT
async def test_heartbeats_while_a_model_thinks_bind_nobody_to_it(
    tmp_path: Path, wire: Wire, dialect: Dialect
) -> None:
    async def play(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(wire.heartbeat + wire.opening + 3 * wire.heartbeat)
        if number == 2:
            writer.write(wire.word + wire.ending)

    async with upstream(play) as (url, asked), serving(config_text(url, _twice(wire)), tmp_path) as served:
        answer = await served.ask("r", dialect, stream=True)
    assert (dialect.text(answer), failure(answer.events)) == ("done", None)
    assert len(asked) == 3, "two attempts fell silent after their heartbeats, and were replaced"


@EACH_WIRE
async def test_heartbeats_are_no_first_token(tmp_path: Path, wire: Wire) -> None:
    async def play(_: int, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(wire.heartbeat)
            await asyncio.sleep(BEAT_S)

    waits = {"timeouts": {"first_token": FIRST_TOKEN_S, "idle": 30, "total": 60}}
    routes = {"r": {"model": f"{wire.dialect.name}/m", "retries": 0}}
    async with (
        upstream(play) as (url, _),
        serving(config_text(url, routes, provider=waits), tmp_path) as served,
    ):
        answer = await served.ask("r", stream=True)
    assert (answer.status, answer.error["code"]) == (504, "first_byte_timeout")


@EACH_WIRE
async def test_heartbeats_within_an_answer_keep_it_alive_and_reach_the_client(
    tmp_path: Path, wire: Wire
) -> None:
    async def play(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(wire.opening + wire.word)
        for _ in range(4):
            await asyncio.sleep(IDLE_S / 3)
            writer.write(wire.heartbeat)
        writer.write(wire.ending)

    waits = {"timeouts": {"first_token": 30, "idle": IDLE_S, "total": 60}}
    routes = {"r": f"{wire.dialect.name}/m"}
    async with (
        upstream(play) as (url, _),
        serving(config_text(url, routes, provider=waits), tmp_path) as served,
    ):
        answer = await served.ask("r", wire.dialect, stream=True)
    assert (wire.dialect.text(answer), failure(answer.events)) == ("done", None)
    assert answer.body.count(wire.heartbeat) == 4


# -- the first byte


@EACH_WIRE
@EACH_DIALECT
async def test_nothing_is_retried_after_the_first_byte(tmp_path: Path, wire: Wire, dialect: Dialect) -> None:
    async def play(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(wire.opening + wire.word)

    async with upstream(play) as (url, asked), serving(config_text(url, _twice(wire)), tmp_path) as served:
        answer = await served.ask("r", dialect, stream=True)
    assert dialect.text(answer) == "done", "said once"
    assert failure(answer.events) is not None
    assert not dialect.ended(answer.events)
    assert len(asked) == 1, "neither asked again nor replaced"
