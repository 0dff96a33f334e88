"""The JSON Schema of isthmus.yaml for editors, made from the structs that decode it.

It says which keys there are, of which types, with which descriptions. What takes more than one place to judge
(names that exist, periods that overlap) is left to `isthmus check`.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, TypeAlias

from msgspec import NODEFAULT
from msgspec import inspect as mi

from isthmus.config.decode import LARGEST_AMOUNT, fields_of, holds_plan, name_pattern
from isthmus.config.document import Document
from isthmus.core.portfolio import SecretRef
from isthmus.strategies.plan import STRATEGIES, CallModel, Node
from isthmus.strategies.plan.node import Calibrated, Empanelled, Learned

Schema: TypeAlias = dict[str, Any]

SCHEMA_ID = "https://isthmus-gateway.github.io/isthmus.schema.json"


def json_schema() -> Schema:
    """The schema, JSON Schema draft 2020-12."""
    definitions: dict[str, Schema] = {}
    top = _Schemas(definitions).object(Document)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "isthmus.yaml",
        **top,
        "$defs": dict(sorted(definitions.items())),
    }


def describe(cls: Any) -> tuple[str, dict[str, str]]:
    """What a struct's docstring says: its first sentence, and for each field the sentence that is about it.

    That is the sentence that begins with the field in backticks, else the first that mentions it.
    """
    sentences = re.split(r"(?<=\.) (?=[`A-Z])", " ".join((inspect.getdoc(cls) or "").split()))
    about = {}
    for name in fields_of(cls):
        mentions = [sentence for sentence in sentences if f"`{name}`" in sentence]
        beginning = [sentence for sentence in mentions if sentence.startswith(f"`{name}`")]
        if mentions:
            about[name] = (beginning or mentions)[0]
    return sentences[0], about


class _Schemas:
    """Turns types into schemas; structs go into `definitions` once and are referred to."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions

    def object(self, cls: Any) -> Schema:
        """A struct as a mapping of its fields."""
        return {
            "description": describe(cls)[0],
            **_closed(self.fields(cls), [name for name, field in fields_of(cls).items() if field.required]),
        }

    def fields(self, cls: Any) -> dict[str, Schema]:
        """The schema of each field, with its description and default."""
        _, about = describe(cls)
        schemas = {}
        for name, field in fields_of(cls).items():
            schema = self.of(field.type)
            if name in about:
                schema = {**schema, "description": about[name]}
            if field.default is not NODEFAULT and isinstance(field.default, str | int | float | bool):
                schema = {**schema, "default": field.default}
            schemas[name] = schema
        return schemas

    def of(self, kind: mi.Type) -> Schema:
        match kind:
            case mi.UnionType():
                return {"anyOf": [self.of(each) for each in kind.types]}
            case mi.StructType():
                return self._struct(kind.cls)
            case mi.DictType():
                values = self.of(kind.value_type)
                names = {"propertyNames": {"pattern": f"^{name_pattern(kind)}$"}} if "$ref" in values else {}
                return {"type": "object", "additionalProperties": values, **names}
            case mi.VarTupleType() | mi.FrozenSetType():
                return self._collection(kind)
        return _scalar(kind)

    def _collection(self, kind: mi.VarTupleType | mi.FrozenSetType) -> Schema:
        item = kind.item_type
        array: Schema = {"type": "array", "items": self.of(item)}
        if kind.min_length:
            array["minItems"] = kind.min_length
        if isinstance(item, mi.StructType) and holds_plan(item.cls):
            number = next(field for name, field in fields_of(item.cls).items() if name != "plan")
            return {"anyOf": [array, {"type": "object", "additionalProperties": self.of(number.type)}]}
        return array

    def _struct(self, cls: Any) -> Schema:
        if cls is SecretRef:
            return {"type": "string", "pattern": "^(env|file):.+$"}
        if cls in (Calibrated, Learned, Empanelled):
            return {"type": "string", "minLength": 1}
        name = "Strategy" if cls is Node else cls.__name__
        if name not in self._definitions:
            self._definitions[name] = {}
            self._definitions[name].update(self._definition(cls))
        return {"$ref": f"#/$defs/{name}"}

    def _definition(self, cls: Any) -> Schema:
        if cls is Node:
            return {
                "description": "A model's name, or a strategy under its keyword.",
                "anyOf": self._plans({}),
            }
        if holds_plan(cls):
            own = {name: schema for name, schema in self.fields(cls).items() if name != "plan"}
            return {"description": describe(cls)[0], "anyOf": [*self._plans(own), self.object(cls)]}
        shorthand = getattr(cls, "shorthand", None)
        if shorthand is None:
            return self.object(cls)
        return {"anyOf": [self.of(fields_of(cls)[shorthand].type), self.object(cls)]}

    def _plans(self, beside: dict[str, Schema]) -> list[Schema]:
        """Every way to write a strategy, with other keys beside it."""
        bare: Schema = {"type": "string", "description": describe(CallModel)[0]}
        call = _closed({**self.fields(CallModel), **beside}, [CallModel.shorthand])
        return [bare, *(self._strategy(cls, beside) for cls in STRATEGIES.values()), call]

    def _strategy(self, cls: Any, beside: dict[str, Schema]) -> Schema:
        fields = self.fields(cls)
        value = {"description": describe(cls)[0], "anyOf": [fields[cls.shorthand], self.object(cls)]}
        others = {name: schema for name, schema in fields.items() if name != cls.shorthand}
        return _closed({cls.keyword: value, **others, **beside}, [cls.keyword])


def _closed(properties: dict[str, Schema], required: list[str]) -> Schema:
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def _scalar(kind: mi.Type) -> Schema:
    match kind:
        case mi.StrType():
            return {"type": "string", **({"pattern": kind.pattern} if kind.pattern else {"minLength": 1})}
        case mi.BoolType():
            return {"type": "boolean"}
        case mi.IntType() | mi.FloatType():
            limits = {
                "exclusiveMinimum": kind.gt,
                "minimum": kind.ge,
                "exclusiveMaximum": kind.lt,
                "maximum": kind.le,
            }
            said = {word: limit for word, limit in limits.items() if limit is not None}
            return {"type": "integer" if isinstance(kind, mi.IntType) else "number", **said}
        case mi.DecimalType():
            return {"type": "number", "minimum": 0, "maximum": LARGEST_AMOUNT}
        case mi.DateType():
            return {"type": "string", "format": "date"}
        case mi.LiteralType():
            return {"enum": list(kind.values)}
        case mi.NoneType():
            return {"type": "null"}
    raise TypeError(f"no schema is known for {kind!r}")
