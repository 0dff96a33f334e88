"""A tree → structs, by the structs' own annotations, with everything that does not fit reported at once.

Three rules make the file short to write, for any struct that keeps to them:

* a bare value where a struct with a `shorthand` is expected fills that field (`ledger: strict`);
* a strategy is written under its keyword: the value is its `shorthand` field or a mapping of all fields, and
  the keys beside it are the other fields (`{call: small, retries: 3}`); a bare name is a call;
* a struct with a field `plan` takes the strategy's keys among its own (`{call: small, weight: 9}`), and a
  list of such structs may be a mapping of names to numbers (`{small: 9, large: 1}`), taken in order of name.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterable
from decimal import Decimal
from functools import cache
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import inspect as mi

from isthmus.config.document import PLANNED_SECTIONS, Document, RouteEntry
from isthmus.config.faults import Code, did_you_mean
from isthmus.config.findings import Findings
from isthmus.config.tree import Mapping, Path, Scalar, Sequence, Tree
from isthmus.core.portfolio import SecretRef
from isthmus.strategies.plan import STRATEGIES, CallModel, Node
from isthmus.strategies.plan.node import Calibrated, Empanelled, Learned

NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}"
ROUTE_PATTERN: Final = r"[A-Za-z0-9*?\[][A-Za-z0-9._:/@+*?\[\]!-]{0,127}"


def name_pattern(kind: mi.DictType) -> str:
    """The form of the names of a section: those of routes may be glob patterns."""
    value = kind.value_type
    return ROUTE_PATTERN if isinstance(value, mi.StructType) and value.cls is RouteEntry else NAME_PATTERN


T = TypeVar("T")


class _Invalid:
    """What an unfit value decodes to; its fault has been reported."""


INVALID: Final = _Invalid()

Entries: TypeAlias = dict[str, tuple[Scalar, Tree, Path]]
"""Key, value and path of what will be a struct's fields, by the field's name."""

"""What providers, models and routes may be called: it has to fit into a URL, a header and a label."""


LARGEST_AMOUNT = 1e9


class DecodedPlan(msgspec.Struct, frozen=True):
    """A strategy that decoded, the tree that it was written as, and where."""

    node: Node
    tree: Tree
    path: Path


class Decoder:
    """Decodes one document; `plans` are the strategies in it that name models, inner ones first."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self.plans: list[DecodedPlan] = []

    def document(self, tree: Mapping) -> dict[str, Any]:
        """The sections that decoded, by name; of entries by name only the whole ones remain."""
        fields = fields_of(Document)
        sections: dict[str, Any] = {}
        for name, (key, value) in tree.entries.items():
            if name in fields:
                sections[name] = self._section(value, fields[name].type, (name,))
            elif name in PLANNED_SECTIONS:
                message = f"`{name}` is not in this version."
                self._add(
                    Code.NOT_IN_THIS_VERSION, message, "Remove it: nothing would keep to it.", key, (name,)
                )
            else:
                self._unknown_key(name, key, fields, (name,))
        return sections

    def whole(self, tree: Mapping, cls: type[T]) -> T | None:
        """The document as one struct, None where anything of it does not fit."""
        value = self._struct(tree, cls, ())
        return None if value is INVALID else value

    def _section(self, tree: Tree, kind: mi.Type, path: Path) -> Any:
        if not isinstance(kind, mi.DictType):
            return self._decode(tree, kind, path)
        if not isinstance(tree, Mapping):
            return self._wrong(tree, "a mapping of names", path)
        entries = {}
        for name, (key, value) in tree.entries.items():
            if re.fullmatch(name_pattern(kind), name) is None:
                hint = "Use letters, digits and . _ : / @ + - only, and begin with a letter or digit."
                self._add(Code.BAD_NAME, f"`{name[:40]}` cannot be a name.", hint, key, (*path, name))
            entry = self._decode(value, kind.value_type, (*path, name))
            if entry is not INVALID:
                entries[name] = entry
        return entries

    def _decode(self, tree: Tree, kind: mi.Type, path: Path) -> Any:
        match kind:
            case mi.UnionType():
                return self._union(tree, kind, path)
            case mi.StructType():
                return self._struct(tree, kind.cls, path)
            case mi.DictType():
                return self._dict(tree, kind, path)
            case mi.VarTupleType() | mi.FrozenSetType():
                return self._collection(tree, kind, path)
        return self._scalar(tree, kind, path)

    # Scalars

    def _scalar(self, tree: Tree, kind: mi.Type, path: Path) -> Any:
        if not isinstance(tree, Scalar):
            return self._wrong(tree, _expected(kind), path)
        match kind, tree.meaning:
            case mi.StrType(), str(text):
                return text if text.strip() else self._wrong(tree, "a text that is not empty", path)
            case mi.BoolType(), bool(truth):
                return truth
            case mi.IntType(), int(number) if not isinstance(number, bool):
                return self._bounded(tree, number, kind, path)
            case mi.FloatType(), (int() | float()) as number if not isinstance(number, bool):
                return self._bounded(tree, float(number), kind, path)
            case mi.LiteralType(values=values), _:
                return self._one_of(tree, values, path)
            case mi.DecimalType(), (int() | float()) as number if not isinstance(number, bool):
                return self._amount(tree, number, path)
            case mi.DateType(), str(text):
                return self._date(tree, text, path)
        return self._wrong(tree, _expected(kind), path)

    def _bounded(self, tree: Scalar, number: Any, kind: mi.IntType | mi.FloatType, path: Path) -> Any:
        fits = (
            math.isfinite(number)
            and (kind.ge is None or number >= kind.ge)
            and (kind.gt is None or number > kind.gt)
            and (kind.le is None or number <= kind.le)
            and (kind.lt is None or number < kind.lt)
        )
        if fits:
            return number
        message = f"Expected {bounds(kind)}, found {shown(tree)}."
        return self._add(Code.OUT_OF_RANGE, message, "", tree, path)

    def _amount(self, tree: Scalar, number: float, path: Path) -> Any:
        """Money is read from the text, not from the float that it rounds to."""
        if 0 <= number <= LARGEST_AMOUNT:
            return _plain(Decimal(tree.text))
        message = f"Expected at least 0 and at most {LARGEST_AMOUNT:,.0f}, found {shown(tree)}."
        return self._add(Code.OUT_OF_RANGE, message, "", tree, path)

    def _one_of(self, tree: Scalar, values: tuple[Any, ...], path: Path) -> Any:
        if tree.text in values:
            return tree.text
        choices = ", ".join(map(str, values))
        hint = did_you_mean(tree.text, map(str, values))
        return self._add(Code.OUT_OF_RANGE, f"{shown(tree)} is not one of: {choices}.", hint, tree, path)

    def _date(self, tree: Scalar, text: str, path: Path) -> Any:
        try:
            return dt.date.fromisoformat(text)
        except ValueError:
            return self._wrong(tree, "a day, as in 2026-01-31", path)

    def _secret(self, tree: Tree, path: Path) -> Any:
        hint = "Write `env:NAME` or `file:PATH`, and put the secret there."
        if not isinstance(tree, Scalar):
            return self._add(Code.WRONG_TYPE, "A key is a reference to a secret.", hint, tree, path)
        source, colon, name = tree.text.partition(":")
        if not colon or source not in ("env", "file"):
            message = "Secrets do not stand in the config; the value is not shown here for the same reason."
            return self._add(Code.SECRET_IN_CLEAR, message, hint, tree, path)
        if not name.strip():
            return self._add(Code.MISSING, f"`{source}:` is followed by nothing.", hint, tree, path)
        return SecretRef(source="env" if source == "env" else "file", name=name)

    # Collections

    def _union(self, tree: Tree, kind: mi.UnionType, path: Path) -> Any:
        others = [each for each in kind.types if not isinstance(each, mi.NoneType)]
        if len(others) < len(kind.types) and isinstance(tree, Scalar) and tree.meaning is None:
            return None
        lists = [each for each in others if isinstance(each, mi.VarTupleType | mi.FrozenSetType)]
        rest = [each for each in others if each not in lists]
        texts = [each for each in rest if isinstance(each, mi.StrType)]
        if isinstance(tree, Scalar) and isinstance(tree.meaning, str) and texts:
            return self._decode(tree, texts[0], path)
        return self._decode(tree, (lists if lists and isinstance(tree, Sequence) else rest or lists)[0], path)

    def _dict(self, tree: Tree, kind: mi.DictType, path: Path) -> Any:
        if not isinstance(tree, Mapping):
            return self._wrong(tree, "a mapping", path)
        values = {
            name: self._decode(value, kind.value_type, (*path, name))
            for name, (_, value) in tree.entries.items()
        }
        return INVALID if INVALID in values.values() else values

    def _collection(self, tree: Tree, kind: mi.VarTupleType | mi.FrozenSetType, path: Path) -> Any:
        item = kind.item_type
        if isinstance(tree, Mapping) and isinstance(item, mi.StructType) and holds_plan(item.cls):
            # A mapping has no order, but a list of shares has: who is drawn depends on it.
            shares = sorted(entries_of(tree, path).items())
            values = [self._share(item.cls, key, value, place) for _, (key, value, place) in shares]
        elif isinstance(tree, Sequence):
            values = [self._decode(each, item, (*path, index)) for index, each in enumerate(tree.items)]
        else:
            return self._wrong(tree, "a list", path)
        if len(values) < (kind.min_length or 0):
            message = f"Expected at least {kind.min_length}, found {len(values)}."
            return self._add(Code.OUT_OF_RANGE, message, "", tree, path)
        most = kind.max_length if isinstance(kind, mi.VarTupleType) else None
        if most is not None and len(values) > most:
            message = f"Expected at most {most}, found {len(values)}."
            return self._add(Code.OUT_OF_RANGE, message, "", tree, path)
        if INVALID in values:
            return INVALID
        return frozenset(values) if isinstance(kind, mi.FrozenSetType) else tuple(values)

    def _share(self, cls: Any, key: Scalar, value: Tree, path: Path) -> Any:
        """`small: 9`, among structs that hold a plan: a call of the model, and the first other field."""
        number = next(name for name in fields_of(cls) if name != "plan")
        call = Scalar(key.text, key.text, key.start, key.end)
        return self._fields(cls, {"plan": (key, call, path), number: (key, value, path)}, key, path)

    # Structs

    def _struct(self, tree: Tree, cls: Any, path: Path) -> Any:
        if cls is SecretRef:
            return self._secret(tree, path)
        if cls in (Calibrated, Learned, Empanelled):
            file = self._scalar(tree, mi.StrType(), path)
            return INVALID if file is INVALID else cls(file=file)
        if cls is Node:
            return self._plan(tree, path)
        if holds_plan(cls):
            return self._holding_plan(tree, cls, path)
        if isinstance(tree, Mapping):
            return self._fields(cls, entries_of(tree, path), tree, path)
        shorthand = getattr(cls, "shorthand", None)
        if shorthand is not None and isinstance(tree, Scalar) and tree.meaning is not None:
            value = self._decode(tree, fields_of(cls)[shorthand].type, path)
            return INVALID if value is INVALID else cls(**{shorthand: value})
        return self._wrong(tree, "a mapping", path)

    def _fields(self, cls: Any, entries: Entries, at: Tree, path: Path, beside: Iterable[str] = ()) -> Any:
        fields = fields_of(cls)
        values: dict[str, Any] = {}
        for name, (key, value, place) in entries.items():
            if name in fields:
                values[name] = self._decode(value, fields[name].type, place)
            else:
                self._unknown_key(name, key, {*fields, *beside}, place)
        for name, field in fields.items():
            if field.required and name not in values:
                self._add(Code.MISSING, f"`{name}` is missing.", "", at, path)
                values[name] = INVALID
        if INVALID not in values.values():
            return made(cls, values)
        if issubclass(cls, Node):
            self._salvage(cls, values, at, path)
        return INVALID

    def _salvage(self, cls: Any, values: dict[str, Any], tree: Tree, path: Path) -> None:
        """Keep what is sound of a strategy, so that the names in it are looked up along with the rest."""
        sound = {name: value for name, value in values.items() if value is not INVALID}
        if all(name in sound for name, field in fields_of(cls).items() if field.required):
            self.plans.append(DecodedPlan(made(cls, sound), tree, path))

    def _unknown_key(self, name: str, key: Scalar, known: Iterable[str], path: Path) -> None:
        self._add(Code.UNKNOWN_KEY, f"Nothing reads `{name[:60]}`.", did_you_mean(name, known), key, path)

    # Strategies

    def _holding_plan(self, tree: Tree, cls: Any, path: Path) -> Any:
        if not isinstance(tree, Mapping):
            plan = self._plan(tree, path)
            return INVALID if plan is INVALID else cls(plan=plan)
        entries = entries_of(tree, path)
        if "plan" in entries:
            return self._fields(cls, entries, tree, path)
        fields = fields_of(cls)
        own = {
            name: self._decode(value, fields[name].type, place)
            for name, (_, value, place) in entries.items()
            if name in fields
        }
        rest = {name: entry for name, entry in tree.entries.items() if name not in fields}
        plan = self._plan(Mapping(rest, tree.start), path, beside=fields.keys() - {"plan"})
        return INVALID if plan is INVALID or INVALID in own.values() else made(cls, {"plan": plan, **own})

    def _plan(self, tree: Tree, path: Path, beside: Iterable[str] = ()) -> Any:
        if isinstance(tree, Mapping):
            plan = self._strategy(tree, path, beside)
        elif isinstance(tree, Scalar) and tree.meaning is not None:
            plan = self._fields(CallModel, {CallModel.shorthand: (tree, tree, path)}, tree, path)
        else:
            return self._wrong(tree, "a model's name or a strategy", path)
        if plan is not INVALID:
            self.plans.append(DecodedPlan(plan, tree, path))
        return plan

    def _strategy(self, tree: Mapping, path: Path, beside: Iterable[str]) -> Any:
        entries = entries_of(tree, path)
        keywords = [name for name in entries if name in STRATEGIES]
        if not keywords:
            if CallModel.shorthand in entries:
                return self._fields(CallModel, entries, tree, path, beside)
            return self._no_strategy(tree, path, beside)
        if len(keywords) > 1:
            message = f"`{keywords[0]}` and `{keywords[1]}` are two strategies for one place."
            key, _, place = entries[keywords[1]]
            return self._add(Code.CONFLICT, message, "Put one inside the other.", key, place)
        key, value, place = entries.pop(keywords[0])
        cls = STRATEGIES[keywords[0]]
        if isinstance(value, Mapping) and _is_all_fields(value, cls):
            inner = entries_of(value, place)
        else:
            inner = {cls.shorthand: (key, value, place)}
        for name in entries.keys() & inner.keys():
            message = f"`{name}` is said twice: under `{keywords[0]}` and beside it."
            self._add(Code.CONFLICT, message, "Keep one of them.", entries[name][0], entries[name][2])
        return self._fields(cls, entries | inner, tree, path, beside)

    def _no_strategy(self, tree: Mapping, path: Path, beside: Iterable[str]) -> Any:
        if not tree.entries:
            hint = f"Name a model, or one of: {', '.join(STRATEGIES)}."
            return self._add(Code.MISSING, "A strategy is missing.", hint, tree, path)
        for name, (key, _, place) in entries_of(tree, path).items():
            self._unknown_key(name, key, {*STRATEGIES, CallModel.shorthand, *beside}, place)
        return INVALID

    # Faults

    def _wrong(self, tree: Tree, expected: str, path: Path) -> _Invalid:
        return self._add(
            Code.WRONG_TYPE, f"Expected {expected}, found {shown(tree)}.", _hint(tree, expected), tree, path
        )

    def _add(self, code: Code, message: str, hint: str, at: Tree, path: Path) -> _Invalid:
        self._findings.add(code, message, hint, at.start, path)
        return INVALID


