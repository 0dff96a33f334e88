"""The process that runs llama.cpp: `python -m isthmus.providers.engines.llama_cpp_server`.

It speaks the protocol of `child` and opens the HTTP server of llama.cpp itself, out of the wheel `xllamacpp`,
on 127.0.0.1 only and with a key. On SIGTERM it finishes the answers that it has begun, and ends; when its
supervisor is gone it ends at once.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import msgspec

from isthmus.catalog.weights import Mode
from isthmus.providers.engines import child

if TYPE_CHECKING:
    import xllamacpp

_HOST = "127.0.0.1"
_PROMPT_CACHE_MIB = 256
_EMBEDDING_BATCH = 2048
_DRAIN_POLL_S = 0.05
_LAST_BYTES_S = 0.25
_BUSY = re.compile(r"^llamacpp:requests_(?:processing|deferred) [1-9]", re.MULTILINE)


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One line of JSON: what the process is to serve, and how.

    `adapter` is a LoRA adapter's file, applied as it is. `template` is the chat template to speak by, instead
    of the one in the weights. `port` is a wish, 0 means any. `context` is in tokens for each of the
    `parallel` requests. `extra` sets further attributes of xllamacpp's CommonParams by name,
    `cpuparams.n_threads` reaching into a nested one.
    """

    weights: str
    alias: str
    mode: Mode
    api_key: str
    port: int
    context: int
    parallel: int
    threads: int
    extra: dict[str, Any]
    adapter: str | None = None
    template: str | None = None


class _RefusalError(Exception):
    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.refused = child.Refused(message, hint)


def main() -> None:
    """Serve until told to end."""
    out = child.keep_stdout()
    settings = child.read_settings(ServerSettings)
    child.end_with_parent()
    try:
        params = _params(settings)
    except _RefusalError as fault:
        child.announce(out, fault.refused)
        sys.exit(1)
    import xllamacpp

    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        # The log has told why, and the supervisor reads it there.
        sys.exit(1)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    child.announce(out, child.Listening(server.listening_address))
    ended.wait()
    while _BUSY.search(server.handle_metrics()):
        time.sleep(_DRAIN_POLL_S)
    # A slot is free before the thread that answers has written what it made: on a busy machine, long before.
    time.sleep(_LAST_BYTES_S)
    # The library's destructor sends the last bytes of what it has answered.
    del server
    os._exit(0)


def _params(settings: ServerSettings) -> xllamacpp.CommonParams:
    xlc = _load_library()
    params = xlc.CommonParams()
    params.model.path = settings.weights
    if settings.adapter is not None:
        params.lora_adapters = [xlc.CommonAdapterLoraInfo(settings.adapter, 1.0)]
    if settings.template is not None:
        params.chat_template = settings.template
    # Without an alias every answer would name the file's path as its model.
    params.model_alias = {settings.alias}
    params.hostnames = [_HOST]
    params.port = _free(settings.port)
    params.api_keys = [settings.api_key]
    params.cors_origins = ""
    params.ui = False
    params.endpoint_slots = False
    params.endpoint_props = False
    params.endpoint_metrics = True
    params.n_parallel = settings.parallel
    params.n_ctx = settings.context * settings.parallel
    params.cpuparams.n_threads = settings.threads
    params.cpuparams_batch.n_threads = settings.threads
    # The library's own default lets the prompts of past requests take up 8 GiB.
    params.cache_ram_mib = _PROMPT_CACHE_MIB
    if settings.mode == "embeddings":
        params.embedding = True
        # An encoder sees its whole input at once, so a batch has to hold the longest one. Some room to spare
        # makes a longer input the caller's fault (400); one beyond the batch is called the server's (500).
        params.n_batch = params.n_ubatch = max(_EMBEDDING_BATCH, settings.context)
    for name, value in settings.extra.items():
        _set(params, name, value)
    return params


def _load_library() -> Any:
    try:
        import xllamacpp
    except ModuleNotFoundError as fault:
        raise _RefusalError(
            "the Python package xllamacpp is not installed",
            f"Install it: {sys.executable} -m pip install xllamacpp",
        ) from fault
    except ImportError as fault:
        if "libgomp" in str(fault):
            raise _RefusalError(
                "the system library libgomp.so.1 is missing",
                "Install it: apt-get install libgomp1 (Debian, Ubuntu), dnf install libgomp (Fedora, RHEL).",
            ) from fault
        raise _RefusalError(
            f"the Python package xllamacpp cannot be loaded: {fault}", "Reinstall it for this system."
        ) from fault
    return xllamacpp


def _free(port: int) -> int:
    """The port if it can be had, else 0, with which the system picks one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return 0
    return port


def _set(params: Any, name: str, value: Any) -> None:
    *path, last = name.split(".")
    target = params
    try:
        for step in path:
            target = getattr(target, step)
        getattr(target, last)
        setattr(target, last, value)
    except AttributeError as fault:
        near = get_close_matches(last, dir(target), n=1)
        hint = f"Did you mean {'.'.join([*path, *near])}?" if near else "See xllamacpp's CommonParams."
        raise _RefusalError(f"llama.cpp has no setting {name}", hint) from fault
    except (TypeError, ValueError, OverflowError) as fault:
        raise _RefusalError(
            f"llama.cpp does not accept the value of {name}: {fault}", "Correct it."
        ) from fault


if __name__ == "__main__":
    main()
