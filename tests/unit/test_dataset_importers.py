"""Datasets that others wrote: what is carried over, and that the rest is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from isthmus.core.errors import IsthmusError
from isthmus.core.evaluation import Answered, Sample
from isthmus.evals.datasets import Dataset, open_dataset
from isthmus.evals.scorers.tools import Tools

USER = {"role": "user", "content": "What is 2 + 2?"}


def opened(folder: Path, name: str, *values: Any, **named: str) -> Dataset:
    path = folder / name
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    path.write_text("\n".join(texts))
    return open_dataset(path, named)


def one(folder: Path, value: Any, **named: str) -> Sample:
    [sample] = opened(folder, "a.jsonl", value, **named).samples
    return sample


def refusal(folder: Path, name: str, *values: Any) -> str:
    with pytest.raises(IsthmusError) as caught:
        opened(folder, name, *values)
    return caught.value.text.removeprefix(f"{folder}/")


# OpenAI


def test_fine_tuning_ends_with_the_good_answer(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    turns = [USER, {"role": "assistant", "content": "Hm.", "weight": 0}, USER]
    line = {"messages": [*turns, {"role": "assistant", "content": "4"}], "tools": [tool], "source": "book"}
    sample = one(tmp_path, line)
    assert sample.request == {
        "messages": [USER, {"role": "assistant", "content": "Hm."}, USER],
        "tools": [tool],
    }
    assert (sample.target, sample.metadata) == (("4",), {"source": "book"})


def test_an_answer_that_was_not_learned_is_no_target(tmp_path: Path) -> None:
    line = {"messages": [USER, {"role": "assistant", "content": "5", "weight": 0}]}
    found = opened(tmp_path, "a.jsonl", line)
    assert found.samples[0].target == ()
    assert found.notes == ("the last answer has the weight 0: it is no target (1)",)


async def test_calls_of_tools_are_a_target_for_the_scorer_of_tools(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    sample = one(tmp_path, {"messages": [USER, {"role": "assistant", "tool_calls": [call]}]})
    said = Answered(model="m", message={"role": "assistant", "tool_calls": [call]})
    assert (await Tools().score(sample, said)).value == 1.0


def test_reinforcement_preference_and_completion_lines(tmp_path: Path) -> None:
    graded = {"messages": [USER], "reference": "4"}
    preferred = {
        "input": {"messages": [USER], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [{"role": "assistant", "content": "4"}],
        "non_preferred_output": [{"role": "assistant", "content": "5"}],
    }
    completed = {"prompt": "2 + 3 =", "completion": " 5\n"}
    first, second, third = opened(tmp_path, "a.jsonl", graded, preferred, completed).samples
    assert (first.target, first.metadata) == ((), {"reference": "4"})
    assert second.target == ("4",)
    assert second.metadata == {"rejected": preferred["non_preferred_output"]}
    assert (third.request["messages"], third.target) == ([{"role": "user", "content": "2 + 3 ="}], ("5",))


def test_completions_may_be_messages(tmp_path: Path) -> None:
    sample = one(tmp_path, {"prompt": [USER], "completion": [{"role": "assistant", "content": "4"}]})
    assert (sample.request, sample.target) == ({"messages": [USER]}, ("4",))


def test_parquet_with_messages_is_read_as_fine_tuning(tmp_path: Path) -> None:
    rows = [{"messages": [USER, {"role": "assistant", "content": "4"}]}]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    [sample] = open_dataset(tmp_path / "a.parquet").samples
    assert (sample.request, sample.target) == ({"messages": [USER]}, ("4",))


def test_samples_of_the_evals_framework(tmp_path: Path) -> None:
    sample = one(tmp_path, {"input": [USER], "ideal": ["4", "four"], "kind": "sum"})
    assert sample.request == {"messages": [USER]}
    assert (sample.target, sample.metadata) == (("4", "four"), {"kind": "sum"})


def test_items_of_the_hosted_evals(tmp_path: Path) -> None:
    line = {"item": {"question": "2 + 2?", "answer": "4", "kind": "sum"}, "sample": {"output_text": "5"}}
    found = opened(tmp_path, "a.jsonl", line)
    [sample] = found.samples
    assert sample.request["messages"] == [{"role": "user", "content": "2 + 2?"}]
    assert (sample.target, sample.metadata) == (("4",), {"kind": "sum", "answer": "5"})
    assert found.notes[0].startswith("`item.question` is taken for what is asked")


def test_fields_of_other_names_are_named(tmp_path: Path) -> None:
    line = {"item": {"ticket_text": "It is dark.", "correct_label": "Hardware"}}
    assert "None of the item's fields" in refusal(tmp_path, "a.jsonl", line)
    sample = one(tmp_path, line, input="ticket_text", target="correct_label")
    assert sample.target == ("Hardware",)
    [row] = opened(
        tmp_path, "a.csv", "question,input,a\nWhy?,unused,So.", input="question", target="a"
    ).samples
    assert (row.request["messages"][0]["content"], row.target) == ("Why?", ("So.",))


# inspect-ai


def test_messages_of_inspect_ai_become_openais(tmp_path: Path) -> None:
    call = {"id": "c", "function": "add", "arguments": {"a": 2}, "type": "function"}
    turns = [
        {"id": "m1", "role": "user", "source": "input", "content": [{"type": "text", "text": "See"}]},
        {
            "id": "m2",
            "role": "assistant",
            "source": "generate",
            "model": "x",
            "content": [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "Adding"}],
            "tool_calls": [call],
        },
        {"role": "tool", "source": None, "content": "4", "tool_call_id": "c", "function": "add"},
        {"role": "user", "source": "input", "content": [{"type": "image", "image": "https://x.test/a.png"}]},
    ]
    found = opened(tmp_path, "a.json", [{"input": turns, "target": "", "sandbox": "docker", "id": 3}])
    [sample] = found.samples
    function = {"name": "add", "arguments": '{"a":2}'}
    assert sample.request["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "See"}]},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Adding"}],
            "tool_calls": [{"id": "c", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "4", "tool_call_id": "c"},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "auto"}}
            ],
        },
    ]
    assert (sample.id, sample.target) == ("3", ())
    assert len(found.notes) == 2


def test_a_log_of_inspect_ai_gives_its_samples_once(tmp_path: Path) -> None:
    said = {"input": "Fruit?", "target": "B", "choices": ["stone", "apple"], "metadata": {"n": 1}, "id": 1}
    answered = {**said, "epoch": 1, "output": {"completion": "B"}, "scores": {}}
    log = {"version": 2, "eval": {}, "samples": [answered, {**answered, "epoch": 2}]}
    found = opened(tmp_path, "a.json", json.dumps(log, indent=1))
    [sample] = found.samples
    assert sample.metadata == {"n": 1, "answer": "B"}
    assert sample.request["messages"][0]["content"] == "Fruit?\n\nA) stone\nB) apple"
    assert found.notes == ("a further epoch of a sample is left out (1)",)


# promptfoo

CONFIG = """
prompts:
  - 'Translate to {{language}}: {{text.de}}'
  - id: file://chat.json
    label: chat
