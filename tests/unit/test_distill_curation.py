"""What is good enough, what touches a test, which of several is kept; folders that are whole."""

from __future__ import annotations

import datetime as dt
import errno
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.config.load import parse
from isthmus.core.errors import IsthmusError
from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.core.record import AttemptRecord, Record, Timings
from isthmus.distill import golden
from isthmus.distill.card import card_of
from isthmus.distill.contamination import COMMON, touched
from isthmus.distill.curation import Curated, curate
from isthmus.distill.permission import Permission
from isthmus.distill.provenance import FIELD, Origin, asking_of, sealed
from isthmus.distill.quarantine import Entry, Quarantine
from isthmus.distill.rows import Makers, Marks, Row, rewritten, rows_of_dataset, rows_of_records, rows_of_run
from isthmus.distill.sections import ClassCap, Collect, Shares
from isthmus.evals.datasets.dataset import Dataset
from isthmus.evals.replay.boundary import Portfolio
from isthmus.store.runs import Candidate, Kept, Place, Run

PEOPLE = (Origin(part="answer", maker="people"), Origin(part="input", maker="people"))
ALL_LEARNED = Shares(train=1, dev=0, test=0)


def sample(text: str, target: str = "yes", name: str = "s") -> Sample:
    return Sample(id=name, request={"messages": [{"role": "user", "content": text}]}, target=(target,))


def row(text: str, target: str = "yes", marks: Marks = Marks(), **more: Any) -> Row:  # noqa: B008
    message = {"role": "assistant", "content": target}
    return Row(sample=sample(text, target), message=message, origins=PEOPLE, marks=marks, **more)


def curated(rows: Sequence[Row], **rule: Any) -> Curated:
    told = Collect(split=ALL_LEARNED, **rule)
    return curate(rows, told, Permission(dt.date(2026, 11, 27)), lambda it: it)


def kept(found: Curated) -> list[str]:
    parts = [found.parts[name] for name in ("train", "dev", "test") if name in found.parts]
    return sorted(it.request["messages"][0]["content"] for part in parts for it in part.samples)


@pytest.mark.parametrize(
    ("marks", "rule", "reason"),
    [
        (Marks(score=0.4), {}, "below_floor"),
        (Marks(human=0.2, score=1.0), {}, "below_floor"),
        (Marks(human=0.9, score=0.0), {}, None),
        (Marks(gold=True, score=0.0), {}, None),
        (Marks(), {"scorer": "exact"}, "not_scored"),
        (Marks(), {}, None),
        (Marks(), {"unverified": False}, "unverified"),
        (Marks(score=1.0, agreement=0.3), {"agreement": 0.5}, "disagreement"),
        (Marks(score=1.0, confidence=0.3), {"confidence": 0.5}, "unsure"),
        (Marks(score=1.0), {"confidence": 0.5}, "unsure"),
        (Marks(score=1.0, confidence=0.6, agreement=0.6), {"confidence": 0.5, "agreement": 0.5}, None),
    ],
)
def test_what_people_say_goes_before_all_else(marks: Marks, rule: dict[str, Any], reason: str | None) -> None:
    found = curated([row("what of tides", marks=marks)], **rule)
    assert found.dropped == ({} if reason is None else {reason: 1})


def test_of_near_duplicates_the_best_is_kept() -> None:
    long = "the tides of the northern sea rise twice a day and fall again by night"
    rows = [row(f"{long} now", marks=Marks(score=0.6)), row(long, marks=Marks(score=0.9)), row("of looms")]
    found = curated(rows)
    assert kept(found) == ["of looms", long]
    assert found.dropped == {"double": 1}
    assert len(kept(curated(rows, doubles="all"))) == 3
    # The very same is there once, whoever wants all.
    assert len(kept(curated([rows[1], rows[1]], doubles="all"))) == 1


