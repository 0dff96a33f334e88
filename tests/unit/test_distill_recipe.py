"""recipe.yaml: what it means, and how a wrong one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from isthmus.config.faults import Code, ConfigError
from isthmus.core.errors import IsthmusError
from isthmus.distill.recipe import ATTENTION, OnPolicy, Recipe, Training, hash_of, open_recipe

SHORT = "name: tickets\nstudent: qwen2.5-coder-0.5b-instruct\ndataset: golden.jsonl\n"


def _opened(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return open_recipe(path)


def test_a_short_recipe_has_defaults(tmp_path: Path) -> None:
    recipe = _opened(tmp_path, SHORT)
    assert recipe.train == Training()
    assert recipe.train.targets == ATTENTION


def test_a_whole_recipe_is_read(tmp_path: Path) -> None:
    recipe = _opened(
        tmp_path,
        SHORT
        + "train:\n  method: gkd\n  gkd: {teacher: teacher.gguf, share: 0.25}\n  learning_rate: 5e-4\n"
        + "  targets: [q_proj, down_proj]\n  limits: {time: 3600, memory_gb: 8}\n",
    )
    assert recipe.train.gkd == OnPolicy(teacher="teacher.gguf", share=0.25)
    assert recipe.train.learning_rate == 5e-4
    assert recipe.train.targets == ("q_proj", "down_proj")
    assert recipe.train.limits.time == 3600


@pytest.mark.parametrize(
    ("more", "code", "hint"),
    [
        ("train: {lerning_rate: 1e-4}\n", Code.UNKNOWN_KEY, "learning_rate"),
        ("trian: {}\n", Code.UNKNOWN_KEY, "train"),
        ("train: {epochs: 0}\n", Code.OUT_OF_RANGE, ""),
        ("train: {method: sfd}\n", Code.OUT_OF_RANGE, "sft"),
        ("train: {seed: many}\n", Code.WRONG_TYPE, ""),
        ("train: {learning_rate: .inf}\n", Code.WRONG_TYPE, ""),
    ],
)
def test_a_fault_of_form_has_its_line(tmp_path: Path, more: str, code: Code, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        _opened(tmp_path, SHORT + more)
    (fault,) = refused.value.faults
    assert (fault.code, fault.line) == (code, 4)
    assert hint in fault.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SHORT + "train: {method: gkd}\n", "`gkd`"),
        (SHORT + "train: {gkd: {teacher: a.gguf}}\n", "`gkd`"),
        (SHORT + "train: {targets: [q_proj, lm_head]}\n", "lm_head"),
        (SHORT + "train: {targets: [q_proj, q_proj]}\n", "once"),
        (SHORT + "train: {targets: []}\n", "at least one"),
        (SHORT + "train: {bits: 8}\n", "4 or 16"),
        (SHORT + "train: {bits: 4, device: cpu}\n", "GPU"),
        (SHORT + "train: {batch: 4, ray: {workers: 5}}\n", "5 workers for a `batch` of 4"),
        (SHORT + "train: {limits: {time: 9}, ray: {workers: 2}}\n", "`limits`"),
        (SHORT.replace("tickets", "../tickets"), "`name`"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(IsthmusError, match=said) as refused:
        _opened(tmp_path, text)
    assert refused.value.code == "bad_recipe"


def test_the_hash_is_of_what_is_meant(tmp_path: Path) -> None:
    recipe = _opened(tmp_path, SHORT)
    assert hash_of(recipe) == hash_of(_opened(tmp_path, "# a remark\n" + SHORT + "train: {rank: 8}\n"))
    assert hash_of(recipe) != hash_of(replace(recipe, train=replace(recipe.train, seed=1)))
