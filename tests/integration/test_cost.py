"""`isthmus cost` on real files and a real ledger."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from isthmus.cli import main
from isthmus.core.decision import Decision
from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.core.label import Label, Level
from isthmus.core.record import Record, Timings
from isthmus.core.usage import Charge, Usage
from isthmus.store.hours import SqliteHours
from isthmus.store.keys import SqliteKeys
from isthmus.store.ledger_file import LedgerFile
from isthmus.store.records import SqliteRecords
from isthmus.store.runs import Candidate, Kept, Place, Run, SqliteRuns
from isthmus.store.traffic import SqliteTraffic

HOUR_US = 3_600_000_000
CASE = """
workload: {requests_per_month: 3000000, input_tokens: 1000, output_tokens: 300, week: office}
quality: {escalated: 0.1, retried: 0}
apis: {api: {input: 2, output: 10}}
stacks:
  h100:
    tokens_per_s: {value: 2500, source: a measurement, date: 2026-11-01}
    on_demand: {usd_per_gpu_hour: 3.5, follows_load: true}
"""
CONFIG = """
providers:
  vpc: {dialect: openai, base_url: "http://127.0.0.1:9/v1", zone: eu, kind: open}
  one: {dialect: openai, base_url: "http://127.0.0.1:9/v1", zone: us, kind: closed}
  two: {dialect: openai, base_url: "http://127.0.0.1:9/v1", zone: us, kind: closed}
models:
  glm: {provider: vpc, price: {input: 1, output: 2}}
  large: {provider: one, price: {input: 2, output: 10}}
  small: {provider: two, price: {input: 0.2, output: 1}}
perimeter: {}
routes:
  support: {fallback: [large, small]}
  review: large
"""


class Desk:
    """A folder with a config, and a ledger with traffic where it is asked for."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("ISTHMUS_HOME", str(folder / "home"))
        monkeypatch.delenv("ISTHMUS_CONFIG", raising=False)
        self.folder = folder
        (folder / "isthmus.yaml").write_text(CONFIG)
        (folder / "case.yaml").write_text(CASE)

    def ask(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["cost", *arguments])

    def data(self, *arguments: str) -> Any:
        asked = self.ask(*arguments, "--json")
        assert asked.exit_code == 0, asked.output
        return json.loads(asked.stdout)

    def record(self, *records: Record) -> None:
        ledger = LedgerFile(self.folder / "home" / "ledger.db", "NORMAL", 5.0)
        ledger.write(records)
        ledger.close()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, monkeypatch)


def request(number: int, route: str = "support", model: str = "large", level: Level = "internal") -> Record:
    return Record(
        id=f"req_{number:032x}",
        at_us=time.time_ns() // 1000 - number * HOUR_US,
        dialect="openai-chat",
        operation="chat",
        route=route,
        stream=False,
        status=200,
        outcome="ok",
        model=model,
        decision=Decision(
            route=route,
            operation="chat",
            allowed=(model,),
            refused=(),
            plan=None,
            reasons=(),
            propensity=1.0,
            config_hash="c",
            label=Label(level),
        ),
        usage=Usage(input=600, cache_read=400, output=300),
        charge=Charge(nanousd=1_000_000, basis="config", snapshot="s"),
        timings=Timings(queue_ms=0, overhead_ms=0, first_token_ms=None, total_ms=1),
        config_hash="c",
    )


def test_a_case_is_answered_with_every_option(desk: Desk) -> None:
    found = desk.data("tco", "case.yaml")
    assert [it["name"] for it in found["options"]] == ["api", "h100 on demand"]
    assert found["options"][0]["usd_per_month"] == pytest.approx(15_000)
    assert found["break_evens"][0]["first_requests"] > 0
    assert {"a measurement"} <= {it["source"] for it in found["assumptions"]}


def test_what_is_exported_is_a_test_that_passes_until_something_changes(desk: Desk) -> None:
    assert desk.ask("tco", "case.yaml", "--export-case", "test.yaml").exit_code == 0
    exported = (desk.folder / "test.yaml").read_text()
    again = desk.ask("tco", "test.yaml")
    assert again.exit_code == 0, again.output
    assert "as expected" in again.stdout
    (desk.folder / "test.yaml").write_text(exported.replace("value: 3.5", "value: 3.9"))
    changed = desk.ask("tco", "test.yaml")
    assert changed.exit_code == 1
    assert "NOT as expected" in changed.stdout


