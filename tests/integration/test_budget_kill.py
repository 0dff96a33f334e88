"""Gateways that are killed, replaced, or spend from one file together have overdrawn nothing."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import aiohttp
import pytest

from isthmus.store.counters import SqliteCounters
from isthmus.testing import Script, Simulator, Usage

from .gateway import OPENAI, PRICE, config_text
from .test_gateway_ledger import process

PIECES = 40
COST_USD = (2_000 * PRICE["input"] + PIECES * PRICE["output"]) / 1e6
"""What one answer costs: the provider says that the prompt was of 2,000 tokens."""


async def _spend(port: int, most: int) -> list[int]:
    """Ask again and again, ten at a time; the statuses of what was answered."""
    url = f"http://127.0.0.1:{port}{OPENAI.path}"
    body = {**OPENAI.body("r", False), "max_tokens": PIECES}
    told: list[int] = []

    async def ask(session: aiohttp.ClientSession) -> None:
        while len(told) < most:
            async with session.post(url, json=body) as response:
                await response.read()
                told.append(response.status)

    async with aiohttp.ClientSession() as session:
        # The killed gateway's clients see their connections break.
        await asyncio.gather(*(ask(session) for _ in range(10)), return_exceptions=True)
    return told


@pytest.mark.parametrize("mode", ["batched", "strict"])
async def test_a_killed_gateway_has_overdrawn_nothing(tmp_path: Path, mode: str) -> None:
    async with Simulator() as sim:
        usage = Usage(uncached=2_000, output=PIECES)
        sim.script = Script(text=("word ",) * PIECES, usage=usage, first_delay_s=0.01)
        budget_usd = 40 * COST_USD
        text = config_text(
            sim.url, {"r": "openai/m"}, ledger=mode, budgets=[{"usd": budget_usd, "per": "month"}]
        )
        for killed_after_s in (0.15, 0.3):
            async with process(text, tmp_path) as gateway:
                spending = asyncio.create_task(_spend(gateway.port, 10_000))
                while not sim.requests:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                await asyncio.sleep(killed_after_s)
                await gateway.kill()
                await spending
            assert len(sim.requests) * COST_USD <= budget_usd
        before = len(sim.requests)
        async with process(text, tmp_path) as gateway:
            told = await _spend(gateway.port, 120)
        assert told.count(429) > 0, "it comes to an end"
        assert len(sim.requests) * COST_USD <= budget_usd
        assert before > 0


SPENDER = Path(__file__).with_name("spend_from_counters.py")


async def test_two_processes_that_share_a_budget_overdraw_nothing_also_where_one_is_killed(
    tmp_path: Path,
) -> None:
    amount = 30_000
    ledger, bill = tmp_path / "ledger.db", tmp_path / "bill"
    SqliteCounters(ledger)
    arguments = [sys.executable, str(SPENDER), str(ledger), str(bill), str(amount)]

    def billed() -> int:
        return sum(map(int, bill.read_text().split())) if bill.exists() else 0

    killed, ends = [await asyncio.create_subprocess_exec(*arguments) for _ in range(2)]
    async with asyncio.timeout(60):
        while billed() < amount // 4:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        killed.kill()
        await killed.wait()
        assert await ends.wait() == 0
        # What the killed one had drawn is lost, and no more than a portion.
        assert amount * 0.9 < billed() <= amount
        follows = await asyncio.create_subprocess_exec(*arguments)
        assert await follows.wait() == 0
    assert billed() <= amount
    ((_, count),) = SqliteCounters(ledger).list(0)
    assert billed() <= count.drawn <= amount


async def test_a_second_gateway_on_one_ledger_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    async with Simulator() as sim, process(config_text(sim.url, {"r": "openai/m"}), tmp_path) as first:
        link = tmp_path / "link.db"
        link.symlink_to(first.ledger)
        other = tmp_path / "other"
        other.mkdir()
        with pytest.raises(AssertionError, match="Another gateway writes to the ledger"):
            async with process(config_text(sim.url, {"r": "openai/m"}, ledger={"path": str(link)}), other):
                pass
