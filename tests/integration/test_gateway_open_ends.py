"""Upstreams that hold the line after their last word, and clients that stop in the middle of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from isthmus.gateway import server
from isthmus.gateway.http1 import Bounds

from .gateway import OPENAI, config_text, serving, simulated

LAST_WORDS = {
    "openai": (
        b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
        b'[{"index":0,"delta":{"role":"assistant","content":"done"},"finish_reason":null}]}\n\n'
        b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
        b'[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    ),
    "anthropic": (
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"m1","type":"message","role":'
        b'"assistant","model":"m","content":[],"stop_reason":null,"usage":{"input_tokens":3,"output_tokens":1}}}'
        b'\n\nevent: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":'
        b'{"type":"text","text":""}}\n\nevent: content_block_delta\ndata: {"type":"content_block_delta",'
        b'"index":0,"delta":{"type":"text_delta","text":"done"}}\n\nevent: content_block_stop\ndata: '
        b'{"type":"content_block_stop","index":0}\n\nevent: message_delta\ndata: {"type":"message_delta",'
        b'"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}}\n\n'
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    ),
}


@asynccontextmanager
async def never_hanging_up(said: bytes) -> AsyncIterator[str]:
    """An upstream that sends one stream and then holds the connection open for ever."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b"%x\r\n%b\r\n" % (len(said), said))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("wire", sorted(LAST_WORDS))
async def test_the_last_word_ends_an_answer_whatever_the_connection_does(tmp_path: Path, wire: str) -> None:
    async with never_hanging_up(LAST_WORDS[wire]) as url:
        async with serving(config_text(url, {"r": f"{wire}/m"}), tmp_path) as served:
            async with asyncio.timeout(20):
                answer = await served.ask("r", OPENAI, stream=True)
            record = await served.record(answer)
        assert record.outcome == "ok"
        assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_a_request_that_stops_half_way_gives_its_place_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LOOK_S", 0.01)
    bounds = Bounds(upload_idle_s=0.05)
    async with simulated({"r": "openai/sim-echo"}, tmp_path, bounds) as (_, served):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n" + b"{"
        )
        answer = await asyncio.wait_for(reader.readuntil(b'"upload_stalled"'), 10)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 400")
        assert served.house.gateway.admission.inside == 0
