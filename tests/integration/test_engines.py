"""The real engine with the real models: what the protocol promises, and what happens when it is killed."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest

from isthmus.providers.engines.llama_cpp import LlamaCppEngine, LlamaCppSettings
from isthmus.providers.engines.supervisor import Change, EngineFailedError, State

if TYPE_CHECKING:
    from isthmus.testing.engines import RunningEngine

pytest_plugins = ["isthmus.testing.engines"]

HELLO = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}


async def post(engine: RunningEngine | LlamaCppEngine, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request that is served."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            engine.base_url + path, json=body, headers={"authorization": f"Bearer {engine.api_key}"}
        ) as answer,
    ):
        decoded: dict[str, Any] = await answer.json()
        assert answer.status == 200, decoded
        return decoded


async def events(engine: RunningEngine | LlamaCppEngine, body: dict[str, Any]) -> AsyncIterator[str]:
    """The data of each event of a streamed chat."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{engine.base_url}/chat/completions",
            json={**body, "stream": True},
            headers={"authorization": f"Bearer {engine.api_key}"},
        ) as answer,
    ):
        assert answer.status == 200
        async for line in answer.content:
            if line.startswith(b"data: "):
                yield line.decode().removeprefix("data: ").strip()


def cosine(one: Iterable[float], other: Iterable[float]) -> float:
    """The product of two vectors of length 1."""
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


async def test_a_chat_is_answered_with_usage_under_the_engines_name(chat_engine: RunningEngine) -> None:
    answer = await post(chat_engine, "/chat/completions", HELLO)
    assert answer["choices"][0]["message"]["content"]
    assert 0 < answer["usage"]["completion_tokens"] <= 8
    assert answer["model"] == chat_engine.weights.name


async def test_a_chat_is_streamed_to_its_end(chat_engine: RunningEngine) -> None:
    data = [
        event async for event in events(chat_engine, {**HELLO, "stream_options": {"include_usage": True}})
    ]
    assert data[-1] == "[DONE]"
    chunks = [json.loads(event) for event in data[:-1]]
    finishes = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert finishes[-1] in {"stop", "length"}
    assert finishes[:-1] == [None] * (len(finishes) - 1)
    assert chunks[-1]["usage"]["prompt_tokens"] > 0


async def test_logprobs_come_with_their_alternatives(chat_engine: RunningEngine) -> None:
    answer = await post(chat_engine, "/chat/completions", {**HELLO, "logprobs": True, "top_logprobs": 3})
    tokens = answer["choices"][0]["logprobs"]["content"]
    assert len(tokens) == answer["usage"]["completion_tokens"]
    assert all(token["logprob"] <= 0 and len(token["top_logprobs"]) == 3 for token in tokens)


async def test_a_json_schema_is_kept(chat_engine: RunningEngine) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "size": {"enum": ["small", "large"]}},
        "required": ["city", "size"],
        "additionalProperties": False,
    }
    answer = await post(
        chat_engine,
        "/chat/completions",
        {
            "messages": [{"role": "user", "content": "Name a city and its size."}],
            "max_tokens": 100,
            "temperature": 0,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "city", "strict": True, "schema": schema},
            },
        },
    )
    said = json.loads(answer["choices"][0]["message"]["content"])
    assert set(said) == {"city", "size"}
    assert said["size"] in {"small", "large"}


async def test_embeddings_have_length_one_and_know_what_is_alike(embedding_engine: RunningEngine) -> None:
    texts = ["A man is eating food.", "Someone eats a meal.", "The stock market fell sharply today."]
    answer = await post(embedding_engine, "/embeddings", {"input": texts, "model": "any"})
    vectors = [item["embedding"] for item in answer["data"]]
    assert [len(vector) for vector in vectors] == [384, 384, 384]
    assert [cosine(vector, vector) for vector in vectors] == pytest.approx([1, 1, 1], abs=1e-4)
    assert cosine(vectors[0], vectors[1]) > 0.6
    assert cosine(vectors[0], vectors[2]) < 0.3


async def test_packed_weights_give_the_numbers_of_another_implementation(
    embedding_engine: RunningEngine,
) -> None:
    # The first numbers of a computation in numpy from the published tensors, with the published tokenizer.
    text = "Résumé of naïve café, 你好 unaffable!"
    answer = await post(embedding_engine, "/embeddings", {"input": text, "model": "any"})
    expected = [-0.0451, 0.007, 0.0479, 0.0549, 0.0734, 0.0094]
    assert answer["data"][0]["embedding"][: len(expected)] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("key", ["", "wrong"])
async def test_nobody_else_is_served(chat_engine: RunningEngine, key: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{chat_engine.base_url}/chat/completions", json=HELLO, headers={"authorization": f"Bearer {key}"}
        ) as answer,
    ):
        assert answer.status == 401


