"""`schema`: JSON of the form that was asked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.evals.scorers.answers import text_of, unscorable
from isthmus.evals.scorers.spec import file_text, invalid, library
from isthmus.evals.scorers.structured import NoJsonError, json_of


class Schema:
    """1 where the answer is JSON that the JSON Schema in the file accepts; without one, the request's own."""

    binary = True

    def __init__(self, file: Path | None = None, *, name: str = "schema") -> None:
        self.name = name
        self._jsonschema = library("jsonschema", "evals")
        self._referencing = library("referencing", "evals")
        self._own = None
        if file is not None:
            try:
                self._own = self._validator(json_of(file_text(file)))
            except (NoJsonError, _NoSchemaError) as error:
                raise invalid(f"{file} is no JSON Schema: {error}.") from None

    async def score(self, sample: Sample, answered: Answered) -> Score:
        """1 or 0, and what is wrong."""
        if missing := unscorable(sample, answered, by_target=False):
            return missing
        try:
            validator = self._own or self._validator(_asked_for(sample))
        except _NoSchemaError as error:
            return Score(value=None, why=f"the request asks for no JSON Schema: {error}")
        try:
            document = json_of(text_of(answered))
        except NoJsonError as error:
            return Score(value=0.0, said=text_of(answered), why=str(error))
        return self._judged(validator, document)

    def _judged(self, validator: Any, document: Any) -> Score:
        said = msgspec.json.encode(document).decode()
        try:
            wrong = self._jsonschema.exceptions.best_match(validator.iter_errors(document))
        except (
            self._referencing.exceptions.Unresolvable,
            re.error,
            RecursionError,
            ArithmeticError,
        ) as error:
            return Score(value=None, said=said, why=f"the schema cannot be applied: {type(error).__name__}")
        why = None if wrong is None else f"{wrong.json_path}: {wrong.message}"
        return Score(value=float(wrong is None), said=said, why=why)

    def _validator(self, schema: Any) -> Any:
        if not isinstance(schema, dict | bool):
            raise _NoSchemaError("it is neither an object nor true or false")
        kind = self._jsonschema.validators.validator_for(
            schema, default=self._jsonschema.Draft202012Validator
        )
        try:
            kind.check_schema(schema)
        except self._jsonschema.SchemaError as error:
            raise _NoSchemaError(f"{error.json_path}: {error.message}") from None
        # With a registry of its own, no reference is ever fetched from the network.
        return kind(schema, registry=self._referencing.Registry())


class _NoSchemaError(ValueError):
    """Something else than a JSON Schema stands where one should."""


def _asked_for(sample: Sample) -> Any:
    """The schema in the request's `response_format`, as OpenAI's dialect has it."""
    format_ = sample.request.get("response_format")
    named = format_.get("json_schema") if isinstance(format_, dict) else None
    if not isinstance(named, dict) or "schema" not in named:
        raise _NoSchemaError("it has no `response_format.json_schema.schema`")
    return named["schema"]
