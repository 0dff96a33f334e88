"""What may teach: documents by their day, grounds by theirs, mixed and relabelled batches."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.config.load import parse
from isthmus.core.errors import IsthmusError
from isthmus.core.evaluation import Sample
from isthmus.distill.permission import Batch, Permission, require_may_teach
from isthmus.distill.provenance import Origin, asking_of, provenance_of, sealed
from isthmus.distill.quarantine import Entry, Quarantine, QuarantineFile, source_of
from isthmus.distill.terms import Clause, Ground, known_terms, ruling, terms_of

TODAY = dt.date(2026, 11, 27)
SEEN = dt.date(2026, 10, 1)


def clause(dated: dt.date | None, verdict: Any, key: str = "acme/api", **more: Any) -> Clause:
    provider, _, surface = key.partition("/")
    return Clause(
        provider=provider,
        surface=surface,
        document="Terms",
        dated=dated,
        verdict=verdict,
        says="So it is.",
        source="https://acme.example/terms",
        seen=SEEN,
        **more,
    )


def ground(until: dt.date, key: str = "acme/api") -> Ground:
    return Ground(terms=key, ground="an addendum", by="R. Castle", until=until)


def at_us(day: dt.date) -> int:
    return int(dt.datetime(day.year, day.month, day.day, 12, tzinfo=dt.UTC).timestamp()) * 1_000_000


def row(name: str, terms: str = "acme/api", day: dt.date = TODAY, **more: Any) -> Sample:
    sample = Sample(id=name, request={"messages": [{"role": "user", "content": name}]}, target=("yes",))
    origin = Origin(part="answer", maker="model", terms=terms, model="m-1", at_us=at_us(day), **more)
    return sealed(sample, [origin], ["d0"])


# The table


def test_the_same_weights_may_teach_at_home_and_not_by_their_makers_api() -> None:
    assert not ruling("zai/api", TODAY, TODAY).may_teach
    assert ruling("weights/MIT", TODAY, TODAY).may_teach
    assert ruling("deepseek/api", TODAY, TODAY).may_teach


@pytest.mark.parametrize("terms", ["", "acme/api", "weights/", "weights/CC-BY-NC-4.0", "openrouter/api"])
def test_what_is_unknown_is_refused(terms: str) -> None:
    found = ruling(terms, TODAY, TODAY)
    assert (found.may_teach, found.verdict) == (False, "unknown")
    assert "what is unknown is refused" in found.why


def test_every_row_of_the_table_has_its_source_and_day() -> None:
    for it in known_terms():
        assert it.source.startswith("https://"), it.key
        assert (it.dated is None) == (it.provider == "weights"), it.key
        assert it.seen <= TODAY
        assert it.says.endswith("."), it.key
    assert len({(it.key, it.dated) for it in known_terms()}) == len(known_terms())


def test_the_document_of_the_day_counts_and_todays_too() -> None:
    old, new = clause(dt.date(2025, 1, 1), "allow"), clause(dt.date(2026, 6, 1), "forbid")
    before, after = dt.date(2025, 5, 1), dt.date(2026, 7, 1)
    # Allowed then, and training is of today.
    assert not ruling("acme/api", before, TODAY, clauses=[old, new]).may_teach
    assert ruling("acme/api", before, dt.date(2025, 6, 1), clauses=[old, new]).may_teach
    # Forbidden then, allowed by now: what was said then was said under the terms of then.
    was, now = clause(dt.date(2025, 1, 1), "forbid"), clause(dt.date(2026, 6, 1), "allow")
    assert not ruling("acme/api", before, TODAY, clauses=[was, now]).may_teach
    assert ruling("acme/api", after, TODAY, clauses=[was, now]).may_teach
    # From before any document that is known.
    early = ruling("acme/api", dt.date(2024, 1, 1), TODAY, clauses=[old])
    assert (early.verdict, early.may_teach) == ("unknown", False)
    assert "2025-01-01" in early.why


@pytest.mark.parametrize(
    ("verdict", "authorisable", "until", "may"),
    [
        ("forbid_competing", False, dt.date(2027, 1, 1), True),
        ("forbid_competing", False, TODAY, True),
        ("forbid_competing", False, dt.date(2026, 11, 26), False),
        ("review", False, dt.date(2027, 1, 1), True),
        ("forbid", False, dt.date(2027, 1, 1), False),
        ("forbid", True, dt.date(2027, 1, 1), True),
    ],
)
def test_a_ground_lifts_what_a_document_leaves_to_agreements(
    verdict: Any, authorisable: bool, until: dt.date, may: bool
) -> None:
    clauses = [clause(dt.date(2026, 1, 1), verdict, authorisable=authorisable)]
    found = ruling("acme/api", TODAY, TODAY, [ground(until)], clauses)
    assert found.may_teach is may
    assert not ruling("acme/api", TODAY, TODAY, [ground(until, "other/api")], clauses).may_teach


@pytest.mark.parametrize(
    ("provider", "model", "terms"),
    [
        ("{preset: anthropic, key: env:K}", "", "anthropic/api"),
        ("{preset: zai, key: env:K}", ", licence: MIT", "zai/api"),
        ("{preset: vllm, kind: open}", ", licence: MIT", "weights/MIT"),
        ("{preset: vllm, kind: local}", "", "weights/"),
        ("{preset: openrouter, key: env:K, kind: open}", ", licence: MIT", "openrouter/api"),
        ("{engine: builtin}", ", weights: qwen2.5-coder-0.5b-instruct", "weights/Apache-2.0"),
        ("{dialect: openai, base_url: 'https://x.example/v1', kind: closed}", "", ""),
        ("{dialect: openai, base_url: 'https://x.example/v1', kind: open}", ", licence: MIT", ""),
        ("{dialect: openai, base_url: 'https://x.example/v1', kind: local}", ", licence: MIT", "weights/MIT"),
        (
            "{dialect: openai, base_url: 'https://x.example/v1', kind: open, terms: weights}",
            ", licence: MIT",
            "weights/MIT",
        ),
        ("{preset: openai, key: env:K, terms: openai/subscription}", "", "openai/subscription"),
        # Whose machine it is tells more than by which name it is spoken to.
        ("{preset: vllm, base_url: 'https://api.openai.com/v1', kind: open}", ", licence: MIT", "openai/api"),
        ("{preset: deepseek, key: env:K, base_url: 'https://api.z.ai/v4'}", "", "zai/api"),
        ("{dialect: openai, base_url: 'https://API.z.ai./v4', kind: local}", ", licence: MIT", "zai/api"),
        # Whoever calls it closed has no weights of it.
        ("{preset: vllm, kind: closed}", ", licence: MIT", ""),
    ],
)
def test_which_terms_govern_a_model_of_the_config(provider: str, model: str, terms: str) -> None:
    text = f"providers: {{p: {provider}}}\nmodels: {{m: {{provider: p{model}}}}}\nroutes: {{r: m}}\n"
    config, faults = parse(text, "isthmus.yaml", check_secrets=False)
    assert config is not None, faults
    assert terms_of(config.models["m"], config.providers["p"]) == terms


# Rows


def test_a_mixed_batch_is_refused_as_a_whole() -> None:
    permission = Permission(TODAY, clauses=[clause(dt.date(2026, 1, 1), "allow")])
    good, unknown = row("a"), row("b", terms="nobody/api")
    require_may_teach([Batch([good])], permission)
    with pytest.raises(IsthmusError) as refused:
        require_may_teach([Batch([good, unknown])], permission)
    assert refused.value.code == "may_not_teach"
    assert "1 of 2 rows may not teach: terms_unknown 1" in refused.value.message


def test_a_row_without_its_origin_and_a_relabelled_one_are_refused() -> None:
    permission = Permission(TODAY, clauses=[clause(dt.date(2026, 1, 1), "allow")])
    good = row("a")
    bare = msgspec.structs.replace(good, metadata={})
    relabelled = msgspec.structs.replace(good, target=("no",))
    only_input = sealed(good, [Origin(part="input", maker="people")])
    broken = msgspec.structs.replace(good, metadata={"provenance": {"origins": "?"}})
    told = {"origins": [{"part": "answer", "maker": "model", "at_us": 10**20}], "seal": "?"}
    of_never = msgspec.structs.replace(good, metadata={"provenance": told})
    reasons = [
        found.reason
        for it in (bare, relabelled, only_input, broken, of_never)
        if (found := permission.refuses(it))
    ]
    assert reasons == ["unknown_origin", "relabelled", *3 * ["unknown_origin"]]


def test_a_forbidden_judge_and_a_forbidden_writer_of_requests_spoil_a_row_too() -> None:
    clauses = [clause(None, "allow", "weights/MIT"), clause(dt.date(2026, 1, 1), "forbid")]
    permission = Permission(TODAY, clauses=clauses)
    good = row("a", terms="weights/MIT")
    told = provenance_of(good)
    assert told is not None
    assert permission.refuses(good) is None
    for part in ("mark", "input"):
        bad = Origin(part=part, maker="model", terms="acme/api", at_us=at_us(TODAY))  # type: ignore[arg-type]
        found = permission.refuses(sealed(good, [*told.origins, bad]))
        assert found is not None
        assert found.reason == "terms_forbid"


def test_a_ground_that_is_kept_with_a_row_ends_with_its_last_day() -> None:
    clauses = [clause(dt.date(2026, 1, 1), "forbid_competing")]
    kept = row("a", ground=ground(dt.date(2026, 12, 31)))
    assert Permission(TODAY, clauses=clauses).refuses(kept) is None
    assert Permission(dt.date(2027, 1, 1), clauses=clauses).refuses(kept) is not None
    renewed = [ground(dt.date(2028, 1, 1))]
    assert Permission(dt.date(2027, 1, 1), renewed, clauses=clauses).refuses(kept) is None


# Quarantine


@pytest.mark.parametrize(
    "source", ["terms:acme/api", "provider:acme", "model:m-1", "dataset:d0", "source:r-1", "source:run_1"]
)
def test_quarantine_finds_what_descends(source: str) -> None:
    named = source_of(source)
    assert named is not None
    entry = Entry(kind=named[0], value=named[1], at_us=1, why="stolen")
    clauses = [clause(dt.date(2026, 1, 1), "allow")]
    sample = row("a", source="r-1", run="run_1")
    held = Permission(TODAY, quarantine=Quarantine([entry]), clauses=clauses).refuses(sample)
    assert held is not None
    assert held.reason == "quarantined"
    lifted = Quarantine([entry, msgspec.structs.replace(entry, lifted=True)])
    assert Permission(TODAY, quarantine=lifted, clauses=clauses).refuses(sample) is None


def test_a_quarantined_file_is_known_by_what_it_asks() -> None:
    sample = row("a")
    entry = Entry(kind="dataset", value="h", at_us=1, askings=(asking_of(sample),))
    stripped = msgspec.structs.replace(sample, id="x", target=("other",), metadata={})
    assert Quarantine([entry]).holds(stripped, None) is entry
    assert Quarantine([entry]).holds(row("b"), None) is None


def test_the_dataset_itself_is_known_by_its_hashes() -> None:
    entry = Entry(kind="dataset", value="version", at_us=1)
    permission = Permission(TODAY, quarantine=Quarantine([entry]), clauses=[clause(None, "allow")])
    require_may_teach([Batch([row("a")], ["h"])], permission)
    with pytest.raises(IsthmusError, match="quarantined 1"):
        require_may_teach([Batch([row("a")], ["h"]), Batch([row("b")], ["h", "version"])], permission)


def test_an_entry_that_somebody_has_added_by_hand_needs_no_end_of_line(tmp_path: Path) -> None:
    file = QuarantineFile(tmp_path / "quarantine.jsonl")
    first, by_hand, last = (Entry(kind="model", value=name, at_us=1) for name in "abc")
    file.add(first)
    with file.path.open("ab") as edited:
        edited.write(msgspec.json.encode(by_hand))
    assert file.read() == [first, by_hand]
    file.add(last)
    assert file.read() == [first, by_hand, last]


def test_the_quarantine_survives_a_killed_writer(tmp_path: Path) -> None:
    file = QuarantineFile(tmp_path / "state" / "quarantine.jsonl")
    assert file.read() == ()
    first, second = (Entry(kind="model", value=name, at_us=1) for name in "ab")
    file.add(first)
    with file.path.open("ab") as begun:
        begun.write(b'{"kind":"mod')
    assert file.read() == [first]
    file.add(second)
    assert file.read() == [first, second]


def test_a_full_disk_adds_nothing_to_the_quarantine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = QuarantineFile(tmp_path / "quarantine.jsonl")
    entry = Entry(kind="model", value="a", at_us=1)
    file.add(entry)
    whole = os.pwrite
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", lambda handle, line, at: whole(handle, line[:9], at))
        with pytest.raises(OSError, match="No space left"):
            file.add(entry)
    assert file.read() == [entry]


def test_an_unreadable_quarantine_lets_nothing_through(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    path.write_bytes(b"nonsense\n")
    with pytest.raises(IsthmusError) as refused:
        QuarantineFile(path).read()
    assert refused.value.code == "quarantine_unreadable"
    path.unlink()
    os.mkdir(path)  # noqa: PTH102
    with pytest.raises(IsthmusError):
        QuarantineFile(path).read()
