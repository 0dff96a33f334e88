"""Drift, from the ledger to the log, the metrics, the webhook and the command line."""

from __future__ import annotations

import datetime as dt
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from click.testing import CliRunner

from isthmus.cli import main
from isthmus.config.config import Watch
from isthmus.core.decision import Decision
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.feedback import Feedback
from isthmus.core.ids import feedback_id
from isthmus.core.label import Label, Level
from isthmus.core.portfolio import SecretRef
from isthmus.core.record import AttemptRecord, Features, Record, Timings
from isthmus.core.usage import Usage
from isthmus.evals.drift.watchman import SETTLED_US, Watchman
from isthmus.providers import webhook
from isthmus.store import schema
from isthmus.store.drift import SqliteDrifts
from isthmus.store.ledger_file import LedgerFile

SINCE = dt.date(2026, 11, 2)
SINCE_US = int(dt.datetime(2026, 11, 2, tzinfo=dt.UTC).timestamp()) * 1_000_000
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
WATCH = Watch(route="support", since=SINCE, days=1, per="hour")
TOLD = Watch(route="support", since=SINCE, days=1, per="hour", webhook=SecretRef(source="env", name="HOOK"))


def record(
    chance: random.Random,
    at_us: int,
    *,
    level: Level = "internal",
    slower: float = 1.0,
    route: str = "support",
    models: tuple[str, ...] = ("small",),
    finish: str = "stop",
) -> Record:
    attempts = tuple(
        AttemptRecord(
            number=number,
            model=model,
            provider="here",
            model_id=model,
            outcome="ok",
            started_ms=0.0,
            finish=finish,
        )
        for number, model in enumerate(models, 1)
    )
    return Record(
        id=f"req_{at_us // 1000 << 80 | chance.getrandbits(80):032x}",
        at_us=at_us,
        dialect="openai-chat",
        operation="chat",
        route=route,
        stream=False,
        status=200,
        outcome="ok",
        model=models[-1],
        decision=Decision(
            route=route,
            operation="chat",
            allowed=models,
            refused=(),
            plan=None,
            reasons=(),
            propensity=1.0,
            config_hash="c0ffee",
            label=Label(level),
        ),
        features=Features(size=700, turns=1),
        attempts=attempts,
        usage=Usage(input=50, output=20 + chance.randrange(100)),
        timings=Timings(
            queue_ms=0.0,
            overhead_ms=0.5,
            first_token_ms=None,
            total_ms=slower * chance.lognormvariate(6, 0.5),
        ),
        config_hash="c0ffee",
    )


def fill(path: Path, hours: int, make: Callable[[random.Random, int], Record], each: int = 20) -> None:
    """A ledger with that many hours of traffic since the baseline's begin; `make` gets the time of each."""
    chance = random.Random(7)
    with_room = HOUR_US // (each + 1)
    records = [
        make(chance, SINCE_US + hour * HOUR_US + nth * with_room)
        for hour in range(hours)
        for nth in range(each)
    ]
    file = LedgerFile(path, "NORMAL", wait_s=1.0)
    file.write(records)
    file.close()


def even(chance: random.Random, at_us: int) -> Record:
    return record(chance, at_us, level="confidential" if chance.random() < 0.1 else "internal")


def changed(chance: random.Random, at_us: int) -> Record:
    """The label mix turns after 30 hours, and answers take twice as long."""
    if at_us < SINCE_US + 30 * HOUR_US:
        return even(chance, at_us)
    level: Level = "confidential" if chance.random() < 0.6 else "internal"
    return record(chance, at_us, level=level, slower=2.0)


