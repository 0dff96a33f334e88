"""Rollouts: what guards make of traffic, what operators may do, and what becomes of weights that are gone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from isthmus.bootstrap import in_service, open_rollouts
from isthmus.config.config import Config, RolloutRule
from isthmus.config.digests import Digests
from isthmus.config.load import parse
from isthmus.config.rollouts import Pair
from isthmus.core.errors import IsthmusError
from isthmus.core.record import AttemptRecord, Outcome, Purpose, Record, Timings
from isthmus.core.rollout import Stage, Turn, Version
from isthmus.evals.rollout.guards import QUANTITIES, Guards
from isthmus.evals.rollout.jury import Jury
from isthmus.evals.rollout.promotion import model_of, promoted, rolled_back
from isthmus.evals.rollout.trials import Side, Trial, Trials
from isthmus.gateway.rollover import first_standing, verify
from isthmus.statistics.excess import Excess
from isthmus.store import schema
from isthmus.store.memory import MemoryRollouts
from isthmus.store.rollouts import SqliteRollouts

OLD, NEW, OTHER = (Version(f"/weights/{it}", it * 64) for it in "abc")
NAMES = Pair("student", f"student@{NEW.id}")
RULE = RolloutRule(model="student", least=50, canary=(0.1,))


def turn(stage: Stage = "canary", share: float = 0.1, old: Version = OLD, new: Version = NEW) -> Turn:
    return Turn(
        model="student",
        stage=stage,
        share=share,
        ground=OLD,
        old=old,
        new=new,
        why="a test",
        who="tester",
        at_us=1,
    )


# -- the test behind the guards


def test_what_is_not_above_its_bound_is_rarely_found_above() -> None:
    alarms = sum(_excess(chance=random.Random(seed), mean=0.5).p <= 0.05 for seed in range(400))
    # 5 % at most is the promise; of 400 that hold it exactly, 31 or more is one case in a hundred.
    assert alarms <= 30


def test_what_is_above_its_bound_is_found() -> None:
    assert all(_excess(chance=random.Random(seed), mean=0.8).p <= 0.001 for seed in range(20))


def test_values_outside_of_the_unit_are_refused() -> None:
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        Excess(bound=0.5).observe(1.5)


def _excess(chance: random.Random, mean: float) -> Excess:
    excess = Excess(bound=0.5)
    for _ in range(300):
        excess.observe(float(chance.random() < mean))
    return excess


# -- guards


def traffic(
    seed: int, requests: int, share: float = 0.2, *, fails: float = 0.03, slower: float = 1.0
) -> Iterator[Trial]:
    """Requests to both versions; the old one fails in 3 of 100, and takes about a second."""
    chance = random.Random(seed)
    for _ in range(requests):
        new = chance.random() < share
        failed = chance.random() < (fails if new else 0.03)
        ms = 1000 * chance.lognormvariate(0, 0.5) * (slower if new else 1.0)
        yield Trial("new" if new else "old", failed, None if failed else ms, chance.random() < 0.2)


def verdicts(rule: RolloutRule, trials: Iterator[Trial]) -> list[str]:
    guards = Guards(rule)
    found = []
    for trial in trials:
        guards.take(trial)
        if trial.side == "new":
            found.append(guards.judgement().verdict)
    return found


def test_equal_weights_are_rarely_sent_back_however_often_one_looks() -> None:
    rule = RolloutRule(model="student", errors=0.0, escalation=0.0, slower=1.0, least=10_000)
    sent_back = sum("roll back" in verdicts(rule, traffic(seed, 600)) for seed in range(40))
    assert sent_back <= 4


@pytest.mark.parametrize("bad", [{"fails": 0.5}, {"slower": 4.0}])
def test_bad_weights_are_sent_back_soon(bad: dict[str, float]) -> None:
    for seed in range(5):
        found = verdicts(RULE, traffic(seed, 1500, **bad))
        assert "roll back" in found[:120]
        assert "go on" not in found[: found.index("roll back")]


def test_good_weights_go_on_when_enough_has_been_seen_and_not_before() -> None:
    for seed in range(5):
        found = verdicts(RULE, traffic(seed, 1000))
        assert set(found[:40]) == {"stay"}
        assert "go on" in found[40:]


def test_what_happens_to_both_at_once_is_held_against_neither() -> None:
    guards = Guards(RULE)
    for number in range(400):
        down = 100 <= number < 200
        guards.take(Trial("new" if number % 10 == 5 else "old", failed=down))
    assert guards.judgement().verdict != "roll back"


def test_weights_that_turn_bad_are_noticed_soon_where_they_answer_most_requests() -> None:
    guards = Guards(RULE)
    for number in range(4000):
        guards.take(Trial("old" if number % 10 == 5 else "new", failed=False))
    for number in range(1000):
        side: Side = "old" if number % 10 == 5 else "new"
        guards.take(Trial(side, failed=side == "new"))
    assert guards.judgement().verdict == "roll back"


def test_no_more_than_a_doubt_keeps_weights_where_they_are() -> None:
    guards = Guards(RolloutRule(model="student", least=20, canary=(0.1,)))
    for number in range(20):
        guards.take(Trial("old", failed=False))
        guards.take(Trial("new", failed=number % 7 == 6))
    judgement = guards.judgement()
    assert judgement.verdict == "stay"
    assert "fails more often, by 10.0 points of 20" in judgement.why


def test_a_stage_without_traffic_says_so_and_stays() -> None:
    judgement = Guards(RULE).judgement()
    assert (judgement.verdict, judgement.why) == ("stay", "0 of 50 requests have been compared")
    assert [it.quantity for it in judgement.findings] == list(QUANTITIES)


# -- what records show


def record(
    *attempts: AttemptRecord,
    model: str | None = "student",
    id: str = "1",
    route: str = "r",
    mirrors: str | None = None,
    config: str = "now",
    at_us: int = 0,
) -> Record:
    return Record(
        id=id,
        at_us=at_us,
        dialect="openai",
        operation="chat",
        route=route,
        stream=False,
        status=200,
        outcome="ok",
        model=model,
        mirrors=mirrors,
        attempts=attempts,
        timings=Timings(queue_ms=0, overhead_ms=0, first_token_ms=None, total_ms=5),
        config_hash=config,
    )


def attempt(
    model: str,
    outcome: Outcome = "ok",
    *,
    purpose: Purpose = "answer",
    fault: str | None = None,
    confidence: float | None = None,
) -> AttemptRecord:
    return AttemptRecord(
        number=1,
        model=model,
        provider="here",
        model_id=model,
        outcome=outcome,
        started_ms=0,
        total_ms=7,
        purpose=purpose,
        fault=fault,
        confidence=confidence,
    )


SHADOW = attempt(NAMES.new, purpose="shadow")
DRAFT = attempt("student", purpose="draft")
OK = Trial("old", failed=False, ms=7, escalated=False)


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (record(attempt("student")), [OK]),
        (record(attempt(NAMES.new), model=NAMES.new), [Trial("new", failed=False, ms=7, escalated=False)]),
        (record(DRAFT, attempt("strong"), model="strong"), [OK._replace(escalated=True)]),
        # Asked again after a failure: the first time counts.
        (
            record(attempt("student", "error", fault="upstream_error"), attempt("student")),
            [Trial("old", failed=True, escalated=False)],
        ),
        (record(attempt("student", "error", fault="timeout"), model=None), [Trial("old", failed=True)]),
        (record(SHADOW, mirrors="0", model=NAMES.new), [Trial("new", failed=False)]),
        # Neither the client's own fault nor its leaving says anything of a model.
        (record(attempt("student", "error", fault="invalid_request"), model=None), []),
        (record(attempt("student", "cancelled"), model=None), []),
        (record(attempt("student", purpose="judge"), attempt("strong"), model="strong"), []),
        (record(attempt("strong"), model="strong"), []),
        (record(attempt("student"), config="another"), []),
        (record(attempt("student"), route="pilot/student"), []),
    ],
)  # fmt: skip
def test_what_a_record_shows(told: Record, shown: list[Trial]) -> None:
    assert list(Trials(NAMES, "now").of(told)) == shown


def test_a_copy_that_is_refused_fails_where_the_old_version_has_answered() -> None:
    trials = Trials(NAMES, "now")
    refused = attempt(NAMES.new, "error", purpose="shadow", fault="context_too_long")
    limited = attempt(NAMES.new, "error", purpose="shadow", fault="rate_limited")
    assert list(trials.of(record(refused, mirrors="1", model=None))) == []
    for shadow, shown in ((refused, [Trial("new", failed=True)]), (limited, [])):
        list(trials.of(record(attempt("student"), id="1")))
        assert list(trials.of(record(shadow, mirrors="1", model=None))) == shown


def test_a_judge_is_heard_where_the_two_versions_were_held_against_each_other() -> None:
    trials, compared = Trials(NAMES, "now"), Trial("new", preference=0.5)
    judged = attempt(NAMES.new, purpose="shadow", confidence=0.5)

    def heard(of: str) -> bool:
        return compared in list(trials.of(record(judged, id="copy", mirrors=of, model=NAMES.new)))

    assert not heard("unknown")
    list(trials.of(record(attempt("student"), id="by the old one")))
    list(trials.of(record(DRAFT, attempt("strong"), id="by another", model="strong")))
    assert not heard("by another")
    assert heard("by the old one")


def test_what_was_recalled_is_not_heard_again() -> None:
    jury = Jury(turn(), NAMES, "now", RULE)
    past = [
        record(attempt(name), model=name, id=f"{number}", at_us=number)
        for number, name in enumerate(NAMES * 30)
    ]
    jury.recall(reversed(past))
    seen = jury.judgement()
    jury.hear(past)
    assert jury.judgement() == seen
    assert seen.findings[0].n == 30


# -- what an operator may do


@pytest.fixture
def config() -> Config:
    text = """
