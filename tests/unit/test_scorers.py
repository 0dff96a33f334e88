"""Scorers by example: how they are written, and what they say of answers as models give them."""

from __future__ import annotations

import pytest

from isthmus.core.errors import IsthmusError
from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.evals.scorers import SCORERS, scorer_of
from isthmus.evals.scorers.choice import chosen

CITIES = ("London", "Paris", "Rome", "Madrid")


def sample(*target: str, choices: tuple[str, ...] = ()) -> Sample:
    return Sample(
        id="1", request={"messages": [{"role": "user", "content": "?"}]}, target=target, choices=choices
    )


def answered(text: str) -> Answered:
    return Answered(model="small", text=text, message={"role": "assistant", "content": text})


async def score(spec: str, text: str, *target: str, choices: tuple[str, ...] = ()) -> Score:
    return await scorer_of(spec).score(sample(*target, choices=choices), answered(text))


# How they are written


@pytest.mark.parametrize(
    ("spec", "code", "says"),
    [
        ("exat", "unknown_scorer", "Did you mean `exact`?"),
        ("", "unknown_scorer", "Known are: "),
        ("exact:loudly=true", "invalid_scorer", "no option `loudly`. It takes none."),
        ("contains:ned=all", "invalid_scorer", "Did you mean `need`?"),
        ("contains:need=some", "invalid_scorer", "`need=some`"),
        ("contains:need", "invalid_scorer", "has no value"),
        ("contains:need=any,need=all", "invalid_scorer", "said twice"),
        ("contains:case=perhaps", "invalid_scorer", "`case=perhaps`"),
    ],
)
def test_a_spec_that_is_wrong_is_refused_in_words(spec: str, code: str, says: str) -> None:
    with pytest.raises(IsthmusError) as refused:
        scorer_of(spec)
    assert refused.value.code == code
    assert says in refused.value.text


def test_a_scorer_is_named_as_it_was_written() -> None:
    assert scorer_of("contains:need=all").name == "contains:need=all"


@pytest.mark.parametrize("spec", ["exact", "normalised", "contains", "choice"])
async def test_what_failed_has_no_value_rather_than_the_worst(spec: str) -> None:
    failed = Answered(model="small", code="no_model_allowed", error="It may not see this.")
    told = await scorer_of(spec).score(sample("Paris"), failed)
    assert told.value is None
    assert told.why == "there is no answer: no_model_allowed"


@pytest.mark.parametrize("spec", ["exact", "normalised", "contains", "choice"])
async def test_without_a_target_nobody_can_say(spec: str) -> None:
    assert (await score(spec, "Paris")).value is None
    assert (await score(spec, "Paris", " ")).value is None


# Words


@pytest.mark.parametrize(
    ("spec", "text", "target", "value"),
    [
        ("exact", " Paris\n", "Paris", 1),
        ("exact", "paris", "Paris", 0),
        ("exact", "<think>\nRome? No.\n</think>\n\nParis", "Paris", 1),
        ("exact", "<think>Paris", "Paris", 0),
        ("normalised", "The  Eiffel tower!", "eiffel Tower", 1),
        ("normalised", "Straße", "STRASSE", 1),
        ("normalised", "“Ünder” the ﬁg", "ünder fig", 1),
        ("normalised", "the", "A", 0),
        ("normalised", "?", "!", 0),
        ("normalised", "Eiffel towers", "Eiffel tower", 0),
        ("contains", "It is Paris, of course.", "Paris", 1),
        ("contains", "It is paris.", "Paris", 0),
        ("contains:case=false", "It is paris.", "Paris", 1),
    ],
)
async def test_words_are_compared(spec: str, text: str, target: str, value: float) -> None:
    assert (await score(spec, text, target)).value == value


@pytest.mark.parametrize("spec", ["exact", "normalised", "contains", "choice"])
async def test_any_of_the_targets_will_do(spec: str) -> None:
    assert (await score(spec, "Paris", "London", "Paris", choices=CITIES)).value == 1