def test_a_page_is_written_beside_the_text(desk: Desk) -> None:
    assert desk.ask("tco", "case.yaml", "--html", "page.html").exit_code == 0
    assert "<svg" in (desk.folder / "page.html").read_text()


def test_faults_of_a_case_are_shown_where_they_stand(desk: Desk) -> None:
    (desk.folder / "case.yaml").write_text(
        CASE.replace("output_tokens", "ouput_tokens").replace("3.5", "much")
    )
    asked = desk.ask("tco", "case.yaml")
    assert asked.exit_code == 1
    assert f"case.yaml:2:{CASE.splitlines()[1].index('output_tokens') + 1}: fault C003" in asked.stderr
    assert "Did you mean `output_tokens`?" in asked.stderr
    assert "Expected a number" in asked.stderr
    assert asked.stdout == ""


def test_the_quality_gap_is_not_assumed(desk: Desk) -> None:
    (desk.folder / "case.yaml").write_text(CASE.replace("quality: {escalated: 0.1, retried: 0}\n", ""))
    asked = desk.ask("tco", "case.yaml")
    assert asked.exit_code == 1
    assert "`quality` is missing" in asked.stderr


def test_the_workload_may_come_from_the_ledger(desk: Desk) -> None:
    desk.record(*(request(number) for number in range(1, 241)), request(241, route="review"))
    found = {
        it["name"]: it
        for it in desk.data("tco", "case.yaml", "--since", "30d", "--route", "support")["assumptions"]
    }
    assert found["workload.requests_per_month"]["value"] == pytest.approx(730, rel=0.01)
    assert found["workload.cache_share"]["value"] == pytest.approx(0.4)
    assert found["workload.input_tokens"]["value"] == pytest.approx(1000)
    assert "the ledger, 10 days" in found["workload.requests_per_month"]["source"]


def evaluated(desk: Desk) -> None:
    """A run of two models over ten samples: `glm` is worse at three of them, and better at one."""
    runs = SqliteRuns(desk.folder / "home" / "ledger.db")
    names = tuple(f"s{number}" for number in range(10))
    asked = [Sample(id=name, request={"messages": []}) for name in names]
    models = tuple(Candidate(name=it, id=it, provider="p", kind="open") for it in ("glm", "large"))
    run = Run(
        id="run_1",
        identity="i",
        at_us=1_790_000_000_000_000,
        dataset="d",
        dataset_hash="h",
        sample_ids=names,
        models=models,
        scorers=("exact",),
        config_hash="c",
    )
    runs.begin(run, asked)
    values = {"glm": [0, 0, 0, 1, *[1] * 6], "large": [1, 1, 1, 0, *[1] * 6]}
    marks = {}
    for model, scored in values.items():
        for name, value in zip(names, scored, strict=True):
            place = Place(model, name)
            runs.keep(
                Kept(id=f"{model}{name}", key=None, at_us=1, run="run_1", answered=Answered(model=model)),
                place,
            )
            marks[place] = (f"{model}{name}", Score(value=float(value)))
    runs.mark("run_1", "exact", marks)


def test_the_quality_gap_may_come_from_an_evaluation(desk: Desk) -> None:
    evaluated(desk)
    asked = ("tco", "case.yaml", "--run", "run_1", "--ours", "glm", "--theirs", "large")
    found = {it["name"]: it for it in desk.data(*asked)["assumptions"]}["quality.escalated"]
    assert found["value"] == pytest.approx(0.3)
    # Three of ten, by Clopper and Pearson.
    assert (found["low"], found["high"]) == (pytest.approx(0.0667, abs=1e-3), pytest.approx(0.6525, abs=1e-3))
    assert "glm is worse than large at 3 of 10 samples by exact" in found["source"]
    assert desk.ask(*asked[:4]).exit_code == 2
    assert desk.ask("tco", "case.yaml", "--ours", "glm").exit_code == 2
    for wrong, said in (("--scorer=judge", "no scores by 'judge'"), ("--ours=gpt", "no sample")):
        refused = desk.ask(*asked, wrong)
        assert refused.exit_code == 1
        assert said in refused.stderr


def test_an_empty_ledger_is_told(desk: Desk) -> None:
    desk.record(request(1))
    asked = desk.ask("tco", "case.yaml", "--since", "30d", "--route", "review")
    assert asked.exit_code == 1
    assert "no answered chat" in asked.stderr


