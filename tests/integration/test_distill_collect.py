"""`isthmus distill collect` as a person uses it: asked anew, of runs and traffic, killed, and refused."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from isthmus.cli import main
from isthmus.distill.card import Card
from isthmus.store.records import SqliteRecords
from isthmus.store.runs import SqliteRuns
from isthmus.testing import Script, Simulator

from .gateway import config_text, serving

TEACHER = "openai/teacher"
TOPICS = (
    *("tides", "rivets", "orchids", "glaciers", "sonnets"),
    *("turbines", "lichens", "ledgers", "comets", "looms"),
)
ASK = {"teacher": TEACHER, "inputs": "inputs.jsonl", "max_tokens": 16}
GROUND = {
    "terms": "openai/api",
    "ground": "Addendum 4 to the agreement of 2026-02-01 permits a classifier for our own desk",
    "by": "R. Castle, counsel",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def prepare(url: str, recipe: dict[str, Any], terms: str = "deepseek/api") -> None:
    Path("isthmus.yaml").write_text(config_text(url, {"r": TEACHER}, provider={"terms": terms}))
    asked = [{"id": f"s{n}", "input": f"what of {it}", "target": f"on {it}"} for n, it in enumerate(TOPICS)]
    write("inputs.jsonl", asked)
    write_recipe(recipe)


def write(name: str, lines: list[dict[str, Any]]) -> None:
    Path(name).write_text("\n".join(map(json.dumps, lines)))


def write_recipe(recipe: dict[str, Any]) -> None:
    Path("recipe.yaml").write_text(json.dumps({"collect": recipe}))


def save_config(config: Any) -> None:
    Path("isthmus.yaml").write_text(json.dumps(config))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def collect(*more: str, to: str = "golden") -> Result:
    return run("distill", "collect", "recipe.yaml", "-o", to, "--max-usd", "5", *more)


def card_of(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def answering(asked: Any) -> Script:
    return Script(text=(asked.text.replace("what of", "on"),))


def rows(folder: str = "golden") -> list[dict[str, Any]]:
    files = [Path(folder, f"{part}.jsonl") for part in ("train", "dev", "test")]
    return [json.loads(line) for it in files if it.exists() for line in it.read_text().splitlines()]


def others() -> list[str]:
    return [str(it) for it in (Path("golden/dev.jsonl"), Path("golden/test.jsonl")) if it.exists()]


def content(folder: str) -> dict[str, bytes]:
    return {it.name: it.read_bytes() for it in Path(folder).iterdir()}


def test_golden_answers_of_a_teacher_that_may_teach() -> None:
    with Simulator.thread() as sim:
        sim.simulator.scripts["teacher"] = answering
        prepare(sim.url, {"ask": ASK, "scorer": "exact", "floor": 1.0})
        card = card_of(collect("--json"))
        assert len(sim.requests) == 10
        again = collect(to="again")
        assert again.exit_code == 0, again.output
        assert len(sim.requests) == 10, "what was answered is not asked again"
    assert sum(part["rows"] for part in card["parts"].values()) + sum(card["dropped"].values()) == 10
    assert content("golden") == content("again"), "the same rows are the same files, byte for byte"
    (answer,) = [it for it in card["sources"] if it["part"] == "answer"]
    assert (answer["terms"], answer["verdict"], answer["model"]) == ("deepseek/api", "allow", "teacher")
    row = rows()[0]
    (origin,) = [it for it in row["metadata"]["provenance"]["origins"] if it["part"] == "answer"]
    assert origin["dated"] == "2026-04-29"
    assert origin["run"].startswith("run_")
    assert origin["at_us"] > 0
    line = json.loads(Path("golden/train.messages.jsonl").read_text().splitlines()[0])
    assert line["messages"][-1] == {"role": "assistant", "content": row["target"]}
    assert run("distill", "check", "golden/train.jsonl").exit_code == 0
    assert Path("golden/train.jsonl").stat().st_mode & 0o77 == 0
    assert msgspec.json.decode(Path("golden/card.json").read_bytes(), type=Card).hash == card["hash"]
    refused = collect()
    assert refused.exit_code == 1
    assert "is there already" in refused.stderr


def test_a_teacher_that_may_not_teach_is_never_asked() -> None:
    with Simulator.thread() as sim:
        for terms, why in (
            ("zai/api", "Z.ai Terms of Use"),
            ("openai/api", "compete with OpenAI"),
            ("acme/api", "no document is known for acme/api"),
        ):
            prepare(sim.url, {"ask": ASK}, terms)
            refused = collect()
            assert refused.exit_code == 1
            assert why in refused.stderr
            assert "teacher may not teach" in refused.stderr
        assert not sim.requests
        prepare(sim.url, {"ask": ASK, "permission": [{**GROUND, "until": "2020-01-01"}]}, "openai/api")
        over = collect()
        assert "The ground that was given ended on 2020-01-01" in over.stderr
        assert not sim.requests
        prepare(sim.url, {"ask": ASK, "permission": [{**GROUND, "until": "2999-01-01"}]}, "openai/api")
        card = card_of(collect("--json"))
    (answer,) = [it for it in card["sources"] if it["part"] == "answer"]
    assert answer["verdict"] == "forbid_competing"
    assert answer["ground"]["by"] == GROUND["by"]
    assert run("distill", "check", "golden/train.jsonl").exit_code == 0, "the ground is kept with every row"


def test_the_terms_of_each_model_are_told() -> None:
    prepare("http://127.0.0.1:9", {"permission": [{**GROUND, "until": "2999-01-01"}]}, "openai/api")
    told = json.loads(run("distill", "terms", "--json").stdout)
    assert (told["model"], told["may_teach"], told["verdict"]) == (TEACHER, False, "forbid_competing")
    granted = run("distill", "terms", "--recipe", "recipe.yaml")
    assert "yes" in granted.stdout
    assert GROUND["by"] in granted.stdout
    table = run("distill", "terms", "--table").stdout
    assert "zai/api" in table
    assert len(run("distill", "terms", "--table", "--json").stdout.splitlines()) == table.count("\n") - 1


def test_what_the_filters_leave_out_is_counted() -> None:
    with Simulator.thread() as sim:
        said = {"tides": "wrong", "rivets": "I'm sorry, I can't help with that.", "orchids": "on orchids"}

        def script(asked: Any) -> Script:
            topic = asked.text.split()[-1]
            cut = "length" if topic == "orchids" else None
            return Script(text=(said.get(topic, f"on {topic}"),), finish=cut)

        sim.simulator.scripts["teacher"] = script
        prepare(sim.url, {"ask": ASK, "scorer": "exact", "floor": 1.0, "held_out": "held.jsonl"})
        write("held.jsonl", [{"input": "what of glaciers", "target": "on glaciers"}])
        card = card_of(collect("--json"))
    assert card["dropped"] == {"below_floor": 1, "refused": 1, "cut_short": 1, "same": 1}
    assert card["considered"] == 10
    assert "glaciers" not in json.dumps(rows())


def test_variations_bear_the_teachers_name() -> None:
    with Simulator.thread() as sim:

        def script(asked: Any) -> Script:
            if "further requests" in asked.text:
                topic = asked.text.rpartition("what of ")[2].split()[0]
                return Script(text=(f'Here: ["tell me more about {topic}", "who knows {topic} best"]',))
            return answering(asked)

        sim.simulator.scripts["teacher"] = script
        prepare(sim.url, {"ask": {**ASK, "variations": 2}})
        card = card_of(collect("--json"))
        asked = len(sim.requests)
        assert asked == 10 + 30
        assert collect(to="again").exit_code == 0
        assert len(sim.requests) == asked
    assert content("golden") == content("again")
    made = [it for it in rows() if any(o["part"] == "input" for o in it["metadata"]["provenance"]["origins"])]
    assert made
    assert all(it["metadata"]["varied_from"].startswith("s") for it in made)
    assert any("were made by a model" in limit for limit in card["limits"])
    # What the seeds were worth, so are their variations.
    assert run("distill", "quarantine", "inputs.jsonl", "--why", "stolen").exit_code == 0
    assert f"quarantined {len(rows()):,}" in run("distill", "check", "golden/train.jsonl", *others()).stderr


async def test_traffic_teaches_where_it_may_and_corrections_are_gold() -> None:
    kept = {"model": TEACHER, "record_bodies": True}
    other = {"model": "anthropic/other", "record_bodies": True}
    async with Simulator() as sim:
        sim.scripts["teacher"] = sim.scripts["other"] = lambda asked: Script(text=(f"on {asked.text}",))
        text = config_text(
            sim.url, {"kept": kept, "other": other}, perimeter={"clearance": {"closed": "restricted"}}
        )
        config = json.loads(text)
        config["providers"]["openai"]["terms"] = "deepseek/api"
        config["providers"]["anthropic"]["terms"] = "anthropic/api"
        save_config(config)
        async with serving(json.dumps(config), Path()) as served:
            for topic in TOPICS[:6]:
                await served.ask("kept", messages=[{"role": "user", "content": topic}])
            await served.ask("other", messages=[{"role": "user", "content": "the looms"}])
            mended = await served.ask("other", messages=[{"role": "user", "content": "the comets"}])
            edited = await served.ask(
                "other", messages=[{"role": "user", "content": "a b c d e f g h i j k l"}]
            )
            await served.ask("kept", messages=[{"role": "user", "content": "mail ann@example.org"}])
            turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}]
            await served.ask("kept", messages=[*turns, {"role": "user", "content": "more"}])
            for answer, correction in (
                (mended, "Comets are ice."),
                (edited, "on a b c d e f g h i j k l !"),
            ):
                body = {"request_id": answer.headers["x-request-id"], "correction": correction}
                assert (await served.post("/v1/feedback", body)).status == 200
    write_recipe({"records": {}, "split": {"train": 1, "dev": 0, "test": 0}})
    card = card_of(await asyncio.to_thread(collect, "--json"))
    assert card["dropped"] == {"terms_forbid": 2, "personal_data": 1, "earlier_turns": 1}
    (gold,) = [it for it in rows() if it["metadata"].get("marks")]
    assert gold["target"] == "Comets are ice."
    assert {it["maker"] for it in gold["metadata"]["provenance"]["origins"]} == {"people"}
    assert len(rows()) == 7
    # Whoever has the name today did not say what is on record: neither does it lend its terms, nor take them.
    config["providers"]["openai"]["terms"] = "anthropic/api"
    config["providers"]["anthropic"] |= {"terms": "deepseek/api", "base_url": "http://elsewhere.example/v1"}
    save_config(config)
    assert card_of(await asyncio.to_thread(collect, "--json", to="later"))["dropped"] == card["dropped"]


async def test_a_killed_collection_pays_for_nothing_twice(home: Path) -> None:
    async with Simulator() as sim:
        sim.scripts["teacher"] = lambda asked: Script(text=(f"on {asked.text}",), first_delay_s=0.02)
        prepare(sim.url, {"ask": {**ASK, "repeat": 3}})
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from isthmus.cli import main; main()"),
            *("distill", "collect", "recipe.yaml", "-o", "golden", "--max-usd", "5"),
            stderr=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
        )
        await sim.wait_requests(12, 120)
        running.kill()
        await running.wait()
        assert not rows()
        store = SqliteRuns(home / "ledger.db")
        kept = len(store.answers(store.find("").id))
        done = await asyncio.to_thread(collect)
        assert done.exit_code == 0, done.output
        asked = Counter(it.body["messages"][-1]["content"] for it in sim.requests if it.body)
    assert kept >= 12 - 8
    assert asked.total() <= 30 + 8, "at most what was on its way is paid for twice"
    assert len(asked) == 10
    assert rows()


def test_a_quarantined_source_poisons_what_descends_from_it() -> None:
    with Simulator.thread() as sim:
        sim.simulator.scripts["teacher"] = answering
        prepare(sim.url, {"ask": ASK, "split": {"train": 1, "dev": 0, "test": 0}})
        assert collect().exit_code == 0
    # A mixed batch, of which some rows have got other answers by people.
    golden = rows()
    relabelled = {**golden[0], "target": "other"}
    mine = {"input": "what of mortar", "target": "on mortar"}
    write("mixed.jsonl", [relabelled, *golden[1:], mine])
    Path("recipe.yaml").write_text(
        json.dumps(
            {"collect": {"files": [{"path": "mixed.jsonl"}], "split": {"train": 1, "dev": 0, "test": 0}}}
        )
    )
    checked = run("distill", "check", "mixed.jsonl", "--json")
    assert checked.exit_code == 1
    reasons = [json.loads(line)["reason"] for line in checked.stdout.splitlines()]
    assert sorted(reasons) == ["relabelled", "unknown_origin"]
    assert card_of(collect("--json", to="mixed"))["dropped"] == {"relabelled": 1, "unknown_origin": 1}
    no_reason = run("distill", "quarantine", "golden/train.jsonl")
    assert no_reason.exit_code == 2
    assert run("distill", "quarantine", "golden/train.jsonl", "--why", "poisoned").exit_code == 0
    assert "poisoned" in run("distill", "quarantine").stdout
    # With `by: people` the relabelled row has an author, and is known again by what it asks.
    write_recipe(
        {"files": [{"path": "mixed.jsonl", "by": "people"}], "split": {"train": 1, "dev": 0, "test": 0}}
    )
    poisoned = card_of(collect("--json", to="rest"))
    assert poisoned["dropped"] == {"quarantined": len(golden)}
    assert [it["input"] for it in rows("rest")] == [mine["input"]]
    derived = run("distill", "check", "mixed/train.jsonl")
    assert derived.exit_code == 1
    assert f"quarantined {len(golden) - 1}" in derived.stderr
    assert run("distill", "quarantine", "golden/train.jsonl", "--lift").exit_code == 0
    assert run("distill", "check", "mixed/train.jsonl").exit_code == 0
    assert run("distill", "quarantine", "model:teacher", "--why", "stolen").exit_code == 0
    assert run("distill", "check", "mixed/train.jsonl").exit_code == 1


def test_a_golden_set_is_barred_by_the_version_on_its_card_with_what_descends_from_it() -> None:
    whole = {"split": {"train": 0.7, "dev": 0, "test": 0.3}}
    with Simulator.thread() as sim:
        sim.simulator.scripts["teacher"] = answering
        prepare(sim.url, {"ask": ASK, **whole})
        version = card_of(collect("--json"))["hash"]
    write_recipe({"files": [{"path": "golden/train.jsonl"}], **whole})
    assert collect(to="derived").exit_code == 0
    assert run("distill", "check", "golden/train.jsonl", "derived/train.jsonl").exit_code == 0
    assert run("distill", "quarantine", f"dataset:{version}", "--why", "poisoned").exit_code == 0
    for file in ("golden/train.jsonl", "golden/test.jsonl", "derived/train.jsonl"):
        assert "quarantined" in run("distill", "check", file).stderr
    barred = collect("--json", to="again")
    assert barred.exit_code == 1
    assert "in quarantine" in barred.stderr


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({}, "names no source"),
        ({"ask": {"teacher": "nobody", "inputs": "inputs.jsonl"}}, "is no model of the config"),
        ({"ask": {"teacher": TEACHER, "inputs": "none.jsonl"}}, "cannot be read"),
        ({"ask": ASK, "confidence": 0.5}, "logprobs: true"),
        ({"ask": ASK, "personal_data": "pseudonymise"}, "Pseudonyms need a key"),
        ({"ask": ASK, "florr": 1}, "Did you mean `floor`"),
        ({"ask": ASK, "floor": 2}, "floor"),
        ({"ask": ASK, "scorer": "exakt"}, "exact"),
        ({"runs": ["run_none"]}, "There is no run"),
        ({"files": ["inputs.jsonl"]}, "nobody says whose answer it is (10)"),
        ({"files": ["inputs.jsonl"], "held_out": "none.jsonl"}, "cannot be read"),
    ],
)
def test_what_cannot_work_is_refused_in_words(recipe: dict[str, Any], says: str) -> None:
    prepare("http://127.0.0.1:9", recipe)
    done = collect()
    assert done.exit_code in (1, 2)
    assert says in done.stderr, done.stderr
    assert "Traceback" not in done.output
    assert not Path("golden").exists()


def test_the_answers_of_a_pilot_run_are_taken_as_they_were_scored() -> None:
    def script(asked: Any) -> Script:
        right = asked.text.replace("what of", "on")
        return Script(text=("wrong" if "looms" in right else right,), logprobs=(-0.1,))

    with Simulator.thread() as sim:
        sim.simulator.scripts["teacher"] = script
        prepare(sim.url, {"runs": ["run_"], "floor": 1.0, "confidence": 0.5})
        more = ("--scorer", "exact", "--max-usd", "5", "--max-tokens", "16", "--logprobs")
        assert run("pilot", "inputs.jsonl", "--models", TEACHER, *more).exit_code == 0
        asked = len(sim.requests)
        card = card_of(collect("--json"))
        assert len(sim.requests) == asked
    assert card["dropped"] == {"below_floor": 1}
    assert all(it["metadata"]["marks"]["score"] == 1.0 for it in rows())
    assert all(it["metadata"]["marks"]["confidence"] > 0.9 for it in rows())
    # The provider's name may mean another one by now.
    prepare("http://elsewhere.example/v1", {"runs": ["run_"], "floor": 1.0}, terms="openai/api")
    assert card_of(collect("--json", to="later"))["dropped"] == {"below_floor": 1}
    write_recipe({"runs": ["run_"], "answers_of": "openai/other"})
    other = collect(to="other")
    assert other.exit_code == 1
    assert "did not ask 'openai/other'" in other.stderr
    write_recipe({"runs": ["run_"], "scorer": "contains"})
    assert "has no scores by 'contains'" in collect(to="other").stderr


def test_all_that_is_asked_together_keeps_to_the_cap_however_often(home: Path) -> None:
    with Simulator.thread() as sim:

        def script(asked: Any) -> Script:
            if "further requests" in asked.text:
                return Script(text=('["more of the same about rivets"]',))
            return answering(asked)

        sim.simulator.scripts["teacher"] = script
        # Each answer may be so long that the cap cannot hold it; the variations are short.
        prepare(sim.url, {"ask": {**ASK, "variations": 1, "max_tokens": 4000}})
        left = []
        for _ in range(3):
            poor = collect("--max-usd", "0.02")
            assert poor.exit_code == 1
            assert "is not complete, and nothing is written" in poor.stderr
            left += re.findall(r"left of USD ([\d.]+)", poor.stderr)
        records = list(SqliteRecords(home / "ledger.db").scan())
        spent = sum(it.charge.nanousd or 0 for it in records if it.charge)
        assert spent > 0
        assert len(left) == 3
        told = {round(float(it) * 1e9) for it in left}
        assert told == {20_000_000 - spent}, "what the variations cost is never forgotten"
        assert collect().exit_code == 0
        asked = Counter(it.body["messages"][-1]["content"] for it in sim.requests if it.body)
        assert set(asked.values()) == {1}


def test_personal_data_is_dropped_or_gets_pseudonyms(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare("http://127.0.0.1:9", {})
    text = config_text("http://127.0.0.1:9", {"r": TEACHER}, perimeter={"key": "env:PSEUDONYMS"})
    Path("isthmus.yaml").write_text(text)
    monkeypatch.setenv("PSEUDONYMS", "a key for pseudonyms, 32 bytes long")
    secret = "ghp_" + "x4Kq9ZbT2mWv7LcR1nYs8PdF3hJg6AeU0iOw"
    write(
        "gold.jsonl",
        [
            {"input": "mail ann.lee@example.org of tides", "target": "ann.lee@example.org was told"},
            {"input": "again to ann.lee@example.org", "target": "done"},
            {"input": f"push with {secret} please", "target": "done"},
            {"input": "what of looms", "target": "on looms"},
            {"input": "who wrote it", "target": "A", "choices": ["ann.lee@example.org", "nobody"]},
            {"input": "whom to call", "target": "the office", "metadata": {"phone": 442079460958}},
        ],
    )
    files = {"files": [{"path": "gold.jsonl", "by": "people"}], "split": {"train": 1, "dev": 0, "test": 0}}
    write_recipe(files)
    assert card_of(collect("--json"))["dropped"] == {"personal_data": 4, "secret": 1}
    assert len(rows()) == 1
    write_recipe({**files, "personal_data": "pseudonymise"})
    # A number has no pseudonym.
    assert card_of(collect("--json", to="hidden"))["dropped"] == {"personal_data": 1, "secret": 1}
    told = json.dumps(rows("hidden"))
    assert "ann.lee" not in told
    assert len(set(re.findall(r"EMAIL_[A-Z0-9]{8}", told))) == 1, "one value has one pseudonym in all rows"
    assert run("distill", "check", "hidden/train.jsonl").exit_code == 0
    assert collect("--json", to="same").exit_code == 0
    assert content("hidden") == content("same")


def test_rows_above_the_clearance_of_the_place_stay(home: Path) -> None:
    prepare("http://127.0.0.1:9", {})
    levels = ("public", "internal", "confidential", "restricted")
    write("gold.jsonl", [{"input": f"of {it}", "target": it, "label": it} for it in levels])
    files = {"files": [{"path": "gold.jsonl", "by": "people"}], "split": {"train": 1, "dev": 0, "test": 0}}
    write_recipe({**files, "doubles": "all", "place": {"clearance": "internal"}})
    card = card_of(collect("--json"))
    assert card["dropped"] == {"above_clearance": 2}
    assert card["levels"] == {"internal": 2}
    assert {it["target"] for it in rows()} == {"public", "internal"}
