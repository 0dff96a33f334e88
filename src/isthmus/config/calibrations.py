"""`calibration: FILE` in a cascade → what it says, and whether it holds for the config as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath

import msgspec

from isthmus.confidence.artefact import load
from isthmus.config.artefacts import UnusableError, content_of, identity, spoken_to
from isthmus.config.config import CalibrationFile
from isthmus.config.decode import DecodedPlan
from isthmus.config.faults import Code
from isthmus.config.findings import Findings
from isthmus.config.nodes import changed
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.portfolio import Model, Provider
from isthmus.core.tie import Tie
from isthmus.strategies.plan import Cascade, Node
from isthmus.strategies.plan.cascade import WITH_ATTEMPT
from isthmus.strategies.plan.node import Calibrated

MOST_BYTES = 1_000_000
"""No calibration is so long."""


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
        folder: FilePath,
        findings: Findings,
        cards: Mapping[str, str],
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
        return changed(plan, Cascade, lambda was, now: _with_calibration(self._filled.get(id(was)), now))

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
            content = content_of(named.file, self._folder, most=MOST_BYTES, word="calibration")
            calibrated = _calibrated(named.file, content, now)
        except UnusableError as fault:
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
            raise UnusableError(Code.CONFLICT, error.message, error.hint) from None
        except OSError as error:
            message = f"The weights of the cascade cannot be read: {error.strerror or 'unknown error'}."
            raise UnusableError(Code.UNUSABLE_FILE, message, "") from None


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
        raise UnusableError(Code.UNUSABLE_FILE, message, error.hint) from None
    if calibration.threshold is None:
        hint = "Leave the cascade out: its last step alone does the same for less."
        message = f"{file} promises nothing, and accepts no answer."
        raise UnusableError(Code.UNUSABLE_FILE, message, hint)
    return Calibrated(
        file=file,
        sha256=hashlib.sha256(content).hexdigest(),
        calibrator=calibration.calibrator,
        threshold=calibration.threshold,
        stale=calibration.tie.changes(now),
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
        models={it: identity(models[it], folder) for it in pair},
        template=hashlib.sha256((card + shown).encode()).hexdigest(),
        config=spoken_to(pair, models, providers),
    )
