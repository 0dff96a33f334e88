"""Law 9 on the wire: the decision that is recorded is what `explain` says of the same circumstances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.bootstrap import router_of
from isthmus.core.decision import Decision
from isthmus.core.label import Label
from isthmus.strategies.plan.node import Circumstances

from .gateway import ANTHROPIC, OPENAI, Dialect, Served, config_text, serving, simulated

ROUTES: dict[str, Any] = {
    "split": {"split": {"openai/a": 1, "openai/b": 3}, "sticky": "user"},
    "nested": {"fallback": [{"split": {"openai/a": 2, "anthropic/b": 2}, "sticky": "user"}, "openai/c"]},
    "same": {
        "split": [
            {"model": "openai/a", "retries": 0, "weight": 1},
            {"model": "openai/a", "retries": 3, "weight": 1},
        ],
        "sticky": "user",
    },
    "cascade": {"cascade": [{"split": {"openai/a": 1, "openai/b": 1}, "sticky": "user"}, "openai/c"]},
    "vote": {"ensemble": {"models": ["openai/a", "openai/b"], "weights": {"openai/a": 2}}},
}


def _explained(served: Served, route: str, user: str) -> Decision:
    config = served.house.gateway.snapshot.config
    circumstances = Circumstances(draw=0.0, user=user)
    return router_of(config).decide(route, "chat", Label("internal"), circumstances)


@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC], ids=lambda dialect: dialect.name)
async def test_what_is_recorded_is_what_is_explained(tmp_path: Path, dialect: Dialect) -> None:
    async with simulated(ROUTES, tmp_path) as (_, served):
        chosen = set()
        for route in ROUTES:
            for user in ("ada", "grace", "hedy", "mary", "emmy", "rosa"):
                said = {"user": user} if dialect is OPENAI else {"metadata": {"user_id": user}}
                answer = await served.ask(route, dialect, **said)
                record = await served.record(answer)
                explained = _explained(served, route, user)
                assert msgspec.json.encode(record.decision) == msgspec.json.encode(explained)
                assert answer.headers["x-isthmus-model"] == explained.plan.models()[0]
                chosen.add(msgspec.json.encode(record.decision))
        assert len(chosen) == 9, "every arm of every split was met"


async def test_an_unknown_user_is_drawn_afresh(tmp_path: Path) -> None:
    async with simulated({"split": {"split": {"openai/a": 1, "openai/b": 1}}}, tmp_path) as (_, served):
        models = {(await served.ask("split")).headers["x-isthmus-model"] for _ in range(60)}
        assert models == {"openai/a", "openai/b"}


async def test_the_same_user_stays_through_a_restart(tmp_path: Path) -> None:
    async with simulated(ROUTES, tmp_path) as (sim, served):
        first = (await served.ask("split", user="ada")).headers["x-isthmus-model"]
        (tmp_path / "again").mkdir()
        async with serving(config_text(sim.url, ROUTES), tmp_path / "again") as again:
            assert (await again.ask("split", user="ada")).headers["x-isthmus-model"] == first
