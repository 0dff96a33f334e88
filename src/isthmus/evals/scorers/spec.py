"""How a scorer is written in a config or on a command line, and how it is made of that.

A spec is a name, or a name and what follows a colon. A scorer's options are the parameters of its class. One
that takes a single thing (`regex:PATTERN`) takes all that follows as it stands; every other takes
`name=value`, separated by commas (`numeric:tolerance=0.01`), and a list's parts are joined by `+`
(`panel:models=a+b+c`).
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_origin

import msgspec

from isthmus.core.errors import Fault, IsthmusError

T = TypeVar("T")

GIVEN = frozenset({"name", "ask", "embed"})
"""Parameters that no spec says: who makes a scorer gives them."""

_NEEDS = {"ask": "models to ask", "embed": "a model that makes embeddings"}


def made(kind: type[T], spec: str, given: Mapping[str, object]) -> T:
    """The scorer of that kind that is so written. Raises IsthmusError (`invalid_scorer`)."""
    said = options(kind, spec)
    parameters = inspect.signature(kind).parameters
    for name in parameters.keys() & _NEEDS.keys():
        if given.get(name) is None:
            raise invalid(f"The scorer `{spec.partition(':')[0]}` needs {_NEEDS[name]}, and here is none.")
    return kind(**said, **{name: given[name] for name in parameters.keys() & GIVEN})


def options(kind: type, spec: str) -> dict[str, Any]:
    """What a spec says of the options of that kind. Raises IsthmusError (`invalid_scorer`)."""
    keyword, _, rest = spec.partition(":")
    signature = inspect.signature(kind, eval_str=True)
    known = {name: it for name, it in signature.parameters.items() if name not in GIVEN}
    said = _whole(known, rest) if _takes_one_thing(known) else _options(keyword, rest, known)
    missing = [name for name, it in known.items() if it.default is it.empty and not said.get(name)]
    if missing:
        raise invalid(f"The scorer `{keyword}` needs `{missing[0]}`.", f"It is written {form(keyword, kind)}")
    return {name: _value(keyword, name, text, known[name].annotation) for name, text in said.items()}


def form(keyword: str, kind: type) -> str:
    """How that kind of scorer is written, with what may be left out in brackets: `fields[:strict=false]`."""
    known = {n: it for n, it in inspect.signature(kind).parameters.items() if n not in GIVEN}
    if _takes_one_thing(known):
        name, it = next(iter(known.items()))
        return f"{keyword}:{name.upper()}" if it.default is it.empty else f"{keyword}[:{name.upper()}]"
    needed = [f"{name}={name.upper()}" for name, it in known.items() if it.default is it.empty]
    extra = [f"{name}={_usual(name, it.default)}" for name, it in known.items() if it.default is not it.empty]
    if needed:
        return f"{keyword}:{','.join(needed)}" + "".join(f"[,{it}]" for it in extra)
    return f"{keyword}[:{','.join(extra)}]" if extra else keyword


def _usual(name: str, value: object) -> str:
    match value:
        case None:
            return name.upper()
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
    return str(value)


def invalid(message: str, hint: str = "", *, code: str = "invalid_scorer") -> IsthmusError:
    """The error for a spec of which no scorer can be made."""
    return IsthmusError(Fault.INVALID_REQUEST, message, code=code, hint=hint)


def near(said: str, known: Iterable[str]) -> str:
    """A hint that names the nearest of the known words, or all of them."""
    words = sorted(known)
    close = difflib.get_close_matches(said[:100], words, n=1)
    return f"Did you mean `{close[0]}`?" if close else f"Known are: {', '.join(words)}."


def file_text(path: Path) -> str:
    """The text of a file that a spec names. Raises IsthmusError (`invalid_scorer`)."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise invalid(f"{path} is no text in UTF-8.") from None
    except OSError as error:
        raise invalid(f"{path} cannot be read: {error.strerror}.", "A scorer names this file.") from None


def library(module: str, extra: str) -> Any:
    """A module that comes with that extra. Raises IsthmusError (`extra_missing`) where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        raise invalid(
            f"A scorer needs {missing.name}, which is not installed.",
            f"Run: pip install 'isthmus[{extra}]'",
            code="extra_missing",
        ) from None


def _takes_one_thing(known: Mapping[str, inspect.Parameter]) -> bool:
    return len(known) == 1 and next(iter(known.values())).kind is inspect.Parameter.POSITIONAL_OR_KEYWORD


def _whole(known: Mapping[str, inspect.Parameter], rest: str) -> dict[str, str]:
    return {next(iter(known)): rest} if rest else {}


def _options(keyword: str, rest: str, known: Mapping[str, inspect.Parameter]) -> dict[str, str]:
    said: dict[str, str] = {}
    for part in rest.split(",") if rest else ():
        name, _, text = part.partition("=")
        if name not in known:
            hint = near(name, known) if known else "It takes none."
            raise invalid(f"The scorer `{keyword}` has no option `{name}`.", hint)
        if not text or name in said:
            wrong = "is said twice" if name in said else "has no value"
            raise invalid(f"The scorer `{keyword}`: `{name}` {wrong}.", f"Write {name}=VALUE, once.")
        said[name] = text
    return said


def _value(keyword: str, name: str, text: str, kind: Any) -> Any:
    raw = text.split("+") if get_origin(kind) is tuple else text
    try:
        return msgspec.convert(raw, type=kind, strict=False, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise invalid(f"The scorer `{keyword}`: `{name}={text}`: {error}.") from None


def _path(kind: type, text: Any) -> Path:
    assert kind is Path
    return Path(text)
