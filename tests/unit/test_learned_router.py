"""The learned router: what it sees, what it learns, when it says that it does not know, and its file."""

from __future__ import annotations

import hashlib
import json
from io import BytesIO

import msgspec
import numpy as np
import pytest

from isthmus.core.errors import IsthmusError
from isthmus.core.foresight import Outlook
from isthmus.core.tie import Tie
from isthmus.routing.learned.choice import best_within, cheapest_above
from isthmus.routing.learned.embedding import Embedding
from isthmus.routing.learned.features import LOOKED_AT, _counts, buckets, words_of
from isthmus.routing.learned.file import dump, load
from isthmus.routing.learned.header import Origin, joined, parted
from isthmus.routing.learned.parts import TaskMeans, Words, _ridge_dual
from isthmus.routing.learned.predictor import Predictor
from isthmus.routing.learned.query import Outcomes, Query, query_of
from isthmus.routing.learned.stack import FEWEST_ROWS, Stack, learn

MODELS = ("small", "large")
ORIGIN = Origin(
    tie=Tie(route="r", models={}, template="", config=""), made_at_us=1, outputs={"small": 20, "large": 50}
)
EASY = ("add two and two", "name a colour", "say hello to the cat", "spell the word tree")
HARD = ("prove the theorem of fermat", "derive the field equations", "factor the polynomial over rings")


@pytest.fixture(scope="module")
def embedding() -> Embedding:
    """A table of one vector for each letter, and for a word as a whole."""
    tokens = {"\u2581": 0, **{letter: at for at, letter in enumerate("abcdefghijklmnopqrstuvwxyz", 1)}}
    tokens["\u2581prove"] = 27
    table = np.random.default_rng(0).normal(size=(28, 8)).astype(np.float16)
    header = {"embedding.weight": {"dtype": "F16", "shape": [28, 8], "data_offsets": [0, table.nbytes]}}
    encoded = json.dumps(header).encode()
    content = len(encoded).to_bytes(8, "little") + encoded + table.tobytes()
    return Embedding(content, json.dumps({"model": {"vocab": tokens}}).encode(), "hash")


def _outcomes(many: int, embedding: Embedding | None, *, named: bool = True) -> Outcomes:
    """The small model is right about easy texts alone, the large one about nearly all."""
    rng = np.random.default_rng(5)
    queries, scores = [], []
    for at in range(many):
        hard = at % 2
        text = f"{(HARD if hard else EASY)[at % 3]} number {rng.integers(100)}"
        queries.append(query_of(text, ("hard" if hard else "easy") if named else None, embedding))
        scores.append([float(rng.random() < (0.1 if hard else 0.95)), float(rng.random() < 0.9)])
    return Outcomes(MODELS, queries, np.array(scores))


@pytest.fixture(scope="module")
def stack(embedding: Embedding) -> Stack:
    return learn(_outcomes(400, embedding), np.random.default_rng(0), embedding.sha256)


def test_features_are_finite_for_any_text_and_look_at_its_beginning_alone() -> None:
    for text in ("", " ", "\ud800 \x00", "a" * 100_000, "1?\n" * 9):
        seen = query_of(text, None, None)
        assert np.isfinite(seen.surface).all()
        assert len(seen.surface) == 11
        assert (np.diff(seen.words) > 0).all()
    one, two = (query_of("ab " * times * LOOKED_AT, None, None) for times in (1, 2))
    assert (one.surface == two.surface).all()
    assert (buckets(words_of("Two words")) == buckets(words_of("two, WORDS!"))).all()
    assert not np.array_equal(buckets([b"two", b"words"]), buckets([b"words", b"two"]))


@pytest.mark.parametrize("text", ["A b_C 1, 2;\x00\x1f\n? (Z)", "", "...", "x" * 50])
def test_ascii_is_counted_as_any_other_text_is(text: str) -> None:
    # A letter beyond ASCII takes the other way, and adds itself alone.
    quick, slow = _counts(text), _counts(text + "\u4e2d")
    assert slow == (*quick[:3], 1)


def test_an_embedding_takes_the_longest_tokens_and_has_length_one(embedding: Embedding) -> None:
    assert np.linalg.norm(embedding.embed("prove it")) == pytest.approx(1)
    assert not np.allclose(embedding.embed("prove"), embedding.embed("p rove"))
    assert (embedding.embed("\u4e2d") == embedding.embed("")).all()


@pytest.mark.parametrize(
    ("table", "tokens"), [(b"", b"{}"), (b"\xff" * 20, b"{}"), (b"\x02" + b"\0" * 7 + b"{}", b"1")]
)
def test_what_is_no_embedding_is_refused(table: bytes, tokens: bytes) -> None:
    with pytest.raises(IsthmusError) as refusal:
        Embedding(table, tokens, "")
    assert refusal.value.code == "bad_embedding"


