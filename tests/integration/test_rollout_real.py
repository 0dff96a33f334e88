"""New weights on a real engine, under load: what the commands say, and what no client notices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from click.testing import CliRunner

from isthmus.cli import main

from .gateway import Answer, Served, eventually, serving

if TYPE_CHECKING:
    from isthmus.testing.engines import RunningEngine

ASKING = 2


def with_another_name(weights: Path, to: Path) -> Path:
    """A copy of a GGUF file that differs in the name in its metadata alone."""
    with weights.open("rb") as source, to.open("wb") as target:
        head = bytearray(source.read(1 << 16))
        # The key, the type of its value, the value's length: the GGUF specification, "gguf_metadata_kv_t".
        name = head.index(b"general.name") + len(b"general.name") + 4 + 8
        head[name : name + 1] = b"~"
        target.write(head)
        while part := source.read(1 << 24):
            target.write(part)
    return to


async def command(folder: Path, *words: str) -> str:
    """What a command of another process would print."""
    arguments = ["models", *words, "-c", str(folder / "isthmus.yaml")]
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
    assert result.exit_code == 0, result.output
    return result.output


async def test_no_request_is_dropped_while_the_weights_change(
    chat_engine: RunningEngine, tmp_path: Path
) -> None:
    new = with_another_name(chat_engine.path, tmp_path / "new.gguf")
    document = {
        "providers": {"builtin": {"engine": "builtin", "context": 512, "parallel": ASKING}},
        "models": {"student": {"provider": "builtin"}},
        "routes": {"r": "student"},
        "ledger": {"path": str(tmp_path / "ledger.db")},
    }
    text = msgspec.json.encode(document).decode()
    (tmp_path / "isthmus.yaml").write_text(text)
    async with serving(text, tmp_path) as served:
        engines = served.house.workshop.engines
        await asyncio.wait_for(engines()["student"].ready(), 60)
        answers: list[Answer] = []
        asking = [asyncio.create_task(_keep_asking(served, answers, number)) for number in range(ASKING)]

        said = await command(tmp_path, "promote", "student", str(new), "--now")
        name = said.partition(":")[0]
        await _until(lambda: engines().keys() == {name})
        await _until(lambda: answers[-1].headers["x-isthmus-model"] == name)
        assert (await served.get("/readyz")).status == 200

        await command(tmp_path, "rollback", "student", "--why", "enough")
        await _until(lambda: engines().keys() == {"student"})
        await _until(lambda: answers[-1].headers["x-isthmus-model"] == "student")
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

        assert {answer.status for answer in answers} == {200}
        streams = [it for it in answers if it.headers["content-type"].startswith("text/event-stream")]
        assert all(answer.body.rstrip().endswith(b"data: [DONE]") for answer in streams)
        assert {answer.headers["x-isthmus-model"] for answer in answers} == {"student", name}
        history = await command(tmp_path, "rollouts", "--history")
        assert [line.split()[2] for line in history.splitlines()[1:]] == ["full", "rolled"]
        assert "enough" in history


@pytest.mark.parametrize("weights", ["broken.gguf", "all-minilm-l6-v2", "nowhere.gguf"])
async def test_weights_that_cannot_be_meant_are_refused(tmp_path: Path, weights: str) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and no more")
    (tmp_path / "isthmus.yaml").write_text("ledger: {path: ledger.db}")
    arguments = ["models", "promote", "small", str(weights), "-c", str(tmp_path / "isthmus.yaml")]
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
    assert result.exit_code == 1
    assert "GGUF file" in result.output
    assert not (tmp_path / "ledger.db").exists()


async def _keep_asking(served: Served, answers: list[Answer], number: int) -> None:
    while True:
        answers.append(await served.ask("r", stream=number % 2 == 0, max_tokens=2))


async def _until(fact: Callable[[], bool]) -> None:
    await eventually(fact, within_s=90)
