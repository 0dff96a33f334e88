"""`choose`, from a pilot to a gateway that asks whom it has learned to ask; and who tries to deceive it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from isthmus.cli import main
from isthmus.testing import Script, Simulator
from isthmus.testing.simulator import SimulatorThread
from isthmus.testing.wire import Asked

from .gateway import Answer, Served, config_text, serving

SMALL, STRONG = "openai/small", "openai/strong"
BY = "learned/support.router"
CHOICE: dict[str, Any] = {"choose": {"from": [SMALL, STRONG], "quality_at_least": 0.8}}
COUNT = 300
CHEAP = {"input": 0.1, "output": 0.1}
EASY = ("add the numbers {} and two", "name a colour for room {}", "say hello to guest {}")
HARD = ("prove the theorem of order {}", "derive the field equations of case {}", "factor polynomial {} here")


def text_of(number: int) -> str:
    """Every second text is hard."""
    return (HARD if number % 2 else EASY)[number % 3].format(number)


@pytest.fixture(scope="module")
def upstream() -> Iterator[SimulatorThread]:
    with Simulator.thread() as thread:
        yield thread


@pytest.fixture(scope="module")
def learned(upstream: SimulatorThread, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which both models were asked all there is, and a router was learned from it."""
    folder = tmp_path_factory.mktemp("learned")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ISTHMUS_HOME", str(folder / "state"))
        script(upstream)
        prepare(upstream.url)
        before = len(upstream.requests)
        command = ("calibrate", "support", "--dataset", "work.jsonl", "--scorer", "contains", "--no-vectors")
        found = run(*command, "--max-usd", "5", "--max-tokens", "16")
        assert found.exit_code == 0, found.output
        assert "Choose: with a chance of at least 0.9" in found.stdout
        assert Path(BY).exists()
        assert len(upstream.requests) - before == 2 * COUNT
    return folder


@pytest.fixture
def sim(
    upstream: SimulatorThread, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SimulatorThread:
    """The simulator, in a folder where the router is."""
    home = tmp_path / "home"
    shutil.copytree(learned, home)
    monkeypatch.chdir(home)
    monkeypatch.setenv("ISTHMUS_HOME", str(home / "state"))
    script(upstream)
    return upstream


def script(sim: SimulatorThread) -> None:
    sim.simulator.scripts["small"] = _small
    sim.simulator.scripts["strong"] = lambda asked: Script(text=("good",))


def _small(asked: Asked) -> Script:
    """Right about what is easy."""
    hard = any(word in asked.text for word in ("prove", "derive", "factor"))
    return Script(text=("bad" if hard else "good",))


def prepare(url: str, plan: Any = CHOICE, count: int = COUNT, small: Any = None, **sections: Any) -> None:
    document = json.loads(config_text(url, {"support": plan}, **sections))
    document["models"][SMALL] |= {"price": CHEAP, **(small or {})}
    Path("isthmus.yaml").write_text(json.dumps(document))
    lines = [
        json.dumps({"id": f"s{n}", "input": text_of(n), "target": "good", "label": "internal"})
        for n in range(count)
    ]
    Path("work.jsonl").write_text("\n".join(lines))


def by(**more: Any) -> dict[str, Any]:
    """The choice, by what was learned."""
    return {"choose": {**CHOICE["choose"], "by": BY, **more}}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def served(check: Callable[[Served], Awaitable[None]]) -> None:
    text, folder = Path("isthmus.yaml").read_text(), Path.cwd()

    async def serve() -> None:
        async with serving(text, folder) as gateway:
            await check(gateway)

    asyncio.run(serve())


async def _ask(gateway: Served, text: str, status: int = 200, **headers: str) -> Answer:
    body = {"model": "support", "max_tokens": 16, "messages": [{"role": "user", "content": text}]}
    answer = await gateway.post("/v1/chat/completions", body, headers)
    assert answer.status == status, answer.body
    return answer


def test_a_choice_is_learned_and_serves_so(sim: SimulatorThread) -> None:
    found = run("calibrate", "support", "--run", "", "--no-vectors", "--html", "out.html", "--json")
    assert found.exit_code == 0, found.output
    trial = json.loads(found.stdout)
    print(json.dumps(trial, indent=1))
    prepare(sim.url, by())
    checked = run("check")
    assert checked.exit_code == 0, checked.output
    print(run("explain", "support", text_of(1000)).output)

    async def as_learned(gateway: Served) -> None:
        for number in range(1000, 1010):
            answer = await _ask(gateway, text_of(number))
            assert answer.headers["x-isthmus-model"] == (STRONG if number % 2 else SMALL)
            print((await gateway.record(answer)).decision)

    served(as_learned)
