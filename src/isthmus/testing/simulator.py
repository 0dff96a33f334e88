"""The simulator: a server on loopback that speaks every upstream dialect, and misbehaves on request."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from email.utils import formatdate
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
from msgspec.structs import replace

from isthmus.testing import (
    anthropic_messages,
    embeddings,
    gemini,
    lora_adapters,
    openai_chat,
    openai_errors,
    openai_responses,
)
from isthmus.testing.behaviours import MODELS, Says, behaviour_of, settled
from isthmus.testing.http1 import Connection
from isthmus.testing.script import Fault, RawAnswer, Refusal, Script
from isthmus.testing.wire import Asked, Frame, House, JsonObject, Received, RefusedError, Wire

T = TypeVar("T")

WAIT_S = 10.0
"""Seconds that a `wait_*` method waits before it raises TimeoutError."""


class Simulator:
    """A simulated upstream, running from `async with` to its end; `url` tells where.

    What it says is found in this order: `scripts[model]`, `script`, the table of model ids (`MODELS`), an
    echo. A script is a Script, or a function from Asked to one.

    `key`, when given, is the only credential that is accepted, in the header of each vendor. `strict=False`
    lets undocumented parameters and seals of other simulators pass. `organisation` marks the opaque blocks:
    two simulators of one organisation accept each other's.
    """

    def __init__(
        self, *, port: int = 0, key: str | None = None, strict: bool = True, organisation: str = "org-sim"
    ) -> None:
        self.script: Script | Says | None = None
        self.scripts: dict[str, Script | Says] = {}
        self.adapters: dict[str, str] | None = None
        """The LoRA adapters of a vLLM server by name, with their paths; None knows no such endpoints, as vLLM
        does unless it is told otherwise."""
        self.requests: list[Received] = []
        """Every request that was read, in the order of arrival."""
        self.aborted = 0
        """Requests whose client went away before the end of the answer."""
        self.connections = 0
        """Connections that were ever opened."""
        self._house = House(organisation=organisation, strict=strict, key=key)
        self._port = port
        self._open: set[Connection] = set()
        self._seen: Counter[str] = Counter()
        self._holding: set[asyncio.Future[None]] = set()
        self._watchers: list[asyncio.Future[None]] = []
        self._server: asyncio.Server | None = None

    @classmethod
    def thread(cls, **options: Any) -> SimulatorThread:
        """A simulator in a thread of its own, for code that is not asynchronous."""
        return SimulatorThread(cls(**options))

    @property
    def url(self) -> str:
        """The origin, such as http://127.0.0.1:49152, without a slash at its end.

        Any path before the wire's own is accepted: `url + "/v1"` is a base URL for OpenAI's client, `url` for
        Anthropic's and Google's.
        """
        if self._server is None:
            raise RuntimeError("The simulator is not running: use it inside `async with`.")
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def held(self) -> int:
        """Answers that wait now for a delay to pass or for `release()`."""
        return len(self._holding)

    @property
    def open_connections(self) -> int:
        """Connections that are open now."""
        return len(self._open)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._handle, self._opened, self._closed), "127.0.0.1", self._port
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            for connection in list(self._open):
                connection.close()
            await self._until(lambda: not self._open, WAIT_S)
            await self._server.wait_closed()

    def release(self) -> None:
        """Lets every answer that is held now go on."""
        for held in self._holding:
            held.set_result(None)
        self._holding.clear()

    async def wait_requests(self, count: int = 1, timeout_s: float = WAIT_S) -> None:
        """Waits until so many requests were read in all."""
        await self._until(lambda: len(self.requests) >= count, timeout_s)

    async def wait_held(self, count: int = 1, timeout_s: float = WAIT_S) -> None:
        """Waits until so many answers are held at once."""
        await self._until(lambda: self.held >= count, timeout_s)

    async def wait_aborted(self, count: int = 1, timeout_s: float = WAIT_S) -> None:
        """Waits until so many clients in all went away before the end of their answer."""
        await self._until(lambda: self.aborted >= count, timeout_s)

    async def _until(self, fact: Callable[[], bool], timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            while not fact():
                changed = asyncio.get_running_loop().create_future()
                self._watchers.append(changed)
                await changed

    def _changed(self) -> None:
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)

    def _opened(self, connection: Connection) -> None:
        self._open.add(connection)
        self.connections += 1

    def _closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        self.aborted += connection.answering
        self._changed()

    async def _handle(self, received: Received, connection: Connection) -> None:
        self.requests.append(received)
        self._changed()
        wire = _wire_of(received.path)
        try:
            if wire is not None and received.method == "POST":
                asked = self._numbered(wire.read(received, self._house))
                await self._say(wire, asked, connection)
            else:
                await _send_json(connection, 200, self._plain(received))
        except RefusedError as refused:
            await self._refuse(wire or _family(received), refused, None, connection)

    def _numbered(self, asked: Asked) -> Asked:
        nth = self._seen[asked.model]
        self._seen[asked.model] += 1
        return replace(asked, nth=nth, serial=self._seen.total())

    def _script(self, asked: Asked) -> Script:
        says = self.scripts.get(asked.model, self.script)
        if says is None:
            says = behaviour_of(asked.model)
        return settled(asked, says if isinstance(says, Script) else says(asked))

    def _plain(self, received: Received) -> JsonObject | str:
        """The answers in which nothing is said: embeddings, counts of tokens, lists of models."""
        method, path = received.method, received.path
        if method == "POST" and path.endswith("/embeddings"):
            self._refuse_as_planned(
                openai_errors.refusal, embeddings.model_of(received, self._house), received
            )
            return embeddings.answer(received.body or {})
        if method == "POST" and path.endswith("/messages/count_tokens"):
            asked = anthropic_messages.read_count(received, self._house)
            self._refuse_as_planned(anthropic_messages.refusal, asked.model, received)
            return {"input_tokens": asked.prompt_tokens}
        if method == "POST" and path.endswith((":embedContent", ":batchEmbedContents", ":countTokens")):
            answer = gemini.count_tokens if path.endswith(":countTokens") else gemini.embed
            model, body = answer(received, self._house)
            self._refuse_as_planned(gemini.refusal, model, received)
            return body
        if method == "GET" and path.rpartition("/")[2] == "models":
            return _models(received, self.adapters or ())
        if method == "POST" and path.endswith("_lora_adapter") and self.adapters is not None:
            return lora_adapters.answer(received, self.adapters)
        raise RefusedError(f"Invalid URL ({method} {path})", status=404)

    def _refuse_as_planned(
        self, refusal: Callable[[Refusal], RefusedError], model: str, received: Received
    ) -> None:
        """Raises the refusal that the model's script plans; of faults, these endpoints know no other."""
        asked = self._numbered(Asked(wire="plain", model=model, received=received))
        planned = self._script(asked).fault.refuse
        if planned is not None:
            raise refusal(planned)

    async def _say(self, wire: Wire, asked: Asked, connection: Connection) -> None:
        script = self._script(asked)
        fault = script.fault
        if fault.disconnect:
            connection.close()
        elif fault.refuse is not None:
            await self._refuse(wire, wire.refusal(fault.refuse), fault.refuse, connection)
        elif fault.raw is not None:
            await _send_raw(connection, fault.raw)
        elif asked.stream:
            await self._stream(wire, asked, script, connection)
        else:
            await self._whole(wire, asked, script, connection)
        if fault.close_after:
            connection.close()

    async def _refuse(
        self, wire: Wire, refused: RefusedError, planned: Refusal | None, connection: Connection
    ) -> None:
        headers = _retry_after(planned) if planned is not None else []
        await _send_json(connection, refused.status, wire.error(refused), headers)

    async def _whole(self, wire: Wire, asked: Asked, script: Script, connection: Connection) -> None:
        fault = script.fault
        body = _spoiled(_json(wire.whole(asked, script) | _strange(fault), fault), fault)
        await self._hold(script.first_delay_s)
        if fault.stall_after is not None:
            await self._hold(None)
        await connection.begin(200, _headers(fault.content_type or "application/json"), len(body))
        if fault.cut_after is not None:
            await connection.send_torn(body)
            _part(connection, fault)
            return
        for part in _sliced(body, fault.write_size):
            await connection.send(part)

    async def _stream(self, wire: Wire, asked: Asked, script: Script, connection: Connection) -> None:
        fault = script.fault
        content_type = fault.content_type or "text/event-stream; charset=utf-8"
        await connection.begin(200, _headers(content_type), None)
        said = 0
        for sent, frame in enumerate(wire.frames(asked, script)):
            # An answer without pieces has its misfortunes at its end.
            if frame.kind == "piece" or (frame.kind == "terminal" and said == 0):
                await self._pause(script, said)
                if said == fault.cut_after:
                    await connection.send_torn(_rendered(wire, frame, fault))
                    _part(connection, fault)
                    return
                if said == fault.error_after:
                    await self._send(wire, wire.interruption(asked, sent), fault, connection)
                if said in (fault.error_after, fault.truncate_after):
                    break
                said += 1
            if frame.kind == "terminal" and fault.no_terminal:
                break
            await self._send(wire, [frame], fault if said == 2 else _unspoiled(fault), connection)
        await connection.end()

    async def _pause(self, script: Script, said: int) -> None:
        """Waits as the script wants it before its next piece."""
        await self._hold(script.piece_delay_s if said else script.first_delay_s)
        if said == script.fault.stall_after:
            await self._hold(None)

    async def _send(self, wire: Wire, frames: list[Frame], fault: Fault, connection: Connection) -> None:
        for frame in frames:
            for part in _sliced(_rendered(wire, frame, fault), fault.write_size):
                await connection.send(part)

    async def _hold(self, seconds: float | None) -> None:
        """Waits for so many seconds, or for release; None waits for release alone."""
        if seconds == 0.0:
            return
        held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._holding.add(held)
        self._changed()
        try:
            await asyncio.wait((held,), timeout=seconds)
        finally:
            self._holding.discard(held)


