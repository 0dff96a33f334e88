"""What every store of rollouts promises."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from isthmus.core.errors import IsthmusError
from isthmus.core.rollout import Stage, Turn, Version
from isthmus.store import schema
from isthmus.store.memory import MemoryRollouts
from isthmus.store.rollouts import Rollouts, SqliteRollouts

OLD, NEW = Version("/weights/old", "a" * 64), Version("/weights/new", "b" * 64)


@pytest.fixture(params=["memory", "sqlite"])
def rollouts(request: pytest.FixtureRequest, tmp_path: Path) -> Rollouts:
    if request.param == "memory":
        return MemoryRollouts()
    schema.prepare(tmp_path / "ledger.db")
    return SqliteRollouts(tmp_path / "ledger.db")


def turn(model: str = "student", stage: Stage = "shadow") -> Turn:
    return Turn(
        model=model,
        stage=stage,
        share=1.0,
        ground=OLD,
        old=OLD,
        new=NEW,
        why="a test",
        who="tester",
        at_us=1,
    )


def test_the_last_turn_of_each_model_is_in_force(rollouts: Rollouts) -> None:
    first = rollouts.append(turn(), 0)
    other = rollouts.append(turn("other"), 0)
    second = rollouts.append(turn(stage="canary"), first.number)
    assert [it.number for it in (first, other, second)] == [1, 2, 3]
    assert list(rollouts.current()) == [other, second]
    assert second == msgspec.structs.replace(turn(stage="canary"), number=3)


def test_every_turn_is_kept(rollouts: Rollouts) -> None:
    first = rollouts.append(turn(), 0)
    second = rollouts.append(turn(stage="rolled back"), first.number)
    other = rollouts.append(turn("other"), 0)
    assert list(rollouts.history()) == [first, second, other]
    assert list(rollouts.history("student")) == [first, second]
    assert list(rollouts.history("unknown")) == []


def test_of_two_who_decide_at_once_one_is_refused_and_nothing_of_it_is_kept(rollouts: Rollouts) -> None:
    first = rollouts.append(turn(), 0)
    with pytest.raises(IsthmusError) as refused:
        rollouts.append(turn(stage="full"), 0)
    assert refused.value.code == "rollout_changed"
    rollouts.append(turn(stage="canary"), first.number)
    with pytest.raises(IsthmusError):
        rollouts.append(turn(stage="rolled back"), first.number)
    assert [it.stage for it in rollouts.history()] == ["shadow", "canary"]


def test_there_are_none_at_first(rollouts: Rollouts) -> None:
    assert list(rollouts.current()) == []
    assert list(rollouts.history()) == []
