"""A gateway on a real socket in front of a simulator, and clients of it that need no vendor's package.

Configs are written with models named `provider/id`: `openai/sim-429` is the simulator's model `sim-429`,
spoken to in Chat Completions. Every model that a plan names is declared by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec

from isthmus.bootstrap import House, open_house
from isthmus.config.config import Config
from isthmus.config.load import parse
from isthmus.core.record import Record
from isthmus.gateway.http1 import Bounds
from isthmus.gateway.server import BOUNDS, listening
from isthmus.store.records import SqliteRecords
from isthmus.testing import Simulator

Json = dict[str, Any]

PROMPT = "the canary sings on the narrow strip"
PRICE = {"input": 3, "output": 15}
"""USD per million tokens: one prompt token is 3,000 nano-USD, one token of the answer 15,000."""

_BASES = {"openai": "/v1", "responses": "/v1", "anthropic": "/v1", "gemini": "/v1beta"}


def config_text(url: str, routes: Mapping[str, Any], *, provider: Json | None = None, **sections: Any) -> str:
    """An isthmus.yaml (JSON is YAML, too) for these routes; `provider` is added to each provider's entry."""
    named = sorted({name for plan in routes.values() for name in _models(plan)})
    providers = {
        dialect: {"dialect": dialect, "base_url": url + base, "kind": "closed", **(provider or {})}
        for dialect, base in _BASES.items()
        if any(name.startswith(dialect + "/") for name in named)
    }
    models = {
        name: {"provider": name.partition("/")[0], "id": name.partition("/")[2], "price": PRICE}
        for name in named
    }
    document = {"providers": providers, "models": models, "routes": dict(routes), **sections}
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


_HOLD_MODELS = frozenset(
    {
        *(
            "model",
            "models",
            "plan",
            "plans",
            "arms",
            "steps",
            "among",
            "judge",
            "otherwise",
            "beside",
            "near",
        ),
        *("fallback", "split", "cascade", "choose", "from", "ensemble", "hedge", "burst", "edge"),
        *("shadow", "grade", "of"),
    }
)


def _models(plan: Any) -> Iterator[str]:
    if isinstance(plan, str):
        yield plan
    elif isinstance(plan, Mapping):
        for key, value in plan.items():
            if "/" in key:
                yield key
            elif key in _HOLD_MODELS:
                yield from _models(value)
    elif isinstance(plan, list):
        for part in plan:
            yield from _models(part)


def config_of(text: str) -> Config:
    """The config, which has to be a valid one."""
    parsed = parse(text, "isthmus.yaml")
    assert parsed.config is not None, parsed.faults
    return parsed.config


class Event(NamedTuple):
    """One event of a stream."""

    name: str
    data: bytes

    @property
    def json(self) -> Json:
        value = msgspec.json.decode(self.data)
        assert isinstance(value, dict)
        return value


class Answer(NamedTuple):
    """A response, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        value = msgspec.json.decode(self.body)
        assert isinstance(value, dict)
        return value

    @property
    def error(self) -> Json:
        """The error's object, which all dialects have."""
        error = self.json["error"]
        assert isinstance(error, dict)
        return error

    @property
    def events(self) -> list[Event]:
        """The events of the stream; a half one is a fault, for the gateway forwards whole events only."""
        text = self.body.replace(b"\r\n", b"\n")
        assert not text or text.endswith(b"\n\n"), text[-100:]
        return [event for block in text.split(b"\n\n") if (event := _event(block)) is not None]


def _event(block: bytes) -> Event | None:
    name, data = "", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"event":
            name = value.strip().decode()
        elif field == b"data":
            data.append(value.removeprefix(b" "))
    return Event(name, b"\n".join(data)) if data else None


class Dialect(NamedTuple):
    """How a client speaks: where to, what it sends, and what it finds in a stream."""

    name: str
    path: str
    body: Callable[[str, bool], Json]
    whole_text: Callable[[Json], str]
    delta: Callable[[Json], str]
    ended: Callable[[list[Event]], bool]

    def text(self, answer: Answer) -> str:
        """All that was said, in a stream or in one piece."""
        if not answer.headers["content-type"].startswith("text/event-stream"):
            return self.whole_text(answer.json)
        return "".join(self.delta(event.json) for event in answer.events if event.data != b"[DONE]")


def failure(events: list[Event]) -> Json | None:
    """The error event of a stream, None where it has none; only the word that it failed may follow it."""
    told = [event.json for event in events if event.data != b"[DONE]"]
    failed = [index for index, event in enumerate(told) if event.get("error")]
    if not failed:
        return None
    after = told[failed[0] + 1 :]
    assert [event["type"] for event in after] in ([], ["response.failed"])
    error = told[failed[0]]["error"]
    assert isinstance(error, dict)
    return error


def _chat(route: str, stream: bool) -> Json:
    return {"model": route, "messages": [{"role": "user", "content": PROMPT}], "stream": stream}


def _message(route: str, stream: bool) -> Json:
    return {**_chat(route, stream), "max_tokens": 4096}


