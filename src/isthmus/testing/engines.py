"""Real engines for tests, as pytest fixtures: `pytest_plugins = ["isthmus.testing.engines"]`.

`chat_engine` and `embedding_engine` run the built-in models, one process each for the whole test run. Their
weights are fetched on the first run and kept in the user's cache.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from isthmus.catalog.weights import Weights, find_weights
from isthmus.providers.engines.fetch import fetch, weights_folder
from isthmus.providers.engines.llama_cpp import LlamaCppEngine, LlamaCppSettings

# A test may point ISTHMUS_HOME elsewhere; the weights stay where they are.
_FOLDER = weights_folder(os.environ)


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """An OpenAI-compatible endpoint on loopback that is ready, and the weights that it serves."""

    base_url: str
    api_key: str = field(repr=False)
    weights: Weights
    path: Path


@contextmanager
def run_engine(name: str, logs: Path) -> Iterator[RunningEngine]:
    """The engine of the catalogue's weights `name`, from its start to its end, watched by a thread."""
    weights = find_weights(name)
    if weights is None:
        raise LookupError(f"the catalogue has no weights {name}")
    path = fetch(weights, _FOLDER)
    settings = LlamaCppSettings(weights=path, mode=weights.mode, context=min(weights.context, 2048))
    engine = LlamaCppEngine(name, settings, logs)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name=f"supervise {name}", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(engine.start(), loop).result()
        try:
            yield RunningEngine(engine.base_url, engine.api_key, weights, path)
        finally:
            asyncio.run_coroutine_threadsafe(engine.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="session")
def chat_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """The built-in chat model."""
    with run_engine("qwen2.5-coder-0.5b-instruct", tmp_path_factory.mktemp("chat-engine")) as engine:
        yield engine


@pytest.fixture(scope="session")
def embedding_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """The built-in embedding model."""
    with run_engine("all-minilm-l6-v2", tmp_path_factory.mktemp("embedding-engine")) as engine:
        yield engine