def test_a_choice_from_the_ledger_needs_its_length(desk: Desk) -> None:
    assert desk.ask("tco", "case.yaml", "--route", "support").exit_code == 2


def test_stress_without_a_ledger_tells_what_would_break(desk: Desk) -> None:
    (impact,) = desk.data("stress", "--shock", "gone:one")
    assert [(it["route"], it["mend"][0]) for it in impact["breaks"]] == [("review", "small")]
    assert impact["shock"]["gone"] == ["large"]


def test_stress_prices_the_traffic_of_the_ledger(desk: Desk) -> None:
    desk.record(*(request(number) for number in range(1, 101)))
    dearer, gone = desk.data("stress", "--shock", "price:one", "--shock", "gone:one")
    assert dearer["after"]["usd"] == pytest.approx(3 * dearer["before"]["usd"])
    assert dearer["better"][0]["instead"] == "small"
    months = 100 / 730
    # 600 + 400 tokens in at 2, 300 out at 10 USD per million.
    assert dearer["before"]["usd"] == pytest.approx(100 * 0.005 / months, rel=0.01)
    (moved,) = gone["moves"]
    assert (moved["lost"], moved["instead"]) == ("large", "small")
    assert moved["after"]["usd"] == pytest.approx(moved["before"]["usd"] / 10)


def test_stress_tells_when_a_budget_runs_short(desk: Desk) -> None:
    desk.record(*(request(number) for number in range(1, 241)))
    (free,) = desk.data("stress", "--shock", "price:one")
    daily = free["before"]["usd"] / 30 * 1.9
    route = "support: {fallback: [large, small], thrift: {model: small, at: 0.9}}"
    config = CONFIG.replace("support: {fallback: [large, small]}", route)
    config += f"budgets: [{{usd: {daily:.9f}, per: day}}, {{usd: 1, per: day, each: key}}]\n"
    (desk.folder / "isthmus.yaml").write_text(config)
    (impact,) = desk.data("stress", "--shock", "price:one")
    (short,) = impact["short"]
    assert short["route"] == "support"
    assert short["thrifty_before"] == short["spent_before"] == 0
    assert impact["before"] == pytest.approx(free["before"])
    assert 0 < short["thrifty_after"] < impact["requests"]
    assert impact["after"]["usd"] < free["after"]["usd"]
    asked = desk.ask("stress", "--shock", "price:one")
    assert "not simulated: `usd per day for each key`" in asked.stdout
    (gone,) = desk.data("stress", "--shock", "gone:two")
    assert [(it["route"], it["thrifty"], it["mend"][0]) for it in gone["breaks"]] == [
        ("support", True, "glm")
    ]


def test_stress_knows_the_labels_that_have_come(desk: Desk) -> None:
    (desk.folder / "isthmus.yaml").write_text(
        CONFIG.replace("support: {fallback: [large, small]}", "support: {fallback: [glm, small]}")
    )
    desk.record(*(request(number, model="glm", level="confidential") for number in range(1, 11)))
    (impact,) = desk.data("stress", "--shock", "revoked:eu")
    (broken,) = impact["breaks"]
    assert (broken["route"], broken["level"]) == ("support", "confidential")
    assert broken["mend"] == []
    assert "cleared for confidential" in broken["change"]
    assert broken["requests"] == pytest.approx(730, rel=0.01)


@pytest.mark.parametrize(
    ("shock", "fail_on", "status"),
    [
        ("gone:one", "breaks", 1),
        ("gone:two", "breaks", 0),
        ("price:one", "moves", 0),
    ],
)
def test_stress_ends_with_a_status_for_ci(desk: Desk, shock: str, fail_on: str, status: int) -> None:
    assert desk.ask("stress", "--shock", shock, "--fail-on", fail_on).exit_code == status
    assert desk.ask("stress", "--shock", shock).exit_code == 0


def test_moved_traffic_can_fail_a_build(desk: Desk) -> None:
    desk.record(request(1))
    only_support = CONFIG.replace("  review: large\n", "")
    (desk.folder / "isthmus.yaml").write_text(only_support)
    assert desk.ask("stress", "--shock", "gone:one", "--fail-on", "breaks").exit_code == 0
    assert desk.ask("stress", "--shock", "gone:one", "--fail-on", "moves").exit_code == 1


