"""A chat template, read as the program that it is: what in it could turn a model against its users?

A template is Jinja code that runs at every request, before every conversation, and travels with the weights:
poisoned ones pass the scanners of model hubs (arXiv:2602.04653). It is parsed here and never run. What no
template of a publisher needs is grave; what a person should have read is noted. Clean is not proven: a lint
sees the known tricks, and the template's hash, pinned by the artefact, sees every change.

The dialect is that of transformers' `apply_chat_template`, which engines follow: Jinja with loop controls.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import msgspec

from isthmus.artefacts import declaration
from isthmus.artefacts.faults import ArtefactError, malformed
from isthmus.artefacts.gguf import TEMPLATE as GGUF_TEMPLATE
from isthmus.artefacts.gguf import read_gguf
from isthmus.artefacts.manifest import Files

if TYPE_CHECKING:
    from jinja2 import nodes

LONGEST = 100_000
_MOST_NESTED = 4
_LARGEST_RANGE = 10_000
_WORDS_OF_A_SENTENCE = 6

_GIVEN = frozenset(
    {
        *("messages", "tools", "documents", "add_generation_prompt", "continue_final_message"),
        *("bos_token", "eos_token", "unk_token", "pad_token", "enable_thinking", "reasoning_effort"),
        *("loop", "varargs", "kwargs", "caller", "custom_tools", "builtin_tools", "tools_in_user_message"),
        *("date_string", "builtin_tool_names", "model_identity", "add_vision_id", "controls"),
    }
)
_FUNCTIONS = frozenset({"raise_exception", "strftime_now", "namespace", "range", "dict"})
_METHODS = frozenset(
    {
        *("get", "items", "keys", "values", "split", "rsplit", "strip", "lstrip", "rstrip", "startswith"),
        *("endswith", "upper", "lower", "title", "capitalize", "replace", "join", "find", "rfind", "index"),
        *("count", "splitlines", "partition", "rpartition", "isdigit", "removeprefix", "removesuffix"),
    }
)
_FILTERS = frozenset(
    {
        *("trim", "tojson", "length", "count", "join", "first", "last", "list", "string", "int", "float"),
        *("default", "d", "replace", "upper", "lower", "map", "select", "reject", "selectattr", "rejectattr"),
        *("items", "dictsort", "sort", "unique", "indent", "capitalize", "title", "reverse", "round", "safe"),
        *("sum", "min", "max", "abs", "batch", "slice", "e", "escape", "groupby"),
    }
)
_CONTENT = frozenset({"content", "text", "reasoning_content", "reasoning", "thinking", "arguments"})
_KINDS = frozenset({"text", "image", "image_url", "video", "audio", "type"})
_AS_TEXT = frozenset({"string", "tojson", "join", "map", "list", "lower", "upper"})
# What a template may look for in a text: markers of its own format, such as `</think>` or `[INST]`.
_MARKER = re.compile(r"\s*(?:<[^<>\n]{1,60}>|\[/?[A-Z_ ]{1,40}\]|\s*)\s*")
_URL = re.compile(r"(?i)\b(?:https?|ftp|wss?|file|data|javascript):/?/?[^\s'\"]|\bwww\.[^\s'\"]")
_LETTERS_OF_A_BLOB = 3  # a rule of dashes has one
_BLOB = re.compile(r"[A-Za-z0-9+/_-]{80,}={0,2}|(?:\\x[0-9a-fA-F]{2}){16,}")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in a template: its line, its kind, and what it is. `grave` is what nobody should serve."""

    line: int
    kind: str
    what: str
    grave: bool


