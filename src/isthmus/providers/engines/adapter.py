"""A LoRA adapter on a server of others' making that loads them while it runs: loaded, kept there, unloaded.

vLLM, with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True: docs.vllm.ai, "LoRA Adapters", section
"Dynamically serving LoRA Adapters". An adapter is called like a model, by its name. Not run on a real vLLM.
"""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import urlsplit

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.portfolio import Model, Provider
from isthmus.providers.transport import (
    Outgoing,
    Reply,
    Timeouts,
    Transport,
    TransportError,
    as_target,
    render_headers,
)
from isthmus.providers.upstream import static_headers

log = logging.getLogger("isthmus.engines")

LOOK_EVERY_S = 10.0
"""So soon is an adapter loaded again that a restart of its server has lost."""

REFUSED = "adapter_refused"
"""The code where the server will not load an adapter."""

_TIMEOUTS = Timeouts(connect_s=5.0, idle_s=60.0, total_s=120.0)


class _Card(msgspec.Struct, frozen=True):
    id: str


class _Cards(msgspec.Struct, frozen=True):
    data: list[_Card]


_to_cards = msgspec.json.Decoder(_Cards).decode


class HostedAdapter:
    """One adapter on one server, for as long as somebody holds it; its life is a task of its own.

    `state` is `starting` until it is loaded, `ready`, `failed` where the server has refused it, or `stopped`.
    A server that is not there says nothing of the adapter: requests find out. `weights` of the model is the
    adapter's path on the server.
    """

    def __init__(
        self, model: Model, provider: Provider, *, base_url: str, key: str | None, transport: Transport
    ) -> None:
        self.name = model.name
        self.state = "starting"
        self.reason = ""
        self._model = model
        self._transport = transport
        self._path = urlsplit(base_url).path.rstrip("/")
        self._headers = render_headers(static_headers(provider, key).items())
        self._loaded = asyncio.Event()
        self._life = asyncio.get_running_loop().create_task(self._keep())

    async def ready(self) -> None:
        """Return when the adapter is loaded for the first time."""
        await self._loaded.wait()

    def unready(self) -> IsthmusError | None:
        """Why the adapter cannot be called just now, or None where it can.

        Before it was looked at it may be called: what an earlier gateway has loaded is there still.
        """
        if self.state in ("starting", "ready"):
            return None
        return IsthmusError(
            Fault.UNAVAILABLE,
            f"The adapter {self.name} is {self.state}. {self.reason}".strip(),
            code=f"engine_{self.state}",
            hint="Start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.",
            retry_after_s=2.0,
        )

    async def stop(self, *, unload: bool) -> None:
        """Look after it no longer; and let the server forget it, where nobody else may need it."""
        self.state = "stopped"
        self._life.cancel()
        if not unload:
            return
        try:
            await self._asked("unload_lora_adapter", {"lora_name": self._model.id})
        except IsthmusError as error:
            log.warning("the adapter %s was not unloaded: %s", self.name, error.text)

    async def _keep(self) -> None:
        while True:
            try:
                if not await self._is_there():
                    asked = {"lora_name": self._model.id, "lora_path": self._model.weights}
                    await self._asked("load_lora_adapter", asked)
                self.state, self.reason = "ready", ""
                self._loaded.set()
            except IsthmusError as error:
                if error.text != self.reason:
                    log.error("the adapter %s cannot be loaded: %s", self.name, error.text)
                self.reason = error.text
                if error.code == REFUSED:
                    self.state = "failed"
            await asyncio.sleep(LOOK_EVERY_S)

    async def _is_there(self) -> bool:
        reply = await self._sent("models", b"", b"GET")
        try:
            return any(card.id == self._model.id for card in _to_cards(reply.body).data)
        except msgspec.DecodeError:
            # A server that does not say what it has is told again: that does no harm.
            return False

    async def _asked(self, what: str, body: dict[str, str | None]) -> None:
        reply = await self._sent(what, msgspec.json.encode(body), b"POST")
        if reply.status != 200:
            raise IsthmusError(
                Fault.UNAVAILABLE,
                f"The server answered /{what} with status {reply.status}.",
                code=REFUSED if reply.status < 500 else "adapter_unavailable",
            )

    async def _sent(self, what: str, body: bytes, method: bytes) -> Reply:
        outgoing = Outgoing(
            target=as_target(f"{self._path}/{what}"),
            headers=self._headers,
            body=body,
            method=method,
            timeouts=_TIMEOUTS,
        )
        try:
            return await self._transport.send(outgoing)
        except TransportError as failure:
            message = f"The server gave no answer to /{what}: {failure.message}."
            raise IsthmusError(Fault.UNREACHABLE, message, code=failure.code) from failure