providers:
  builtin: {engine: builtin}
  elsewhere: {dialect: openai, base_url: "https://llm.example.com/v1", kind: closed}
models:
  student: {provider: builtin}
  embed: {provider: builtin, weights: all-minilm-l6-v2}
  far: {provider: elsewhere}
routes: {r: student, e: embed, f: far}
rollouts:
  - {model: student, canary: [0.1, 0.5]}
"""
    parsed = parse(text, "isthmus.yaml")
    assert parsed.config is not None, parsed.faults
    return parsed.config


def promote(config: Config, last: Turn | None, new: Version = NEW, stage: Stage | None = None) -> Turn:
    model = model_of(config, "student")
    return promoted(config, model, OLD, last, new, stage, why="", who="tester", at_us=2)


def test_a_rollout_begins_in_the_shadow_and_goes_through_the_shares(config: Config) -> None:
    rule = config.rule_of("student")
    stages = [(it := promote(config, None)).stage, it.share]
    assert stages == ["shadow", 1.0]
    assert rule.after("shadow", 1.0) == ("canary", 0.1)
    assert rule.after("canary", 0.1) == ("canary", 0.5)
    assert rule.after("canary", 0.5) == ("full", 1.0)
    # The rule has changed meanwhile: on from where the rollout is.
    assert rule.after("canary", 0.2) == ("canary", 0.5)
    assert RolloutRule(model="student", shadow=0, canary=()).first() == ("full", 1.0)


@pytest.mark.parametrize(
    ("last", "new", "stage", "code"),
    [
        (None, OLD, None, "already_promoted"),
        (turn("full", 1.0), NEW, None, "already_promoted"),
        (turn("canary"), NEW, None, "rollout_under_way"),
        (turn("canary"), OTHER, None, "rollout_under_way"),
        (turn("canary"), OTHER, "full", "rollout_under_way"),
        (turn("canary"), NEW, "shadow", "rollout_backwards"),
        (turn("canary"), NEW, "canary", "rollout_backwards"),
        # A gateway would go on with the engine that has the file open.
        (turn("full", 1.0), Version(NEW.weights, "d" * 64), None, "path_taken"),
    ],
)
def test_promotions_that_make_no_sense_are_refused(
    config: Config, last: Turn | None, new: Version, stage: Stage | None, code: str
) -> None:
    with pytest.raises(IsthmusError) as refused:
        promote(config, last, new, stage)
    assert refused.value.code == code
    assert refused.value.hint


def test_a_rollout_can_be_moved_on_and_begun_again_by_hand(config: Config) -> None:
    assert promote(config, turn("shadow"), stage="canary").share == 0.1
    assert promote(config, turn("canary"), stage="full").stage == "full"
    assert promote(config, turn("rolled back", 0.0)).old == OLD
    following = promote(config, turn("full", 1.0), OTHER)
    assert (following.ground, following.old, following.new) == (OLD, NEW, OTHER)
    # The config has other weights by now: the last rollout is no more than history.
    elsewhere = promoted(
        config, model_of(config, "student"), OTHER, turn("canary"), NEW, None, why="", who="", at_us=2
    )
    assert (elsewhere.ground, elsewhere.old) == (OTHER, OTHER)


def test_what_can_be_sent_back(config: Config) -> None:
    model = model_of(config, "student")
    for stage in ("shadow", "canary", "full"):
        back = rolled_back(model, OLD, turn(stage), "enough", who="tester", at_us=2)
        assert (back.stage, back.settled) == ("rolled back", OLD)
    for last in (None, turn("rolled back"), turn("canary", old=NEW, new=NEW)):
        with pytest.raises(IsthmusError) as refused:
            rolled_back(model, OLD if last is None else OTHER, last, "enough", who="tester", at_us=2)
        assert refused.value.code == "nothing_to_roll_back"


@pytest.mark.parametrize(
    ("name", "code"), [("studnt", "unknown_model"), ("embed", "not_promotable"), ("far", "not_promotable")]
)
def test_models_that_can_get_no_new_weights(config: Config, name: str, code: str) -> None:
    with pytest.raises(IsthmusError) as refused:
        model_of(config, name)
    assert refused.value.code == code


# -- weights that have changed


def test_a_file_is_read_again_only_when_it_looks_different(tmp_path: Path, config: Config) -> None:
    digests, file = Digests(), tmp_path / "a.gguf"

    model = msgspec.structs.replace(config.models["student"], weights=str(file))
    assert digests.remembered(model) is None
    file.write_bytes(b"one")
    first = digests.version(model)
    assert digests.remembered(model) == first
    file.write_bytes(b"another")
    assert digests.version(model) != first
    file.unlink()
    with pytest.raises(OSError, match="No such file"):
        digests.version(model)
    assert digests.remembered(model) is not None


def test_weights_that_are_gone_at_the_start_are_sent_back(tmp_path: Path, config: Config) -> None:
    file = tmp_path / "new.gguf"
    file.write_bytes(b"weights")

    own = Digests().version(config.models["student"])
    model = msgspec.structs.replace(config.models["student"], weights=str(file))
    new = Digests().version(model)
    store = MemoryRollouts()
    rolling = msgspec.structs.replace(turn("full", 1.0, own, new), ground=own)
    store.append(rolling, 0)
    assert first_standing(config, store, (), Digests(), 5).serving.models.keys() >= {f"student@{new.id}"}
    file.write_bytes(b"others")
    begun = first_standing(config, store, (), Digests(), 5)
    assert (begun.serving, begun.known) == (config, 1)
    assert [it.stage for it in store.history()] == ["full", "rolled back"]
    assert "the file has changed" in store.history()[-1].why


def test_without_a_ledger_the_config_serves_as_it_is(tmp_path: Path, config: Config) -> None:

    config = msgspec.structs.replace(
        config, ledger=msgspec.structs.replace(config.ledger, path=str(tmp_path / "ledger.db"))
    )
    assert in_service(config, None) is config
    schema.prepare(tmp_path / "ledger.db")
    own = Digests().version(config.models["student"])
    open_rollouts(config, None).append(turn("full", 1.0, own), 0)
    assert in_service(config, None).models.keys() == {"embed", "far"} | {f"student@{NEW.id}"}
    assert isinstance(open_rollouts(config, None), SqliteRollouts)


def test_what_only_another_server_can_read_is_not_verified(config: Config) -> None:

    model = msgspec.structs.replace(config.models["student"], version_of="student", weights="/on/the/server")
    verify(model, [turn(new=Version("/on/the/server"))], Digests())