def test_the_same_words_under_other_instructions_are_no_doubles() -> None:
    long = "the tides of the northern sea rise twice a day and fall again by night"
    rows = []
    for language in ("French", "German"):
        one = row(long, language)
        turns = [
            {"role": "system", "content": f"Translate into {language}."},
            *one.sample.request["messages"],
        ]
        rows.append(rewritten(one, {"messages": turns}, one.message, {}))
    assert len(curated(rows).rows) == 2


def test_a_class_has_so_many_rows_the_best_first() -> None:
    words = ("tides", "rivets", "orchids", "glaciers", "sonnets")
    rows = [row(word, "billing", Marks(score=1 - at / 10)) for at, word in enumerate(words)]
    found = curated([*rows, row("looms", "support")], cap=ClassCap(by="answer", rows=2))
    assert kept(found) == ["looms", "rivets", "tides"]
    assert found.dropped == {"class_full": 3}
    assert card_of("g", found, Collect(cap=ClassCap(by="answer", rows=2))).parts["train"].classes == {
        "billing": 2,
        "support": 1,
    }
    assert card_of("g", found, Collect()).parts["train"].classes == {}, (
        "answers are for fewer eyes than cards"
    )


PASSAGE = "when the harbour bell rings four times the keeper of the lower lock must open gate nine"


def test_a_passage_of_a_test_is_found_in_a_long_row() -> None:
    around = " ".join(f"word{n}" for n in range(200))
    tests = [sample(f"Is it so that {PASSAGE}?", name="t")]
    assert touched([sample(f"{around} {PASSAGE} {around}"), sample(around)], tests) == {0: "passage"}
    # An answer may tell it as well.
    assert touched([sample(around, f"Yes: {PASSAGE}.")], tests) == {0: "passage"}


def test_a_form_that_many_rows_have_is_no_passage() -> None:
    learned = [sample(f"{PASSAGE} " + " ".join(f"w{n}x{at}" for at in range(60))) for n in range(COMMON + 1)]
    tests = [sample(f"{PASSAGE} " + " ".join(f"t{at}" for at in range(60)), name="t")]
    assert touched(learned, tests) == {}
    assert touched(learned[:COMMON], tests) == dict.fromkeys(range(COMMON), "passage")


NOBODY = Makers({}, Portfolio({}, {}))
"""Of answers whose config nobody has kept."""


def run_of(repeat: int = 1) -> Run:
    return Run(
        id="r",
        identity="i",
        at_us=1,
        dataset="d",
        dataset_hash="h",
        sample_ids=("s",),
        models=(Candidate(name="m", id="m", provider="p", kind="local"),),
        scorers=(),
        repeat=repeat,
        config_hash="c",
    )


def test_the_answer_that_most_agree_with_is_taken() -> None:
    asked = sample("how many")
    run = run_of(repeat=4)
    said = ("Seven.", "4", "4.0", " 4 ")
    answers = {
        Place("m", "s", nth): Kept(
            id=f"a{nth}", key=None, at_us=1, run="r", answered=Answered(model="m", text=it)
        )
        for nth, it in enumerate(said)
    }
    (found,) = rows_of_run(run, [asked], answers, {}, "m", None, NOBODY, Counter())
    assert found.answer == "4"
    assert found.marks.agreement == 0.75
    assert found.origins[0].terms == "", "of a model that the config does not have, nobody knows the terms"


@pytest.mark.parametrize(
    ("scorer", "parts"), [("exact", ["answer", "input", "mark"]), (None, ["answer", "input"])]
)
def test_whoever_wrote_the_targets_has_chosen_the_answers_that_reach_them(
    scorer: str | None, parts: list[str]
) -> None:
    other = Origin(part="answer", maker="model", terms="zai/api", model="other")
    asked = sealed(sample("how many", "4"), [other, Origin(part="input", maker="people")])
    place = Place("m", "s")
    said = {place: Kept(id="a", key=None, at_us=1, run="r", answered=Answered(model="m", text="4"))}
    scores = {place: Score(value=1.0)} if scorer else {}
    (found,) = rows_of_run(run_of(), [asked], said, scores, "m", scorer, NOBODY, Counter())
    assert sorted(it.part for it in found.origins) == parts
    assert [it.model for it in found.origins if it.part == "mark"] == ["other"] * (scorer is not None)


