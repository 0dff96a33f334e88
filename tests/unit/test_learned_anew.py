"""What routes go by where new weights answer: what was learned of those weights, and of nobody else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.config.artefacts import digest, speech
from isthmus.config.calibrations import tie_of
from isthmus.config.config import CalibrationFile, Config
from isthmus.config.digests import Digests
from isthmus.config.learned import learned_in
from isthmus.config.load import parse
from isthmus.config.nodes import nodes_in
from isthmus.config.rollouts import rolled
from isthmus.config.routers import tie_of as router_tie_of
from isthmus.core.calibrator import Calibrator
from isthmus.core.rollout import Recalibrated, Relearned, Stage, Turn, Version
from isthmus.evals.rollout.promotion import model_of, promoted
from isthmus.evals.rollout.steward import UnfitError
from isthmus.gateway.rollover import verify_learned
from isthmus.strategies.plan import Cascade, Choose, Node
from isthmus.strategies.plan.node import Calibrated, Learned

NEW, OTHER = (Version(f"/weights/{it}", it * 64) for it in "bc")
TURN = Turn(
    model="student",
    stage="full",
    share=0.5,
    ground=NEW,
    old=NEW,
    new=NEW,
    why="a test",
    who="tester",
    at_us=1,
)

LEARNED = """
providers:
  builtin: {engine: builtin}
  elsewhere: {dialect: openai, base_url: "https://llm.example.com/v1", kind: closed}
models:
  student: {provider: builtin}
  far: {provider: elsewhere}
routes:
  judged: {cascade: [student, far]}
  chosen: {choose: {from: [student, far], quality_at_least: 0.9}}
