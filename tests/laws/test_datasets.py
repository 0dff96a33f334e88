"""What holds of any dataset: a sample survives its line, and a hash tells content alone."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from isthmus.core.errors import IsthmusError
from isthmus.core.evaluation import Sample
from isthmus.core.label import LEVELS, Label
from isthmus.core.promises import Promises
from isthmus.evals.datasets import open_dataset
from isthmus.evals.datasets.dataset import hash_of
from isthmus.evals.datasets.samples import LETTERS, line_of, read

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
turns = st.builds(
    lambda role, content: {"role": role, "content": content}, st.sampled_from(["system", "user"]), texts
)
labels = st.builds(
    Label,
    st.sampled_from(LEVELS),
    st.frozensets(texts, max_size=2),
    st.none() | st.frozensets(texts, max_size=2),
    st.builds(Promises, no_training=st.booleans(), retention_days=st.none() | st.integers(0, 400)),
)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    choices = draw(st.just(()) | st.lists(texts, min_size=2, max_size=4, unique=True).map(tuple))
    answers: Any = st.sampled_from([*LETTERS[: len(choices)], *choices]) if choices else texts
    return Sample(
        id=draw(texts),
        request={
            "messages": draw(st.lists(turns, min_size=1, max_size=3)),
            **draw(st.fixed_dictionaries({}, optional={"temperature": st.floats(0, 2), "own": data})),
        },
        target=tuple(draw(st.lists(answers, max_size=2))),
        choices=choices,
        label=draw(labels),
        metadata=draw(st.dictionaries(texts, data, max_size=3)),
    )


def without_nulls(sample: Sample) -> Sample:
    request = {name: value for name, value in sample.request.items() if value is not None}
    return msgspec.structs.replace(sample, request=request)


@given(samples())
def test_a_sample_that_is_written_is_read_as_it_was(sample: Sample) -> None:
    line = line_of(sample)
    again = read(msgspec.json.decode(line), "here", Counter())
    assert again == without_nulls(sample)
    assert line.count(b"\n") == 1


@given(st.lists(samples(), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_a_hash_does_not_know_the_order_of_samples_or_keys(some: list[Sample], chance: Any) -> None:
    shuffled = [_with_keys_shuffled(sample, chance) for sample in some]
    chance.shuffle(shuffled)
    assert hash_of(shuffled) == hash_of(some)


@given(samples(), texts)
def test_a_hash_knows_every_field(sample: Sample, text: str) -> None:
    others = [
        msgspec.structs.replace(sample, id=sample.id + text),
        msgspec.structs.replace(sample, request={**sample.request, "user": text}),
        msgspec.structs.replace(sample, target=(*sample.target, text)),
        msgspec.structs.replace(sample, choices=(*sample.choices, text)),
        msgspec.structs.replace(
            sample, label=sample.label.join(Label(categories=frozenset({text + "!" * 21})))
        ),
        msgspec.structs.replace(sample, metadata={**sample.metadata, "own": [text, sample.metadata]}),
    ]
    assert len({hash_of([one]) for one in (sample, *others)}) == 1 + len(others)


FORMS: dict[str, list[str]] = {
    "own": ["input", "request", "target", "choices", "id", "label", "metadata"],
    "foreign": ["messages", "ideal", "item", "sample", "prompt", "completion", "tools", "input"],
    "preference": ["input", "preferred_output", "non_preferred_output"],
    "inspect": ["eval", "samples", "epoch", "output", "sandbox", "input", "choices"],
    "promptfoo": ["prompts", "tests", "defaultTest", "vars", "assert", "metadata"],
}
likely = st.recursive(
    data | st.sampled_from([{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}, "{{x}}"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.one_of(
            *(st.dictionaries(st.sampled_from([*names, "x"]), inner, max_size=4) for names in FORMS.values())
        )
    ),
    max_leaves=8,
)


@given(
    st.lists(likely, max_size=3), st.sampled_from([".jsonl", ".json", ".yaml", ".csv", ".txt"]), st.booleans()
)
def test_whatever_stands_in_a_file_it_is_opened_or_refused_in_words(
    values: list[Any], suffix: str, whole: bool
) -> None:
    lines = [msgspec.json.encode(value) for value in values]
    document = msgspec.json.encode(values[0] if len(values) == 1 else values)
    content = document if whole else b"\n".join(lines)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        path.write_bytes(content)
        refused = refusal(path)
        assert refused is None or (refused.code == "bad_dataset" and path.name in refused.message)


def refusal(path: Path) -> IsthmusError | None:
    try:
        assert open_dataset(path).samples
    except IsthmusError as error:
        return error
    return None


def _with_keys_shuffled(sample: Sample, chance: Any) -> Sample:
    return msgspec.structs.replace(
        sample,
        request=_shuffled(sample.request, chance),
        metadata=_shuffled(sample.metadata, chance),
    )


def _shuffled(value: dict[str, Any], chance: Any) -> dict[str, Any]:
    items = list(value.items())
    chance.shuffle(items)
    return dict(items)