def test_conjugate_gradients_solve_what_they_are_given() -> None:
    from scipy import sparse

    rng = np.random.default_rng(0)
    rows = sparse.random(60, 300, 0.1, format="csr", random_state=rng)
    targets = rng.normal(size=(60, 3))
    exact = np.linalg.solve((rows @ rows.T).toarray() + 3 * np.eye(60), targets)
    assert np.allclose(_ridge_dual(rows, targets, 3.0), exact, atol=1e-3)


def test_a_task_of_few_rows_is_drawn_to_the_mean_of_all() -> None:
    rng = np.random.default_rng(0)
    tasks = ["a"] * 200 + ["b"] * 200 + ["c"] * 2
    targets = np.concatenate((rng.normal(0, 1, 200), rng.normal(1, 1, 200), [5.0, 5.0]))[:, None]
    found = TaskMeans.fit([_named(task) for task in tasks], targets)
    a, b, c, new = found.predict([_named(it) for it in ("a", "b", "c", "new")])[:, 0]
    assert abs(a - targets[:200].mean()) < 0.05
    assert abs(b - targets[200:400].mean()) < 0.05
    assert new == pytest.approx(targets.mean())
    assert new < c < 4.9


def test_one_task_alone_says_what_all_say() -> None:
    found = TaskMeans.fit([_named("a")] * 5, np.arange(5.0)[:, None])
    assert found.predict([_named("a"), _named("b")]).tolist() == [[2.0], [2.0]]


def _named(task: str) -> Query:
    return Query(task, np.zeros(11, np.float32), np.zeros(0, np.intp), None)


def test_texts_that_a_model_fails_at_are_told_from_the_others(stack: Stack, embedding: Embedding) -> None:
    assert stack.models[stack.best] == "large"
    easy = stack.estimate(query_of("name a colour number 7", "easy", embedding))
    hard = stack.estimate(query_of("prove the theorem of fermat number 7", "hard", embedding))
    assert easy.supported
    assert hard.supported
    assert easy.qualities[0] > 0.8
    assert hard.qualities[0] < 0.3
    assert hard.qualities[1] > 0.8


@pytest.mark.parametrize("named", [True, False])
def test_without_an_embedding_it_works_by_words_alone(named: bool) -> None:
    stack = learn(_outcomes(400, None, named=named), np.random.default_rng(0))
    task = "hard" if named else None
    assert stack.estimate(query_of("derive the field equations number 3", task, None)).qualities[0] < 0.3
    unknown = stack.estimate(query_of("zyx wvu", None, None))
    assert not unknown.supported
    assert "like nothing" in unknown.why


def test_a_new_task_is_not_guessed_at(stack: Stack, embedding: Embedding) -> None:
    found = stack.estimate(query_of("name a colour number 7", "poems", embedding))
    assert not found.supported
    assert "none of those" in found.why
    assert found.qualities == pytest.approx(tuple(stack.overall))


def test_another_task_is_new_also_where_one_alone_was_learned_from() -> None:
    outcomes = _outcomes(200, None)
    queries = [query._replace(task="only") for query in outcomes.queries]
    stack = learn(outcomes._replace(queries=queries), np.random.default_rng(0))
    assert stack.estimate(queries[0]).supported
    assert not stack.estimate(queries[0]._replace(task="other")).supported


def test_texts_of_tasks_that_were_held_out_are_not_trusted_where_that_lost() -> None:
    # In each task other words go with failing, so that what is learned from some is wrong for the rest.
    rng = np.random.default_rng(0)
    queries, scores = [], []
    for at in range(1_000):
        task, word = at % 5, int(rng.integers(5))
        queries.append(query_of(f"word{word} word{word} of it", f"t{task}", None))
        scores.append([float(word == task), 0.45])
    stack = learn(Outcomes(MODELS, queries, np.array(scores)), rng)
    qualities, _ = stack.estimates([query._replace(task=None) for query in queries])
    taken = qualities.argmax(1)
    assert np.array(scores)[np.arange(1_000), taken].mean() >= 0.45 - 0.0025


def test_too_few_rows_are_refused(embedding: Embedding) -> None:
    with pytest.raises(IsthmusError) as refusal:
        learn(_outcomes(FEWEST_ROWS - 1, embedding), np.random.default_rng(0))
    assert refusal.value.code == "too_few_outcomes"


