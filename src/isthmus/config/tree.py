"""YAML as a tree in which every value knows its place in the file.

Only the plain part of YAML is taken: mappings, lists and scalars, in one document. What a config never needs
and what surprises its readers is refused: anchors and aliases (a value that stands elsewhere), tags (a value
with a hidden type) and nesting without end. Scalars follow the core schema of YAML 1.2.2, section 10.3, so
`no` is a word, not a boolean.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from isthmus.config.faults import Code

MAX_DEPTH = 40

Step: TypeAlias = str | int
Path: TypeAlias = tuple[Step, ...]


class Mark(msgspec.Struct, frozen=True):
    """A place in the text; `line` and `column` count from 0."""

    line: int
    column: int


class Scalar(msgspec.Struct, frozen=True):
    """One value: its text, and what the text means (None, bool, int, float or str).

    `secret` is True where the key says that this may be a credential: it is never shown then.
    """

    text: str
    meaning: bool | int | float | str | None
    start: Mark
    end: Mark
    secret: bool = False


class Sequence(msgspec.Struct, frozen=True):
    """A list of values."""

    items: tuple[Tree, ...]
    start: Mark


class Mapping(msgspec.Struct, frozen=True):
    """Values by key, in the order of the file; a key that stood twice is here once."""

    entries: dict[str, tuple[Scalar, Tree]]
    start: Mark


Tree: TypeAlias = Scalar | Sequence | Mapping

Report: TypeAlias = Callable[[Code, str, str, Mark, Path], None]
"""Takes code, message, hint, place and path of a fault."""


class Reading(msgspec.Struct, frozen=True):
    """What was read: the tree, None where there is none, and the text's lines as they may be shown."""

    tree: Mapping | None
    lines: list[str]


class _StopError(Exception):
    """The rest of the file makes no sense after the fault that was just reported."""


def read_tree(text: str, report: Report) -> Reading:
    """The tree of a text, and its lines with every secret blotted out; whatever is wrong is reported."""
    lines = _LINE_BREAK.split(text)
    builder = _Builder(text, report)
    try:
        return Reading(builder.document(), _blotted(lines, builder.secrets))
    except _StopError:
        pass
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Mark(mark.line, mark.column) if mark else Mark(0, 0)
        report(Code.SYNTAX, f"This is not YAML: {error.problem or error.context}.", "", place, ())
    except (YAMLError, ArithmeticError, ValueError, IndexError) as error:
        # The reader refuses control characters without a mark, and some malformed escapes end in plain Python
        # errors inside the parser: still the file's fault, not ours.
        problem = str(error).splitlines()[0] if isinstance(error, YAMLError) else "a malformed escape"
        report(Code.SYNTAX, f"This is not YAML: {problem}.", "", _place_of_control_character(text), ())
    # The tree is not complete, so neither is the list of secrets: blot by the look of the lines.
    return Reading(None, [_blotted_by_look(line) for line in lines])


