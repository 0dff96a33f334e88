"""Whatever a file says, it is a config or it has faults inside itself; and order has no meaning."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isthmus.config.config import Config
from isthmus.config.load import Parsed, parse
from isthmus.config.report import render

CANARY = "canary-1c9e"

SOUND: dict[str, Any] = {
    "providers": {
        "builtin": {"engine": "builtin", "parallel": 2},
        "vpc": {"preset": "vllm", "base_url": "https://vllm.internal/v1", "zone": "eu", "kind": "open"},
        "claude": {"preset": "anthropic", "key": "env:ANTHROPIC_API_KEY", "timeouts": {"connect": 1.5}},
        "other": {
            "dialect": "openai",
            "base_url": "https://llm.example.com/v1",
            "kind": "open",
            "quirks": [],
        },
    },
    "models": {
        "small": {"provider": "builtin"},
        "glm": {"provider": "vpc", "id": "org/glm", "capabilities": ["chat", "tools"]},
        "sonnet": {
            "provider": "claude",
            "price": [
                {"input": 3, "output": 15, "valid_until": "2026-02-01"},
                {"input": 2, "output": 10.5, "valid_from": "2026-02-01"},
            ],
        },
        "more": {"provider": "other", "context": 8192},
    },
    "routes": {
        "default": "small",
        "a": {"call": "small", "retries": 3, "record_bodies": True},
        "b": {"fallback": ["small", {"call": {"model": "glm"}}, {"split": {"sonnet": 1, "more": 2}}]},
        "c": {
            "split": [{"model": "small", "weight": 9}, {"fallback": ["glm", "sonnet"], "weight": 1}],
            "sticky": "user",
        },
    },
    "gateway": {"port": 4242},
    "ledger": {"mode": "strict"},
}

WORDS = (
    "providers",
    "model",
    "call",
    "split",
    "plan",
    "weight",
    "small",
    "nobody",
    "env:X",
    "x y",
    "",
    "~",
    "1e999",
)
ODD = st.sampled_from([*WORDS, None, True, 0, -1, 3.5, 10**40, [], {}, ["small"], {"call": "small"}, [[[]]]])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a document but the document itself."""
    inside = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    return [place for key, child in inside for place in ((*path, key), *places(child, (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """The sound document after some nodes were deleted, retyped, renamed, or copied elsewhere."""
    document = json.loads(json.dumps(SOUND))
    for _ in range(draw(st.integers(1, 4))):
        known = places(document)
        if not known:
            break
        *way, last = draw(st.sampled_from(known))
        parent = document
        for step in way:
            parent = parent[step]
        match draw(st.sampled_from(("delete", "retype", "rename", "copy"))):
            case "delete":
                del parent[last]
            case "retype":
                parent[last] = json.loads(json.dumps(draw(ODD)))
            case "rename" if isinstance(parent, dict):
                parent[draw(st.sampled_from(WORDS))] = parent.pop(last)
            case _:
                source = document
                for step in draw(st.sampled_from(known)):
                    source = source[step] if _has(source, step) else source
                parent[last] = json.loads(json.dumps(source))
    return document


def _has(value: Any, step: Any) -> bool:
    return (isinstance(value, dict) and step in value) or (
        isinstance(value, list) and isinstance(step, int) and step < len(value)
    )


def shuffled(value: Any, chance: random.Random) -> Any:
    """The same document with the keys of every mapping in another order."""
    if isinstance(value, list):
        return [shuffled(each, chance) for each in value]
    if not isinstance(value, dict):
        return value
    keys = list(value)
    chance.shuffle(keys)
    return {key: shuffled(value[key], chance) for key in keys}


def judge(text: str) -> Parsed:
    """Parse, and hold the result against the law."""
    parsed = parse(text, "isthmus.yaml", check_secrets=False)
    lines = text.splitlines() or [""]
    refused = [fault for fault in parsed.faults if not fault.warns]
    assert isinstance(parsed.config, Config) == (not refused)
    for fault in parsed.faults:
        assert 1 <= fault.line <= len(lines) + 1
        assert 1 <= fault.column <= len(fault.excerpt) + 1
        assert fault.message
        assert (fault.message + fault.hint).isprintable()
    assert render(parsed.faults).count("\n") >= len(parsed.faults)
    return parsed


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(mutated(), st.sampled_from([None, 1]))
def test_any_mutation_is_a_config_or_has_faults_inside_the_file(document: Any, indent: int | None) -> None:
    judge(json.dumps(document, indent=indent))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_damaged_text_is_a_config_or_has_faults_inside_the_file(data: st.DataObject) -> None:
    text = json.dumps(SOUND, indent=1)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        length = data.draw(st.integers(0, 3))
        text = text[:start] + data.draw(st.text(max_size=3)) + text[start + length :]
    judge(text)


@settings(deadline=None, max_examples=150)
@given(st.text(alphabet=st.sampled_from(":-{}[]&*!|>'\"%@`#,? \n\tab0.~\\u\x85\u2028\ufeff"), max_size=40))
def test_any_text_at_all_is_a_config_or_has_faults(text: str) -> None:
    judge(text)


@settings(deadline=None, max_examples=50)
@given(st.integers())
def test_the_order_of_keys_has_no_meaning(seed: int) -> None:
    sound = judge(json.dumps(SOUND))
    other = judge(json.dumps(shuffled(SOUND, random.Random(seed))))
    assert sound.config is not None
    assert other.config is not None
    assert other.config.hash == sound.config.hash


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(mutated(), st.sampled_from(("claude", "vpc", "other")))
def test_no_fault_ever_shows_a_key_in_clear(document: Any, name: str) -> None:
    providers = document.get("providers")
    if not isinstance(providers, dict) or not isinstance(providers.get(name), dict):
        return
    providers[name]["key"] = CANARY
    parsed = judge(json.dumps(document))
    assert parsed.config is None
    assert CANARY not in render(parsed.faults) + repr(parsed.faults)
