"""Alarms of drift against what was learned before them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.config.config import CalibrationFile, Config, Quantity, Watch
from isthmus.config.doubts import doubted, heard, objections
from isthmus.config.learned import learned_in
from isthmus.config.load import parse
from isthmus.core.alarm import Alarm
from isthmus.routing.route import Thrift
from isthmus.strategies.plan import Cascade, Choose
from isthmus.strategies.plan.node import Calibrated, Learned

TEXT = """
providers: {there: {dialect: openai, base_url: "http://127.0.0.1:9/v1"}}
models: {small: {provider: there}, large: {provider: there}}
routes:
  support: {cascade: [small, large]}
  pick: {choose: {from: [small, large], quality_at_least: 0.9}}
  plain: small
drift:
  - {route: support, since: 2026-11-02}
  - {route: pick, since: 2026-11-02}
"""
LEARNED_US, ALARMED_US = 1_000, 2_000


def config(asked_at_us: int = LEARNED_US) -> Config:
    """One route with a calibration, one with a router, both made of answers of that time."""
    bare = parse(TEXT, "isthmus.yaml").config
    assert bare is not None
    cascade, choose = bare.routes["support"].plan, bare.routes["pick"].plan
    assert isinstance(cascade, Cascade)
    assert isinstance(choose, Choose)
    calibrated = cascade.calibrated(Calibrated(file="c.json", sha256="c", asked_at_us=asked_at_us))
    learned = msgspec.structs.replace(
        choose, by=Learned(file="r.router", sha256="r", asked_at_us=asked_at_us)
    )
    support = msgspec.structs.replace(bare.routes["support"], plan=calibrated, thrift=Thrift(plan=calibrated))
    routes = bare.routes | {
        "support": support,
        "pick": msgspec.structs.replace(bare.routes["pick"], plan=learned),
    }
    files = (
        CalibrationFile(route="support", path="c.json", sha256="c", stale=False),
        CalibrationFile(route="pick", path="r.router", sha256="r", stale=False, kind="router"),
    )
    return msgspec.structs.replace(bare, routes=routes, calibrations=files)


def alarm(route: str = "support", quantity: str = "quality", **more: Any) -> Alarm:
    identity = next((it.identity for it in config().drift if it.route == route), "none")
    return Alarm(**{"route": route, "quantity": quantity, "watch": identity, "at_us": ALARMED_US} | more)


@pytest.mark.parametrize(
    ("quantity", "voids_calibration", "voids_router"),
    [
        ("quality", True, True),
        ("grades", True, True),
        ("label", True, True),
        ("task", True, True),
        ("escalation", True, False),
        ("refusals", False, False),
        ("failures", False, False),
        ("length", False, False),
        ("latency", False, False),
    ],
)
def test_what_says_of_requests_or_answers_makes_stale(
    quantity: Quantity, voids_calibration: bool, voids_router: bool
) -> None:
    before = config()
    after = doubted(before, [alarm("support", quantity), alarm("pick", quantity)])
    assert after.stale_calibrations == {("support",): voids_calibration, ("pick",): voids_router}
    assert (after.hash != before.hash) == (voids_calibration or voids_router)
    assert (after is before) == (not voids_calibration and not voids_router)
    if voids_calibration:
        why = (f"drift of its {quantity} was alarmed on 1970-01-01 00:00 UTC",)
        assert [it.stale for it in learned_in(after.routes["support"])] == [why, why], "the thrifty plan, too"


@pytest.mark.parametrize(
    "said",
    [
        alarm(watch="another baseline"),
        alarm(at_us=LEARNED_US),
        alarm(route="plain"),
        alarm(route="gone"),
    ],
    ids=["settled by moving since", "older than the answers", "nothing learned", "no such route"],
)
def test_an_alarm_that_is_about_something_else_changes_nothing(said: Alarm) -> None:
    before = config()
    assert doubted(before, [said]) is before


def test_what_is_calibrated_anew_holds_and_what_nobody_can_date_does_not() -> None:
    assert doubted(config(ALARMED_US), [alarm()]).stale_calibrations[("support",)] == 0
    assert doubted(config(0), [alarm()]).stale_calibrations[("support",)] == 1


def test_only_the_alarmed_route_is_stale() -> None:
    before = config()
    after = doubted(before, [alarm()])
    assert after.stale_calibrations == {("support",): 1, ("pick",): 0}
    assert after.routes["pick"] is before.routes["pick"]
    assert after.routes["plain"] is before.routes["plain"]


def test_reasons_add_up_in_one_order_and_the_hash_is_of_them() -> None:
    before = config()
    both = [alarm(quantity="task"), alarm(quantity="grades")]
    one, other = doubted(before, both), doubted(before, both[::-1])
    assert one == other
    assert [len(it.stale) for it in learned_in(one.routes["support"])] == [2, 2]
    assert len({before.hash, one.hash, doubted(before, both[:1]).hash}) == 3
    assert objections(both, LEARNED_US, {"task"}) == (
        "drift of its task was alarmed on 1970-01-01 00:00 UTC",
    )
    assert heard(before, both) == {"support": tuple(both)}


def test_where_alarms_are_told_is_no_part_of_a_watch_s_identity(tmp_path: Path) -> None:
    watch = Watch(route="r", since=dt.date(2026, 11, 2))
    told = parse(
        TEXT.replace("since: 2026-11-02}", "since: 2026-11-02, webhook: env:HOME}", 1),
        str(tmp_path / "c.yaml"),
    ).config
    assert told is not None
    assert told.drift[0].identity == config().drift[0].identity
    assert watch.identity != msgspec.structs.replace(watch, since=dt.date(2026, 11, 3)).identity
