"""Whatever there is to collect: only what may teach, and may go there, is golden; all is counted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.core.evaluation import Sample
from isthmus.core.label import LEVELS, Label, covers
from isthmus.core.portfolio import Model
from isthmus.distill.contamination import touched
from isthmus.distill.curation import MEANINGS, Curated, curate
from isthmus.distill.gate import MOST_OF_A_SHARE, share_of
from isthmus.distill.permission import Permission
from isthmus.distill.personal import RowLook, place_of
from isthmus.distill.provenance import Origin, provenance_of, sealed
from isthmus.distill.quarantine import Entry, Quarantine
from isthmus.distill.rows import Marks, Row
from isthmus.distill.sections import ClassCap, Collect, TrainingPlace
from isthmus.distill.terms import terms_of
from isthmus.evals.datasets.samples import line_of, read
from isthmus.perimeter.policy import Policy
from isthmus.perimeter.scanner import Sightings

TODAY = dt.date(2026, 11, 27)
PERMISSION = Permission(TODAY, quarantine=Quarantine([Entry(kind="model", value="poisoned", at_us=1)]))

terms = st.sampled_from(["deepseek/api", "weights/MIT", "zai/api", "openai/api", "acme/api", ""])
origins = st.one_of(
    st.just(Origin(part="answer", maker="people")),
    st.builds(
        Origin,
        part=st.sampled_from(["answer", "input", "mark"]),
        maker=st.just("model"),
        terms=terms,
        model=st.sampled_from(["m", "poisoned"]),
        at_us=st.sampled_from([0, 1_780_000_000_000_000, 1_795_000_000_000_000]),
    ),
)
words = st.lists(
    st.sampled_from(["tide", "rivet", "orchid", "glacier", "sonnet", "turbine", "lichen"]), max_size=16
)
texts = words.map(" ".join)
chances = st.none() | st.floats(0, 1)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    answer = draw(st.sampled_from(["a", "b", "I'm sorry, I can't help with that."]) | texts.filter(bool))
    request = {"messages": [{"role": "user", "content": draw(texts)}]}
    label = Label(draw(st.sampled_from(LEVELS)))
    return Row(
        sample=Sample(id=draw(st.sampled_from("xyz")), request=request, target=(answer,), label=label),
        message={"role": "assistant", "content": answer},
        origins=tuple(draw(st.lists(origins, max_size=3))),
        marks=Marks(gold=draw(st.booleans()), human=draw(chances), score=draw(chances)),
        finish=draw(st.sampled_from([None, "stop", "length", "content_filter"])),
        relabelled=draw(st.booleans()) and draw(st.booleans()),
    )


rules = st.builds(
    Collect,
    scorer=st.sampled_from([None, "exact"]),
    floor=st.floats(0, 1),
    unverified=st.booleans(),
    doubles=st.sampled_from(["one", "all"]),
    cap=st.none() | st.builds(ClassCap, by=st.just("answer"), rows=st.integers(1, 3)),
    seed=st.integers(0, 3),
)


def unlooked(row: Row) -> Row | str:
    return row


def collected(found: Sequence[Row], rule: Collect, held_out: Sequence[Sample] = ()) -> Curated:
    return curate(found, rule, PERMISSION, unlooked, held_out, {"no_answer": 2})


@settings(max_examples=50)
@given(st.lists(rows(), max_size=14), rules, st.lists(rows(), max_size=2), st.randoms())
def test_only_what_may_teach_is_golden_and_every_row_is_counted(
    found: list[Row], rule: Collect, held: list[Row], chance: Any
) -> None:
    held_out = [it.sample for it in held]
    curated = collected(found, rule, held_out)
    golden = [it for part in curated.parts.values() for it in part.samples]
    assert curated.considered == len(found) + 2 == len(golden) + sum(curated.dropped.values())
    assert set(curated.dropped) <= set(MEANINGS)
    assert curated.rows.keys() == {it.id for it in golden}
    for sample in golden:
        assert PERMISSION.refuses(sample) is None
        told = provenance_of(sample)
        assert told is not None
        assert all(it.model != "poisoned" for it in told.origins)
        assert not {it.terms for it in told.origins} & {"zai/api", "openai/api", "acme/api"}
    assert not touched(golden, held_out)
    tests = curated.parts["test"].samples if "test" in curated.parts else ()
    learned = [it for name, part in curated.parts.items() if name != "test" for it in part.samples]
    assert not touched(learned, tests)
    other = list(found)
    chance.shuffle(other)
    assert collected(other, rule, held_out).hash == curated.hash, "whatever order they come in"


@given(rows())
def test_a_row_says_where_it_comes_from_when_it_is_read_again(row: Row) -> None:
    sample = sealed(row.sample, row.origins, ["d"])
    if not row.sample.request["messages"][0]["content"]:
        return
    again = read(msgspec.json.decode(line_of(sample)), "there", msgspec.json.decode(b"{}"))
    assert provenance_of(again) == provenance_of(sample)
    assert (found := PERMISSION.refuses(again)) is None or found.reason != "relabelled"


class Told(msgspec.Struct):
    label: Label
    seen: Sightings = Sightings()
    hidden: Any = None


@given(
    rows(),
    st.sampled_from(LEVELS),
    st.sampled_from(LEVELS),
    st.none() | st.sampled_from(["eu", "us"]),
    st.data(),
)
def test_nothing_goes_to_a_place_that_is_not_cleared_for_it(
    row: Row, clearance: Any, found: Any, zone: str | None, data: st.DataObject
) -> None:
    """The label of a row is at least what it was, and at least what a look finds: law 1, for training."""
    policy = Policy()
    zones = data.draw(st.none() | st.frozensets(st.sampled_from(["eu", "us"])))
    place = place_of(TrainingPlace(clearance=clearance, zone=zone), policy)
    look = RowLook(
        lambda _, least: Told(least.join(Label(found, zones=zones))),
        lambda *_: Told(Label()),
        policy,
        place,
        "drop",
    )
    seen = look(row)
    label = row.sample.label.join(Label(found, zones=zones))
    may = covers(clearance, label.level) and (zones is None or zone in zones)
    assert (seen != "above_clearance") is may
    if isinstance(seen, Row):
        assert seen.sample.label == label


@given(st.sampled_from(["closed", "open"]), terms)
def test_whoever_says_nothing_of_terms_teaches_nobody(kind: Any, licence: str) -> None:
    from isthmus.core.portfolio import Provider

    model = Model(name="m", provider="p", id="m", kind=kind, licence=licence)
    told = terms_of(model, Provider(name="p", wires=("openai",)))
    assert not PERMISSION.ruling(told, TODAY).may_teach


scores = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=20)


@settings(max_examples=15)
@given(scores, scores)
def test_the_interval_of_a_share_holds_the_share(ours: list[float], theirs: list[float]) -> None:
    n = min(len(ours), len(theirs))
    student, teacher = ({str(at): it[at] for at in range(n)} for it in (ours, theirs))
    share, interval = share_of(student, teacher, 0.9)
    if share is not None:
        assert interval.low - 1e-6 <= share
        assert share <= interval.high + 1e-6 or interval.high == MOST_OF_A_SHARE