def entries_of(tree: Mapping, path: Path) -> Entries:
    """The entries of a mapping with their paths."""
    return {name: (key, value, (*path, name)) for name, (key, value) in tree.entries.items()}


@cache
def fields_of(cls: Any) -> dict[str, mi.Field]:
    """The fields of a struct by the names that they are written by, in order."""
    kind = mi.type_info(cls)
    assert isinstance(kind, mi.StructType)
    return {field.encode_name: field for field in kind.fields}


def made(cls: Any, values: dict[str, Any]) -> Any:
    """The struct with these values, by the names that they are written by."""
    fields = fields_of(cls)
    return cls(**{fields[name].name: value for name, value in values.items()})


def holds_plan(cls: Any) -> bool:
    """True for structs into which a strategy is written: they have a field `plan`."""
    kind = fields_of(cls).get("plan")
    return kind is not None and isinstance(kind.type, mi.StructType) and kind.type.cls is Node


def _is_all_fields(value: Mapping, cls: Any) -> bool:
    """True where a mapping under a keyword holds the strategy's fields, not its shorthand field's value."""
    fields = fields_of(cls)
    if cls.shorthand in value.entries or all(name in fields for name in value.entries):
        return True
    return not takes_mapping(fields[cls.shorthand].type)


def takes_mapping(kind: mi.Type) -> bool:
    """True where a value of this type may be written as a mapping."""
    if isinstance(kind, mi.UnionType):
        return any(takes_mapping(each) for each in kind.types)
    if isinstance(kind, mi.VarTupleType):
        return isinstance(kind.item_type, mi.StructType) and holds_plan(kind.item_type.cls)
    return isinstance(kind, mi.StructType | mi.DictType)