class Hook:
    """A webhook that fails a few times before it takes what it is told."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.bodies: list[bytes] = []

    async def __call__(self, watch: Watch, body: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise IsthmusError(Fault.UNAVAILABLE, "Nobody is there.", code="webhook_failed", hint="")
        self.bodies.append(body)


def watchman(path: Path, hook: Hook, hours: int, watch: Watch = WATCH) -> Watchman:
    return Watchman(
        SqliteDrifts(path),
        lambda: (watch,),
        hook,
        lambda name: random.Random(name).random,
        lambda: SINCE_US + hours * HOUR_US + SETTLED_US,
    )


async def test_even_traffic_raises_no_alarm(tmp_path: Path) -> None:
    fill(tmp_path / "ledger.db", 40, even)
    keeper = watchman(tmp_path / "ledger.db", Hook(), 40)
    await keeper.look()
    assert len(keeper.alarms()) == len(WATCH.quantities)
    assert not any(keeper.alarms().values())
    assert all(p > 0.01 for p in keeper.p_values().values())
    assert keeper.p_values()["support", "escalation"] == 1.0


async def test_a_change_is_told_once_by_log_metric_and_webhook(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path / "ledger.db", 44, changed)
    hook = Hook(failures=2)
    keeper = watchman(tmp_path / "ledger.db", hook, 44, TOLD)
    with caplog.at_level(logging.WARNING, "isthmus.drift"):
        for _ in range(5):
            await keeper.look()
    drifted = {quantity for (_, quantity), alarm in keeper.alarms().items() if alarm}
    assert drifted == {"label", "latency"}
    told = [json.loads(body) for body in hook.bodies]
    assert {it["quantity"] for it in told} == drifted
    assert len(told) == 2
    label = next(it for it in told if it["quantity"] == "label")
    assert label["before"]["shares"]["confidential"] < 0.2 < label["lately"]["shares"]["confidential"]
    assert "label of the route support is not what it was" in label["text"]
    warned = [it.message for it in caplog.records if it.levelno == logging.WARNING]
    assert len(warned) == 2


async def test_who_dies_and_comes_back_finds_the_same(tmp_path: Path) -> None:
    fill(tmp_path / "ledger.db", 44, changed)
    hook = Hook()
    for hours in range(23, 45):
        await watchman(tmp_path / "ledger.db", hook, hours, TOLD).look()
    at_once = tmp_path / "again.db"
    fill(at_once, 44, changed)
    whole = watchman(at_once, Hook(), 44, TOLD)
    await whole.look()
    pieces = watchman(tmp_path / "ledger.db", hook, 44, TOLD)
    await pieces.look()
    assert pieces.p_values() == whole.p_values()
    assert len(hook.bodies) == 2


async def test_a_webhook_that_never_answers_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path / "ledger.db", 44, changed)
    hook = Hook(failures=1000)
    keeper = watchman(tmp_path / "ledger.db", hook, 44, TOLD)
    with caplog.at_level(logging.ERROR, "isthmus.drift"):
        for _ in range(15):
            await keeper.look()
    assert hook.failures == 1000 - 2 * 10
    assert "it is given up" in caplog.records[-1].message


async def test_other_routes_and_settings_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    fill(path, 44, lambda chance, at_us: record(chance, at_us, route="other"))
    keeper = watchman(path, Hook(), 44)
    await keeper.look()
    assert not any(keeper.alarms().values())
    later = Watch(route="other", since=SINCE, days=1, per="hour", quantities=("length",))
    keeper = watchman(path, Hook(), 44, later)
    await keeper.look()
    assert list(keeper.p_values()) == [("other", "length")]


async def test_a_ledger_that_cannot_be_read_is_said_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = watchman(tmp_path / "none.db", Hook(), 44)
    with caplog.at_level(logging.ERROR, "isthmus.drift"):
        await keeper.look()
    assert "There is no ledger" in caplog.text
    assert keeper.alarms() == {}


@pytest.mark.parametrize(("judge", "quantity"), [(None, "quality"), ("wise", "grades")])
async def test_scores_count_by_when_they_were_given_and_by_whom(
    tmp_path: Path, judge: str | None, quantity: str
) -> None:
    path, chance = tmp_path / "ledger.db", random.Random(8)
    records = [even(chance, SINCE_US + nth * HOUR_US // 20) for nth in range(40 * 20)]
    file = LedgerFile(path, "NORMAL", wait_s=1.0)
    file.write(records)
    file.close()
    said = [
        Feedback(
            id=feedback_id(it.at_us + later, chance.getrandbits(80)),
            record_id=it.id,
            at_us=it.at_us + later,
            judge=judge,
            score=float(chance.random() < (0.95 if it.at_us < SINCE_US + 26 * HOUR_US else 0.3)),
        )
        for it in records
        for later in (1, 2_000_000)
    ]
    with schema.Database(path).writing() as connection:
        connection.execute(
            schema.feedback.insert(), [msgspec.structs.asdict(it) | {"metadata": None} for it in said]
        )
    keeper = watchman(path, Hook(), 40)
    await keeper.look()
    assert [quantity for (_, quantity), alarm in keeper.alarms().items() if alarm] == [quantity]
    # Of two opinions on one answer the last one counts.
    hour = ("support", SINCE_US, SINCE_US + HOUR_US, 1000)
    assert len(SqliteDrifts(path).scores(*hour, by_judges=judge is not None)) == 20
    assert SqliteDrifts(path).scores(*hour, by_judges=judge is None) == []


def test_a_judge_is_no_escalation_and_a_shadow_answers_nobody(tmp_path: Path) -> None:
    def judged(chance: random.Random, at_us: int) -> Record:
        it = record(chance, at_us, models=("small", "large"), finish="refusal")
        asked, judge = it.attempts
        attempts = (asked, msgspec.structs.replace(judge, purpose="judge"))
        mirrors = "req_0" if at_us > SINCE_US else None
        return msgspec.structs.replace(it, attempts=attempts, mirrors=mirrors)

    fill(tmp_path / "ledger.db", 1, judged, each=2)
    seen = SqliteDrifts(tmp_path / "ledger.db").observed("support", SINCE_US, SINCE_US + HOUR_US, 9)
    assert [it.models for it in seen] == [1]


def test_escalations_and_refusals_are_seen(tmp_path: Path) -> None:
    fill(
        tmp_path / "ledger.db",
        1,
        lambda chance, at_us: record(chance, at_us, models=("small", "large"), finish="refusal"),
        each=3,
    )
    seen = SqliteDrifts(tmp_path / "ledger.db").observed("support", SINCE_US, SINCE_US + HOUR_US, 2)
    assert [(it.models, it.refused, it.label) for it in seen] == [(2, True, Label("internal"))] * 2


async def test_json_is_posted_to_a_webhook() -> None:
    taken: list[tuple[str, bytes]] = []

    async def take(request: web.Request) -> web.Response:
        taken.append((request.path_qs, await request.read()))
        return web.Response(status=500 if "broken" in request.path else 204)

    app = web.Application()
    app.router.add_post("/{way:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        await webhook.post(f"http://{host}:{port}/hooks/T0?key=s3cret", b'{"event":"drift"}')
        with pytest.raises(IsthmusError) as failed:
            await webhook.post(f"http://{host}:{port}/broken/s3cret", b"{}")
    finally:
        await runner.cleanup()
    assert taken[0] == ("/hooks/T0?key=s3cret", b'{"event":"drift"}')
    assert "500" in failed.value.text
    assert "s3cret" not in failed.value.text
    with pytest.raises(IsthmusError) as failed:
        await webhook.post(f"http://{host}:{port}/s3cret", b"{}")
    assert "s3cret" not in failed.value.text
    with pytest.raises(IsthmusError) as failed:
        await webhook.post("hooks.internal/s3cret", b"{}")
    assert "s3cret" not in failed.value.text


CONFIG = """
providers: {{server: {{dialect: openai, base_url: "http://127.0.0.1:9/v1"}}}}
models: {{small: {{provider: server}}}}
routes: {{support: small}}
ledger: {{path: ledger.db}}
drift: [{{route: support, since: {since}, days: 1, per: hour}}]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "isthmus.yaml"
    path.write_text(CONFIG.format(since=SINCE), "utf-8")
    return path