def _response(route: str, stream: bool) -> Json:
    return {"model": route, "input": PROMPT, "stream": stream, "store": False}


def _chat_delta(chunk: Json) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in chunk.get("choices", ()))


def _message_delta(event: Json) -> str:
    text = event.get("delta", {}).get("text", "") if event["type"] == "content_block_delta" else ""
    assert isinstance(text, str)
    return text


def _response_delta(event: Json) -> str:
    text = event["delta"] if event["type"] == "response.output_text.delta" else ""
    assert isinstance(text, str)
    return text


def _last(events: list[Event], *names: str) -> bool:
    return any(event.data == b"[DONE]" or event.json.get("type") in names for event in events)


OPENAI = Dialect(
    "openai",
    "/v1/chat/completions",
    _chat,
    lambda body: body["choices"][0]["message"]["content"],
    _chat_delta,
    lambda events: _last(events),
)
ANTHROPIC = Dialect(
    "anthropic",
    "/v1/messages",
    _message,
    lambda body: "".join(block["text"] for block in body["content"]),
    _message_delta,
    lambda events: _last(events, "message_stop"),
)
RESPONSES = Dialect(
    "responses",
    "/v1/responses",
    _response,
    lambda body: "".join(part["text"] for item in body["output"] for part in item["content"]),
    _response_delta,
    lambda events: _last(events, "response.completed", "response.incomplete"),
)
DIALECTS = (OPENAI, ANTHROPIC, RESPONSES)


class Served:
    """A gateway that runs: its inside, its address, and a client of it."""

    def __init__(self, house: House, url: str, session: aiohttp.ClientSession) -> None:
        self.house = house
        self.url = url
        self.session = session
        self._records = SqliteRecords(house.ledger_path)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
        """POST, read to its end; bytes and iterators of bytes are sent as they are."""
        data = msgspec.json.encode(body) if isinstance(body, dict) else body
        return await self.request("POST", path, data, headers)

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return await self.request("GET", path, None, headers)

    async def request(self, method: str, path: str, data: Any, headers: Mapping[str, str] | None) -> Answer:
        async with self.session.request(method, self.url + path, data=data, headers=headers) as response:
            named = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, named, await response.read())

    async def ask(
        self,
        route: str,
        dialect: Dialect = OPENAI,
        *,
        stream: bool = False,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Answer:
        """Ask the route in a dialect."""
        return await self.post(dialect.path, {**dialect.body(route, stream), **more}, headers)

    async def records(self) -> list[Record]:
        """Everything that is recorded, oldest first."""
        await self.house.ledger.flush()
        return await asyncio.to_thread(lambda: list(self._records.scan(bodies=True)))

    async def record(self, answer: Answer) -> Record:
        """The record of an answer, by its x-request-id."""
        await self.house.ledger.flush()
        return await asyncio.to_thread(self._records.find, answer.headers["x-request-id"])

    async def metrics(self) -> dict[str, float]:
        """Every sample of /metrics, by its name and labels as they are printed."""
        answer = await self.get("/metrics")
        assert answer.status == 200
        lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@asynccontextmanager
async def serving(text: str, folder: Path, bounds: Bounds = BOUNDS) -> AsyncIterator[Served]:
    """The gateway of this config, with its state in `folder`."""
    async with (
        open_house(config_of(text), folder / "isthmus.yaml") as house,
        listening(house.gateway, "127.0.0.1", 0, bounds) as url,
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(20)
        ) as session,
    ):
        yield Served(house, url, session)


@asynccontextmanager
async def simulated(
    routes: Mapping[str, Any], folder: Path, bounds: Bounds = BOUNDS, **more: Any
) -> AsyncIterator[tuple[Simulator, Served]]:
    """A simulator, and a gateway in front of it with these routes; `more` goes into the config."""
    async with Simulator() as sim, serving(config_text(sim.url, routes, **more), folder, bounds) as served:
        yield sim, served


class Caller:
    """A client that holds its socket in its own hands: it can read slowly, or leave in the midst."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    @classmethod
    async def ask(
        cls, served: Served, route: str, dialect: Dialect = OPENAI, *, stream: bool = True, **more: Any
    ) -> Caller:
        """Send a whole request, and read nothing yet."""
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1 << 16)
        body = msgspec.json.encode({**dialect.body(route, stream), **more})
        head = f"POST {dialect.path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        return cls(reader, writer)

    async def until(self, mark: bytes) -> bytes:
        """All up to and with the mark."""
        async with asyncio.timeout(10):
            return await self.reader.readuntil(mark)

    async def rest(self) -> bytes:
        """All until the gateway closes the connection."""
        async with asyncio.timeout(20):
            return await self.reader.read()

    async def leave(self) -> None:
        """Close the socket, whatever is still on its way."""
        self._writer.close()
        # The other side may have written since: that resets the connection, and is no fault here.
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)


async def eventually(fact: Callable[[], bool], within_s: float = 5.0) -> None:
    """Wait until something outside is so; there is no event to wait for. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while not fact():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