# Of the ledger


def of_record(
    metadata: dict[str, Any],
    target: tuple[str, ...] = (),
    makers: Makers = NOBODY,
    *,
    by_score: bool = False,
) -> Row:
    """The row of a request that the model `m` of the config `c` has answered."""
    attempt = AttemptRecord(number=1, model="m", provider="p", model_id="m", outcome="ok", started_ms=0)
    record = Record(
        id="s",
        at_us=1_795_000_000_000_000,
        dialect="openai",
        operation="chat",
        route="r",
        stream=False,
        status=200,
        outcome="ok",
        attempts=(attempt,),
        timings=Timings(queue_ms=0, overhead_ms=0, first_token_ms=None, total_ms=1),
        config_hash="c",
    )
    request = {"messages": [{"role": "user", "content": "what of tides"}]}
    told = Sample(id="s", request=request, target=target, metadata=metadata)
    (found,) = rows_of_records([told], {"s": record}, makers, Counter(), by_score=by_score)
    return found


def portfolio(
    provider: str = "terms: acme/api", host: str = "a.example", model: str = "kind: closed"
) -> Portfolio:
    """A config's models: `m` of a provider `p` at that host, and the judge `strong` of the same."""
    said = f"{{dialect: openai, base_url: 'https://{host}/v1', {provider}}}"
    models = f"{{m: {{provider: p, id: m, {model}}}, strong: {{provider: p, {model}}}}}"
    text = f"providers: {{p: {said}}}\nmodels: {models}\nroutes: {{r: m}}\n"
    config, faults = parse(text, "isthmus.yaml", check_secrets=False)
    assert config is not None, faults
    return Portfolio(config.models, config.providers)


WEIGHTS = {"provider": "terms: weights"}
OPEN = "kind: open, zone: eu"


@pytest.mark.parametrize(
    ("then", "today", "terms"),
    [
        (portfolio(), portfolio(), "acme/api"),
        (portfolio(), portfolio("terms: other/api"), "acme/api"),
        (portfolio(), portfolio("terms: other/api", host="b.example"), "acme/api"),
        (portfolio(), Portfolio({}, {}), "acme/api"),
        (None, portfolio(), ""),
        (Portfolio({}, {}), portfolio(), ""),
        # What was left unsaid may be said later, of the same model at the same place alone.
        (portfolio("timeouts: {total: 9}"), portfolio(), "acme/api"),
        (portfolio("timeouts: {total: 9}", host="b.example"), portfolio(), ""),
        (
            portfolio(**WEIGHTS, model=OPEN),
            portfolio(**WEIGHTS, model=f"{OPEN}, licence: MIT"),
            "weights/MIT",
        ),
        (
            portfolio(**WEIGHTS, model="kind: open, zone: us"),
            portfolio(**WEIGHTS, model=f"{OPEN}, licence: MIT"),
            "weights/",
        ),
    ],
)
def test_the_terms_of_an_answer_are_those_of_whom_it_came_from(
    then: Portfolio | None, today: Portfolio, terms: str
) -> None:
    makers = Makers({} if then is None else {"c": then}, today)
    found = of_record({"answer": "twice a day", "score": 1.0, "judge": "strong"}, makers=makers)
    assert {it.part: it.terms for it in found.origins if it.maker == "model"} == {
        "answer": terms,
        "mark": terms,
    }
    place = Place("m", "s")
    said = {place: Kept(id="a", key=None, at_us=1, run="r", answered=Answered(model="m", text="4"))}
    (kept,) = rows_of_run(run_of(), [sample("how many")], said, {}, "m", None, makers, Counter())
    assert kept.origins[0].terms == terms
    other = msgspec.structs.replace(run_of(), config_hash="d")
    (kept,) = rows_of_run(other, [sample("how many")], said, {}, "m", None, makers, Counter())
    assert kept.origins[0].terms == ""


