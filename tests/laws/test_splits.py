"""No near-duplicates are in two parts of a split, whatever the dataset: every pair is looked at."""

from __future__ import annotations

from itertools import combinations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from isthmus.core.evaluation import Sample
from isthmus.evals.datasets.dataset import Dataset, hash_of
from isthmus.evals.datasets.near_duplicates import grouped, near, pairs_of, text_of
from isthmus.evals.datasets.splits import split

# Few words make near-duplicates, also chains of them; the template is one that all samples share, if they do.
words = st.sampled_from(["der", "die", "das", "Hund", "Ο", "東京都", "3"])
bodies = st.lists(words, max_size=14).map(" ".join)
SHARES = {"train": 0.5, "dev": 0.2, "test": 0.3}


@st.composite
def many_texts(draw: st.DrawFn) -> list[str]:
    texts = draw(st.lists(bodies, min_size=1, max_size=12))
    template = draw(st.sampled_from(["", "Please say in one word what this is: "]))
    copies = draw(st.sampled_from([1, 1, 1, 6]))
    return [f"{template}{text} {'x' * copy}" for text in texts for copy in range(copies)]


def dataset_with(texts: list[str]) -> Dataset:
    samples = tuple(
        Sample(
            id=str(place),
            request={"messages": [{"role": "user", "content": text}]},
            metadata={"task": len(text) % 2},
        )
        for place, text in enumerate(texts)
    )
    return Dataset(name="d", samples=samples, hash=hash_of(samples))


@given(many_texts())
def test_exactly_the_near_duplicates_and_theirs_are_one_group(texts: list[str]) -> None:
    sets = pairs_of(texts)
    expected = list(range(len(texts)))
    for one, other in combinations(range(len(texts)), 2):
        if near(sets[one], sets[other]):
            low, high = sorted((expected[one], expected[other]))
            expected = [low if group == high else group for group in expected]
    assert grouped(texts) == expected


@given(many_texts(), st.integers(0, 9), st.sampled_from([None, "task"]))
def test_no_near_duplicates_are_in_two_parts_and_no_sample_is_lost(
    texts: list[str], seed: int, by: str | None
) -> None:
    dataset = dataset_with(texts)
    parts = split(dataset, SHARES, seed, by).parts
    assert sorted(it.id for part in parts.values() for it in part.samples) == sorted(
        map(str, range(len(texts)))
    )
    sets = dict(
        zip(map(str, range(len(texts))), pairs_of([text_of(it) for it in dataset.samples]), strict=True)
    )
    for one, other in combinations(parts.values(), 2):
        assert not any(near(sets[a.id], sets[b.id]) for a in one.samples for b in other.samples)


@given(many_texts(), st.randoms(), st.sampled_from([None, "task"]))
def test_the_order_of_samples_does_not_matter(texts: list[str], chance: object, by: str | None) -> None:
    dataset = dataset_with(texts)
    shuffled = list(dataset.samples)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    again = msgspec.structs.replace(dataset, samples=tuple(shuffled))
    parts, others = (split(it, SHARES, 0, by).parts for it in (dataset, again))
    assert {name: part.hash for name, part in parts.items()} == {name: it.hash for name, it in others.items()}


@given(many_texts(), bodies)
def test_a_later_sample_moves_none_but_its_own_near_duplicates(texts: list[str], text: str) -> None:
    # Below the number from which templates are told, what is compared does not depend on the others.
    texts = texts[:20]
    before, after = split(dataset_with(texts), SHARES), split(dataset_with([*texts, text]), SHARES)
    own = grouped([*texts, text])
    for name, part in before.parts.items():
        stayed = {sample.id for sample in after.parts[name].samples}
        moved = [int(sample.id) for sample in part.samples if sample.id not in stayed]
        assert all(own[place] == own[-1] for place in moved)
