"""`artefact.json`: what an artefact says of itself. Its signature makes it the signer's word."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from isthmus.artefacts.faults import ArtefactError, malformed
from isthmus.artefacts.manifest import beginning

FILE = "artefact.json"
TEMPLATE = "chat_template.jinja"
BOM = "bom.cdx.json"
MOST_BYTES = 1_000_000

Sha256: TypeAlias = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Role: TypeAlias = Literal[
    "weights", "template", "bom", "recipe", "evaluation", "card", "settings", "evidence"
]
Text: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1000)]


class _Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    pass


class Base(_Said, frozen=True, kw_only=True):
    """The weights that an artefact was made from: their name, and of the file that is loaded its SHA-256.

    `artefact` is the identity of the signed artefact that they are, where they are one.
    """

    name: Text
    sha256: Sha256
    artefact: Sha256 | None = None
    licence: Text | None = None


class Dataset(_Said, frozen=True, kw_only=True):
    """What was learned from: the content's hash, and those of datasets that it was made from."""

    name: Text
    sha256: Sha256
    made_from: tuple[Sha256, ...] = ()


class Teacher(_Said, frozen=True, kw_only=True):
    """Whose answers were learned from, and what permitted it.

    `surface` is the way on which they were asked (an API, a product, own machines), `terms` the document and
    the date by which it was permitted, `artefact` the identity of the teacher's weights where known.
    """

    provider: Text
    model: Text
    surface: Text | None = None
    terms: Text | None = None
    artefact: Sha256 | None = None


class Evaluation(_Said, frozen=True, kw_only=True):
    """What it was measured to do: numbers by name, on which dataset, and in which file the report is."""

    dataset: Text
    sha256: Sha256 | None = None
    scores: dict[str, float]
    report: Text | None = None


class Declaration(_Said, frozen=True, kw_only=True, tag="artefact", tag_field="isthmus"):
    """An artefact in its own words.

    `weights` is the file that an engine loads, and `files` says what every file is for, but `artefact.json`
    itself. An adapter has a `base`. `template` is the SHA-256 of `chat_template.jinja`, by which a served
    model must speak. `recipe` is the SHA-256 of what it was made by.
    """

    version: Literal[1] = 1
    name: Text
    kind: Literal["model", "adapter"]
    weights: Text
    files: dict[str, Role]
    base: Base | None = None
    template: Sha256 | None = None
    licence: Text | None = None
    datasets: tuple[Dataset, ...] = ()
    recipe: Sha256 | None = None
    teachers: tuple[Teacher, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()

    def dump(self) -> bytes:
        """The content of `artefact.json`."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def read(content: bytes, where: str) -> Declaration:
    """What `artefact.json` says. Raises ArtefactError (`artefact_malformed`)."""
    if len(content) > MOST_BYTES:
        raise malformed(where, "it is too long")
    try:
        said = msgspec.json.decode(content, type=Declaration)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as fault:
        raise malformed(where, f"{fault}") from None
    if said.kind == "adapter" and said.base is None:
        raise malformed(where, "an adapter without `base` fits anything and nothing")
    if said.files.get(said.weights) != "weights":
        raise malformed(where, f"`files` does not say that {said.weights[:60]!r} is weights")
    if (said.files.get(TEMPLATE) == "template") != (said.template is not None):
        raise malformed(where, f"`template` is the hash of {TEMPLATE}; say both or none")
    return said


def base_of(path: Path) -> Base | None:
    """The base that the artefact names, so that it can be fetched; None where it names none, or cannot be
    read: why not, its verification will tell."""
    try:
        return of_folder(path).base
    except ArtefactError:
        return None


def of_folder(folder: Path) -> Declaration:
    """What an artefact's folder says, whether anybody vouches for it or not. Raises ArtefactError."""
    path = folder / FILE
    try:
        return read(beginning(path, MOST_BYTES + 1), str(path))
    except OSError as fault:
        raise ArtefactError(
            "artefact_malformed",
            f"{folder} is no artefact: {FILE} cannot be read ({fault.strerror or fault}).",
            f"An artefact's folder has {FILE}; see docs/how-to/sign-and-verify-weights.md.",
        ) from None