def shown(tree: Tree) -> str:
    """The value in a few words, or only what it is where it may be a secret."""
    if isinstance(tree, Mapping):
        return "a mapping"
    if isinstance(tree, Sequence):
        return "a list"
    if tree.secret:
        return "a value that is not shown"
    if tree.meaning is None:
        return "nothing"
    words = tree.text if len(tree.text) <= 40 else tree.text[:39] + "…"
    return f"`{words}`"


def _expected(kind: mi.Type) -> str:
    words = {
        mi.StrType: "a text",
        mi.BoolType: "true or false",
        mi.IntType: "a whole number",
        mi.FloatType: "a number",
        mi.DecimalType: "a number",
        mi.DateType: "a day, as in 2026-01-31",
        mi.LiteralType: "one word",
    }
    return words[type(kind)]


def _hint(tree: Tree, expected: str) -> str:
    if expected == "a text" and isinstance(tree, Scalar) and tree.meaning is not None:
        return "Put it in quotes."
    return ""


def bounds(kind: mi.IntType | mi.FloatType) -> str:
    """What numbers are allowed, in words: `at least 0 and at most 65535`."""
    said = [("more than", kind.gt), ("at least", kind.ge), ("less than", kind.lt), ("at most", kind.le)]
    return " and ".join(f"{words} {limit:,.10g}" for words, limit in said if limit is not None) or "finite"


def _plain(number: Decimal) -> Decimal:
    """The number without trailing zeros and without an exponent, so that 3 and 3.00 are one."""
    shortest = number.normalize()
    exponent = shortest.as_tuple().exponent
    return shortest.quantize(Decimal(1)) if isinstance(exponent, int) and exponent > 0 else shortest
