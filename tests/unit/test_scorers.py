"""Scorers by example: how they are written, and what they say of answers as models give them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from isthmus.core.errors import IsthmusError
from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.evals.scorers import SCORERS, scorer_of
from isthmus.evals.scorers.choice import chosen
from isthmus.evals.scorers.spec import form

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
        ("contains:need=", "invalid_scorer", "has no value"),
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


# Numbers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", "42"),
        ("It is 42.", "42"),
        ("Of 3 boxes 1 is left, so 7", "7"),
        ("1,234,567.5 euros", "1234567.5"),
        ("$1,000", "1000"),
        ("−5", "-5"),
        ("-$5", "-5"),
        ("10-20", "20"),
        ("from 10 to -20", "-20"),
        (".5", "0.5"),
        ("3/4", "0.75"),
        ("1 1/2 cups", "1.5"),
        (r"\frac{3}{4}", "0.75"),
        (r"$-\dfrac{1}{8}$", "-0.125"),
        ("1/0", None),
        ("12%", "12%"),
        (r"12\%", "12%"),
        ("12 percent", "12%"),
        ("1e3", "1000"),
        ("1.2 × 10^5", "120000"),
        (r"1.2 \times 10^{-2}", "0.012"),
        ("1\u202f234\u202f567", "1234567"),
        ("1'234", "1234"),
        ("1{,}234", "1234"),
        ("**42**", "42"),
        ("x=42", "42"),
        ("42km", "42"),
        ("1,2,3", "3"),
        (r"so \boxed{42}, which is 7 times 6", "42"),
        (r"\boxed{\frac{1}{2}}", "0.5"),
        (r"\boxed{x = 3}", "3"),
        ("3 + 4 = 7 in 2 steps\n#### 7", "7"),
        ("The answer is 12 apples (3 for each of 4).", "12"),
        ("The answer is 5 + 3 = 8. Check: 8 - 3 = 5", "8"),
        ("**Answer:** 12, as said in step 3", "12"),
        ("Answer:\n12\nin 3 steps", "12"),
        ("The answer is: see below. It comes to 9", "9"),
        ("", None),
        ("none", None),
        ("B2B", None),
        ("9" * 500, None),
        ("1e999999999", None),
        ("1e999", "1E+999"),
        ("2/3", "0.666666666667"),
    ],
)
async def test_the_number_of_an_answer(text: str, number: str | None) -> None:
    told = await score("numeric", text, "1")
    assert told.said == number


@pytest.mark.parametrize(
    ("spec", "text", "target", "value"),
    [
        ("numeric", "0.1", "1/10", 1),
        ("numeric", "0.33", "1/3", 0),
        ("numeric:tolerance=0.01", "0.33", "1/3", 1),
        ("numeric:tolerance=0.1", "0.4", "0.3", 1),
        ("numeric:tolerance=0.1", "0.41", "0.3", 0),
        ("numeric:relative=0.01", "99", "100", 1),
        ("numeric:relative=0.01", "98", "100", 0),
        ("numeric:relative=0.01", "-100", "100", 0),
        ("numeric", "45%", "45", 1),
        ("numeric", "45%", "0.45", 1),
        ("numeric", "0.45", "45%", 1),
        ("numeric", "0.45%", "45%", 0),
        ("numeric", "4500", "45%", 0),
        ("numeric", "#### 7", "Two and five make seven.\n#### 7", 1),
        ("numeric", "seven", "7", 0),
    ],
)
async def test_numbers_are_compared(spec: str, text: str, target: str, value: float) -> None:
    assert (await score(spec, text, target)).value == value


async def test_a_target_without_a_number_is_a_fault_of_the_sample() -> None:
    assert (await score("numeric", "7", "seven")).value is None


@pytest.mark.parametrize("spec", ["numeric:tolerance=-1", "numeric:tolerance=nan", "numeric:relative=inf"])
def test_a_tolerance_is_a_number_from_0_on(spec: str) -> None:
    with pytest.raises(IsthmusError, match="`numeric`"):
        scorer_of(spec)


# Patterns


async def test_a_pattern_is_all_that_follows() -> None:
    told = await score(r"regex:a{1,2}=(b|:)", "xaa=:y")
    assert (told.value, told.said) == (1, "aa=:")
    assert (await score("regex:^yes$", "yes, sir")).value == 0
    assert (await score("regex:(?i)JÄ", "jä")).value == 1


async def test_no_pattern_takes_longer_than_the_answer_is_long() -> None:
    # A backtracking engine would not come back from this.
    assert (await score("regex:^(a+)+$", "a" * 50_000 + "b")).value == 0


@pytest.mark.parametrize("spec", ["regex:(", "regex:(?=a)", "regex:", "regex"])
def test_a_pattern_that_is_none_is_refused(spec: str) -> None:
    with pytest.raises(IsthmusError) as refused:
        scorer_of(spec)
    assert refused.value.code == "invalid_scorer"


# Documents

PERSON = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


@pytest.fixture
def person(tmp_path: Path) -> str:
    path = tmp_path / "person.json"
    path.write_text(json.dumps(PERSON))
    return f"schema:{path}"


@pytest.mark.parametrize(
    ("text", "value", "why"),
    [
        ('{"age": 7}', 1, None),
        ('Here you are:\n\n```json\n{"age": 7}\n```\nIs that all?', 1, None),
        ('```\n{"age": 7}\n```', 1, None),
        ('{"age": "7"}', 0, "$.age: '7' is not of type 'integer'"),
        ("{}", 0, "$: 'age' is a required property"),
        ('{"age": 7,}', 0, "no JSON"),
        ('{"age": NaN}', 0, "no JSON"),
        ('The age: {"age": 7}', 0, "no JSON"),
        ("[" * 100_000, 0, "no JSON"),
        ('{"age": 1' + "0" * 400 + "}", 1, None),
        ("", 0, "no JSON"),
    ],
)
async def test_a_document_has_the_form_of_the_schema(
    person: str, text: str, value: float, why: str | None
) -> None:
    told = await score(person, text)
    assert told.value == value
    assert why is None if told.why is None else why and why in told.why


async def test_the_request_may_bring_its_schema() -> None:
    asked = {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}}
    scorer = scorer_of("schema")
    assert (await scorer.score(Sample(id="1", request=asked), answered('{"age": 7}'))).value == 1
    assert (await scorer.score(Sample(id="1", request=asked), answered("{}"))).value == 0
    told = await scorer.score(Sample(id="1", request={}), answered("{}"))
    assert told.value is None
    assert "response_format" in (told.why or "")


@pytest.mark.parametrize("content", ["{", '{"type": 7}', "[]", "\xff"])
def test_a_file_that_is_no_schema_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "schema.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(IsthmusError) as refused:
        scorer_of(f"schema:{path}")
    assert refused.value.code == "invalid_scorer"
    assert str(path) in refused.value.text


def test_a_file_that_is_missing_is_named() -> None:
    with pytest.raises(IsthmusError, match=r"nowhere\.json cannot be read: No such file"):
        scorer_of("schema:nowhere.json")


async def test_no_reference_of_a_schema_is_fetched(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text('{"$ref": "http://127.0.0.1:9/person.json"}')
    told = await score(f"schema:{path}", "{}")
    assert told.value is None
    assert "cannot be applied" in (told.why or "")


@pytest.mark.parametrize(
    ("spec", "text", "value", "why"),
    [
        ("fields", '{"name": "Ada", "items": [{"price": 2.0}, {"price": 3}]}', 1, None),
        ("fields", '{"name": "Ada", "items": [{"price": 2}]}', 2 / 3, "`items[1].price` is missing"),
        ("fields", '{"name": "Bob", "items": [{"price": 2}, {"price": true}]}', 1 / 3, "`name` differs"),
        ("fields", '{"name": "Ada", "items": [{"price": 2}, {"price": 3}], "x": 1}', 1, None),
        ("fields:strict=true", '{"name": "Ada", "items": [{"price": 2}, {"price": 3}], "x": 1}', 0.75, "`x`"),
        ("fields", "[]", 0, "`name` is missing"),
        ("fields", "no", 0, "no JSON"),
    ],
)
async def test_fields_are_counted(spec: str, text: str, value: float, why: str | None) -> None:
    told = await score(spec, text, '{"name": "Ada", "items": [{"price": 2}, {"price": 3}]}')
    assert told.value == pytest.approx(value)
    assert why is None if told.why is None else why and why in told.why


async def test_fields_with_odd_names_are_not_mixed_up() -> None:
    told = await score("fields", '{"a": {"b": 1}}', '{"a.b": 1}')
    assert (told.value, told.why) == (0, '`["a.b"]` is missing')


async def test_fields_take_the_nearest_target() -> None:
    assert (await score("fields", '{"a": 1}', '{"a": 2}', '{"a": 1}')).value == 1


# Tools

OSLO = '{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}'


def calling(*calls: tuple[str, str]) -> Answered:
    made = [
        {"id": str(at), "type": "function", "function": {"name": name, "arguments": arguments}}
        for at, (name, arguments) in enumerate(calls)
    ]
    return Answered(model="small", message={"role": "assistant", "content": None, "tool_calls": made})


@pytest.mark.parametrize(
    ("calls", "target", "value", "why"),
    [
        ([("weather", '{"days": 2.0, "city": "Oslo"}')], OSLO, 1, None),
        ([("weather", '{"city": "Bergen", "days": 2}')], OSLO, 0, "`weather` is called with other arguments"),
        ([("climate", '{"city": "Oslo", "days": 2}')], OSLO, 0, "`climate` is not to be called"),
        ([("weather", '{"city": "Oslo"')], OSLO, 0, "`weather` is called with other arguments"),
        ([], OSLO, 0, "`weather` is not called"),
        ([("weather", '{"city": "Oslo", "days": 2}')] * 2, OSLO, 0, "`weather` is not to be called"),
        ([("now", ""), ("weather", '{"city": "Oslo", "days": 2}')], f'[{OSLO}, {{"name": "now"}}]', 1, None),
        ([], "[]", 1, None),
        ([("now", "{}")], "[]", 0, "`now` is not to be called"),
        ([("now", "{}")], '[{"function": {"name": "now", "arguments": "{}"}}]', 1, None),
    ],
)
async def test_calls_of_tools_are_compared(
    calls: list[tuple[str, str]], target: str, value: float, why: str | None
) -> None:
    told = await scorer_of("tools").score(sample(target), calling(*calls))
    assert (told.value, told.why) == (value, why)


@pytest.mark.parametrize("target", ["weather", "7", '[{"tool": "weather"}]'])
async def test_a_target_that_is_no_call_is_a_fault_of_the_sample(target: str) -> None:
    assert (await scorer_of("tools").score(sample(target), calling())).value is None


async def test_a_malformed_call_is_wrong_and_no_crash() -> None:
    odd = Answered(model="small", message={"tool_calls": [{"function": {"arguments": "{}"}}]})
    told = await scorer_of("tools").score(sample(OSLO), odd)
    assert told.value == 0
    assert "malformed" in (told.why or "")


async def test_arguments_nested_deep_are_compared() -> None:
    deep = "[" * 900 + "]" * 900
    target = f'{{"name": "f", "arguments": {{"a": {deep}}}}}'
    told = await scorer_of("tools").score(sample(target), calling(("f", f'{{"a": {deep}}}')))
    assert told.value == 1


def test_the_page_on_scorers_tells_of_each_what_the_code_does() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "score-answers.md").read_text(encoding="utf-8")
    rows = [
        f"| `{form(name, kind)}` | {(kind.__doc__ or '').splitlines()[0]} |" for name, kind in SCORERS.items()
    ]
    assert [row for row in rows if row not in page.splitlines()] == []
