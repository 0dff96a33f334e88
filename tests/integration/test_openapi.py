"""Requests made from the interface's own description, sound and unsound: each is answered as it promises."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from isthmus.gateway.endpoints import ENDPOINTS, Endpoint
from isthmus.testing import Simulator

from .gateway import config_text, serving

ROUTES = {
    "chat": "openai/sim",
    "claude": "anthropic/sim",
    "gemini": "gemini/sim",
    "responses": "responses/sim",
}
PROMISES = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.unsupported_method,
]
EXAMPLES = 30
CASES = [
    pytest.param(endpoint, mode, id=f"{endpoint.path}-{mode.value}")
    for endpoint in ENDPOINTS
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    # Nothing can be wrong in a request that says nothing.
    if mode is GenerationMode.POSITIVE or endpoint.request is not None
]


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """A gateway before a simulator that echoes, in an event loop of its own thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    stack = AsyncExitStack()

    async def open_all() -> str:
        # Undocumented parameters are as good as any here.
        sim = await stack.enter_async_context(Simulator(strict=False))
        served = await stack.enter_async_context(serving(config_text(sim.url, ROUTES), folder))
        return served.url

    try:
        yield asyncio.run_coroutine_threadsafe(open_all(), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with _served(tmp_path_factory.mktemp("gateway")) as url:
        yield url


@pytest.fixture(scope="module")
def described(url: str) -> Any:
    with urlopen(f"{url}/openapi.json") as answer:
        return schemathesis.openapi.from_dict(json.load(answer))


@pytest.mark.parametrize(("endpoint", "mode"), CASES)
def test_what_is_described_is_what_is_served(
    endpoint: Endpoint, mode: GenerationMode, url: str, described: Any
) -> None:
    operation = described[endpoint.path][endpoint.method]
    routes = cycle(ROUTES)

    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            # An invented name would come no further than to be unknown.
            case.body["model"] = next(routes)
        case.call_and_validate(base_url=url, checks=PROMISES)

    ask()
