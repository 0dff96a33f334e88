"""llama.cpp as a supervised engine: any GGUF file behind an OpenAI-compatible URL on loopback."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec

from isthmus.artefacts.faults import MalformedWeightsError
from isthmus.artefacts.gguf import check_gguf
from isthmus.artefacts.loading import Pinned, loadable
from isthmus.catalog.weights import Mode
from isthmus.providers.engines.llama_cpp_server import ServerSettings
from isthmus.providers.engines.supervisor import (
    PATIENCE,
    Change,
    EngineFailedError,
    Launch,
    Patience,
    State,
    Supervisor,
)
from isthmus.providers.engines.weights_file import WeightsFile

log = logging.getLogger("isthmus.engines")

_SERVER_MODULE = "isthmus.providers.engines.llama_cpp_server"
_CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")

# The engine gets what it needs to run, and none of the gateway's secrets.
_ENVIRON_NAMES = frozenset(
    {
        "PATH",
        "HOME",
        "TMPDIR",
        "LANG",
        "LC_ALL",
        "LD_LIBRARY_PATH",
        "DYLD_LIBRARY_PATH",
        "PYTHONPATH",
        "PYTHONHOME",
    }
)
_ENVIRON_PREFIXES = ("OMP_", "GOMP_", "GGML_", "CUDA_", "HIP_", "VK_")

# "0.00.088.134 E llama_model_load: error loading model: tensor 'x' is not within the file bounds"
_ERROR_LINE = re.compile(r"[\d.]+ E .*?: (?:error loading model: )?(?P<text>.+)")


class LlamaCppSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What to serve and how.

    `weights` is a GGUF file, or a signed artefact that is verified before every start; once it was ready, the
    engine starts again with the same weights alone (see `WeightsFile`, and `Pinned.sha256`). `context` is the
    longest request and answer together, in tokens; each of the `parallel` requests that are worked on at once
    has room for that much. `threads` is for computing; None leaves one core to the gateway. `extra` sets
    attributes of xllamacpp's CommonParams by name, such as `{"n_gpu_layers": 0}`.
    """

    weights: Path | WeightsFile | Pinned
    mode: Mode = "chat"
    context: int = 4096
    parallel: int = 4
    threads: int | None = None
    extra: Mapping[str, Any] = {}