class _Events:
    """The parser's events, with one of them looked at ahead."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[Any] = YAML(typ="safe", pure=True).parse(text)
        self._ahead: Any = None

    def peek(self) -> Any:
        if self._ahead is None:
            self._ahead = next(self._events, None)
        return self._ahead

    def take(self) -> Any:
        event = self.peek()
        self._ahead = None
        return event


class _Builder:
    """Builds the tree out of events, and refuses what a config does without."""

    def __init__(self, text: str, report: Report) -> None:
        self._events = _Events(text)
        self._report = report
        self.secrets: list[Scalar] = []

    def document(self) -> Mapping | None:
        while (event := self._events.take()) is not None and not isinstance(event, DocumentStartEvent):
            pass
        if event is None:
            return Mapping({}, Mark(0, 0))
        start = _start(self._events.peek())
        tree = self._tree((), secret=False)
        while (event := self._events.take()) is not None:
            if isinstance(event, DocumentStartEvent):
                self._refuse(
                    "A second document begins here.", "Keep one config in one file.", _start(event), ()
                )
                break
        if isinstance(tree, Scalar) and tree.meaning is None:
            return Mapping({}, start)
        if not isinstance(tree, Mapping):
            message = "A config is a mapping of sections, such as `providers`, `models` and `routes`."
            self._report(Code.WRONG_TYPE, message, "", start, ())
            return None
        return tree

    def _tree(self, path: Path, *, secret: bool) -> Tree:
        event = self._events.take()
        self._check(event, path)
        if isinstance(event, MappingStartEvent):
            return self._mapping(event, path, secret)
        if isinstance(event, SequenceStartEvent):
            return self._sequence(event, path, secret)
        if isinstance(event, ScalarEvent):
            scalar = _scalar(event, secret or _URL_WITH_SECRET.search(event.value) is not None)
            if scalar.secret and not is_reference(scalar.text):
                self.secrets.append(scalar)
            return scalar
        return Scalar("", None, _start(event), _start(event), secret)

    def _mapping(self, event: Any, path: Path, secret: bool) -> Mapping:
        entries: dict[str, tuple[Scalar, Tree]] = {}
        while not isinstance(self._events.peek(), MappingEndEvent):
            key = self._tree(path, secret=False)
            if not isinstance(key, Scalar):
                self._report(
                    Code.WRONG_TYPE, "A key is a word, not a mapping or a list.", "", key.start, path
                )
                self._tree(path, secret=secret)
                continue
            name = key.text
            value = self._tree((*path, name), secret=secret or sounds_secret(name))
            if name in entries:
                first = entries[name][0].start.line + 1
                hint = f"It stands on line {first} already: keep one of them."
                self._report(Code.DUPLICATE_KEY, f"`{name}` is said twice.", hint, key.start, (*path, name))
            else:
                entries[name] = (key, value)
        self._events.take()
        return Mapping(entries, _start(event))

    def _sequence(self, event: Any, path: Path, secret: bool) -> Sequence:
        items: list[Tree] = []
        while not isinstance(self._events.peek(), SequenceEndEvent):
            items.append(self._tree((*path, len(items)), secret=secret))
        self._events.take()
        return Sequence(tuple(items), _start(event))

    def _check(self, event: Any, path: Path) -> None:
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
            self._refuse(
                "Anchors and aliases are not for configs.", "Write the value out.", _start(event), path
            )
        elif getattr(event, "tag", None):
            self._refuse("Tags are not for configs.", "Leave out the word with the `!`.", _start(event), path)
        if len(path) > MAX_DEPTH:
            self._refuse(f"This is nested deeper than {MAX_DEPTH} levels.", "", _start(event), path)
            raise _StopError

    def _refuse(self, message: str, hint: str, place: Mark, path: Path) -> None:
        self._report(Code.UNUSUAL_YAML, message, hint, place, path)


def _start(event: Any) -> Mark:
    return Mark(event.start_mark.line, event.start_mark.column)


def _scalar(event: Any, secret: bool) -> Scalar:
    text = str(event.value)
    meaning = _meaning(text) if event.style is None else text
    return Scalar(text, meaning, _start(event), Mark(event.end_mark.line, event.end_mark.column), secret)


_LINE_BREAK = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]{1,30}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?")


def _meaning(text: str) -> bool | int | float | str | None:
    if _NULL.fullmatch(text):
        return None
    if _BOOLEAN.fullmatch(text):
        return text.lower() == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


_SECRET_KEY = re.compile(
    r"(.*[-_ ])?(key|token|secret|password|passwd|passphrase|authorization|cookie|credentials?)|api_?key",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r"(env|file):")
_URL_WITH_SECRET = re.compile(r"://([^/\s]*@|\S*\?)")
_NOT_SECRET = {"first_token"}
_SECRET_LINE = re.compile(
    r"((?:key|token|secret|password|passwd|passphrase|authorization|cookie|credentials?)[\"']?\s*:\s*)(?!env:|file:)\S.*",
    re.IGNORECASE,
)


def sounds_secret(key: str) -> bool:
    """True where what stands under such a key is most likely a secret."""
    return key not in _NOT_SECRET and _SECRET_KEY.fullmatch(key) is not None


def is_reference(text: str) -> bool:
    """True for `env:...` and `file:...`, which may be shown."""
    return _REFERENCE.match(text) is not None


def _blotted(lines: list[str], secrets: list[Scalar]) -> list[str]:
    """The lines with stars in place of every secret; nothing moves, so that columns still hold."""
    shown = list(lines)
    for secret in secrets:
        _blot(shown, secret.start, secret.end)
    return shown


def _blotted_by_look(line: str) -> str:
    return _URL_WITH_SECRET.sub("://***", _SECRET_LINE.sub(r"\1***", line))


def _blot(lines: list[str], start: Mark, end: Mark) -> None:
    for number in range(start.line, min(end.line + 1, len(lines))):
        line = lines[number]
        first = start.column if number == start.line else 0
        last = end.column if number == end.line else len(line)
        if last > first:
            lines[number] = f"{line[:first]}{'*' * (last - first)}{line[last:]}"


def _place_of_control_character(text: str) -> Mark:
    """The first character that YAML does not allow (1.2.2, section 5.1), or the beginning."""
    match = re.search(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)
    before = text[: match.start()] if match else ""
    return Mark(before.count("\n"), len(before) - (before.rfind("\n") + 1))