class SimulatorThread:
    """A Simulator in a thread of its own, running from `with` to its end."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        """The simulator itself: set its `script` or `scripts` before the request that they are for."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="isthmus-simulator", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self.simulator.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self.simulator.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """The origin of the simulator."""
        return self.simulator.url

    @property
    def requests(self) -> list[Received]:
        """Every request that was read, in the order of arrival."""
        return self.simulator.requests

    @property
    def aborted(self) -> int:
        """Requests whose client went away before the end of the answer."""
        return self.simulator.aborted

    @property
    def connections(self) -> int:
        """Connections that were ever opened."""
        return self.simulator.connections

    def release(self) -> None:
        """Lets every answer that is held now go on."""
        self._loop.call_soon_threadsafe(self.simulator.release)

    def wait_requests(self, count: int = 1, timeout_s: float = WAIT_S) -> None:
        """Waits until so many requests were read in all."""
        self._run(self.simulator.wait_requests(count, timeout_s))

    def wait_held(self, count: int = 1, timeout_s: float = WAIT_S) -> None:
        """Waits until so many answers are held at once."""
        self._run(self.simulator.wait_held(count, timeout_s))

    def wait_aborted(self, count: int = 1, timeout_s: float = WAIT_S) -> None:
        """Waits until so many clients in all went away before the end of their answer."""
        self._run(self.simulator.wait_aborted(count, timeout_s))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _wire_of(path: str) -> Wire | None:
    """The wire on which something is said at this path; None where nothing is."""
    for ending, wire in _WIRES.items():
        if path.endswith(ending):
            return wire
    return None


_WIRES: dict[str, Wire] = {
    "/chat/completions": openai_chat.WIRE,
    "/responses": openai_responses.WIRE,
    "/messages": anthropic_messages.WIRE,
    ":generateContent": gemini.WIRE,
    ":streamGenerateContent": gemini.WIRE,
}


def _family(received: Received) -> Wire:
    """The wire in whose shape a path that is none is refused."""
    if "anthropic-version" in received.headers or "/messages" in received.path:
        return anthropic_messages.WIRE
    return gemini.WIRE if "/v1beta" in received.path else openai_chat.WIRE


def _models(received: Received, adapters: Iterable[str]) -> JsonObject:
    match _family(received).name:
        case "anthropic":
            listed = [
                {"type": "model", "id": one, "display_name": one, "created_at": "2026-01-01T00:00:00Z"}
                for one in MODELS
            ]
            return {
                "data": listed,
                "has_more": False,
                "first_id": listed[0]["id"],
                "last_id": listed[-1]["id"],
            }
        case "gemini":
            methods = ["generateContent", "countTokens", "embedContent"]
            return {
                "models": [{"name": f"models/{one}", "supportedGenerationMethods": methods} for one in MODELS]
            }
        case _:
            created = openai_chat.CREATED
            data = [
                {"id": one, "object": "model", "created": created, "owned_by": "isthmus"}
                for one in (*MODELS, *adapters)
            ]
            return {"object": "list", "data": data}


async def _send_json(
    connection: Connection, status: int, body: JsonObject | str, headers: Iterable[tuple[str, str]] = ()
) -> None:
    data = msgspec.json.encode(body)
    await connection.begin(status, [*_headers("application/json"), *headers], len(data))
    await connection.send(data)


async def _send_raw(connection: Connection, raw: RawAnswer) -> None:
    location = [("location", raw.location)] if raw.location is not None else []
    await connection.begin(raw.status, _headers(raw.content_type) + location, len(raw.body))
    await connection.send(raw.body)


def _headers(content_type: str) -> list[tuple[str, str]]:
    return [("content-type", content_type), ("x-request-id", "req_sim"), ("request-id", "req_sim")]


def _retry_after(planned: Refusal) -> list[tuple[str, str]]:
    """Retry-After in one of its two forms (RFC 9110, section 10.2.3), or as OpenAI's clients read it too."""
    seconds = planned.retry_after_s
    if seconds is None:
        return []
    match planned.retry_after_as:
        case "seconds":
            return [("retry-after", str(seconds))]
        case "milliseconds":
            return [("retry-after-ms", str(seconds * 1000))]
        case _:
            return [("retry-after", formatdate(time.time() + seconds, usegmt=True))]