"""
CALIBRATOR = Calibrator(target="helps", bias=0.0, signals={}, labels=100)
FAR = f"student@{NEW.id}"


def learned() -> tuple[Config, Version]:
    """A config with a calibrated cascade and a learned choice, and the weights of its student."""
    parsed = parse(LEARNED, "isthmus.yaml")
    assert parsed.config is not None, parsed.faults
    config = parsed.config
    cascade, choose = config.routes["judged"].plan, config.routes["chosen"].plan
    assert isinstance(cascade, Cascade)
    assert isinstance(choose, Choose)
    judged = cascade.calibrated(Calibrated(file="c.json", sha256="c", calibrator=CALIBRATOR, threshold=0.5))
    chosen = msgspec.structs.replace(choose, by=Learned(file="r.router", sha256="r"))
    plans: dict[str, Node] = {"judged": judged, "chosen": chosen}
    routes = {name: msgspec.structs.replace(config.routes[name], plan=plan) for name, plan in plans.items()}
    ties = (
        tie_of("judged", cascade, config.models, config.providers),
        router_tie_of("chosen", choose, config.models, config.providers),
    )
    files = (
        CalibrationFile(route="judged", path="c.json", sha256="c", stale=False, tie=ties[0]),
        CalibrationFile(route="chosen", path="r.router", sha256="r", stale=False, tie=ties[1], kind="router"),
    )
    own = Digests().version(config.models["student"])
    return msgspec.structs.replace(config, routes=routes, calibrations=files), own


def rolling(config: Config, own: Version, stage: Stage) -> Turn:
    """A turn for which both was learned anew, of the new weights."""
    assert NEW.sha256 is not None
    judged, chosen = (it.tie for it in config.calibrations)
    assert judged is not None
    assert chosen is not None
    who = digest([NEW.sha256, speech(config.providers["builtin"])])
    more: dict[str, Any] = {"version": NEW.id, "asked_at_us": 1}
    return msgspec.structs.replace(
        TURN,
        stage=stage,
        ground=own,
        old=own,
        anew=(
            Recalibrated(
                route="judged",
                file="c2.json",
                sha256="c2",
                tie=msgspec.structs.replace(judged, models={**judged.models, "student": NEW.sha256}),
                calibrator=CALIBRATOR,
                threshold=0.7,
                **more,
            ),
            Relearned(
                route="chosen",
                file="r2.router",
                sha256="r2",
                tie=msgspec.structs.replace(chosen, models={**chosen.models, "student": who}),
                overall=(("far", 0.9), ("student", 0.8)),
                **more,
            ),
        ),
    )


def goes_by(config: Config) -> dict[str, tuple[str, ...]]:
    """Of all that is gone by, why it is stale."""
    return {it.sha256: it.stale for route in config.routes.values() for it in learned_in(route)}


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("shadow", {"c", "r"}),
        ("canary", {"c", "r", "c2", "r2"}),
        ("full", {"c2", "r2"}),
        ("rolled back", {"c", "r"}),
    ],
)
def test_each_version_goes_by_what_was_learned_of_it(stage: Stage, expected: set[str]) -> None:
    config, own = learned()
    after = rolled(config, [rolling(config, own, stage)], {"student": own})
    assert goes_by(after) == dict.fromkeys(expected, ())
    assert {it.sha256 for it in after.calibrations} == expected
    assert not any(after.stale_calibrations.values())
    if stage == "full":
        (by,) = [it.by for it in nodes_in(after.routes["chosen"].plan, Choose)]
        assert by is not None
        assert by.overall == (("far", 0.9), (FAR, 0.8))


def test_what_was_learned_anew_is_stale_where_something_else_has_changed() -> None:
    config, own = learned()
    full = rolling(config, own, "full")
    elsewhere = [
        msgspec.structs.replace(it, tie=msgspec.structs.replace(it.tie, models={**it.tie.models, "far": "x"}))
        for it in config.calibrations
        if it.tie is not None
    ]
    changed = msgspec.structs.replace(config, calibrations=tuple(elsewhere))
    after = rolled(changed, [full], {"student": own})
    assert goes_by(after) == dict.fromkeys(("c2", "r2"), ("far is another model than it was",))
    assert after.stale_calibrations == {("judged",): 1, ("chosen",): 1}
    for wrong in (
        msgspec.structs.replace(full, anew=()),
        msgspec.structs.replace(
            full, anew=tuple(msgspec.structs.replace(it, version=OTHER.id) for it in full.anew)
        ),
    ):
        nothing = rolled(config, [wrong], {"student": own})
        assert goes_by(nothing) == dict.fromkeys(("c", "r"), (f"{FAR} has other weights",))


def test_the_hash_tells_what_was_learned_anew() -> None:
    config, own = learned()
    full = rolling(config, own, "full")
    hashes = {
        rolled(config, [it], {"student": own}).hash for it in (full, msgspec.structs.replace(full, anew=()))
    }
    assert len(hashes) == 2


def test_the_next_rollout_keeps_what_judges_the_weights_in_force() -> None:
    config, own = learned()
    full = rolling(config, own, "full")
    following = promoted(config, model_of(config, "student"), own, full, OTHER, None, why="", who="", at_us=2)
    assert following.anew == full.anew
    back = msgspec.structs.replace(following, stage="rolled back")
    assert goes_by(rolled(config, [back], {"student": own})) == {"c2": (), "r2": ()}
    canary = msgspec.structs.replace(following, stage="canary", share=0.5)
    stale = (f"student@{OTHER.id} has other weights",)
    assert goes_by(rolled(config, [canary], {"student": own})) == {"c2": (), "r2": (), "c": stale, "r": stale}


def test_a_router_that_is_gone_sends_its_version_back(tmp_path: Path) -> None:
    config, own = learned()
    full = rolling(config, own, "full")
    there = tmp_path / "r2.router"
    there.write_bytes(b"a router")
    known = msgspec.structs.replace(
        full.anew[1], file=str(there), sha256=hashlib.sha256(b"a router").hexdigest()
    )
    with_file = msgspec.structs.replace(full, anew=(full.anew[0], known))
    verify_learned([with_file])
    there.write_bytes(b"another router")
    verify_learned([msgspec.structs.replace(with_file, stage="rolled back")])
    with pytest.raises(UnfitError, match="is not the one that was learned"):
        verify_learned([with_file])
    there.unlink()
    with pytest.raises(UnfitError, match="is not the one that was learned"):
        verify_learned([with_file])
