"""Files that were learned, as a config names them: read once, tied to the state of things they hold for."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import msgspec

from isthmus.config.config import CalibrationFile, Kind
from isthmus.config.decode import DecodedPlan
from isthmus.config.digests import weights_sha256
from isthmus.config.faults import Code
from isthmus.config.findings import Findings
from isthmus.config.paths import absolute
from isthmus.core.errors import IsthmusError
from isthmus.core.portfolio import Model, Provider
from isthmus.core.tie import Evidence, Tie
from isthmus.strategies.plan import Cascade, Choose, Ensemble, Node
from isthmus.strategies.plan.node import Calibrated, Empanelled, Learned

T = TypeVar("T")
N = TypeVar("N", Cascade, Choose, Ensemble)
F = TypeVar("F", Calibrated, Learned, Empanelled)

canonical = msgspec.json.Encoder(order="deterministic").encode


class UnusableError(Exception):
    """Why a file cannot be used: the code, the message and the hint of a fault."""


class Found(NamedTuple, Generic[F]):
    """What a strategy knows by its file, what one would hold for that were made now, and from what this one
    was made."""

    says: F
    now: Tie
    evidence: Evidence | None


class LearnedFiles(ABC, Generic[N, F]):
    """The learned files that strategies of one kind name in a config, read once: `files` are those that can
    be used.

    Whatever is wrong with one is added to the faults, where its strategy stands; paths are relative to
    `folder`, and `cards` are the routes' style cards. A subclass says what such a strategy knows by its file.
    """

    strategy: type[N]
    kind: ClassVar[Kind]

    def __init__(
        self,
        plans: Sequence[DecodedPlan],
        models: Mapping[str, Model],
        providers: Mapping[str, Provider],
        folder: FilePath,
        findings: Findings,
        cards: Mapping[str, str],
    ) -> None:
        self.files: list[CalibrationFile] = []
        self._models, self._providers = models, providers
        self._folder = folder
        self._findings = findings
        self._cards = cards
        self._filled: dict[int, F] = {}
        for plan in plans:
            if isinstance(plan.node, self.strategy):
                self._read(plan, plan.node)

    def fill(self, was: Node, now: Node) -> Node:
        """What a strategy has become, with what the file says in it that it named as it `was` decoded."""
        found = self._filled.get(id(was))
        return now if found is None or not isinstance(now, self.strategy) else self._with(found, now)

    @abstractmethod
    def _found(self, route: str, strategy: N) -> Found[F] | None:
        """What the strategy's file says, or None where it names none. Raises UnusableError, and OSError where
        weights cannot be read."""

    @abstractmethod
    def _with(self, found: F, strategy: N) -> N:
        """The strategy with what its file says in it."""

    @abstractmethod
    def _on_stale(self, strategy: N) -> str:
        """What its requests do while the file is stale."""

    def _read(self, plan: DecodedPlan, strategy: N) -> None:
        # What else is wrong with the names has been said.
        if not all(it in self._models for it in strategy.models()):
            return
        route = str(plan.path[1])
        try:
            found = self._found(route, strategy)
        except UnusableError as fault:
            self._note(plan, *fault.args)
            return
        except OSError as error:
            message = f"The weights of a model cannot be read: {error.strerror or 'unknown error'}."
            self._note(plan, Code.UNUSABLE_FILE, message, "")
            return
        if found is None:
            return
        says = found.says
        if says.stale:
            then = self._on_stale(strategy)
            message = f"{says.file} is stale, as {', and '.join(says.stale)}. Requests {then}."
            self._note(plan, Code.STALE_CALIBRATION, message, "Run `isthmus calibrate` for this route again.")
        self._filled[id(strategy)] = says
        self.files.append(
            CalibrationFile(
                route=route,
                path=says.file,
                sha256=says.sha256,
                stale=bool(says.stale),
                tie=found.now,
                evidence=found.evidence,
                kind=self.kind,
            )
        )

    def _note(self, plan: DecodedPlan, code: Code, message: str, hint: str) -> None:
        self._findings.add(code, message, hint, plan.tree.start, plan.path)


def content_of(file: str, folder: FilePath, *, most: int, word: str) -> bytes:
    """What stands in the file, which leads from the folder; `word` is the key that names it. Raises
    UnusableError."""
    try:
        with FilePath(absolute(file, folder)).open("rb") as opened:
            content = opened.read(most + 1)
    except FileNotFoundError:
        hint = f"Leave `{word}` out, run `isthmus calibrate` for this route, and say it then."
        raise UnusableError(Code.FILE_NOT_FOUND, f"There is no file {file}.", hint) from None
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror or 'unknown error'}."
        raise UnusableError(Code.UNUSABLE_FILE, message, "") from None
    if len(content) > most:
        raise UnusableError(Code.UNUSABLE_FILE, f"{file} is too long for a file under `{word}`.", "")
    return content


def loaded(file: str, content: bytes, load: Callable[[bytes], T]) -> T:
    """What `load` makes of a file's content. Raises UnusableError where that is no such file."""
    try:
        return load(content)
    except IsthmusError as error:
        message = f"{file} cannot be used. {error.message}"
        raise UnusableError(Code.UNUSABLE_FILE, message, error.hint) from None


def identity(model: Model, folder: FilePath) -> str:
    """The SHA-256 of the model's weights, or its provider's id where nobody can know more. Raises OSError."""
    return weights_sha256(model, folder) or model.id


def speech(provider: Provider) -> list[Any]:
    """What of a provider decides about its models' answers."""
    return [provider.wires, provider.base_url, provider.query, sorted(provider.quirks), provider.engine]


def digest(value: Any) -> str:
    """The SHA-256 of a value as canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


def spoken_to(names: tuple[str, ...], models: Mapping[str, Model], providers: Mapping[str, Provider]) -> str:
    """The digest of who these models are and how they are spoken to."""
    return digest([names, *(speech(providers[models[it].provider]) for it in names)])
