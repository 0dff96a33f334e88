"""A signed adapter on the built-in model, in a gateway with a real engine: as signed, or not at all."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tests import artefacts

from isthmus.artefacts.manifest import digests, identity, opened
from isthmus.catalog.weights import WEIGHTS
from isthmus.testing.engines import RunningEngine

from .gateway import Served, eventually, serving

HELLO = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4, "temperature": 0}


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A signed adapter that turns what the built-in model says into something else."""
    path = artefacts.write(tmp_path / "student", artefacts.adapter(scale=3), base=WEIGHTS[0].sha256)
    private, signer = artefacts.pair()
    artefacts.sign(path, private)
    (tmp_path / "release").write_text(private)
    (tmp_path / "release.pub").write_text(signer.pem)
    return path


def private_key(student: Path) -> str:
    return student.with_name("release").read_text()


def config(student: Path) -> str:
    return f"""
providers: {{mine: {{engine: builtin, context: 512, parallel: 1, threads: 1}}}}
models: {{student: {{provider: mine, weights: {student}, signers: [{student.parent / "release.pub"}]}}}}
routes: {{default: student}}
"""


def state(served: Served) -> str:
    return served.house.workshop.engines()["student"].state


def said(answer: Any) -> str:
    text = answer["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


async def without_adapter(served: Served, engine: RunningEngine) -> str:
    url, key = f"{engine.base_url}/chat/completions", {"authorization": f"Bearer {engine.api_key}"}
    async with served.session.post(url, json=HELLO, headers=key) as answer:
        return said(await answer.json())


async def test_a_signed_adapter_is_served_until_it_is_altered(
    student: Path, tmp_path: Path, chat_engine: RunningEngine
) -> None:
    with opened(student) as files:
        signed = identity(digests(files))
    async with serving(config(student), tmp_path) as served:
        engine = served.house.workshop.engines()["student"]
        await engine.ready()
        answer = await served.post("/v1/chat/completions", {"model": "default", **HELLO})
        assert answer.status == 200
        assert said(answer.json) != await without_adapter(served, chat_engine)
        assert (await served.record(answer)).attempts[0].weights == signed
        assert (await served.get("/readyz")).json["weights"] == {"student": signed}

        adapter = student / "adapter.gguf"
        content = bytearray(adapter.read_bytes())
        content[-1] ^= 1
        adapter.write_bytes(content)
        assert engine.engine is not None
        assert engine.engine.pid
        os.kill(engine.engine.pid, signal.SIGKILL)
        await eventually(lambda: state(served) == "failed", within_s=30)
        refused = await served.post("/v1/chat/completions", {"model": "default", **HELLO})
        assert (refused.status, refused.error["code"]) == (503, "engine_failed")
        assert "changed: 'adapter.gguf'" in refused.error["message"]
        readiness = await served.get("/readyz")
        assert (readiness.status, readiness.json["weights"]) == (503, {})
        assert engine.engine.pid is None

        # A good signature does not make it the artefact that this engine has begun with.
        artefacts.sign(student, private_key(student))
        await eventually(lambda: "is signed, but it is" in engine.reason, within_s=30)


async def test_what_nobody_signed_never_starts(student: Path, tmp_path: Path) -> None:
    (tmp_path / "student.sig").unlink()
    async with serving(config(student), tmp_path) as served:
        await eventually(lambda: state(served) == "failed", within_s=30)
        refused = await served.post("/v1/chat/completions", {"model": "default", **HELLO})
        assert "is not signed: there is no file student.sig" in refused.error["message"]
