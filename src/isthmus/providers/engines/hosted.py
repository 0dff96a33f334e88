"""A local model from its weights to its socket: fetched, started, watched, and called like any upstream."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from isthmus.artefacts.declaration import base_of
from isthmus.artefacts.loading import Pinned
from isthmus.catalog.weights import WEIGHTS, Mode, Weights, find_weights
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.portfolio import EngineSettings, Model
from isthmus.providers.engines.fetch import Progress, fetch
from isthmus.providers.engines.llama_cpp import LlamaCppEngine, LlamaCppSettings
from isthmus.providers.engines.supervisor import Change, State
from isthmus.providers.engines.weights_file import WeightsFile
from isthmus.providers.http1 import Http1Transport
from isthmus.providers.transport import (
    ConnectError,
    HeaderBlock,
    Origin,
    Outgoing,
    Reply,
    Stream,
    Transport,
    render_headers,
)

log = logging.getLogger("isthmus.engines")

FIRST_RETRY_S = 5.0
LONGEST_RETRY_S = 300.0
HEALTHY_S = 600.0
NOWHERE = Origin(scheme="http", host="localhost", port=0)

_ONE_FETCH = threading.Lock()
"""Downloads go one after the other: two at once are no faster, and their progress would be unreadable."""


class HostedEngine:
    """One local model that the gateway runs itself; `bring_up` is its life, in a task of its own.

    `state` is `fetching`, or a state of the supervisor (`starting`, `ready`, `restarting`, `failed`,
    `stopped`); `reason` says why it is not ready, in words.
    """

    def __init__(
        self,
        model: Model,
        settings: EngineSettings,
        *,
        weights_dir: Path,
        log_dir: Path,
        private_dir: Path,
        report: Callable[[Progress], None],
    ) -> None:
        self.name = model.name
        self.reason = ""
        self.transport: Transport = _EngineTransport(self)
        self._model = model
        self._settings = settings
        self._weights_dir = weights_dir
        self._log_dir = log_dir
        self._private_dir = private_dir
        self._report = report
        self._engine: LlamaCppEngine | None = None
        self._file: WeightsFile | None = None
        self._first: str | None = None
        self._phase: str | None = "fetching"
        self._pause = FIRST_RETRY_S
        self._up_since: float | None = None
        self._life = asyncio.get_running_loop().create_task(self._bring_up())

    @property
    def state(self) -> str:
        """The state in one word."""
        if self._phase is not None or self._engine is None:
            return self._phase or "stopped"
        return str(self._engine.state)

    @property
    def engine(self) -> LlamaCppEngine | None:
        """The running engine; None before its weights are there."""
        return self._engine

    async def ready(self) -> None:
        """Return when the engine answers for the first time. Raises what ended its life instead."""
        await asyncio.shield(self._life)

    @property
    def verified(self) -> str | None:
        """The identity of the weights that are served; None where nobody has signed or pinned them."""
        return self._engine.verified if self._engine is not None else None

    def unready(self) -> IsthmusError | None:
        """Why the model cannot be called just now, or None where it can."""
        if self._engine is not None and self._engine.state is State.READY and self._phase is None:
            return None
        return IsthmusError(
            Fault.UNAVAILABLE,
            f"The engine of {self.name} is {self.state}. {self.reason}".strip(),
            code=f"engine_{self.state}",
            hint="Watch /readyz, or add a fallback to the route.",
            retry_after_s=2.0,
        )

    async def stop(self, grace_s: float) -> None:
        """End the process, after `grace_s` seconds by force."""
        self._phase = "stopped"
        self._life.cancel()
        if self._engine is not None:
            await self._engine.stop(grace_s)
        await self.transport.aclose()

    async def _bring_up(self, delay: float = 0.0) -> None:
        await asyncio.sleep(delay)
        while True:
            try:
                await self._fetch_and_start()
            except IsthmusError as fault:
                self._phase, self.reason = "failed", fault.text
                pause = self._next_pause()
                log.error("%s; next try in %.0f s", fault.text, pause)
                await asyncio.sleep(pause)
            else:
                self._up_since = asyncio.get_running_loop().time()
                return

    def _next_pause(self) -> float:
        """Seconds until the next try: they double from life to life, and begin anew after a long one."""
        now = asyncio.get_running_loop().time()
        if self._up_since is not None and now - self._up_since > HEALTHY_S:
            self._pause = FIRST_RETRY_S
        self._up_since = None
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_RETRY_S)
        return pause

    async def _fetch_and_start(self) -> None:
        self._phase = "fetching"
        weights, mode, longest = await asyncio.to_thread(self._weights)
        self._phase, self.reason = None, ""
        self._engine = LlamaCppEngine(
            self.name,
            LlamaCppSettings(
                weights=weights,
                mode=mode,
                context=min(self._settings.context, longest or self._settings.context),
                parallel=self._settings.parallel,
                threads=self._settings.threads,
            ),
            self._log_dir,
            listener=self._changed,
        )
        await self._engine.start()
        self._first = self._first or self._engine.verified

    def _changed(self, change: Change) -> None:
        """Begin anew when the supervisor has given up: what made it fail may pass."""
        self.reason = change.reason
        log.log(
            logging.WARNING if change.reason else logging.DEBUG,
            "engine %s is %s %s",
            *msgspec.structs.astuple(change),
        )
        if change.state is State.FAILED and self._life.done():
            self._life = asyncio.get_running_loop().create_task(self._bring_up(self._next_pause()))

    def _report_unless_stopped(self, progress: Progress) -> None:
        # A thread cannot be cancelled; raising out of its report is what ends a download.
        if self._phase == "stopped":
            raise asyncio.CancelledError
        self._report(progress)

    def _weights(self) -> tuple[WeightsFile | Pinned, Mode, int | None]:
        """What to load, fetched first where the catalogue knows it, what it is for, and its longest input."""
        named = self._model.weights or ""
        row = find_weights(named)
        if row is not None:
            return self._held(self._fetched(row), row.sha256, proven=True), row.mode, row.context
        if self._model.signers:
            return self._artefact(Path(named))
        return self._held(Path(named), self._model.sha256), self._mode(), None

    def _held(self, path: Path, sha256: str | None, *, proven: bool = False) -> WeightsFile:
        """The file, one and the same in all lives of the engine."""
        if self._file is None:
            self._file = WeightsFile(path, sha256, proven=proven)
        return self._file

    def _artefact(self, path: Path) -> tuple[Pinned, Mode, int | None]:
        """The signed artefact, as yet unverified: by its own word, its base is only fetched."""
        base = Path(self._model.base) if self._model.base is not None else None
        row = None
        if base is None and (wanted := base_of(path)) is not None:
            row = next((it for it in WEIGHTS if it.sha256 == wanted.sha256), None)
            base = self._fetched(row) if row is not None else None
        pinned = Pinned(
            path=path,
            signers=self._model.signers,
            base=base,
            private=self._private_dir,
            sha256=self._model.sha256 or self._first,
        )
        return pinned, row.mode if row is not None else self._mode(), row.context if row is not None else None

    def _fetched(self, row: Weights) -> Path:
        with _ONE_FETCH:
            return fetch(row, self._weights_dir, self._report_unless_stopped)

    def _mode(self) -> Mode:
        embeds = self._model.capabilities is not None and "embeddings" in self._model.capabilities
        return "embeddings" if embeds else "chat"


class _EngineTransport:
    """The transport to an engine, wherever its last start has put it."""

    def __init__(self, hosted: HostedEngine) -> None:
        self._hosted = hosted
        self._address = ""
        self._credential = HeaderBlock(b"")
        self._transport: Http1Transport | None = None

    async def send(self, outgoing: Outgoing) -> Reply:
        transport = self._current()
        return await transport.send(self._with_key(outgoing))

    async def stream(self, outgoing: Outgoing) -> Stream:
        transport = self._current()
        return await transport.stream(self._with_key(outgoing))

    def retire(self) -> None:
        if self._transport is not None:
            self._transport.retire()

    async def aclose(self) -> None:
        if self._transport is not None:
            await self._transport.aclose()

    def _with_key(self, outgoing: Outgoing) -> Outgoing:
        headers = HeaderBlock(outgoing.headers + self._credential)
        return msgspec.structs.replace(outgoing, headers=headers)

    def _current(self) -> Http1Transport:
        engine = self._hosted.engine
        if engine is None:
            raise ConnectError(
                NOWHERE, f"is where the engine of {self._hosted.name} will be once it is started"
            )
        if self._transport is None or engine.base_url != self._address:
            self.retire()
            self._address = engine.base_url
            self._credential = render_headers([("authorization", f"Bearer {engine.api_key}")])
            self._transport = Http1Transport(Origin.from_url(self._address))
        return self._transport