def test_a_judge_by_whose_score_a_correction_was_chosen_has_chosen() -> None:
    metadata = {"answer": "twice a day", "score": 1.0, "judge": "strong"}
    by_people = of_record(metadata, ("Every twelve hours and some.",))
    assert [it.part for it in by_people.origins] == ["answer", "input"]
    chosen = of_record(metadata, ("Every twelve hours and some.",), by_score=True)
    assert [it.model for it in chosen.origins if it.part == "mark"] == ["strong"]
    assert chosen.marks == Marks(gold=True), "it is as good as people wrote it"


def test_a_grade_by_a_judge_is_no_word_of_people_and_bears_the_judges_name() -> None:
    by_people = of_record({"answer": "twice a day", "score": 1.0})
    assert by_people.marks == Marks(human=1.0)
    assert [it.part for it in by_people.origins] == ["answer", "input"]
    graded = of_record({"answer": "twice a day", "score": 1.0, "judge": "strong"})
    assert graded.marks == Marks(score=1.0)
    assert [it.model for it in graded.origins if it.part == "mark"] == ["strong"]


@pytest.mark.parametrize(
    ("metadata", "makers"),
    [
        ({"answer": "twice a day"}, {"people"}),
        ({"tool_calls": [{"id": "c"}]}, {"people"}),
        ({"answer": "The tides rise every day"}, {"people", "model"}),
        # Its text was not kept: how much of it is left in the correction, nobody can tell.
        ({}, {"people", "model"}),
    ],
)
def test_a_correction_is_the_work_of_people_alone_where_it_is_seen_to_be(
    metadata: dict[str, Any], makers: set[str]
) -> None:
    found = of_record(metadata, ("The tides rise every day.",))
    assert found.marks == Marks(gold=True)
    assert {it.maker for it in found.origins if it.part == "answer"} == makers


def test_an_origin_that_cannot_be_read_is_taken_away_by_nobodys_word() -> None:
    broken = msgspec.structs.replace(sample("what of tides"), metadata={FIELD: {"origins": "a model's"}})
    told = Dataset(name="d", samples=(broken,), hash="h")
    found = curated(list(rows_of_dataset(told, ["h"], True, Counter())))
    assert found.dropped == {"relabelled": 1}


def test_what_is_in_quarantine_under_pseudonyms_is_not_collected_anew() -> None:
    mail = row("mail NAME_1")
    held = Quarantine([Entry(kind="dataset", value="d", at_us=1, askings=(asking_of(mail.sample),))])
    permission = Permission(dt.date(2026, 11, 27), quarantine=held)

    def hidden(it: Row) -> Row:
        return rewritten(it, mail.sample.request, it.message, {})

    found = curate([row("mail ann")], Collect(split=ALL_LEARNED), permission, hidden)
    assert found.dropped == {"quarantined": 1}


def test_a_full_disk_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = curated([row("what of tides")])
    card = card_of("g", found, Collect())

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            golden.write(tmp_path / "golden", found, card)
    assert list(tmp_path.iterdir()) == []
    golden.write(tmp_path / "golden", found, card)
    with pytest.raises(IsthmusError) as refused:
        golden.write(tmp_path / "golden", found, card)
    assert refused.value.code == "golden_exists"
    assert msgspec.json.decode((tmp_path / "golden" / "card.json").read_bytes())["hash"] == found.hash


def test_a_rewritten_row_keeps_who_it_is_of() -> None:
    before = row("mail ann", "ann was told")
    request = {"messages": [{"role": "user", "content": "mail NAME_1"}]}
    after = rewritten(before, request, {"role": "assistant", "content": "NAME_1 was told"}, {"task": "mail"})
    assert after.answer == "NAME_1 was told"
    assert after.sample.metadata == {"task": "mail"}
    assert after.origins == before.origins
