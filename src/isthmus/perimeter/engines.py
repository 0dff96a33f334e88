"""Recognisers of others' making that a config may choose besides our own. Data; they are made elsewhere."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple, TypeAlias

import msgspec

EngineName: TypeAlias = Literal["spacy", "presidio", "gliner"]


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """A recogniser of names and other personal data that is installed beside Isthmus.

    `engine` is `spacy`, which is asked about names in doubt, or `presidio` or `gliner`, which find by
    themselves. `folder` holds its weights: a spaCy pipeline, for Presidio too, or a GLiNER model; without it
    the English pipeline of the extra `ner` is taken, and GLiNER has none. `sha256` is that of the folder,
    which is loaded only as long as it has it.
    """

    shorthand: ClassVar[str] = "engine"

    engine: EngineName
    folder: str | None = None
    sha256: str | None = None


class Package(NamedTuple):
    """Where an engine comes from: the module that is imported, and the extra of Isthmus that installs it."""

    module: str
    extra: str


PACKAGES: dict[EngineName, Package] = {
    "spacy": Package("spacy", "ner"),
    "presidio": Package("presidio_analyzer", "presidio"),
    "gliner": Package("gliner", "gliner"),
}
"""Each engine's package."""