def test_a_file_gives_the_same_decisions(stack: Stack, embedding: Embedding) -> None:
    again = load(dump(stack, ORIGIN))
    queries = _outcomes(50, embedding).queries
    assert np.allclose(again.estimates(queries)[0], stack.estimates(queries)[0], atol=1e-5)
    assert (again.estimates(queries)[1] == stack.estimates(queries)[1]).all()
    assert again.embedding == "hash"
    assert again.models == MODELS


@pytest.mark.parametrize("harm", ["cut", "changed", "empty", "text", "longer"])
def test_a_file_that_is_not_whole_is_refused(stack: Stack, harm: str) -> None:
    content = dump(stack, ORIGIN)
    harmed = {
        "cut": content[:-10],
        "changed": content[:-200] + bytes([content[-200] ^ 1]) + content[-199:],
        "empty": b"",
        "text": b"not a router",
        "longer": content + b"x",
    }[harm]
    with pytest.raises(IsthmusError) as refusal:
        load(harmed)
    assert refusal.value.code == "bad_router"


def test_the_share_of_known_words() -> None:
    words = Words.fit([query_of("one two three", None, None)] * 3, np.zeros((3, 1)))
    assert words.known(
        [query_of(it, None, None) for it in ("one two three", "one", "four", "")]
    ).tolist() == [
        1,
        1,
        0,
        0,
    ]


def test_the_cheapest_above_a_floor_and_the_best_under_a_price() -> None:
    qualities = np.array([[0.9, 0.95, 0.5], [0.5, 0.6, 0.4]])
    assert cheapest_above(qualities, (2, 3, 1), 0.8).tolist() == [0, 1]
    assert best_within(qualities, (2, 3, 1), 2).tolist() == [0, 0]
    assert best_within(qualities, (2, 3, 1), 0.5).tolist() == [2, 2]


def test_a_predictor_foresees_by_its_file_and_rounds(stack: Stack, embedding: Embedding) -> None:
    predictor = Predictor(dump(stack, ORIGIN), "sha", embedding)
    seen = predictor.foresee("name a colour number 7", "easy", 1234, 9)
    assert (seen.by, seen.supported, seen.input, seen.max_output) == ("sha", True, 1200, 9)
    assert [it.model for it in seen.outlooks] == ["small", "large"]
    assert [it.output for it in seen.outlooks] == [20, 50]
    assert all(it.quality == round(it.quality, 2) and it.nanousd is None for it in seen.outlooks)
    wordless = predictor.foresee(None, None, 10)
    assert (wordless.supported, wordless.why) == (False, "it has no words to go by")
    assert wordless.outlooks[1] == Outlook("large", round(float(stack.overall[1]), 2), 50)


def test_a_predictor_wants_the_vectors_that_its_file_was_learned_with(
    stack: Stack, embedding: Embedding
) -> None:
    with pytest.raises(IsthmusError):
        Predictor(dump(stack, ORIGIN), "sha", None)
    with pytest.raises(IsthmusError):
        Predictor(dump(stack._replace(embedding="another"), ORIGIN), "sha", embedding)


def test_arrays_that_do_not_go_together_are_refused_when_they_are_read(
    stack: Stack, embedding: Embedding
) -> None:
    narrow = stack._replace(by_text=stack.by_text._replace(mean=np.zeros(7)))
    with pytest.raises(IsthmusError) as refusal:
        Predictor(dump(narrow, ORIGIN), "sha", embedding)
    assert refusal.value.code == "bad_router"


def test_a_header_counts_its_models_alike(stack: Stack) -> None:
    header, arrays = parted(dump(stack, ORIGIN))
    for changes in ({"overall": (0.5,)}, {"best": 2}, {"version": 1}):
        with pytest.raises(IsthmusError):
            parted(joined(msgspec.structs.replace(header, **changes), arrays))


def test_an_archive_that_grows_or_holds_no_numbers_is_refused(stack: Stack) -> None:
    header, _ = parted(dump(stack, ORIGIN))
    packed, broken = BytesIO(), BytesIO()
    np.savez_compressed(packed, overall=np.zeros(1000))
    np.savez(broken, overall=np.array([np.nan]))
    for body in (packed.getvalue(), broken.getvalue()):
        lying = msgspec.structs.replace(header, sha256=hashlib.sha256(body).hexdigest())
        with pytest.raises(IsthmusError) as refusal:
            load(joined(lying, body))
        assert refusal.value.code == "bad_router"
        assert str(refusal.value.__cause__) in (
            "compressed: `dump` writes none that are",
            "a number is none",
        )


def test_the_file_holds_no_words_of_its_samples(stack: Stack) -> None:
    content = dump(stack, ORIGIN).lower()
    assert not [word for word in (b"theorem", b"colour", b"fermat", b"polynomial") if word in content]