def _part(connection: Connection, fault: Fault) -> None:
    if fault.reset:
        connection.reset()
    else:
        connection.close()


def _json(data: JsonObject, fault: Fault) -> bytes:
    return json.dumps(data).encode() if fault.spaced_json else msgspec.json.encode(data)


def _rendered(wire: Wire, frame: Frame, fault: Fault) -> bytes:
    """The frame as Server-Sent Events (html.spec.whatwg.org, section 9.2)."""
    newline = (fault.newline or wire.newline).encode()
    colon = b":" if fault.tight_fields else b": "
    if isinstance(frame.data, str):
        data = frame.data.encode()
    else:
        data = _spoiled(_json(frame.data | _strange(fault), fault), fault)
    lines = [b"event" + colon + frame.event.encode()] if frame.event else []
    lines.append(b"data" + colon + data)
    rendered = newline.join(lines) + newline * 2
    if fault.strange_events and frame.kind == "piece":
        strange = [
            b"event" + colon + b"sim.strange",
            b"id" + colon + b"7",
            b"data" + colon + b'{"type":"sim.strange"}',
        ]
        rendered = newline.join(strange) + newline * 2 + rendered
    if fault.heartbeats:
        rendered = b": still here" + newline * 2 + rendered
    return rendered


def _strange(fault: Fault) -> JsonObject:
    return {"sim_strange": {"note": "no documentation names this field"}} if fault.strange_events else {}


def _spoiled(data: bytes, fault: Fault) -> bytes:
    """The JSON text with the damage that the fault wants."""
    if fault.bad_json:
        return b"upstream says: " + data[: len(data) // 2]
    # Before the last quote: inside a string, where a tolerant reader might not notice.
    last = data.rfind(b'"')
    return data[:last] + b"\xff\xfe" + data[last:] if fault.bad_utf8 else data


def _unspoiled(fault: Fault) -> Fault:
    return replace(fault, bad_utf8=False, bad_json=False)


def _sliced(data: bytes, size: int | None) -> Iterator[bytes]:
    width = size or len(data)
    for start in range(0, len(data), width):
        yield data[start : start + width]
