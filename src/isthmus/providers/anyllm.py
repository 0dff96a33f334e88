"""The same seam on any-llm (the extra `anyllm`): for the long tail of providers that have no wire here.

What the gateway sends is a request of OpenAI's Chat Completions or Embeddings whose model reads
`provider:model`; what it gets back is that endpoint's answer, a stream as server-sent events. Between the two
stand the objects of any-llm and of the provider's SDK, which cost far more processor time than bytes that
pass through.

Some of those SDKs block the event loop that they run on (Bedrock's streams do), so all of any-llm runs on a
loop in a thread of its own, one for each transport: a provider that blocks delays its own answers and nobody
else's. A call that blocks there is given up in time, but works on until its SDK comes back.

Source: the package any-llm-sdk 1.40 (`any_llm.AnyLLM`, `any_llm.exceptions`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Any, NoReturn

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.providers.transport import (
    DEFAULT_MAX_BODY_BYTES,
    ConnectError,
    ConnectionLostError,
    FirstByteTimeoutError,
    HeaderBlock,
    Headers,
    IdleTimeoutError,
    MalformedResponseError,
    Origin,
    Outgoing,
    PoolExhaustedError,
    Reply,
    ResponseTooLargeError,
    Stream,
    TotalTimeoutError,
    TransportError,
)

CHAT_FIELDS = frozenset(
    {
        *("messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "stop"),
        *("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort"),
        *("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "logit_bias"),
        *("logprobs", "top_logprobs", "user", "service_tier", "prompt_cache_key"),
    }
)
"""What a chat request may say besides its model. any-llm hands every other name to the provider's SDK, where
it could be an option of the call (`extra_headers`, `timeout`): those are not for callers to choose."""

EMBEDDING_FIELDS = frozenset({"input", "dimensions", "encoding_format", "user"})
"""What a request for embeddings may say besides its model."""

_STATUS_OF = {
    "AuthenticationError": 401,
    "MissingApiKeyError": 401,
    "InsufficientFundsError": 402,
    "ModelNotFoundError": 404,
    "UnsupportedProviderError": 404,
    "RateLimitError": 429,
    "UpstreamProviderError": 502,
    "GatewayTimeoutError": 504,
    "InvalidRequestError": 400,
    "UnsupportedParameterError": 400,
    "ContextLengthExceededError": 400,
    "ContentFilterError": 400,
}
"""The status that an error of any-llm stands for where the SDK kept none."""

_CODE_OF = {"ContextLengthExceededError": "context_length_exceeded", "ContentFilterError": "content_filter"}
_NO_CONNECTION = frozenset(
    (
        "ConnectError",
        "ConnectTimeout",
        "ConnectTimeoutError",
        "ConnectionRefusedError",
        "ClientConnectorError",
        "EndpointConnectionError",
    )
)
"""What HTTP clients of SDKs call a connection that never was, whichever of them it is."""

_UNTOLD = 500
"""The status of an error that came without one, inside a stream."""

_JSON: Headers = ((b"content-type", b"application/json"),)
_EVENTS: Headers = ((b"content-type", b"text/event-stream"),)


def require(model_id: str) -> None:
    """Make sure that calls of a model can be made: any-llm is installed, knows the provider, and finds its
    SDK, which is imported now rather than while a request waits.

    `model_id` reads `provider:model`. Raises IsthmusError (`anyllm_missing`, `unknown_provider`,
    `sdk_missing`).
    """
    library = _library()
    provider = model_id.partition(":")[0]
    try:
        missing = library.AnyLLM.get_provider_class(provider).MISSING_PACKAGES_ERROR
    except library.exceptions.UnsupportedProviderError:
        raise IsthmusError(
            Fault.INTERNAL,
            f"any-llm knows no provider `{provider}`.",
            code="unknown_provider",
            hint="Say the model's id as `provider:model`; any-llm's documentation lists the providers.",
        ) from None
    if missing is not None:
        raise IsthmusError(
            Fault.INTERNAL,
            f"The SDK of any-llm's provider `{provider}` is not installed.",
            code="sdk_missing",
            hint=f"Run: pip install 'any-llm-sdk[{provider}]'",
        )


class AnyLlmTransport:
    """A `Transport` on any-llm, to `api_base` where one is given and to the provider's own address otherwise.

    A request's `authorization` header is given to the SDK as its key; without one, the SDK looks where it is
    used to look. Its own retries are switched off where it allows that. The limits are those of
    `Http1Transport`; `connect_s` bounds the wait for one of them. Raises IsthmusError (`anyllm_missing`)
    where any-llm is not installed.
    """

    def __init__(
        self, api_base: str | None = None, *, max_connections: int = 1024, max_waiting: int = 1024
    ) -> None:
        _library()
        self.slots = asyncio.Semaphore(max_connections)
        self._api_base = api_base
        self._max_connections = max_connections
        self._max_waiting = max_waiting
        self._waiting = 0
        self._annex: _Annex | None = None
        self._in_flight: set[_Exchange] = set()
        self._retired = False
        self._closed = False

    async def send(self, outgoing: Outgoing) -> Reply:
        """The whole answer; see `Transport.send`."""
        exchange = _Exchange(self, outgoing, whole=True)
        await exchange.open(outgoing.queued)
        body = await exchange.read(DEFAULT_MAX_BODY_BYTES)
        return Reply(exchange.status, exchange.headers, body)

    async def stream(self, outgoing: Outgoing) -> _Exchange:
        """The answer as soon as its first event is there, for some SDKs tell an error no earlier; see
        `Transport.stream`."""
        exchange = _Exchange(self, outgoing, whole=False)
        await exchange.open(outgoing.queued)
        return exchange

    def retire(self) -> None:
        """Keep nothing alive from now on; see `Transport.retire`."""
        self._retired = True
        self._close_annex_if_done()

    async def aclose(self) -> None:
        """Close everything now; see `Transport.aclose`."""
        self._closed = self._retired = True
        for exchange in tuple(self._in_flight):
            exchange.cut()
        self._close_annex_if_done()

    # -- for its exchanges

    async def enter(self, exchange: _Exchange, queued: Callable[[float], None]) -> _Annex:
        """Wait for room for one more call."""
        if self.slots.locked():
            await self._wait_in_line(exchange, queued)
        else:
            await self.slots.acquire()
        self._in_flight.add(exchange)
        if self._closed:
            raise ConnectError(exchange.origin, "is no longer served by this transport, which is closed")
        if self._annex is None:
            self._annex = _Annex(self._api_base)
        return self._annex

    async def _wait_in_line(self, exchange: _Exchange, queued: Callable[[float], None]) -> None:
        if self._waiting >= self._max_waiting:
            raise PoolExhaustedError(
                exchange.origin, f"has {self._max_connections} busy calls and {self._max_waiting} in line"
            )
        clock = asyncio.get_running_loop().time
        began = clock()
        self._waiting += 1
        try:
            await self.slots.acquire()
        finally:
            self._waiting -= 1
            queued(clock() - began)

    def leave(self, exchange: _Exchange) -> None:
        """The room is free again."""
        if exchange in self._in_flight:
            self._in_flight.remove(exchange)
            self.slots.release()
            self._close_annex_if_done()

    def _close_annex_if_done(self) -> None:
        if self._retired and not self._in_flight and self._annex is not None:
            self._annex.close()
            self._annex = None


class _Annex:
    """An event loop in a thread of its own, and the clients of any-llm that live on it."""

    def __init__(self, api_base: str | None) -> None:
        self.loop = asyncio.new_event_loop()
        self._api_base = api_base
        self._clients: dict[tuple[str, str | None], Any] = {}
        self._leaving = asyncio.Event()
        # A daemon: an SDK that hangs must not keep the process from ending.
        threading.Thread(target=self._live, name="isthmus-anyllm", daemon=True).start()

    def client(self, provider: str, key: str | None) -> Any:
        """The AnyLLM of a provider and a key, made once; for the annex's own thread only.

        Raises errors of any-llm, of the SDK, and ImportError.
        """
        client = self._clients.get((provider, key))
        if client is None:
            any_llm = _library().AnyLLM
            settable = any_llm.get_provider_class(provider).MAX_RETRIES_SUPPORT != "unsupported"
            # Asking again is the strategy's business: an SDK's own retries would multiply with it.
            retries = {"max_retries": 0} if settable else {}
            client = any_llm.create(
                provider, api_key=key, api_base=self._api_base, unified_exceptions=True, **retries
            )
            self._clients[provider, key] = client
        return client

    def close(self) -> None:
        """End the thread, after the tasks that are being cancelled and the clients are closed."""
        self.loop.call_soon_threadsafe(self._leaving.set)

    def _live(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._until_left())

    async def _until_left(self) -> None:
        await self._leaving.wait()
        for client in self._clients.values():
            await _close_sdk(client)


class _Behind(Origin, frozen=True, kw_only=True):
    """A provider that any-llm speaks to, wherever that is."""

    def __str__(self) -> str:
        """`cohere (through any-llm)`, as messages name the origin."""
        return f"{self.host} (through any-llm)"


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request as any-llm wants it."""

    provider: str
    model: str
    embeddings: bool
    fields: dict[str, Any]
    key: str | None

    @classmethod
    def of(cls, outgoing: Outgoing) -> _Request:
        body: dict[str, Any] = msgspec.json.decode(outgoing.body)
        provider, _, model = body.pop("model").partition(":")
        return cls(
            provider=provider,
            model=model,
            embeddings=outgoing.target.partition(b"?")[0].endswith(b"/embeddings"),
            fields={name: value for name, value in body.items() if value is not None},
            key=_bearer(outgoing.headers),
        )

    def check(self) -> None:
        """Raises _RefusedError for a field that is missing, or that any-llm has no parameter for."""
        said = self.fields.keys()
        for name in {"input" if self.embeddings else "messages"} - said:
            raise _RefusedError(400, f"`{name}` is missing.", param=name)
        for name in sorted(said - (EMBEDDING_FIELDS if self.embeddings else CHAT_FIELDS)):
            raise _RefusedError(
                400, f"any-llm has no parameter `{name}`.", param=name, code="unsupported_parameter"
            )


