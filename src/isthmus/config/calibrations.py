"""`calibration: FILE` in a cascade → what it says, and whether it holds for the config as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, TypeVar

import msgspec

from isthmus.confidence.artefact import Tie, load, stale
from isthmus.config.config import CalibrationFile
from isthmus.config.decode import DecodedPlan
from isthmus.config.digests import weights_sha256
from isthmus.config.faults import Code
from isthmus.config.findings import Findings
from isthmus.config.paths import absolute
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.portfolio import Model, Provider
from isthmus.strategies.plan import Cascade, Node
from isthmus.strategies.plan.cascade import WITH_ATTEMPT
from isthmus.strategies.plan.node import Calibrated

MOST_BYTES = 1_000_000
"""No calibration is so long."""

T = TypeVar("T")

_canonical = msgspec.json.Encoder(order="deterministic").encode


class Calibrations:
    """The calibrations that the plans of one config name, read once: `files` are those that can be used.

    Whatever is wrong with one is added to the faults, where the cascade stands; paths are relative to
    `folder`.
    """

    def __init__(
        self,
        plans: Sequence[DecodedPlan],
        models: Mapping[str, Model],
        providers: Mapping[str, Provider],
        cards: Mapping[str, str],
        folder: FilePath,
        findings: Findings,
    ) -> None:
        self.files: list[CalibrationFile] = []
        self._models, self._providers = models, providers
        self._cards = cards
        self._folder = folder
        self._findings = findings
        self._filled: dict[int, Calibrated] = {}
        for plan in plans:
            if isinstance(plan.node, Cascade):
                self._read(plan, plan.node)

    def filled(self, plan: Node) -> Node:
        """The plan with every calibration that it names in it."""
        return changed(plan, lambda was, now: _with_calibration(self._filled.get(id(was)), now))

    def _read(self, plan: DecodedPlan, cascade: Cascade) -> None:
        def note(code: Code, message: str, hint: str) -> None:
            self._findings.add(code, message, hint, plan.tree.start, plan.path)

        if any(stage.accept.calibration is not None for stage in cascade.stages[1:]):
            message = "Only the first step of a cascade has a calibration."
            note(Code.UNREACHABLE, message, "Move it to the first step, or remove it.")
        named = cascade.stages[0].accept.calibration
        # What else is wrong with the names has been said.
        if named is None or not all(it in self._models for it in cascade.models()):
            return
        try:
            now = self._tie(str(plan.path[1]), cascade)
            content = self._content(named.file)
            calibrated = _calibrated(named.file, content, now)
        except _UnusableError as fault:
            note(*fault.args)
            return
        if calibrated.stale:
            then = "go to the last step alone" if cascade.on_stale == "strong" else "go on all the same"
            message = f"{named.file} is stale, as {', and '.join(calibrated.stale)}. Requests {then}."
            note(Code.STALE_CALIBRATION, message, "Run `isthmus calibrate` for this route again.")
        self._filled[id(cascade)] = calibrated
        self.files.append(
            CalibrationFile(
                route=now.route, path=named.file, sha256=calibrated.sha256, stale=bool(calibrated.stale)
            )
        )

    def _tie(self, route: str, cascade: Cascade) -> Tie:
        try:
            card = self._cards.get(route, "")
            return tie_of(route, cascade, self._models, self._providers, self._folder, card)
        except IsthmusError as error:
            raise _UnusableError(Code.CONFLICT, error.message, error.hint) from None
        except OSError as error:
            message = f"The weights of the cascade cannot be read: {error.strerror or 'unknown error'}."
            raise _UnusableError(Code.UNUSABLE_FILE, message, "") from None

    def _content(self, file: str) -> bytes:
        try:
            with FilePath(absolute(file, self._folder)).open("rb") as opened:
                content = opened.read(MOST_BYTES + 1)
        except FileNotFoundError:
            hint = "Leave `calibration` out, run `isthmus calibrate` for this route, and say it then."
            raise _UnusableError(Code.FILE_NOT_FOUND, f"There is no file {file}.", hint) from None
        except OSError as error:
            message = f"{file} cannot be read: {error.strerror or 'unknown error'}."
            raise _UnusableError(Code.UNUSABLE_FILE, message, "") from None
        if len(content) > MOST_BYTES:
            raise _UnusableError(Code.UNUSABLE_FILE, f"{file} is too long for a calibration.", "")
        return content


class _UnusableError(Exception):
    """Why a calibration cannot be used: the code, the message and the hint of a fault."""


def _with_calibration(calibration: Calibrated | None, cascade: Cascade) -> Cascade:
    if calibration is None:
        return cascade
    first, *others = cascade.stages
    accept = msgspec.structs.replace(first.accept, calibration=calibration)
    return msgspec.structs.replace(cascade, stages=(msgspec.structs.replace(first, accept=accept), *others))


def _calibrated(file: str, content: bytes, now: Tie) -> Calibrated:
    try:
        calibration = load(content)
    except IsthmusError as error:
        message = f"{file} cannot be used. {error.message}"
        raise _UnusableError(Code.UNUSABLE_FILE, message, error.hint) from None
    if calibration.threshold is None:
        hint = "Leave the cascade out: its last step alone does the same for less."
        message = f"{file} promises nothing, and accepts no answer."
        raise _UnusableError(Code.UNUSABLE_FILE, message, hint)
    return Calibrated(
        file=file,
        sha256=hashlib.sha256(content).hexdigest(),
        calibrator=calibration.calibrator,
        threshold=calibration.threshold,
        stale=stale(calibration, now),
    )


def pair_of(cascade: Cascade) -> tuple[str, str]:
    """The weak model and the strong one: those of the first step and of the last.

    Raises IsthmusError (`not_calibratable`) where a step has several, or is the only one.
    """
    first, last = cascade.stages[0].plan.models(), cascade.stages[-1].plan.models()
    if len(cascade.stages) < 2 or len(first) > 1 or len(last) > 1:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            "Only a cascade from one model to another can be calibrated.",
            code="not_calibratable",
            hint="Let its first and its last step be a call of one model each.",
        )
    return first[0], last[0]


def tie_of(
    route: str,
    cascade: Cascade,
    models: Mapping[str, Model],
    providers: Mapping[str, Provider],
    folder: FilePath = FilePath(),
    card: str = "",
) -> Tie:
    """What a calibration of this cascade made now would hold for, on a route with this style card.

    Of the config only what decides about the two models' answers: who they are and how they are spoken to,
    not their prices, nor what else is demanded of the weak one's answer, since whoever accepts less adds no
    risk. Raises OSError where weights cannot be read, and IsthmusError (`not_calibratable`).
    """
    pair = pair_of(cascade)
    shown = WITH_ATTEMPT if cascade.stages[-1].context == "with_attempt" else ""
    return Tie(
        route=route,
        models={it: weights_sha256(models[it], folder) or models[it].id for it in pair},
        template=hashlib.sha256((card + shown).encode()).hexdigest(),
        config=hashlib.sha256(
            _canonical([pair, *(_speech(providers[models[it].provider]) for it in pair)])
        ).hexdigest(),
    )


def cascades_in(plan: Node) -> list[Cascade]:
    """Every cascade in a plan, inner ones first."""
    found: list[Cascade] = []

    def look(cascade: Cascade, _: Cascade) -> Cascade:
        found.append(cascade)
        return cascade

    changed(plan, look)
    return found


def changed(value: T, change: Callable[[Cascade, Cascade], Cascade]) -> T:
    """The value with every cascade in it changed: `change` gets it as it was, and with its parts changed."""
    return _changed(value, change)  # type: ignore[no-any-return]


def _changed(value: Any, change: Callable[[Cascade, Cascade], Cascade]) -> Any:
    if isinstance(value, tuple):
        return tuple(_changed(it, change) for it in value)
    if not isinstance(value, msgspec.Struct):
        return value
    now = msgspec.structs.replace(value, **dict(_changes(value, change)))
    return change(value, now) if isinstance(value, Cascade) and isinstance(now, Cascade) else now


def _changes(
    value: msgspec.Struct, change: Callable[[Cascade, Cascade], Cascade]
) -> Iterator[tuple[str, Any]]:
    for name in value.__struct_fields__:
        was = getattr(value, name)
        now = _changed(was, change)
        if now is not was:
            yield name, now


def _speech(provider: Provider) -> list[Any]:
    return [provider.wires, provider.base_url, provider.query, sorted(provider.quirks), provider.engine]