async def test_contains_says_what_is_missing() -> None:
    told = await score("contains:need=all", "Paris and Rome", "Paris", "London", "", "Oslo")
    assert told.value == 0
    assert told.why == "not in the answer: 'London', 'Oslo'"


# Multiple choice


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("**B**", "B"),
        ("B.", "B"),
        ("B) Paris", "B"),
        ("(b) paris.", "B"),
        ("Paris", "B"),
        ("**Paris.**", "B"),
        ("Answer: B", "B"),
        ("Answer:\n\nB", "B"),
        ("answer = (b)", "B"),
        ("The answer is (B).", "B"),
        ("The correct answer is: **B) Paris**", "B"),
        ("The answer is Paris.", "B"),
        ("The answer is Paris, because it is the capital.", "B"),
        ("The answer is option B since Rome is in Italy.", "B"),
        ("The best choice would be B", "B"),
        ("The answer is A because of that.", "A"),
        ("B is the correct answer.", "B"),
        (r"So we get $\boxed{\text{B}}$", "B"),
        (r"\boxed{Paris}", "B"),
        ('{"answer": "B"}', "B"),
        ("<answer>B</answer>\nA) is far away.", "B"),
        ("A) London\nB) Paris\nC) Rome\nD) Madrid\n\nAnswer: C", "C"),
        ("Answer: A. But wait: Rome has more hills.\nAnswer: C", "C"),
        ("Answer: B. A is wrong.", "B"),
        ("Answer: B and not C", "B"),
        ("B\n\nIt has been the capital since 987.", "B"),
        ("It has been the capital since 987.\n\nB", "B"),
        # Nothing is chosen here.
        ("", None),
        ("A good question! Many cities are large.", None),
        ("Answer: a good question that I cannot answer", None),
        ("I think so", None),
        ("A) London\nB) Paris\nC) Rome\nD) Madrid", None),
        ("Answer: A or B", None),
        ("Answer: A, B", None),
        ("Answer: A/B", None),
        ("The answer is B, or maybe C.", None),
        ("The answer is both A and B", None),
        ("The answer is not B", None),
        ("I don't think the answer is B", None),
        ("It is not Paris.", None),
        ("London, Paris, Rome and Madrid are all cities.", None),
        ("B\n\nC", None),
        ("B) Rome", None),
        ("Answer: E", None),
        ("Answer: Berlin", None),
        ("Answer: (B) Rome", None),
        (r"\boxed{A, B}", None),
        ("I can't help with that.", None),
    ],
)
def test_an_option_is_chosen_or_nothing_is(text: str, letter: str | None) -> None:
    assert chosen(text, CITIES) == letter


def test_options_that_begin_alike_are_told_apart() -> None:
    assert chosen("The answer is 3.5", ("3", "3.5", "35")) == "B"
    assert chosen("The answer is 2,000 because", ("2", "2,000")) == "B"


@pytest.mark.parametrize("target", ["B", "(B)", "b.", "Paris", "paris"])
async def test_the_target_is_a_letter_or_a_text(target: str) -> None:
    told = await score("choice", "The answer is B.", target, choices=CITIES)
    assert (told.value, told.said) == (1, "B")


async def test_letters_alone_do_without_the_choices() -> None:
    assert (await score("choice", "(D)", "D")).value == 1
    assert (await score("choice", "D is a letter", "D")).value == 0


async def test_a_target_that_is_no_choice_is_a_fault_of_the_sample() -> None:
    told = await score("choice", "B", "Berlin", choices=CITIES)
    assert told.value is None
    assert "neither a letter nor one of the choices" in (told.why or "")


def test_every_scorer_says_in_one_line_what_it_is() -> None:
    for kind in SCORERS.values():
        first = (kind.__doc__ or "").splitlines()[0]
        assert first.endswith((".", ";")), kind
