"""What the simulator needs to know of a wire: how to read a request, and how to say a Script."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal

from msgspec import Struct

from isthmus.testing.script import Refusal, Script, Usage, words

JsonObject = dict[str, Any]


class RefusedError(Exception):
    """The vendor would refuse this request; `code` and `param` are told where its error has room for them."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None):
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param


class Received(Struct, frozen=True, kw_only=True):
    """A request as it came over the socket; its repr shows neither headers nor body, which hold secrets."""

    method: str
    path: str
    """The path, percent-decoded, without the query."""
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case; of a repeated name, the last."""
    raw: bytes
    body: JsonObject | None
    """The JSON object of the body; None where it is none."""

    def __repr__(self) -> str:
        return f"Received({self.method} {self.path}, {len(self.raw)} bytes)"


class Offered(Struct, frozen=True):
    """A tool that the request offers, with the JSON Schema of its arguments."""

    name: str
    schema: JsonObject = {}


class Asked(Struct, frozen=True, kw_only=True):
    """What a request asks for, whatever its wire: all that a Script may depend on."""

    wire: str
    model: str
    text: str = ""
    """The text of the last message, be it a user's or a tool's result."""
    prompt_tokens: int = 0
    """The words of all texts of the request."""
    stream: bool = False
    include_usage: bool = False
    tools: tuple[Offered, ...] = ()
    forced: str | None = None
    """The tool that must be called; `*` for any."""
    schema: JsonObject | None = None
    """The JSON Schema of the answer; {} where any JSON will do."""
    choices: int = 1
    logprobs: int | None = None
    """How many alternatives to tell beside each token; None where no logprobs are asked for."""
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seals: bool = True
    """Whether the request wants encrypted reasoning back."""
    nth: int = 0
    """How many requests for this model came before."""
    serial: int = 0
    """How many requests came before."""
    organisation: str = ""
    received: Received

    @property
    def openai_tier(self) -> str:
        """The service tier that OpenAI would say it used: the one that was asked for, or the usual one."""
        asked = (self.received.body or {}).get("service_tier")
        return asked if isinstance(asked, str) and asked != "auto" else "default"

    def usage(self, script: Script) -> Usage:
        """The usage that the script tells, or a count of words and pieces."""
        if script.usage is not None:
            return script.usage
        calls = sum(len(words(call.arguments)) + 1 for call in script.tools)
        texts = sum(len(script.choice(index)) for index in range(self.choices))
        return Usage(
            uncached=self.prompt_tokens,
            output=texts + len(script.refusal) + calls,
            reasoning=len(script.reasoning) + len(script.redacted),
        )


class Frame(Struct, frozen=True):
    """One event of a stream. Only `piece` frames say something; faults are counted in them."""

    data: JsonObject | str
    event: str | None = None
    kind: Literal["frame", "piece", "terminal"] = "frame"


class House(Struct, frozen=True, kw_only=True):
    """The rules of one simulator that a wire must know to check a request."""

    organisation: str
    strict: bool
    """Whether parameters that the vendor does not document, and seals of others, are refused."""
    key: str | None
    """The only credential that is accepted; None accepts all."""


class Wire(Struct, frozen=True, kw_only=True):
    """A dialect, independent of the codecs that it is used to test."""

    name: str
    read: Callable[[Received, House], Asked]
    """Raises RefusedError."""
    whole: Callable[[Asked, Script], JsonObject]
    frames: Callable[[Asked, Script], Iterator[Frame]]
    error: Callable[[RefusedError], JsonObject]
    refusal: Callable[[Refusal], RefusedError]
    interruption: Callable[[Asked, int], list[Frame]]
    """The frames that tell of an error inside a stream, after so many frames."""
    newline: str = "\n"


def names(text: str) -> frozenset[str]:
    """The words of a text, as a set of field names."""
    return frozenset(text.split())


def count_words(value: Any) -> int:
    """The words of every string inside a JSON value: the simulator's idea of tokens."""
    match value:
        case str():
            return len(words(value))
        case dict():
            return sum(count_words(part) for part in value.values())
        case list():
            return sum(count_words(part) for part in value)
        case _:
            return 0


def require(fact: bool, message: str, *, code: str | None = None, param: str | None = None) -> None:
    """Refuses the request with status 400 unless the fact is true."""
    if not fact:
        raise RefusedError(message, code=code, param=param)


def field(body: JsonObject, name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
    """A field of a JSON object, refused where it has another type; null counts as absent."""
    value = body.get(name)
    if value is None:
        return default
    kinds = kind if isinstance(kind, tuple) else (kind,)
    # bool is an int to Python, but not to JSON.
    fits = isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)
    expected = " or ".join(_JSON_NAMES[one] for one in kinds)
    require(fits, f"Invalid type for '{name}': expected {expected}.", code="invalid_type", param=name)
    return value


def objects(values: Any, where: str) -> list[JsonObject]:
    """The members of an array, refused unless each is an object."""
    require(isinstance(values, list), f"Invalid type for '{where}': expected an array.", code="invalid_type")
    for position, value in enumerate(values):
        require(
            isinstance(value, dict),
            f"Invalid type for '{where}[{position}]': expected an object.",
            code="invalid_type",
            param=f"{where}[{position}]",
        )
    return list(values)


def strings(body: JsonObject, name: str) -> tuple[str, ...]:
    """A field that is an array of strings, refused where it is something else; empty where it is absent."""
    values = field(body, name, list, [])
    fits = all(isinstance(value, str) for value in values)
    require(fits, f"Invalid type for '{name}': expected strings.", code="invalid_type", param=name)
    return tuple(values)


def number(body: JsonObject, name: str, low: float, high: float) -> None:
    """Refuses a number outside its bounds; an absent one is fine."""
    value = field(body, name, (int, float))
    within = value is None or low <= value <= high
    require(within, f"Invalid '{name}': must be between {low} and {high}.", code="invalid_value", param=name)


def known(body: JsonObject, documented: Collection[str], tell: Callable[[str], str]) -> None:
    """Refuses the first field that is not among the documented ones."""
    for name in body:
        require(name in documented, tell(name), code="unknown_parameter", param=name)


_JSON_NAMES: dict[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
    list: "an array",
    dict: "an object",
}