async def test_the_command_shows_what_has_drifted(config: Path) -> None:
    ledger = config.with_name("ledger.db")
    fill(ledger, 44, changed)
    learning = CliRunner().invoke(main, ["drift", "-c", str(config)])
    assert learning.exit_code == 0, learning.output
    assert "learning" in learning.stdout
    await watchman(ledger, Hook(), 44).look()
    shown = CliRunner().invoke(main, ["drift", "-c", str(config)])
    assert shown.exit_code == 1
    rows = {line.split()[1]: line for line in shown.stdout.splitlines()[1:]}
    assert " alarm " in rows["label"]
    assert " as before " in rows["length"]
    lines = CliRunner().invoke(main, ["drift", "-c", str(config), "--json"]).stdout.splitlines()
    assert {it["quantity"] for it in map(json.loads, lines) if it["state"] == "alarm"} == {
        "label",
        "latency",
    }


def test_the_command_refuses_what_is_not_watched(config: Path, tmp_path: Path) -> None:
    wrong = CliRunner().invoke(main, ["drift", "-c", str(config), "--route", "suport"])
    assert wrong.exit_code == 2
    assert "is not watched" in wrong.stderr
    missing = CliRunner().invoke(main, ["drift", "-c", str(config)])
    assert missing.exit_code == 1
    assert "There is no ledger" in missing.stderr
