"""The first request through a fresh gateway, by the official client, and what there is to see of it."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from isthmus.bootstrap import House
from isthmus.core.record import Record

QUESTION = "Write a Python function of one line that returns the larger of two numbers."


async def greet(url: str, house: House) -> None:
    """Ask the route `default` one question and print answer, model, reasons, tokens, cost and overhead."""
    try:
        import openai
    except ImportError:
        click.echo("To see a request go through: pip install openai", err=True)
        return
    click.echo(f"\n> {QUESTION}", err=True)
    try:
        raw = await asyncio.to_thread(_ask, openai.OpenAI(base_url=f"{url}/v1", api_key="none-needed-here"))
    except openai.APIError as error:
        click.echo(f"isthmus: the first request failed: {error.message}", err=True)
        return
    await house.ledger.flush()
    record = await asyncio.to_thread(house.records().find, raw.headers["x-request-id"])
    _show(raw, record)


def _ask(client: Any) -> Any:
    return client.chat.completions.with_raw_response.create(
        model="default", messages=[{"role": "user", "content": QUESTION}], max_tokens=60, temperature=0
    )


def _show(raw: Any, record: Record) -> None:
    answer = raw.parse()
    click.echo((answer.choices[0].message.content or "").strip())
    reasons = record.decision.reasons if record.decision else ()
    basis = record.charge.basis if record.charge else "no attempt"
    lines = {
        "model": raw.headers["x-isthmus-model"],
        "why": "; ".join(reasons),
        "tokens": f"{answer.usage.prompt_tokens} in, {answer.usage.completion_tokens} out",
        "cost": f"{raw.headers['x-isthmus-cost-usd']} USD ({basis})",
        "overhead": f"{raw.headers['x-isthmus-overhead-ms']} ms of the gateway's own",
        "total": f"{record.timings.total_ms:,.0f} ms",
        "record": f"isthmus records show {record.id}",
    }
    click.echo("", err=True)
    for name, value in lines.items():
        click.echo(f"  {name:<9}  {value}", err=True)
