"""The published pages and the schema say what the code does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from ruamel.yaml import YAML

from isthmus.config.decode import fields_of
from isthmus.config.document import PLANNED_SECTIONS, Document, ModelEntry, ProviderEntry, RouteEntry
from isthmus.config.load import DEFAULT_FILE, parse
from isthmus.config.reference import config_page, pages
from isthmus.config.schema import describe, json_schema
from isthmus.core.portfolio import BreakerSettings, PriceOverride, Timeouts
from isthmus.strategies.plan import STRATEGIES
from isthmus.strategies.plan.cascade import Step
from isthmus.strategies.plan.node import Acceptance

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"

SOUND = """
providers:
  builtin: {engine: builtin, parallel: 2}
  vpc: {preset: vllm, base_url: http://vllm.internal:8000/v1, zone: eu, kind: open, timeouts: {connect: 1}}
  claude: {preset: anthropic, key: env:ANTHROPIC_API_KEY, headers: {x-team: blue}, breaker: {failures: 2}}
  other: {dialect: openai, base_url: https://llm.example.com/v1, key: file:key.txt, kind: open, quirks: []}
models:
  small: {provider: builtin}
  glm: {provider: vpc, id: org/glm, context: 4096, capabilities: [chat, tools]}
  sonnet: {provider: claude, price: {input: 3, output: 15.50}}
  more: {provider: other, price: [{input: 1, output: 2, valid_until: 2026-02-01}]}
routes:
  default: small
  a: {call: small, retries: 3, record_bodies: true}
  b: {fallback: [small, {call: {model: glm, retries: 0}}, {split: {sonnet: 1, more: 2}}]}
  c: {split: [{model: small, weight: 9}, {fallback: [glm, sonnet], weight: 1}], sticky: user}
  d: {split: {arms: [small, {call: glm, weight: 2}]}}
  e: {plan: small, record_bodies: false}
gateway: {port: 4242, drain: 0}
ledger: strict
"""

BROKEN = [
    "gatway: {}",
    "gateway: {port: high}",
    "gateway: {port: 70000}",
    "ledger: lazy",
    "providers: {p: {engine: builtin, key: sk-123}}",
    "models: {m: {id: x}}",
    "routes: {r: {cal: small}}",
    "routes: {r: {call: small, retries: 99}}",
    "routes: {r: {fallback: []}}",
    "routes: {r: {split: {a: b}}}",
    "routes: {r: {split: [{model: a, wieght: 3}]}}",
    "routes: {'not a name': small}",
]


def as_json(text: str) -> Any:
    return json.loads(json.dumps(YAML(typ="safe", pure=True).load(text), default=str))


@pytest.mark.parametrize("name", list(pages()))
def test_the_published_pages_are_current(name: str) -> None:
    """Write them anew with `python -m isthmus.config.reference docs/reference`."""
    assert (REFERENCE / name).read_text(encoding="utf-8") == pages()[name]


@pytest.mark.parametrize("text", [SOUND, DEFAULT_FILE.read_text(encoding="utf-8"), "{}"])
def test_the_schema_accepts_what_is_sound(text: str) -> None:
    config, faults = parse(text, "isthmus.yaml", check_secrets=False)
    assert config is not None, faults
    jsonschema_rs.Draft202012Validator(json_schema()).validate(as_json(text))


@pytest.mark.parametrize("text", BROKEN)
def test_the_schema_refuses_what_the_decoder_refuses(text: str) -> None:
    config, _ = parse(text, "isthmus.yaml", check_secrets=False)
    assert config is None
    assert not jsonschema_rs.Draft202012Validator(json_schema()).is_valid(as_json(text))


SECTIONS = [
    Document,
    ProviderEntry,
    ModelEntry,
    RouteEntry,
    PriceOverride,
    Timeouts,
    BreakerSettings,
    *(fields_of(Document)[name].type.cls for name in ("gateway", "ledger")),  # type: ignore[attr-defined]
    *STRATEGIES.values(),
    Step,
    Acceptance,
]


@pytest.mark.parametrize("cls", SECTIONS)
def test_every_key_is_described_by_its_struct(cls: Any) -> None:
    _, about = describe(cls)
    described = set(about)
    assert {name for name in fields_of(cls) if name != "salt"} <= described


def test_the_examples_of_the_reference_are_sound() -> None:
    blocks = config_page().split("```yaml\n")[1:]
    examples = [block.split("```")[0] for block in blocks]
    assert len(examples) == 2
    portfolio = "providers: {p: {preset: ollama}}\nmodels: {small: {provider: p}, large: {provider: p}}\n"
    for example in examples:
        text = example if "models:" in example else portfolio + example
        config, faults = parse(text, "isthmus.yaml")
        assert config is not None, faults
        assert not faults


def test_what_is_planned_is_not_there_yet() -> None:
    assert not PLANNED_SECTIONS & fields_of(Document).keys()