class _RefusedError(Exception):
    """The provider, or any-llm in its name, refused: a status, and the body of an OpenAI error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str | None = None,
        headers: Headers = (),
    ) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.headers = [*_JSON, *headers]
        # In the midst of a stream the body alone tells the status; where a word does, none is made up.
        more = {} if kind is not None and status == _UNTOLD else {"status": status}
        self.body = msgspec.json.encode(
            {"error": {"message": message, "type": kind, "param": param, "code": code, **more}}
        )


class _Exchange(Stream):
    """One call and its answer; a `Stream` to its caller.

    It lives on the gateway's loop but for `_converse`, which runs on the annex's and hands over with
    `call_soon_threadsafe`. What is handed over waits here: an SDK cannot be told to read slower.
    """

    def __init__(self, transport: AnyLlmTransport, outgoing: Outgoing, *, whole: bool) -> None:
        self.status = 0
        self.headers: Headers = ()
        self._request = _Request.of(outgoing)
        self.origin = _Behind(scheme="https", host=self._request.provider, port=443)
        self._transport = transport
        self._timeouts = outgoing.timeouts
        self._whole = whole
        self._loop = asyncio.get_running_loop()
        self._total_at = self._loop.time() + outgoing.timeouts.total_s
        self._news = asyncio.Event()
        self._work: Any = None
        self._buffer = bytearray()
        self._received = 0
        self._ended = False
        self._failure: TransportError | None = None
        self.complete = False

    # -- the caller's side

    async def next_chunk(self) -> bytes:
        """What has come since the last call; see `Stream.next_chunk`."""
        while not self._buffer:
            if self._ended or self._failure is not None:
                self.close()
                if self._failure is not None:
                    raise self._failure
                self.complete = True
                return b""
            await self._wait(self._timeouts.idle_s, IdleTimeoutError)
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def close(self) -> None:
        """End it now; see `Stream.close`."""
        if self._work is not None:
            self._work.cancel()
        if not self._ended and self._failure is None:
            self._failure = self._lost("was cut off by its reader")
        self._transport.leave(self)

    # -- the transport's side

    async def open(self, queued: Callable[[float], None]) -> None:
        """Make the call and wait for the first of its answer."""
        try:
            async with asyncio.timeout_at(min(self._loop.time() + self._timeouts.connect_s, self._total_at)):
                annex = await self._transport.enter(self, queued)
        except TimeoutError:
            raise PoolExhaustedError(self.origin, "freed none of its calls within connect_s") from None
        except BaseException:
            self._transport.leave(self)
            raise
        self._work = asyncio.run_coroutine_threadsafe(self._converse(annex), annex.loop)
        first_s = self._timeouts.total_s if self._whole else self._timeouts.first_byte_s
        while not self.status and self._failure is None:
            await self._wait(first_s, FirstByteTimeoutError)
        if self._failure is not None:
            self.close()
            raise self._failure

    def cut(self) -> None:
        """Fail: the transport is closed."""
        self._failed(self._lost("was cut off: its transport is closed"))
        self.close()

    async def _wait(self, seconds: float, late: type[FirstByteTimeoutError | IdleTimeoutError]) -> None:
        deadline = min(self._loop.time() + seconds, self._total_at)
        self._news.clear()
        try:
            async with asyncio.timeout_at(deadline):
                await self._news.wait()
        except TimeoutError:
            if deadline >= self._total_at:
                self._failure = TotalTimeoutError(self.origin, self._timeouts.total_s)
            else:
                self._failure = late(self.origin, seconds)
            self.close()
            raise self._failure from None
        except BaseException:
            self.close()
            raise

    def _came(self, status: int, headers: Headers, data: bytes) -> None:
        if not self.status:
            self.status, self.headers = status, headers
        self._buffer += data
        self._received += len(data)
        self._news.set()
        if self._received > DEFAULT_MAX_BODY_BYTES:
            self._failed(ResponseTooLargeError(self.origin, DEFAULT_MAX_BODY_BYTES))
            self.close()

    def _finished(self) -> None:
        if self._failure is None:
            self._ended = True
        self._news.set()

    def _failed(self, failure: TransportError) -> None:
        if not self._ended and self._failure is None:
            self._failure = failure
        self._news.set()

    def _lost(self, what: str) -> ConnectionLostError:
        return ConnectionLostError(self.origin, what, reused=False, received=self._received)

    # -- in the annex

    async def _converse(self, annex: _Annex) -> None:
        """Ask, and hand over all that is said; every failure becomes an answer or an error of our tree."""
        hand = self._loop.call_soon_threadsafe
        begun = False
        try:
            async with aclosing(_said(annex, self._request)) as said:
                async for data in said:
                    hand(self._came, 200, _EVENTS if self._request.fields.get("stream") else _JSON, data)
                    begun = True
        except Exception as fault:
            match self._understood(fault):
                case TransportError() as failure:
                    hand(self._failed, failure)
                    return
                case refused:
                    data = b"data: %b\n\n" % refused.body if begun else refused.body
                    hand(self._came, refused.status, refused.headers, data)
        hand(self._finished)

    def _understood(self, fault: Exception) -> TransportError | _RefusedError:
        """What went wrong, in the words of HTTP. The fault's own words may quote the prompt: they go nowhere
        but into the error's body, which is the caller's."""
        library = _library()
        if isinstance(fault, _RefusedError):
            return fault
        if isinstance(fault, NotImplementedError):
            return _RefusedError(400, f"any-llm cannot ask this of {self._request.provider}.")
        if isinstance(fault, library.exceptions.AnyLLMError):
            status = _status(fault)
            if status is not None:
                return _refusal(fault, status)
            if any(type(cause).__name__ in _NO_CONNECTION for cause in _causes(fault)):
                return ConnectError(self.origin, "cannot be connected to")
            if fault.status_code is None:
                return self._lost("failed before the end of its answer")
        elif getattr(fault, "title", None) == "CompletionParams":
            # pydantic's ValidationError of the request itself; its text quotes the values, so it is left out.
            where = ".".join(str(step) for step in fault.errors()[0]["loc"])  # type: ignore[attr-defined]
            return _RefusedError(400, f"any-llm cannot take this value of `{where}`.", param=where)
        return MalformedResponseError(
            self.origin, f"sent what any-llm cannot understand ({type(fault).__name__})"
        )


def _refusal(fault: Any, status: int) -> _RefusedError:
    return _RefusedError(
        status,
        _message(fault),
        param=fault.param,
        code=fault.code or _CODE_OF.get(type(fault).__name__),
        kind=fault.error_type,
        headers=_when_to_come_back(fault),
    )


async def _said(annex: _Annex, request: _Request) -> AsyncGenerator[bytes, None]:
    """The answer's bytes, as OpenAI would send them."""
    request.check()
    client = annex.client(request.provider, request.key)
    if request.embeddings:
        fields = dict(request.fields)
        answer = await client.aembedding(request.model, fields.pop("input"), **fields)
        yield answer.model_dump_json().encode()
        return
    answer = await client.acompletion(model=request.model, **request.fields)
    if not request.fields.get("stream"):
        yield answer.model_dump_json().encode()
        return
    finished = False
    async with aclosing(answer):
        async for chunk in answer:
            finished = finished or any(choice.finish_reason for choice in chunk.choices)
            yield b"data: %b\n\n" % chunk.model_dump_json().encode()
    # An SDK's iteration ends in the same way where the upstream broke off: only a finished answer is done.
    if finished:
        yield b"data: [DONE]\n\n"