providers: [openai:gpt-5]
defaultTest:
  vars: {language: [French, Spanish]}
  metadata: {suite: words}
tests:
  - description: a dog
    vars: {text: {de: Hund}}
    assert:
      - {type: icontains, value: '{{language}} dog'}
      - {type: llm-rubric, value: is polite}
    threshold: 0.5
  - file://more.csv
"""
CHAT = [{"role": "system", "content": "You speak {{language}}."}, {"role": "user", "content": "{{text.de}}"}]


def promptfoo(folder: Path, config: str = CONFIG) -> Dataset:
    (folder / "chat.json").write_text(json.dumps(CHAT))
    (folder / "more.csv").write_text(
        "text.de,__expected,__expected2,__metadata:kind,__metric\n"
        'Hut,"contains-any: hat, chapeau",similar(0.8): a hat,cloth,m\n'
    )
    return opened(folder, "promptfooconfig.yaml", config)


def test_every_prompt_meets_every_test_of_promptfoo(tmp_path: Path) -> None:
    config = CONFIG.replace("  - file://more.csv\n", "")
    found = promptfoo(tmp_path, config)
    assert [sample.request["messages"] for sample in found.samples] == [
        [{"role": "user", "content": "Translate to French: Hund"}],
        [{"role": "user", "content": "Translate to Spanish: Hund"}],
        [{"role": "system", "content": "You speak French."}, {"role": "user", "content": "Hund"}],
        [{"role": "system", "content": "You speak Spanish."}, {"role": "user", "content": "Hund"}],
    ]
    first = found.samples[0]
    assert first.target == ("French dog",)
    assert first.metadata == {
        "suite": "words",
        "description": "a dog",
        "prompt": "prompt 1",
        "assert": [
            {"type": "icontains", "value": "French dog"},
            {"type": "llm-rubric", "value": "is polite"},
        ],
    }
    assert [note.split(" (")[0] for note in found.notes] == [
        "`threshold` of a test is left out",
        "`icontains` became the target: take the scorer contains:case=false",
        "`llm-rubric` stays in metadata.assert, and is checked by no scorer",
    ]


def test_tests_of_promptfoo_may_stand_in_a_table(tmp_path: Path) -> None:
    config = "prompts: ['Say: {{text}}']\ntests: file://tests.csv\n"
    (tmp_path / "tests.csv").write_text(
        "text,__expected,__expected2,__metadata:kind,__metric\n"
        'Hut,"contains-any: hat, chapeau",similar(0.8): a hat,cloth,m\nHaus,house,,,\n'
    )
    found = opened(tmp_path, "promptfooconfig.yaml", config)
    hat, house = found.samples
    assert (hat.target, house.target) == (("hat", "chapeau"), ("house",))
    assert hat.metadata["assert"][1] == {"type": "similar", "value": "a hat", "threshold": 0.8}
    assert hat.metadata["kind"] == "cloth"
    assert any("`__metric`" in note for note in found.notes)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("prompts: ['{{ a | upper }}']\ntests: [{vars: {a: b}}]", "A template uses more of Nunjucks"),
        ("prompts: ['{% if a %}x{% endif %}']\ntests: [{vars: {a: b}}]", "A template uses more of Nunjucks"),
        ("prompts: ['{{question}}']\ntests: [{vars: {a: b}}]", "variable `question` has no value"),
        ("prompts: [file:///etc/passwd]\ntests: [{}]", "a file outside the config's folder"),
        ("prompts: [x]\ntests: [{vars: {a: file://../../etc/passwd}}]", "a file outside the config's folder"),
        ("prompts: [file://none.txt]\ntests: [{}]", "There is no file none.txt"),
        ("prompts: [file://x.js]\ntests: [{}]", "There is no file x.js"),
        ("prompts: [3]\ntests: [{}]", "This is no prompt"),
        ("prompts: [x]\ntests: [3]", "This is no test"),
        ("prompts: [x]\ntests: [{vars: file://v.yaml}]", "`vars` must be an object here"),
        ("prompts: [x, x]\ntests: [{vars: {a: b}}]", "promptfooconfig.yaml:2: This asks for the same"),
        ("prompts: [x]\ntests:\n- vars: {}\n- vars: 3", "promptfooconfig.yaml:4: `vars` must be an object"),
        (
            "prompts: [x]\ntests: [{vars: {a: &a [1,1,1,1,1,1,1,1,1,1], b: *a, c: *a, d: *a, e: *a, f: *a}}]",
            "100,000",
        ),
        ("prompts: [x]\ntests: [file://self.yaml]", "It names self.yaml for the second time"),
        ("prompts: ['{{a}}']\ndefaultTest: 3\ntests: [{}]", "This is no test"),
        ("prompts: [file://latin.txt]\ntests: [{}]", "latin.txt: This is not UTF-8"),
        ("prompts: [x\ntests:", "promptfooconfig.yaml:2: This is not YAML"),
        ("prompts: &a [*a]\ntests: []", "It holds more than"),
        ("prompts: !!python/object:os.system x\ntests: []", "This is not YAML"),
        ("prompts: [x]\ntests: []", "There is no sample in it"),
    ],
)
def test_what_cannot_be_carried_from_promptfoo_is_refused_in_words(
    tmp_path: Path, config: str, said: str
) -> None:
    (tmp_path / "self.yaml").write_text("- file://self.yaml\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert said in refusal(tmp_path, "promptfooconfig.yaml", config)


def test_older_configs_name_files_without_a_scheme(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("Say {{word}}.\n---\nWrite {{word}}, and see notes.txt\n")
    (tmp_path / "tests.csv").write_text("word\nfish\n")
    found = opened(tmp_path, "promptfooconfig.json", {"prompts": "prompts.txt", "tests": "tests.csv"})
    asked = [sample.request["messages"][0]["content"] for sample in found.samples]
    assert asked == ["Say fish.", "Write fish, and see notes.txt"]


def test_a_test_without_its_prompt_is_refused(tmp_path: Path) -> None:
    assert "Open the config that names it" in refusal(tmp_path, "a.jsonl", {"vars": {"x": 5}, "assert": []})
    path = tmp_path / "a.eval"
    path.write_bytes(b"PK\x03\x04...")
    with pytest.raises(IsthmusError, match="archive"):
        open_dataset(path)