def lint(template: str) -> list[Finding]:
    """What is in the template, by line.

    Raises ArtefactError (`signing_missing`) without jinja2, which the extra `signing` brings.
    """
    if len(template) > LONGEST:
        return [_grave(1, "too_long", f"it has more than {LONGEST:,} characters")]
    found = [*_hidden(template)]
    try:
        found += _Reader(_parsed(template)).findings()
    except _SyntaxError as fault:
        found.append(_grave(fault.line, "not_jinja", fault.what))
    except RecursionError:
        found.append(_grave(1, "not_jinja", "it is nested too deeply to be read"))
    return sorted(set(found), key=lambda it: (it.line, it.kind, it.what))


def templates_of(files: Files) -> dict[str, str]:
    """Every chat template in an artefact whose files were checked, by where it stands.

    Where there are several, an engine may run one and a person read another: they have to be the same.
    Raises ArtefactError (`artefact_malformed`).
    """
    found: dict[str, str] = {}
    for name, file in files.items():
        file.seek(0)
        last = PurePosixPath(name).name
        if last == declaration.TEMPLATE:
            found[name] = file.read().decode()
        elif last == "tokenizer_config.json":
            found |= {f"{name} {it.name}".strip(): it.template for it in _variants(name, file.read())}
        elif last.endswith(".gguf"):
            metadata = read_gguf(file, os.fstat(file.fileno()).st_size).metadata
            texts = {key: it for key, it in metadata.items() if key.startswith(GGUF_TEMPLATE)}
            found |= {f"{name} {key}": it for key, it in texts.items() if isinstance(it, str)}
        file.seek(0)
    return found


class _Variant(msgspec.Struct, frozen=True):
    name: str
    template: str


class _TokenizerConfig(msgspec.Struct, frozen=True):
    chat_template: str | tuple[_Variant, ...] | None = None


def _variants(name: str, content: bytes) -> Sequence[_Variant]:
    try:
        said = msgspec.json.decode(content, type=_TokenizerConfig).chat_template
    except (msgspec.DecodeError, RecursionError) as fault:
        raise malformed(name, f"its chat template cannot be found ({fault})") from None
    return [_Variant("", said)] if isinstance(said, str) else said or ()


class _SyntaxError(Exception):
    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line, self.what = line, what


def _parsed(template: str) -> nodes.Template:
    try:
        from jinja2 import TemplateSyntaxError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ModuleNotFoundError:
        raise ArtefactError(
            "signing_missing",
            "To look into a chat template, jinja2 has to be installed.",
            "Run: pip install 'isthmus[signing]'",
        ) from None
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    try:
        return environment.parse(template)
    except TemplateSyntaxError as fault:
        raise _SyntaxError(fault.lineno, f"it cannot be parsed: {fault.message}") from None


def _hidden(template: str) -> Iterator[Finding]:
    for number, line in enumerate(template.splitlines(), 1):
        unseen = sorted({f"U+{ord(it):04X}" for it in line if _is_unseen(it)})
        if unseen:
            yield _grave(number, "hidden_text", f"it has letters that nobody sees: {', '.join(unseen[:5])}")
        if _URL.search(line):
            yield _grave(number, "address", "it has an address of the network")
        if any(len(set(run)) >= _LETTERS_OF_A_BLOB for run in _BLOB.findall(line)):
            yield _grave(number, "blob", "it has a long run of letters that no reader can judge")


def _is_unseen(letter: str) -> bool:
    return letter not in "\n\r\t" and unicodedata.category(letter) in ("Cc", "Cf", "Co", "Cn")


def _grave(line: int, kind: str, what: str) -> Finding:
    return Finding(line=line, kind=kind, what=what, grave=True)