class LlamaCppEngine:
    """One llama.cpp server in a process of its own, restarted when it fails; to be used from one event loop.

    The process lives as long as the thread that started it at most: Linux ends it with that thread.
    """

    def __init__(
        self,
        name: str,
        settings: LlamaCppSettings,
        log_dir: Path,
        *,
        patience: Patience = PATIENCE,
        listener: Callable[[Change], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.api_key = secrets.token_urlsafe(32)
        self.verified: str | None = None
        """The identity of the weights, where they were read before the last start; else None."""
        self._settings = settings
        self._weights = (
            WeightsFile(settings.weights) if isinstance(settings.weights, Path) else settings.weights
        )
        self._stopped = False
        self._supervisor = Supervisor(
            name,
            self._launch,
            log=log_dir / f"engine-{name}.log",
            complaint=_complaint,
            patience=patience,
            listener=listener,
        )

    @property
    def base_url(self) -> str:
        """The URL that `/chat/completions` or `/embeddings` is appended to.

        It changes only where a restart finds the port taken. Raises RuntimeError before the first start.
        """
        if self._supervisor.address is None:
            raise RuntimeError(f"the engine {self.name} has no address before it was started")
        return f"{self._supervisor.address}/v1"

    @property
    def state(self) -> State:
        """The state now."""
        return self._supervisor.state

    @property
    def pid(self) -> int | None:
        """The process's id, or None while there is no process."""
        return self._supervisor.pid

    async def start(self) -> None:
        """Return when the engine answers. Raises EngineFailedError, with what to do."""
        self._stopped = False
        if isinstance(self._weights, WeightsFile) and not self._weights.kept:
            self._check(self._weights.path)
        await self._supervisor.start()
        if isinstance(self._weights, WeightsFile):
            self._weights.keep()
        else:
            self._weights = msgspec.structs.replace(self._weights, sha256=self.verified)

    def _check(self, weights: Path) -> None:
        try:
            with weights.open("rb") as file:
                check_gguf(file)
        except MalformedWeightsError as fault:
            raise EngineFailedError(
                f"The engine {self.name} cannot load {weights}: {fault}.",
                hint="Name a GGUF file, whole and in one piece.",
            ) from fault
        except OSError as fault:
            raise EngineFailedError(
                f"The engine {self.name} cannot read {weights}: {fault.strerror}.",
                hint="Check the path and its permissions.",
            ) from fault

    async def stop(self, grace_s: float = 10.0) -> None:
        """Let it finish what it has begun, kill it after `grace_s` seconds, and return when it is gone."""
        self._stopped = True
        await self._supervisor.stop(grace_s)
        if isinstance(self._weights, WeightsFile):
            self._weights.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _launch(self, port: int) -> Launch:
        weights = self._weights
        self.verified = None
        if isinstance(weights, WeightsFile):
            loaded = weights.opened(self._go_on)
            self.verified = weights.identity
            return self._launch_of(port, loaded.name, files=[loaded.file])
        began = time.monotonic()
        with ExitStack() as open_files:
            found = open_files.enter_context(loadable(weights, dt.datetime.now(dt.UTC), self._go_on))
            # The engine's own: these stay open when the others are closed.
            files = [os.fdopen(os.dup(it.fileno()), "rb") for it in (found.weights, found.adapter) if it]
        self.verified = found.identity
        log.info(
            "engine %s: %s is verified in %.2f s: artefact %s, signed by %s (key %.16s)",
            self.name,
            weights.path,
            time.monotonic() - began,
            found.identity,
            found.signer,
            found.fingerprint,
        )
        # Whoever opens these gets the files themselves, whatever their names lead to by then.
        weights_path, adapter, *_ = [*(f"/proc/self/fd/{file.fileno()}" for file in files), None]
        return self._launch_of(port, weights_path or "", adapter, found.template, files)

    def _launch_of(
        self,
        port: int,
        weights: str,
        adapter: str | None = None,
        template: str | None = None,
        files: Sequence[BinaryIO] = (),
    ) -> Launch:
        settings = ServerSettings(
            weights=weights,
            adapter=adapter,
            template=template,
            alias=self.name,
            mode=self._settings.mode,
            api_key=self.api_key,
            port=port,
            context=self._settings.context,
            parallel=self._settings.parallel,
            threads=self._settings.threads or max(1, _cores() - 1),
            extra=dict(self._settings.extra),
        )
        return Launch(
            argv=(sys.executable, "-P", "-m", _SERVER_MODULE),
            stdin=msgspec.json.encode(settings),
            environ=_environ(os.environ),
            files=files,
        )

    def _go_on(self, done: int, total: int) -> None:
        # A thread cannot be cancelled; raising out of its report is what ends the reading of large weights.
        if self._stopped:
            raise asyncio.CancelledError


def _environ(own: Mapping[str, str]) -> dict[str, str]:
    passed_on = {
        name: value
        for name, value in own.items()
        if name in _ENVIRON_NAMES or name.startswith(_ENVIRON_PREFIXES)
    }
    # Threads that spin while they wait for each other starve whatever shares the cores: on two busy ones the
    # engine wrote 6 tokens a second with OpenMP's default, and 27 with this.
    return {"OMP_WAIT_POLICY": "PASSIVE", **passed_on}


def _complaint(lines: Sequence[str]) -> str:
    matches = (_ERROR_LINE.fullmatch(line) for line in lines)
    return next((match["text"] for match in matches if match), "")


def _cores() -> int:
    """The cores that this process may use, by its affinity and by its container's quota (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CGROUP_CPU.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else min(cores, max(1, int(quota) // int(period)))
