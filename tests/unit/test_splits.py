"""Near-duplicates and splits, by example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from isthmus.core.errors import IsthmusError
from isthmus.core.evaluation import Sample
from isthmus.evals.datasets.dataset import Dataset, hash_of
from isthmus.evals.datasets.near_duplicates import LEAST_FOR_TEMPLATE, grouped, text_of
from isthmus.evals.datasets.splits import split

QUESTION = "How many apples has Tom if he buys three and eats one of them on his way home?"


def sample(number: int, text: str, **metadata: Any) -> Sample:
    messages = [{"role": "user", "content": text}]
    return Sample(id=str(number), request={"messages": messages}, metadata=metadata)


def dataset(samples: Sequence[Sample]) -> Dataset:
    return Dataset(name="d", samples=tuple(samples), hash=hash_of(samples))


@pytest.mark.parametrize(
    ("other", "together"),
    [
        (QUESTION.upper().replace("?", " !"), True),
        (QUESTION.replace("three", "four"), True),
        (QUESTION.replace("How many", "Ｈｏｗ many"), True),
        (
            f"{QUESTION} Think step by step, and give the number alone in the last line of what you write.",
            True,
        ),
        (QUESTION.replace("apples", "pears").replace("Tom", "Ann").replace("one", "two"), False),
        ("How many apples has Tom?", False),
        ("", False),
    ],
)
def test_what_is_nearly_the_same(other: str, *, together: bool) -> None:
    assert (len(set(grouped([QUESTION, other]))) == 1) is together


def test_short_questions_with_one_other_word_are_two_questions() -> None:
    assert grouped(["What is the capital of France?", "What is the capital of Spain?"]) == [0, 1]


def test_signs_count_and_punctuation_does_not() -> None:
    assert grouped(["2 + 2", "2 * 2", "2 + 2!", "😀", "😢", "(state-of-the-art)", "State of the art."]) == [
        *(0, 1, 0),
        *(3, 4),
        *(5, 5),
    ]


def test_scripts_without_spaces_are_compared_by_letters() -> None:
    one = "東京から京都まで新幹線でどのくらい時間がかかりますか"
    assert grouped([one, one.replace("京都", "大阪"), "昨日の夕食は何を食べましたか"]) == [0, 0, 2]


def test_a_template_does_not_make_near_duplicates() -> None:
    template = "Classify this review as positive or negative, and say one word only, no more. " * 2
    bodies = [f"n{number} m{number} o{number}" for number in range(LEAST_FOR_TEMPLATE)]
    texts = [template + body for body in [*bodies, bodies[0]]]
    assert grouped(texts) == [*range(len(bodies)), 0]
    assert len(set(grouped(texts[: LEAST_FOR_TEMPLATE - 2]))) == 1


def test_what_the_system_says_is_not_compared_and_pictures_are() -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "See"}, picture]},
    ]
    text = text_of(Sample(id="1", request={"messages": turns}))
    assert "brief" not in text
    assert "See" in text
    assert "a.png" in text


def test_parts_have_about_their_shares_and_strata_exactly() -> None:
    samples = [sample(n, f"a{n} b{n} c{n}", task="rare" if n % 20 == 0 else "common") for n in range(1000)]
    free = split(dataset(samples), {"train": 3, "test": 1}).parts
    assert 700 < len(free["train"].samples) < 800
    exact = split(dataset(samples), {"train": 3, "test": 1}, by="task").parts
    counts = {name: Counter(it.metadata["task"] for it in part.samples) for name, part in exact.items()}
    assert counts["test"] == {"rare": pytest.approx(12, abs=1), "common": pytest.approx(238, abs=1)}


def test_another_seed_draws_anew() -> None:
    samples = [sample(n, f"a{n} b{n} c{n}") for n in range(50)]
    first, same, other = (
        split(dataset(samples), {"a": 1, "b": 1}, seed).parts["a"].hash for seed in (1, 1, 2)
    )
    assert first == same != other


@pytest.mark.parametrize(
    "shares", [{}, {"train": 0.0}, {"train": -1.0, "test": 2.0}, {"train": float("nan")}]
)
def test_shares_that_are_none_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(IsthmusError) as caught:
        split(dataset([sample(1, "x")]), shares)
    assert caught.value.code == "bad_split"


def test_a_field_that_no_sample_has_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(IsthmusError, match="No sample has `taks`") as caught:
        split(dataset([sample(1, "x", task="t")]), {"a": 1}, by="taks")
    assert "task" in caught.value.hint
