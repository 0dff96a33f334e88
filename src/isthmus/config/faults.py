"""What can be wrong with a config: stable codes, and one fault with its place in the file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from isthmus.core.errors import Fault, IsthmusError


class Code(StrEnum):
    """What kind of thing is wrong. Codes never change their meaning; those from C101 on are warnings."""

    SYNTAX = "C001"
    DUPLICATE_KEY = "C002"
    UNKNOWN_KEY = "C003"
    WRONG_TYPE = "C004"
    OUT_OF_RANGE = "C005"
    MISSING = "C006"
    UNKNOWN_NAME = "C007"
    BAD_NAME = "C008"
    CONFLICT = "C009"
    SECRET_IN_CLEAR = "C010"
    SECRET_UNAVAILABLE = "C011"
    BAD_URL = "C012"
    FILE_NOT_FOUND = "C013"
    PRICE_PERIOD = "C014"
    UNREACHABLE = "C015"
    MIXED_CAPABILITIES = "C016"
    NOT_IN_THIS_VERSION = "C017"
    UNREADABLE = "C018"
    UNUSUAL_YAML = "C019"
    UNUSABLE_FILE = "C020"
    NOT_INSTALLED = "C021"
    UNUSED = "C101"
    KEY_IN_THE_OPEN = "C102"
    STALE_CALIBRATION = "C103"
    NOT_LEARNED = "C104"
    UNPRICED = "C105"

    @property
    def warns(self) -> bool:
        """True where the config works all the same."""
        return self.value >= "C100"

    @property
    def meaning(self) -> str:
        """The code in a sentence, for the reference."""
        return _MEANINGS[self]


_MEANINGS = {
    Code.SYNTAX: "The file is not YAML; nothing else can be said before that is mended.",
    Code.DUPLICATE_KEY: "A key stands twice in one mapping; neither may win silently.",
    Code.UNKNOWN_KEY: "A key that nothing reads, mostly a slip of the pen.",
    Code.WRONG_TYPE: "A value of another type than the key takes.",
    Code.OUT_OF_RANGE: "A value of the right type that is too small, too large, or not one of the choices.",
    Code.MISSING: "Something that cannot be guessed was not said.",
    Code.UNKNOWN_NAME: "The name of a provider, model, preset, quirk or weights that does not exist.",
    Code.BAD_NAME: "A name, header or host with characters that it cannot have, or a name that is reserved.",
    Code.CONFLICT: "Two things are said that exclude each other.",
    Code.SECRET_IN_CLEAR: "A secret stands in the file; it belongs into the environment or its own file.",
    Code.SECRET_UNAVAILABLE: "The environment variable or file of a secret is missing, empty or unreadable.",
    Code.BAD_URL: "A base URL that no request can be sent to.",
    Code.FILE_NOT_FOUND: "A file that the config names does not exist.",
    Code.PRICE_PERIOD: "Two prices are valid on the same day, or a period ends before it begins.",
    Code.UNREACHABLE: "A part of a plan that no request can ever reach.",
    Code.MIXED_CAPABILITIES: "A plan mixes chat and embeddings, or a provider speaks no wire for them.",
    Code.NOT_IN_THIS_VERSION: "A key of a later version: no protection may be promised that is not there.",
    Code.UNREADABLE: "The config file does not exist, cannot be read, or is not UTF-8.",
    Code.UNUSUAL_YAML: "Valid YAML that no config needs: anchors, tags, several documents, deep nesting.",
    Code.UNUSABLE_FILE: "A file that the config names says something else than it should, or is unreadable.",
    Code.NOT_INSTALLED: "Something that the config chooses comes in a package that is not installed.",
    Code.UNUSED: "A model that no route calls, a provider that no model uses, a file that no label is about.",
    Code.KEY_IN_THE_OPEN: "A key would travel over the network unencrypted.",
    Code.STALE_CALIBRATION: "What a route was calibrated for has changed; `on_stale` says what it does.",
    Code.NOT_LEARNED: "Nothing is learned for a choice, which asks its first model, or for a vote.",
    Code.UNPRICED: "A budget in USD is about a model without a known price: each such call is refused.",
}


class ConfigFault(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a config, and where.

    `line` and `column` count from 1 and lie inside the file. `path` leads to the value as in
    `models.glm.price[0]`. `excerpt` is the source line with every secret in it blotted out.
    """

    code: Code
    message: str
    hint: str = ""
    file: str
    line: int = 1
    column: int = 1
    path: str = ""
    excerpt: str = ""

    @property
    def warns(self) -> bool:
        """True where the config works all the same."""
        return self.code.warns


class ConfigError(IsthmusError):
    """A config was refused; `faults` says all that is wrong with it."""

    def __init__(self, faults: Sequence[ConfigFault]) -> None:
        refused = [fault for fault in faults if not fault.warns]
        first = refused[0]
        more = f", and {len(refused) - 1} more" if len(refused) > 1 else ""
        super().__init__(
            Fault.INTERNAL,
            f"The config was refused: {first.file}:{first.line}:{first.column}: {first.message}{more}.",
            code="invalid_config",
            hint="Run `isthmus check` to see every fault with its place.",
        )
        self.faults = tuple(faults)


def did_you_mean(said: str, known: Iterable[str]) -> str:
    """A hint that names the nearest of the known words, or all of them where there are few, or nothing."""
    words = sorted(word for word in known if word)
    near = difflib.get_close_matches(said, words, n=1, cutoff=0.6)
    if near:
        return f"Did you mean `{near[0]}`?"
    if 0 < len(words) <= 12:
        return f"Known here: {', '.join(words)}."
    return ""