def _library() -> Any:
    """The module any_llm, its exceptions with it. Raises IsthmusError where it is not installed."""
    try:
        import any_llm
        import any_llm.exceptions
    except ModuleNotFoundError as missing:
        _not_installed(missing)
    # Its warnings quote answers, and httpx tells every URL.
    logging.getLogger("any_llm").setLevel(logging.CRITICAL)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return any_llm


def _not_installed(missing: ModuleNotFoundError) -> NoReturn:
    raise IsthmusError(
        Fault.INTERNAL,
        f"A provider is called through any-llm, which is not installed ({missing.name} is missing).",
        code="anyllm_missing",
        hint="Run: pip install 'isthmus[anyllm]'",
    ) from None


def _bearer(headers: HeaderBlock) -> str | None:
    for line in headers.split(b"\r\n"):
        name, _, value = line.partition(b": ")
        if name.lower() == b"authorization":
            return value.decode("latin-1").removeprefix("Bearer ")
    return None


def _status(fault: Any) -> int | None:
    """The status of an error, None where nothing that the provider said was the cause."""
    if fault.status_code is not None and fault.status_code >= 400:
        return int(fault.status_code)
    told_by_body = _UNTOLD if fault.error_type or fault.code else None
    return _STATUS_OF.get(type(fault).__name__, told_by_body)


def _message(fault: Any) -> str:
    """What the provider itself said, where the SDK kept its body; else what any-llm says."""
    body = getattr(fault.original_exception, "body", None)
    if isinstance(body, dict):
        body = body["error"] if isinstance(body.get("error"), dict) else body
        if isinstance(body.get("message"), str):
            return str(body["message"])
    return str(fault.message)


def _when_to_come_back(fault: Any) -> Headers:
    """The headers about it, where the SDK kept them."""
    said: Any = getattr(getattr(fault.original_exception, "response", None), "headers", None)
    if not hasattr(said, "get"):
        return ()
    named = [(name, said.get(name)) for name in ("date", "retry-after", "retry-after-ms")]
    return [(name.encode(), value.encode("latin-1")) for name, value in named if isinstance(value, str)]


def _causes(fault: BaseException | None) -> Iterator[BaseException]:
    while fault is not None:
        yield fault
        fault = fault.__cause__ or fault.__context__


async def _close_sdk(client: Any) -> None:
    """Close the SDK's client, where it can be closed: any-llm has no word for it."""
    close = getattr(getattr(client, "client", None), "close", None)
    closing = close() if callable(close) else None
    if asyncio.iscoroutine(closing):
        await closing
