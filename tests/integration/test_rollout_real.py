"""New weights on a real engine, under load: what the commands say, and what no client notices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests import artefacts

from isthmus.catalog.weights import WEIGHTS
from isthmus.cli import main

from .gateway import Answer, Served, eventually, serving

ASKING = 2
PRIVATE, SIGNER = artefacts.pair()


def signed(folder: Path, scale: float) -> Path:
    """An adapter for the built-in model, signed by whom `release.pub` names."""
    path = artefacts.write(folder, artefacts.adapter(scale=scale), base=WEIGHTS[0].sha256)
    artefacts.sign(path, PRIVATE)
    (folder.parent / "release.pub").write_text(SIGNER.pem)
    return path


async def command(folder: Path, *words: str) -> str:
    """What a command of another process would print."""
    arguments = ["models", *words, "-c", str(folder / "isthmus.yaml")]
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
    assert result.exit_code == 0, result.output
    return result.output


async def test_no_request_is_dropped_while_the_weights_change(tmp_path: Path) -> None:
    first, second = signed(tmp_path / "student-1", 1), signed(tmp_path / "student-2", 3)
    (tmp_path / "isthmus.yaml").write_text(
        text := f"""
providers: {{mine: {{engine: builtin, context: 512, parallel: {ASKING}, threads: 1}}}}
models: {{student: {{provider: mine, weights: {first}, signers: [{tmp_path / "release.pub"}]}}}}
routes: {{r: student}}
ledger: {{path: {tmp_path / "ledger.db"}}}
"""
    )
    async with serving(text, tmp_path) as served:
        engines = served.house.workshop.engines
        await asyncio.wait_for(engines()["student"].ready(), 60)
        answers: list[Answer] = []
        asking = [asyncio.create_task(_keep_asking(served, answers, number)) for number in range(ASKING)]

        said = await command(tmp_path, "promote", "student", str(second), "--now")
        name = said.partition(":")[0]
        await _until(lambda: engines().keys() == {name})
        await _until(lambda: answers[-1].headers["x-isthmus-model"] == name)
        readiness = await served.get("/readyz")
        assert (readiness.status, [*readiness.json["weights"]]) == (200, [name])
        assert readiness.json["weights"][name].startswith(name.partition("@")[2])

        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

        assert {answer.status for answer in answers} == {200}
        streams = [it for it in answers if it.headers["content-type"].startswith("text/event-stream")]
        assert all(answer.body.rstrip().endswith(b"data: [DONE]") for answer in streams)
        assert {answer.headers["x-isthmus-model"] for answer in answers} == {"student", name}
        (row,) = (await command(tmp_path, "rollouts")).splitlines()[1:]
        assert row.split()[:3] == ["student", name.partition("@")[2], "full"]


def test_only_what_was_signed_can_be_promoted(tmp_path: Path) -> None:
    first, second = signed(tmp_path / "student-1", 1), signed(tmp_path / "student-2", 3)
    (second / "adapter.gguf").write_bytes((first / "adapter.gguf").read_bytes())
    (tmp_path / "isthmus.yaml").write_text(
        f"""
providers: {{mine: {{engine: builtin}}}}
models: {{student: {{provider: mine, weights: {first}, signers: [{tmp_path / "release.pub"}]}}}}
routes: {{r: student}}
ledger: {{path: {tmp_path / "ledger.db"}}}
"""
    )
    for artefact, said in (
        (second, "changed: 'adapter.gguf'"),
        (tmp_path, "is not signed"),
        (first, "already"),
    ):
        arguments = ["models", "promote", "student", str(artefact), "-c", str(tmp_path / "isthmus.yaml")]
        result = CliRunner().invoke(main, arguments)
        assert (result.exit_code, said in result.output) == (1, True), result.output
    assert not (tmp_path / "ledger.db").exists()


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
