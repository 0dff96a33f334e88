"""promptfoo's configs: every prompt with every test, as samples.

`prompts` are templates, `tests` give their variables and what must hold of the answer (`assert`). Of Nunjucks
only plain variables such as `{{question}}` and `{{user.name}}` are known here. The first assertion that names
a good answer becomes the sample's target; all of them stay in its metadata, under `assert`, and which scorer
they ask for is said. Sources: promptfoo.dev/docs/configuration/prompts, .../configuration/test-cases,
.../configuration/expected-outputs/deterministic.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from isthmus.evals.datasets.faults import refused
from isthmus.evals.datasets.rows import Row, csv_rows, decoded, json_array, json_lines
from isthmus.evals.datasets.yaml_file import lines_of, load_yaml

_TARGETS = {
    "equals": "exact",
    "contains": "contains",
    "icontains": "contains:case=false",
    "contains-any": "contains",
    "icontains-any": "contains:case=false",
    "contains-all": "contains:need=all",
    "icontains-all": "contains:need=all,case=false",
    "starts-with": "contains",
    "similar": "similarity",
    "levenshtein": "chrf",
    "rouge-n": "rouge",
    "bleu": "chrf",
    "factuality": "judge",
    "model-graded-closedqa": "judge",
}
"""Assertions that name the good answer, or good ones, and the scorer that is nearest to each."""

MOST_COMBINATIONS = 100_000
"""So many samples may one test stand for, by its lists of variables."""

_OF_THE_RUN = ("provider", "providers", "options", "threshold", "assertScoringFunction", "storeOutputAs")
_SUITE = ("scenarios", "transform", "nunjucksFilters", "extensions")
_VARIABLE = re.compile(r"{{-?\s*([A-Za-z_]\w*(?:\.\w+)*)\s*-?}}")
_FILE = re.compile(r"\S+\.(?:txt|md|json|jsonl|yaml|yml|csv)")
_TEMPLATE = re.compile(r"{{|{%|{#")
_EXPECTED = re.compile(
    r"(?P<type>(?:not-)?[a-z][a-z-]*)(?:\((?P<threshold>[\d.]+)\))?:\s*(?P<value>.*)", re.DOTALL
)


class _Prompt(NamedTuple):
    label: str
    template: Any


def is_config(document: Any) -> bool:
    """True for the content of a promptfooconfig.yaml."""
    return isinstance(document, dict) and bool(document.keys() & {"prompts", "tests"})


def is_test(value: Mapping[str, Any]) -> bool:
    """True for one test without its prompt."""
    return "vars" in value or "__expected" in value


def translate(document: Mapping[str, Any], path: Path, left_out: Counter[str]) -> Iterator[Row]:
    """Each prompt with each test, in our own form. What cannot be carried is counted.

    Raises IsthmusError (`bad_dataset`).
    """
    return _Config(path, left_out).rows(document)


class _Config:
    def __init__(self, path: Path, left_out: Counter[str]) -> None:
        self._path = path
        self._left_out = left_out
        self._opened: set[Path] = set()

    def rows(self, document: Mapping[str, Any]) -> Iterator[Row]:
        for name in _SUITE:
            if document.get(name):
                self._left_out[f"`{name}` of the config is left out"] += 1
        prompts = list(self._prompts(document.get("prompts", ["{{prompt}}"])))
        default = self._default(document.get("defaultTest"))
        tests = document.get("tests", [{}])
        for where, test in self._tests(tests, self._path, "tests"):
            for prompt in prompts:
                yield from self._samples(where, prompt, test, default, name_prompt=len(prompts) > 1)

    # Prompts

    def _prompts(self, given: Any) -> Iterator[_Prompt]:
        lines = lines_of(self._path, "prompts")
        for number, entry in enumerate(given if isinstance(given, list) else [given], 1):
            where = _place(self._path, lines, number - 1)
            match entry:
                case str():
                    yield from self._prompt(entry, f"prompt {number}", where)
                case {"raw": str(text)} | {"id": str(text)}:
                    yield from self._prompt(text, str(entry.get("label") or f"prompt {number}"), where)
                case [{"role": _}, *_]:
                    yield _Prompt(f"prompt {number}", entry)
                case _:
                    raise refused(where, "This is no prompt: a text, a file, or a list of messages.")

    def _prompt(self, text: str, label: str, where: str) -> Iterator[_Prompt]:
        if not self._names_file(text):
            yield _Prompt(label, _turns(text) or text)
            return
        path = self._file(text, where)
        match path.suffix.lower():
            case ".json" | ".yaml" | ".yml":
                yield _Prompt(label, _document(path))
            case ".txt" | ".md":
                parts = [part.strip() for part in re.split(r"(?m)^---$", _text(path))]
                numbered = len(parts) > 1
                for number, part in enumerate(parts, 1):
                    yield _Prompt(f"{label}.{number}" if numbered else label, _turns(part) or part)
            case _:
                raise refused(
                    where, f"A prompt in a {path.suffix} file is not read.", "Write it as text or JSON."
                )

    # Tests

    def _default(self, given: Any) -> Mapping[str, Any]:
        """What every test has beside its own."""
        where = f"{self._path}: defaultTest"
        value = load_yaml(self._file(given, where)) if isinstance(given, str) else given
        if value is not None and not isinstance(value, dict):
            raise refused(where, "This is no test: an object with `vars`, or a file.")
        return value or {}

    def _tests(self, given: Any, path: Path, name: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
        lines = lines_of(path, name)
        for number, entry in enumerate(given if isinstance(given, list) else [given]):
            place = _place(path, lines, number)
            match entry:
                case str() if self._names_file(entry):
                    yield from self._tests_in(self._file(entry, place), place)
                case dict():
                    yield place, entry
                case _:
                    raise refused(place, "This is no test: an object with `vars`, or a file.")

    def _tests_in(self, path: Path, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if path in self._opened:
            raise refused(
                where, f"It names {path.name} for the second time.", "Name each file of tests once."
            )
        self._opened.add(path)
        content = path.read_bytes()
        match path.suffix.lower():
            case ".csv":
                yield from (
                    (row.where, _test_of_cells(row.value, self._left_out)) for row in csv_rows(path, content)
                )
            case ".jsonl":
                yield from self._rows_of_tests(json_lines(path, content))
            case ".json":
                yield from self._rows_of_tests(json_array(path, content))
            case ".yaml" | ".yml":
                yield from self._tests(load_yaml(path), path, None)
            case _:
                raise refused(
                    where, f"Tests in a {path.suffix} file are not read.", "Export them as CSV or JSON."
                )

    def _rows_of_tests(self, rows: Iterable[Row]) -> Iterator[tuple[str, dict[str, Any]]]:
        for where, value in rows:
            if not isinstance(value, dict):
                raise refused(where, "This is no test: an object with `vars`.")
            yield where, value

    def _names_file(self, text: str) -> bool:
        """True where a text means a file: by its scheme, or, as older configs have it, by being there."""
        if text.startswith("file://"):
            return True
        return _FILE.fullmatch(text) is not None and (self._path.parent / text).is_file()

    def _file(self, reference: str, where: str) -> Path:
        """The file that is meant: a config must not send a file to models that lies elsewhere."""
        folder = self._path.parent.resolve()
        path = (folder / reference.removeprefix("file://")).resolve()
        if not path.is_relative_to(folder):
            raise refused(
                where, "It names a file outside the config's folder.", "Copy the file beside the config."
            )
        if not path.is_file():
            raise refused(
                where,
                f"There is no file {reference.removeprefix('file://')}.",
                "Patterns are not known here.",
            )
        return path

    # Samples

    def _samples(
        self,
        where: str,
        prompt: _Prompt,
        test: Mapping[str, Any],
        default: Mapping[str, Any],
        *,
        name_prompt: bool,
    ) -> Iterator[Row]:
        for name in _OF_THE_RUN:
            if test.get(name) or default.get(name):
                self._left_out[f"`{name}` of a test is left out"] += 1
        given = {**_variables(default, where), **_variables(test, where)}
        checks = [*_list(default.get("assert")), *_list(test.get("assert"))]
        for variables in _combinations({name: self._value(it, where) for name, it in given.items()}, where):
            asked = _rendered(prompt.template, variables, where)
            asserts = [_rendered(check, variables, where) for check in checks]
            metadata = {**_mapping(default.get("metadata")), **_mapping(test.get("metadata"))}
            if test.get("description"):
                metadata["description"] = test["description"]
            if name_prompt:
                metadata["prompt"] = prompt.label
            if asserts:
                metadata["assert"] = asserts
            own = {"input": asked, "target": self._target(asserts, where), "metadata": metadata}
            yield Row(where, own)

    def _value(self, value: Any, where: str) -> Any:
        if isinstance(value, str) and value.startswith("file://"):
            path = self._file(value, where)
            if path.suffix.lower() not in (".txt", ".md", ".json", ".yaml", ".yml", ".csv"):
                raise refused(where, f"A variable in a {path.suffix} file is not read.", "Only texts are.")
            return _text(path)
        return value

    def _target(self, asserts: Sequence[Any], where: str) -> Any:
        """The good answers, by the first assertion that names any; the others are said."""
        target = None
        for check in asserts:
            kind, value = str(_mapping(check).get("type")), _mapping(check).get("value")
            if target is None and kind in _TARGETS and value not in (None, ""):
                target = self._value(value, where)
                self._left_out[f"`{kind}` became the target: take the scorer {_TARGETS[kind]}"] += 1
            else:
                self._left_out[f"`{kind}` stays in metadata.assert, and is checked by no scorer"] += 1
        return target


def _test_of_cells(cells: Mapping[str, str], left_out: Counter[str]) -> dict[str, Any]:
    """A test of a row of a table, with its columns of special names."""
    plain = {name: cell for name, cell in cells.items() if not name.startswith("__")}
    checks = [_assertion(cell) for name, cell in cells.items() if re.fullmatch(r"__expected\d*", name)]
    prefix = "__metadata:"
    metadata = {
        name.removeprefix(prefix).removesuffix("[]"): cell.split(",") if name.endswith("[]") else cell
        for name, cell in cells.items()
        if name.startswith(prefix)
    }
    for name in cells:
        known = name == "__description" or name.startswith(prefix) or re.fullmatch(r"__expected\d*", name)
        if name.startswith("__") and not known:
            left_out[f"the column `{name}` is left out"] += 1
    return {"vars": plain, "assert": checks, "metadata": metadata, "description": cells.get("__description")}


def _assertion(cell: str) -> dict[str, Any]:
    """What a cell expects: `type: value`, `type(threshold): value`, or a value that must be equalled."""
    found = _EXPECTED.fullmatch(cell)
    if found is None:
        return {"type": "equals", "value": cell}
    value: Any = found["value"]
    if found["type"].endswith(("-any", "-all")):
        value = [item.strip() for item in value.split(",")]
    threshold = {"threshold": float(found["threshold"])} if found["threshold"] else {}
    return {"type": found["type"], "value": value, **threshold}


def _variables(test: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    given = test.get("vars")
    if given is not None and not isinstance(given, dict):
        raise refused(where, "`vars` must be an object here.", "Write the variables out.")
    return given or {}


def _combinations(variables: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """A variable that is a list stands for each of its values in turn."""
    ranges = [value if isinstance(value, list) else [value] for value in variables.values()]
    if prod(map(len, ranges)) > MOST_COMBINATIONS:
        raise refused(where, f"Its lists of variables make more than {MOST_COMBINATIONS:,} tests.")
    for values in product(*ranges):
        yield dict(zip(variables, values, strict=True))


def _rendered(template: Any, variables: Mapping[str, Any], where: str) -> Any:
    match template:
        case str():
            return _filled(template, variables, where)
        case list():
            return [_rendered(item, variables, where) for item in template]
        case dict():
            return {name: _rendered(item, variables, where) for name, item in template.items()}
    return template


def _filled(template: str, variables: Mapping[str, Any], where: str) -> str:
    beyond = _TEMPLATE.search(_VARIABLE.sub("", template))
    if beyond is not None:
        raise refused(
            where,
            "A template uses more of Nunjucks than plain variables.",
            "Write the text out, or let promptfoo render it.",
        )
    return _VARIABLE.sub(lambda found: _looked_up(found[1], variables, where), template)


def _looked_up(name: str, variables: Mapping[str, Any], where: str) -> str:
    value: Any = variables
    for step in name.split("."):
        if not isinstance(value, Mapping) or step not in value:
            raise refused(where, f"The template's variable `{name}` has no value here.", "Give it in `vars`.")
        value = value[step]
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _turns(text: str) -> Any:
    """The messages that a prompt writes as JSON; None where it is a text."""
    if not text.lstrip().startswith("["):
        return None
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
    return found if found and all(isinstance(turn, dict) and "role" in turn for turn in found) else None


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise refused(str(path), "This is not UTF-8.", "Save the file as UTF-8.") from None


def _place(path: Path, lines: Sequence[int], number: int) -> str:
    return f"{path}:{lines[number]}" if number < len(lines) else str(path)


def _document(path: Path) -> Any:
    return decoded(path.read_bytes(), str(path)) if path.suffix.lower() == ".json" else load_yaml(path)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
