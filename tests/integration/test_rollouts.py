"""New weights behind a route, from their promotion to the last stage or back, through a gateway on a socket.

The weights are adapters of a simulated server, which says by each one's name what the test wants it to say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from isthmus.core.record import Record
from isthmus.core.rollout import Stage, Turn, Version
from isthmus.evals.rollout import steward
from isthmus.evals.rollout.promotion import promoted, rolled_back
from isthmus.store.rollouts import SqliteRollouts
from isthmus.testing import Asked, Fault, Refusal, Script, Simulator

from .gateway import OPENAI, Answer, Served, config_of, eventually, serving
from .test_gateway_ledger import process

NEW = Version("/adapters/second")
NAME = f"student@{NEW.id}"
BROKEN = Script(fault=Fault(refuse=Refusal(status=500)))


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steward, "EVERY_S", 0.01)


def document(url: str, route: Any = None, budgets: Any = (), **rule: Any) -> str:
    server = {"preset": "vllm", "base_url": f"{url}/v1", "kind": "local"}
    return msgspec.json.encode(
        {
            "providers": {"mine": server},
            "models": {
                "student": {"provider": "mine", "id": "base"},
                "strong": {"provider": "mine", "id": "strong"},
            },
            "routes": {
                "r": route or {"call": "student", "retries": 0},
                "s": {"call": "strong", "retries": 0},
            },
            "budgets": budgets,
            # A busy machine may make any answer late: only who is meant to be slow is held to a pace.
            "rollouts": [{"model": "student", "least": 10, "canary": [0.5], "slower": 1000, **rule}],
        }
    ).decode()


class Rolling:
    """A gateway, and whoever promotes beside it."""

    def __init__(self, sim: Simulator, served: Served, text: str) -> None:
        self.sim = sim
        self.served = served
        self.store = SqliteRollouts(served.house.ledger_path)
        self._config = config_of(text)

    @property
    def turn(self) -> Turn:
        return self.store.current()[0]

    def promote(self, new: Version = NEW, stage: Stage | None = None, at_us: int = 1) -> Turn:
        model = self._config.models["student"]
        last = next(iter(self.store.current()), None)
        turn = promoted(
            self._config, model, Version("base"), last, new, stage, why="a test", who="tester", at_us=at_us
        )
        return self.store.append(turn, last.number if last else 0)

    def roll_back(self) -> None:
        model = self._config.models["student"]
        turn = rolled_back(model, Version("base"), self.turn, "enough", who="tester", at_us=2)
        self.store.append(turn, self.turn.number)

    async def ask(self, times: int = 20) -> list[Answer]:
        return await asyncio.gather(*(self.served.ask("r") for _ in range(times)))

    async def ask_until(self, stage: str, most: int = 2000) -> list[Answer]:
        """Ask until the rollout is there."""
        answers: list[Answer] = []
        while self.turn.stage != stage:
            assert len(answers) < most, (self.turn, self.store.history())
            answers += await self.ask()
        return answers

    async def in_force(self, *models: str) -> None:
        """Wait until these models serve, and no other."""
        wanted = {*models, "strong"}
        await eventually(lambda: self.served.house.gateway.snapshot.config.models.keys() == wanted)

    async def of(self, answers: list[Answer]) -> list[Record]:
        return [await self.served.record(answer) for answer in answers]


@asynccontextmanager
async def rolling(folder: Path, route: Any = None, **rule: Any) -> AsyncIterator[Rolling]:
    async with Simulator() as sim:
        sim.adapters = {}
        text = document(sim.url, route, **rule)
        async with serving(text, folder) as served:
            yield Rolling(sim, served, text)


async def test_good_weights_take_over_stage_by_stage_and_can_be_sent_back(tmp_path: Path) -> None:
    async with rolling(tmp_path) as it:
        before = await it.ask()
        it.promote()
        await it.in_force("student", NAME)
        assert it.sim.adapters == {NAME: "/adapters/second"}
        answers = await it.ask_until("full")
        await it.in_force(NAME)
        after = await it.ask()
        assert {answer.status for answer in before + answers + after} == {200}
        assert {answer.headers["x-isthmus-model"] for answer in before} == {"student"}
        assert {answer.headers["x-isthmus-model"] for answer in answers} == {"student", NAME}
        assert {answer.headers["x-isthmus-model"] for answer in after} == {NAME}

        records = await it.served.records()
        shadows = [record for record in records if record.mirrors is not None]
        assert shadows
        assert {record.model for record in shadows} == {NAME}
        drawn = [record for record in records if record.decision is not None and record.decision.arms]
        own = Version("base").id
        assert {record.decision.arms for record in drawn if record.decision} == {
            (f"student@{own}",),
            (NAME,),
        }
        assert {record.decision.propensity for record in drawn if record.decision} == {0.5}
        # Before, in the shadow, as a canary, and in full: each stage is a config of its own.
        assert len({record.config_hash for record in records}) == 4
        assert [turn.stage for turn in it.store.history()] == ["shadow", "canary", "full"]
        metrics = await it.served.metrics()
        stage = f'isthmus_rollout_stage{{model="student",stage="full",version="{NEW.id}"}}'
        assert metrics[stage] == 1

        it.roll_back()
        await it.in_force("student")
        assert {answer.headers["x-isthmus-model"] for answer in await it.ask()} == {"student"}
        await eventually(lambda: it.sim.adapters == {})


async def test_weights_that_fail_are_sent_back_and_clients_see_their_share_of_it(tmp_path: Path) -> None:
    async with rolling(tmp_path, shadow=0, canary=[0.2]) as it:
        it.sim.scripts[NAME] = BROKEN
        # The canary's breaker would hide most failures from the simulator, and none from the guards.
        it.promote(stage="canary")
        with pytest.raises(TimeoutError):
            # It cannot even be warmed: no client sees any of it.
            await asyncio.wait_for(it.in_force("student", NAME), 0.5)
        assert it.turn.stage == "rolled back"
        assert "first request" in it.turn.why
        it.sim.scripts.clear()
        it.promote(stage="canary")
        await it.in_force("student", NAME)
        it.sim.scripts[NAME] = BROKEN
        answers = await it.ask_until("rolled back")
        await it.in_force("student")
        failed = [answer for answer in answers if answer.status != 200]
        records = await it.of(failed)
        assert {record.attempts[0].model for record in records} == {NAME}
        assert 0 < len(failed) < 0.4 * len(answers)
        assert "fails more often" in it.turn.why
        assert it.turn.who == "the gateway"
        assert {answer.status for answer in await it.ask()} == {200}
        # Nothing flaps: what was sent back stays so.
        assert it.turn.stage == "rolled back"


async def test_weights_that_fail_in_the_shadow_are_sent_back_before_a_client_sees_them(
    tmp_path: Path,
) -> None:
    async with rolling(tmp_path, least=10_000) as it:
        it.promote()
        await it.in_force("student", NAME)
        it.sim.scripts[NAME] = BROKEN
        answers = await it.ask_until("rolled back")
        assert {answer.status for answer in answers} == {200}
        assert {answer.headers["x-isthmus-model"] for answer in answers} == {"student"}


async def test_weights_that_a_judge_finds_worse_are_sent_back(tmp_path: Path) -> None:
    async with rolling(tmp_path, judge="strong", least=10_000) as it:
        it.sim.scripts["base"] = Script(text=["right"])
        it.sim.scripts[NAME] = Script(text=["wrong"])
        it.sim.scripts["strong"] = _prefers_what_is_right
        it.promote()
        await it.in_force("student", NAME)
        answers = await it.ask_until("rolled back")
        assert "found worse by the judge" in it.turn.why
        assert {answer.headers["x-isthmus-model"] for answer in answers} == {"student"}


def _prefers_what_is_right(asked: Asked) -> Script:
    body = msgspec.json.encode(asked.received.body).decode()
    right, wrong = body.find("right"), body.find("wrong")
    return Script(text=["A" if right < wrong else "B"])


async def test_weights_that_are_slow_are_sent_back(tmp_path: Path) -> None:
    async with rolling(tmp_path, shadow=0, least=10_000, slower=1.5) as it:
        it.promote()
        await it.in_force("student", NAME)
        it.sim.scripts[NAME] = Script(text=["late"], first_delay_s=0.3)
        await it.ask_until("rolled back")
        assert "takes longer" in it.turn.why


async def test_weights_that_people_find_worse_are_sent_back(tmp_path: Path) -> None:
    async with rolling(tmp_path, shadow=0, least=10_000) as it:
        it.promote()
        await it.in_force("student", NAME)
        answers = await it.ask(80)
        await it.served.house.ledger.flush()
        for answer in answers:
            score = 0.0 if answer.headers["x-isthmus-model"] == NAME else 1.0
            said = {"request_id": answer.headers["x-request-id"], "score": score}
            assert (await it.served.post("/v1/feedback", said)).status == 200
        await eventually(lambda: it.turn.stage == "rolled back")
        assert "worse feedback" in it.turn.why


async def test_weights_that_leave_more_to_others_are_sent_back(tmp_path: Path) -> None:
    cascade = {"cascade": [{"call": "student", "retries": 0, "accept": {"schema": True}}, "strong"]}
    async with rolling(tmp_path, cascade, shadow=0, least=10_000) as it:
        it.sim.scripts["base"] = Script(text=["{}"])
        it.promote()
        await it.in_force("student", NAME)
        it.sim.scripts[NAME] = Script(text=["no JSON"])
        answers = await it.ask_until("rolled back")
        assert "leaves more to other models" in it.turn.why
        assert {answer.status for answer in answers} == {200}


async def test_a_budget_of_the_model_is_one_of_all_its_versions(tmp_path: Path) -> None:
    budgets = [{"model": "student", "requests": 10, "per": "month"}]
    async with rolling(tmp_path, budgets=budgets, shadow=0, least=10_000) as it:
        it.promote()
        await it.in_force("student", NAME)
        answers = await it.ask(30)
        assert sorted(answer.status for answer in answers) == [200] * 10 + [429] * 20
        served = {answer.headers["x-isthmus-model"] for answer in answers if answer.status == 200}
        assert served == {"student", NAME}


async def test_weights_that_cannot_be_loaded_change_nothing(tmp_path: Path) -> None:
    async with rolling(tmp_path) as it:
        serving_before = it.served.house.gateway.snapshot
        it.promote(Version("/adapters/missing"))
        await eventually(lambda: it.turn.stage == "rolled back")
        assert "status 404" in it.turn.why
        assert it.served.house.gateway.snapshot is serving_before
        assert {answer.status for answer in await it.ask()} == {200}


async def test_a_restart_goes_on_and_loads_again_what_its_server_has_lost(tmp_path: Path) -> None:
    async with Simulator() as sim:
        sim.adapters = {}
        text = document(sim.url, least=40)
        async with serving(text, tmp_path) as served:
            it = Rolling(sim, served, text)
            # By a clock that has been set back since: stages are told by their config alone.
            it.promote(stage="canary", at_us=2**52)
            await it.in_force("student", NAME)
            before = served.house.gateway.snapshot.config.hash
        sim.adapters.clear()
        async with serving(text, tmp_path) as served:
            # Nobody is sent to what has not been loaded again.
            assert served.house.gateway.snapshot.config.models.keys() == {"student", "strong"}
            await eventually(lambda: served.house.gateway.snapshot.config.hash == before)
            assert sim.adapters == {NAME: NEW.weights}
            it = Rolling(sim, served, text)
            await it.ask_until("full", most=400)


async def test_the_config_may_change_in_the_midst_of_a_rollout(tmp_path: Path) -> None:
    async with rolling(tmp_path, shadow=0, least=10_000) as it:
        house = it.served.house
        it.promote()
        await it.in_force("student", NAME)
        it.sim.scripts["strong"] = Script(text=["strong"])
        house.reload(
            config_of(document(it.sim.url, {"fallback": ["student", "strong"]}, shadow=0, least=10_000))
        )
        arms = {record.decision.arms for record in await it.of(await it.ask()) if record.decision}
        assert len(arms) == 2
        # Who writes other weights into the config has decided otherwise.
        text = document(it.sim.url, shadow=0, least=10_000)
        house.reload(config_of(text.replace('"id":"base"', '"id":"third"')))
        await it.in_force("student")
        assert {answer.status for answer in await it.ask()} == {200}
        assert it.turn.stage == "canary"
        house.reload(config_of(text))
        await it.in_force("student", NAME)


async def test_a_gateway_that_is_killed_at_any_stage_goes_on_there(tmp_path: Path) -> None:
    async with Simulator() as sim:
        sim.adapters = {}
        text = document(sim.url, canary=[0.5], least=15)
        ledger = tmp_path / "state" / "ledger.db"
        stages: tuple[Stage, ...] = ("canary", "full")
        for number, stage in enumerate(stages):
            async with process(text, tmp_path) as gateway:
                store = SqliteRollouts(ledger)
                if stage == "canary":
                    student = config_of(text).models["student"]
                    at_us = time.time_ns() // 1000
                    begun = promoted(
                        config_of(text),
                        student,
                        Version("base"),
                        None,
                        NEW,
                        None,
                        why="",
                        who="",
                        at_us=at_us,
                    )
                    store.append(begun, 0)
                else:
                    assert store.current()[0].stage == stages[number - 1]
                while store.current()[0].stage != stage:
                    await _ask(gateway.port)
                # In the midst of a stage, with requests under way.
                asking = [asyncio.create_task(_ask(gateway.port)) for _ in range(5)]
                await asyncio.sleep(0)
                await gateway.kill()
                await asyncio.gather(*asking, return_exceptions=True)
        async with process(text, tmp_path) as gateway:
            assert await _ask(gateway.port) == NAME
        assert [turn.stage for turn in SqliteRollouts(ledger).history()] == ["shadow", "canary", "full"]


async def _ask(port: int) -> str:
    """Ask; the model that answered."""
    url = f"http://127.0.0.1:{port}{OPENAI.path}"
    async with aiohttp.request("POST", url, json=OPENAI.body("r", False)) as response:
        assert response.status == 200, await response.read()
        return response.headers["x-isthmus-model"]


async def test_a_server_that_is_not_there_sends_no_adapter_back(tmp_path: Path) -> None:
    async with Simulator() as sim:
        sim.adapters = {}
        text = document(sim.url)
        async with serving(text, tmp_path) as served:
            Rolling(sim, served, text).promote(stage="full")
            await Rolling(sim, served, text).in_force(NAME)
    # The gateway starts while the server is down.
    async with serving(text, tmp_path) as served:
        it = Rolling(sim, served, text)
        assert {answer.status for answer in await it.ask(3)} == {502}
        assert it.turn.stage == "full"


async def test_a_stream_that_runs_while_the_weights_change_ends_undisturbed(tmp_path: Path) -> None:
    async with rolling(tmp_path) as it:
        it.sim.scripts["base"] = Script(text=["one ", "two"], piece_delay_s=60.0)
        running = asyncio.create_task(it.served.ask("r", stream=True))
        await it.sim.wait_held()
        it.promote(stage="full")
        await it.in_force(NAME)
        it.sim.release()
        answer = await running
        assert answer.headers["x-isthmus-model"] == "student"
        assert answer.body.rstrip().endswith(b"data: [DONE]")