class Own:
    """An engine for one test, with the states that it went through."""

    def __init__(self, settings: LlamaCppSettings, logs: Path) -> None:
        self.changes: list[Change] = []
        self._changed = asyncio.Event()
        self.engine = LlamaCppEngine("own", settings, logs, listener=self._heard)

    async def until(self, *states: State) -> None:
        """Return when these have been the states so far."""
        async with asyncio.timeout(60):
            while len(self.changes) < len(states):
                self._changed.clear()
                await self._changed.wait()
        assert tuple(change.state for change in self.changes) == states

    def _heard(self, change: Change) -> None:
        self.changes.append(change)
        self._changed.set()


@pytest.fixture
def small(chat_engine: RunningEngine) -> LlamaCppSettings:
    return LlamaCppSettings(weights=chat_engine.path, context=512, parallel=1, threads=1)


async def test_a_killed_engine_serves_the_same_weights_again_at_the_same_address(
    small: LlamaCppSettings, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.gguf"
    assert isinstance(small.weights, Path)
    weights.symlink_to(small.weights)
    own = Own(msgspec.structs.replace(small, weights=weights), tmp_path)
    async with own.engine as engine:
        address = engine.base_url
        assert engine.pid
        weights.unlink()
        weights.write_bytes(b"something else")
        os.kill(engine.pid, signal.SIGKILL)
        await own.until(State.STARTING, State.READY, State.RESTARTING, State.READY)
        assert engine.base_url == address
        assert (await post(engine, "/chat/completions", HELLO))["choices"]
    assert engine.state is State.STOPPED


async def test_stop_lets_a_stream_finish(small: LlamaCppSettings, tmp_path: Path) -> None:
    own = Own(small, tmp_path)
    await own.engine.start()
    data = []
    stop: asyncio.Task[None] | None = None
    async for event in events(own.engine, {**HELLO, "max_tokens": 40, "ignore_eos": True}):
        data.append(event)
        stop = stop or asyncio.create_task(own.engine.stop(60))
    assert stop
    await stop
    assert data[-1] == "[DONE]"
    assert json.loads(data[-2])["choices"][0]["finish_reason"] == "length"


def what_others_can_read(pid: int | None) -> bytes:
    """A process's arguments and environment."""
    return b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
async def test_the_process_holds_no_secret_where_others_can_read_it(
    small: LlamaCppSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER_API_KEY", "a secret of the gateway's")
    async with LlamaCppEngine("own", small, tmp_path) as engine:
        seen = what_others_can_read(engine.pid)
        assert engine.api_key.encode() not in seen
        assert b"a secret of the gateway's" not in seen
        body = {**HELLO, "messages": [{"role": "user", "content": "the word is xyzzy"}]}
        await post(engine, "/chat/completions", body)
    log = (tmp_path / "engine-own.log").read_text()
    assert "model loaded" in log
    assert "xyzzy" not in log
    assert engine.api_key not in log


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"not a model", "does not begin with the letters GGUF"),
        (None, "No such file"),
    ],
)
async def test_a_file_that_is_no_model_is_told_before_a_process_starts(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    own = Own(LlamaCppSettings(weights=path), tmp_path)
    with pytest.raises(EngineFailedError, match=why) as caught:
        await own.engine.start()
    assert caught.value.hint
    assert not own.changes


async def test_a_model_cut_short_fails_once_with_the_engines_reason(
    embedding_engine: RunningEngine, tmp_path: Path
) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(embedding_engine.path.read_bytes()[:20_000_000])
    own = Own(LlamaCppSettings(weights=path), tmp_path)
    with pytest.raises(EngineFailedError, match="corrupted or incomplete"):
        await own.engine.start()
    await own.until(State.STARTING, State.FAILED)


async def test_a_setting_that_does_not_exist_is_refused_with_the_nearest(
    embedding_engine: RunningEngine, tmp_path: Path
) -> None:
    settings = LlamaCppSettings(weights=embedding_engine.path, extra={"n_gpu_layrs": 1})
    with pytest.raises(EngineFailedError, match="no setting n_gpu_layrs") as caught:
        await LlamaCppEngine("own", settings, tmp_path).start()
    assert caught.value.hint == "Did you mean n_gpu_layers?"


@pytest.mark.parametrize(
    ("module", "why", "hint"),
    [
        ("raise ModuleNotFoundError('xllamacpp')", "xllamacpp is not installed", r"-m pip install xllamacpp"),
        (
            "raise ImportError('libgomp.so.1: cannot open shared object file')",
            "libgomp.so.1 is missing",
            "apt-get install libgomp1",
        ),
        ("raise ImportError('GLIBC_2.99 not found')", "cannot be loaded: GLIBC_2.99", "Reinstall"),
    ],
)
async def test_a_missing_library_is_told_with_what_to_do(
    embedding_engine: RunningEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    why: str,
    hint: str,
) -> None:
    (tmp_path / "xllamacpp.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    with pytest.raises(EngineFailedError, match=why) as caught:
        await LlamaCppEngine("own", LlamaCppSettings(weights=embedding_engine.path), tmp_path).start()
    assert re.search(hint, caught.value.hint)
