"""The reference pages of the config, made from the structs and tables that the code runs on.

`python -m isthmus.config.reference FOLDER` writes them; a test proves that the committed ones are current.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect as mi

from isthmus.catalog.presets import DIALECTS, PRESETS, QUIRKS
from isthmus.catalog.weights import WEIGHTS
from isthmus.config.config import GatewaySettings, LedgerSettings, RolloutRule, Watch
from isthmus.config.decode import bounds, fields_of, holds_plan
from isthmus.config.document import (
    BudgetEntry,
    Document,
    ModelEntry,
    PerimeterEntry,
    ProviderEntry,
    RouteEntry,
)
from isthmus.config.faults import Code
from isthmus.config.load import DEFAULT_FILE
from isthmus.config.schema import describe, json_schema
from isthmus.core.portfolio import BreakerSettings, PriceOverride, SecretRef, Timeouts
from isthmus.core.promises import Promises
from isthmus.perimeter.engines import Engine
from isthmus.perimeter.policy import Clearance, Rule
from isthmus.routing.route import Thrift
from isthmus.strategies.plan import STRATEGIES, Node
from isthmus.strategies.plan.cascade import Step
from isthmus.strategies.plan.node import Acceptance, Calibrated, Empanelled, Learned

_SECTIONS: tuple[tuple[str, Any], ...] = (
    ("The file", Document),
    ("A provider", ProviderEntry),
    ("`timeouts`", Timeouts),
    ("`breaker`", BreakerSettings),
    ("`promises`, and `needs` of a label", Promises),
    ("A model", ModelEntry),
    ("`price`", PriceOverride),
    ("`perimeter`", PerimeterEntry),
    ("`clearance`", Clearance),
    ("`labels`", Rule),
    ("`engines`", Engine),
    ("A route", RouteEntry),
    ("`thrift`", Thrift),
    ("`budgets`", BudgetEntry),
    ("`drift`", Watch),
    ("`rollouts`", RolloutRule),
    ("`gateway`", GatewaySettings),
    ("`ledger`", LedgerSettings),
)

_MADE = "<!-- Made by `python -m isthmus.config.reference`; changes here are lost. -->"

_FILE_INTRODUCTION = """\
Paths in the file are relative to its folder. `isthmus check` reports everything that is wrong with it.
For completion in an editor, begin the file with `# yaml-language-server: $schema=` and the path of
`isthmus.schema.json`, which stands beside this page."""

_PRESETS_INTRODUCTION = """\
A preset is a provider known by name: `{preset: mistral, key: env:MISTRAL_API_KEY}`. Its wires are those that
the server speaks itself, and pass through unchanged; every other dialect is translated into the first. It
forwards those headers of the caller that belong to its dialect. Each name leads to the page that the row was
written from. `base_url` and `forward_headers` in the config replace the preset's."""

_QUIRKS_INTRODUCTION = """\
What a server is known to do otherwise than its dialect says. `quirks:` in the config replaces the row's."""

_STRATEGIES_INTRODUCTION = """\
A strategy stands wherever a plan is expected: behind a route, in a list of plans, in a share. It is written
under its keyword. The value is the field named first below, or a mapping of all fields; the other fields may
also stand beside the keyword. A bare name is a `call` of that model, as is `{model: small}`.

```yaml
routes:
  plain: small
  patient: {call: small, retries: 5}
  careful:
    fallback: [small, {call: large, retries: 0}]
  shares: {split: {small: 90, large: 10}}
  experiment:
    split:
      - {model: small, weight: 90}
      - {fallback: [large, small], weight: 10}
    sticky: user
    record_bodies: true
```"""


def pages() -> dict[str, str]:
    """Every generated file of docs/reference by its name."""
    return {
        "config.md": config_page(),
        "presets.md": presets_page(),
        "isthmus.schema.json": json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n",
    }


def config_page() -> str:
    """Every key of isthmus.yaml, every strategy, every fault."""
    parts = [
        "# isthmus.yaml",
        _MADE,
        "The config is `--config FILE`, else `$ISTHMUS_CONFIG`, else `./isthmus.yaml`, else this one:",
        f"```yaml\n{DEFAULT_FILE.read_text(encoding='utf-8').strip()}\n```",
        _FILE_INTRODUCTION,
    ]
    for title, cls in _SECTIONS:
        parts += [f"## {title}", describe(cls)[0], _fields(cls)]
    parts += ["## Strategies", _STRATEGIES_INTRODUCTION]
    for keyword, strategy in STRATEGIES.items():
        parts += [f"### `{keyword}`", describe(strategy)[0], _fields(strategy)]
        parts += [_fields(part) for part in _parts_of(strategy)]
    parts += ["### What `accept` demands", describe(Acceptance)[0], _fields(Acceptance)]
    parts += ["## Faults", "Codes never change their meaning. From C101 on they are warnings."]
    parts.append(_table(("code", "meaning"), [(str(code), code.meaning) for code in Code]))
    return "\n\n".join(parts) + "\n"