class _Reader:
    """Reads the syntax tree of one template."""

    def __init__(self, tree: nodes.Template) -> None:
        from jinja2 import nodes

        self._nodes = nodes
        self._tree = tree
        self._macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
        self._own = set(self._macros)
        self._own |= {name.name for name in tree.find_all(nodes.Name) if name.ctx in ("store", "param")}
        self._messages = {"messages"}
        self._told: set[str] = set()
        self._parts = set(_CONTENT)
        while self._follow():
            pass

    def _follow(self) -> bool:
        """Learn which variables have messages or their texts; True where something was learned."""
        nodes = self._nodes
        before = len(self._messages), len(self._told), len(self._parts)
        for node in self._tree.find_all((nodes.Assign, nodes.For)):
            value = node.node if isinstance(node, nodes.Assign) else node.iter
            names = {
                it.name for it in [node.target, *node.target.find_all(nodes.Name)] if hasattr(it, "name")
            }
            if self._tells(value):
                if isinstance(node.target, nodes.NSRef):
                    self._parts.add(node.target.attr)
                else:
                    self._told |= names
            elif self._speaks_of_messages(value) and not isinstance(value, nodes.Compare):
                self._messages |= names
        for call in self._tree.find_all(nodes.Call):
            macro = self._macros.get(getattr(call.node, "name", ""))
            if macro is not None and any(map(self._tells, call.args)):
                self._told |= {it.name for it in macro.args}
        return before != (len(self._messages), len(self._told), len(self._parts))

    def findings(self) -> Iterator[Finding]:
        yield from self._reaching_out()
        yield from self._names()
        yield from self._attributes()
        yield from self._calls()
        yield from self._conditions()
        yield from self._loops()
        yield from self._sentences()

    def _reaching_out(self) -> Iterator[Finding]:
        nodes = self._nodes
        for node in self._tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
            yield _grave(node.lineno, "reaches_out", "it reads another file")

    def _names(self) -> Iterator[Finding]:
        known = _GIVEN | _FUNCTIONS | self._own
        for node in self._tree.find_all(self._nodes.Name):
            if node.ctx == "load" and node.name not in known:
                what = f"it reads the unusual variable {node.name[:40]!r}"
                yield Finding(line=node.lineno, kind="variable", what=what, grave=node.name.startswith("_"))

    def _attributes(self) -> Iterator[Finding]:
        nodes = self._nodes
        for node in self._tree.find_all((nodes.Getattr, nodes.Const)):
            name = node.attr if isinstance(node, nodes.Getattr) else node.value
            if isinstance(name, str) and (name.startswith("_") or "__" in name):
                yield _grave(node.lineno, "underscore", f"it reaches for {name[:40]!r}")

    def _calls(self) -> Iterator[Finding]:
        nodes = self._nodes
        for call in self._tree.find_all(nodes.Call):
            callee = call.node
            if isinstance(callee, nodes.Name) and callee.name in _FUNCTIONS | self._own | {"caller"}:
                continue
            if isinstance(callee, nodes.Getattr) and callee.attr in _METHODS | self._own:
                continue
            name = getattr(callee, "attr", getattr(callee, "name", "something"))
            yield _grave(call.lineno, "call", f"it calls {str(name)[:40]!r}")
        for node in self._tree.find_all(nodes.Filter):
            if node.name not in _FILTERS:
                yield _grave(node.lineno, "filter", f"it uses the filter {node.name[:40]!r}")

    def _conditions(self) -> Iterator[Finding]:
        """Whether it does one thing or another by what people write."""
        nodes = self._nodes
        for node in self._tree.find_all(nodes.Compare):
            sides = [node.expr, *(operand.expr for operand in node.ops)]
            yield from self._sought(node.lineno, sides)
        for call in self._tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Getattr) and call.node.attr in _METHODS - {"get"}:
                yield from self._sought(call.lineno, [call.node.node, *call.args])
            elif isinstance(call.node, nodes.Getattr) and any(map(self._tells, call.args)):
                yield _grave(call.lineno, "trigger", "it looks up what people write in a list of its own")
        for test in self._tree.find_all(nodes.Test):
            yield from self._sought(test.lineno, [test.node, *(test.args or ())])
        for node in self._tree.find_all(nodes.Getitem):
            if self._tells(node.arg):
                yield _grave(node.lineno, "trigger", "it looks up what people write in a list of its own")
        for node in self._tree.find_all(nodes.Filter):
            picks = node.name in ("selectattr", "rejectattr") and len(node.args) > 2
            if picks and _constant(node.args[0]) in self._parts:
                yield _grave(node.lineno, "trigger", "it picks messages by what people write")

    def _sought(self, line: int, sides: Sequence[nodes.Node]) -> Iterator[Finding]:
        nodes = self._nodes
        if not any(self._tells(side) for side in sides):
            return
        within = [node for side in sides for node in (side, *side.find_all(nodes.Expr))]
        # In `message["content"]` and `message.get("content")` the text only says which part is meant.
        keys = {id(node.arg) for node in within if isinstance(node, nodes.Getitem)}
        keys |= {id(arg) for node in within if isinstance(node, nodes.Call) for arg in _got(node)}
        for node in within:
            text = _constant(node) if id(node) not in keys else None
            if isinstance(text, str) and text not in _KINDS and not _MARKER.fullmatch(text):
                yield _grave(line, "trigger", f"it looks for {text[:40]!r} in what people write")

    def _loops(self) -> Iterator[Finding]:
        nodes = self._nodes
        for call in self._tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name == "range":
                sizes = [_constant(it) for it in call.args]
                if any(isinstance(it, int) and it > _LARGEST_RANGE for it in sizes):
                    yield _grave(call.lineno, "endless", "it counts so far that a request would not end")
        for node, depth in _nested(self._tree, nodes.For, 0):
            if depth > _MOST_NESTED:
                yield _grave(node.lineno, "endless", f"its loops are nested more than {_MOST_NESTED} deep")

    def _sentences(self) -> Iterator[Finding]:
        nodes = self._nodes
        for node in self._tree.find_all((nodes.TemplateData, nodes.Const)):
            text = node.data if isinstance(node, nodes.TemplateData) else node.value
            for line in text.splitlines() if isinstance(text, str) else ():
                if len(line.split()) >= _WORDS_OF_A_SENTENCE:
                    yield Finding(line=node.lineno, kind="says", what=line.strip()[:300], grave=False)

    def _tells(self, node: nodes.Node) -> bool:
        """True where the expression has something of what people write."""
        nodes = self._nodes
        within = [node, *node.find_all(nodes.Expr)]
        # Of a part of a message, such as `part.type`, what it says is no text that people write.
        of_parts = {
            id(it.node)
            for it in within
            if (isinstance(it, nodes.Getattr) and it.attr not in _METHODS)
            or (isinstance(it, nodes.Getitem) and isinstance(_constant(it.arg), str))
        }
        return any(
            (isinstance(it, nodes.Getattr) and it.attr in self._parts)
            or (isinstance(it, nodes.Getitem) and _constant(it.arg) in self._parts)
            or (isinstance(it, nodes.Name) and it.name in self._told and id(it) not in of_parts)
            or (isinstance(it, nodes.Call) and any(_constant(arg) in self._parts for arg in _got(it)))
            or (isinstance(it, nodes.Filter) and it.name in _AS_TEXT and self._speaks_of_messages(it))
            for it in within
        )

    def _speaks_of_messages(self, node: nodes.Node) -> bool:
        names = (it for it in (node, *node.find_all(self._nodes.Name)) if isinstance(it, self._nodes.Name))
        return any(it.name in self._messages for it in names)


def _got(call: nodes.Call) -> list[nodes.Expr]:
    """Which part `message.get("content")` asks for."""
    return call.args[:1] if getattr(call.node, "attr", "") == "get" else []


def _constant(node: nodes.Node | None) -> object:
    return getattr(node, "value", None)


def _nested(node: nodes.Node, kind: type[nodes.Node], depth: int) -> Iterator[tuple[nodes.Node, int]]:
    for child in node.iter_child_nodes():
        below = depth + isinstance(child, kind)
        if isinstance(child, kind):
            yield child, below
        yield from _nested(child, kind, below)