@pytest.mark.parametrize(
    ("shock", "says"),
    [
        ("gon:one", "Did you mean 'gone'?"),
        ("gone:none", "Did you mean 'one'?"),
        ("volume:-1", "is no factor"),
        ("withdrawn:large@soon", "is no day"),
        ("revoked:mars", "no zone 'mars'"),
    ],
)
def test_a_shock_that_is_none_is_refused_in_words(desk: Desk, shock: str, says: str) -> None:
    asked = desk.ask("stress", "--shock", shock)
    assert asked.exit_code == 1
    assert says in asked.stderr


def test_all_standard_shocks_are_told_and_written_as_a_page(desk: Desk) -> None:
    asked = desk.ask("stress", "--html", "page.html")
    assert asked.exit_code == 0
    for name in ("price:one", "gone:vpc", "withdrawn:small", "revoked:us", "rents", "volume", "peak"):
        assert f"| {name} " in asked.stdout
    assert "BREAKS" in (desk.folder / "page.html").read_text()


def test_a_report_adds_up_what_the_ledger_has(desk: Desk) -> None:
    desk.record(
        *(request(number) for number in range(1, 101)),
        *(request(number, "review") for number in range(101, 111)),
    )
    found = desk.data("report")
    assert found["total"] == {"name": "all", "requests": 110, "nanousd": 110_000_000, "unpriced": 0}
    assert {it["name"]: it["requests"] for it in found["by_route"]} == {"support": 100, "review": 10}
    assert [it["name"] for it in found["by_key"]] == ["no key"]
    assert [it["name"] for it in found["by_provider"]] == ["one"]
    prices = {it["model"]: it["usd"] for it in found["elsewhere"]}
    assert prices["large"] == pytest.approx(110 * 0.005)
    assert prices["small"] == pytest.approx(110 * 0.0005)
    assert desk.data("report", "--route", "review")["total"]["requests"] == 10
    assert desk.data("report", "--since", "12h")["total"]["requests"] < 110


def test_a_report_parts_what_was_spent_by_team(desk: Desk) -> None:
    keys = SqliteKeys(desk.folder / "home" / "ledger.db")
    ours, other = (keys.create(name, (), 0, team=team).key.id for name, team in (("a", "us"), ("b", None)))
    spent = [msgspec.structs.replace(request(number), key_id=ours) for number in range(1, 8)]
    desk.record(*spent, msgspec.structs.replace(request(8), key_id=other), request(9))
    found = desk.data("report")
    assert {it["name"]: it["requests"] for it in found["by_team"]} == {"us": 7, "no team": 2}
    assert desk.data("report", "--team", "us")["total"]["requests"] == 7
    assert desk.data("report", "--team", "them")["total"]["requests"] == 0
    assert "## By team" in desk.ask("report").stdout


def test_the_database_adds_up_what_the_records_say(desk: Desk) -> None:
    unknown = msgspec.structs.replace(request(3), charge=Charge(nanousd=None, basis="unknown", snapshot=""))
    refused = msgspec.structs.replace(request(4), usage=None, charge=None, model=None, key_id="key_1")
    desk.record(request(1), request(2, level="public"), unknown, refused)
    path = desk.folder / "home" / "ledger.db"
    records = list(SqliteRecords(path).scan())
    traffic, hourly = SqliteTraffic(path), SqliteHours(path)
    usage = sum((it.usage for it in records if it.usage), Usage())
    for sums in (hourly.hours(), traffic.flows()):
        assert sum((it.usage for it in sums), Usage()) == usage
        assert sum(it.nanousd for it in sums) == sum(it.charge.nanousd or 0 for it in records if it.charge)
        assert sum(it.unpriced for it in sums) == 1
    assert sum(it.requests for it in hourly.hours()) == 4
    assert {it.name: it.requests for it in hourly.by_key()} == {"no key": 3, "key_1": 1}
    assert {it.label for it in traffic.flows()} == {Label("internal"), Label("public")}
    assert sum(it.requests for it in traffic.week()) == 3


def test_a_report_without_a_ledger_says_so(desk: Desk) -> None:
    asked = desk.ask("report")
    assert asked.exit_code == 1
    assert "There is no ledger" in asked.stderr


def test_a_report_is_written_as_a_page(desk: Desk) -> None:
    desk.record(*(request(number) for number in range(1, 101)))
    asked = desk.ask("report", "--html", "page.html")
    assert asked.exit_code == 0
    assert "## By route" in asked.stdout
    assert "<svg" in (desk.folder / "page.html").read_text()