def presets_page() -> str:
    """Every provider that is known by name, every dialect and quirk, and the catalogue of weights."""
    presets = [
        (
            f"[{row.name}]({row.docs})",
            row.title,
            _code(row.wires),
            f"`{row.base_url or row.base_url_form or '-'}`",
            row.auth,
            f"`{row.key_env}`" if row.key_env else "-",
            row.kind or "you say",
            _code(row.forward_headers),
            _code(sorted(row.quirks)),
        )
        for row in PRESETS
    ]
    heads = ("preset", "provider", "wires", "base_url", "auth", "key", "kind", "forwards", "quirks")
    dialects = [
        (name, _code(row.wires), row.auth, _code(row.forward_headers), _code(sorted(row.quirks)))
        for name, row in DIALECTS.items()
    ]
    weights = [
        (row.name, row.mode, row.licence, f"{row.size / 1e6:.0f} MB", str(row.context)) for row in WEIGHTS
    ]
    parts = [
        "# Presets",
        _MADE,
        _PRESETS_INTRODUCTION,
        _table(heads, presets),
        "## Dialects",
        "Other servers are reached by dialect: `{dialect: openai, base_url: https://llm.example.com/v1}`.",
        _table(("dialect", "wires", "auth", "forwards", "quirks"), dialects),
        "## Quirks",
        _QUIRKS_INTRODUCTION,
        _table(("quirk", "the server"), list(QUIRKS.items())),
        "## Weights",
        "What an engine can load by name. Any other GGUF file is named by its path.",
        _table(("weights", "for", "licence", "size", "context"), weights),
    ]
    return "\n\n".join(parts) + "\n"


def _fields(cls: Any) -> str:
    _, about = describe(cls)
    rows = [
        (f"`{name}`", _in_words(field.type), _default(field), about.get(name, ""))
        for name, field in fields_of(cls).items()
    ]
    return _table(("key", "type", "default", ""), rows)


def _parts_of(cls: Any) -> list[Any]:
    """The structs that hold plans inside a strategy, such as the arms of a split."""
    items = [
        field.type.item_type for field in fields_of(cls).values() if isinstance(field.type, mi.VarTupleType)
    ]
    return [item.cls for item in items if isinstance(item, mi.StructType) and holds_plan(item.cls)]


def _default(field: mi.Field) -> str:
    if field.required:
        return "required"
    value = field.default
    if (
        value in (None, "", (), frozenset())
        or isinstance(value, msgspec.Struct)
        or not isinstance(value, str | int | float)
    ):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _in_words(kind: mi.Type) -> str:
    match kind:
        case mi.UnionType():
            return " or ".join(_in_words(each) for each in kind.types if not isinstance(each, mi.NoneType))
        case mi.StructType():
            return _struct_in_words(kind.cls)
        case mi.DictType():
            return f"mapping of names to {_in_words(kind.value_type)}"
        case mi.VarTupleType() | mi.FrozenSetType():
            return f"list of {_in_words(kind.item_type)}"
        case mi.LiteralType():
            return " or ".join(f"`{value}`" for value in kind.values)
        case mi.IntType() | mi.FloatType():
            word = "whole number" if isinstance(kind, mi.IntType) else "number"
            return word if bounds(kind) == "finite" else f"{word}, {bounds(kind)}"
    return {mi.StrType: "text", mi.BoolType: "true or false", mi.DecimalType: "number", mi.DateType: "day"}[
        type(kind)
    ]


def _struct_in_words(cls: Any) -> str:
    if cls is SecretRef:
        return "`env:NAME` or `file:PATH`"
    if cls is Calibrated:
        return "path of a calibration"
    if cls is Learned:
        return "path of a learned router"
    if cls is Empanelled:
        return "path of a learned panel"
    if cls is Node:
        return "strategy"
    titles = {
        ProviderEntry: "provider",
        ModelEntry: "model",
        RouteEntry: "route",
        PriceOverride: "price",
        Rule: "label",
        Engine: "engine",
        BudgetEntry: "budget",
        Watch: "watch",
        RolloutRule: "rollout rule",
        Thrift: "strategy, with its share beside it",
        Step: "steps",
        Acceptance: "[demands](#what-accept-demands)",
    }
    return titles.get(cls, "shares" if holds_plan(cls) else "mapping, see below")


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words) or "-"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(folder: Path) -> None:
    """Write every page into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
