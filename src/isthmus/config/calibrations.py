"""`calibration: FILE` in a cascade → what it says, and whether it holds for the config as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path as FilePath

from isthmus.confidence.artefact import load
from isthmus.config.artefacts import (
    Found,
    LearnedFiles,
    UnusableError,
    content_of,
    identity,
    loaded,
    spoken_to,
)
from isthmus.config.decode import DecodedPlan
from isthmus.config.faults import Code
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.portfolio import Model, Provider
from isthmus.core.tie import Tie
from isthmus.strategies.plan import Cascade
from isthmus.strategies.plan.cascade import WITH_ATTEMPT
from isthmus.strategies.plan.node import Calibrated

MOST_BYTES = 1_000_000
"""No calibration is so long."""


class Calibrations(LearnedFiles[Cascade, Calibrated]):
    """The calibrations that the plans of one config name."""

    strategy = Cascade
    kind = "calibration"

    def _read(self, plan: DecodedPlan, cascade: Cascade) -> None:
        if any(stage.accept.calibration is not None for stage in cascade.stages[1:]):
            message = "Only the first step of a cascade has a calibration."
            self._note(plan, Code.UNREACHABLE, message, "Move it to the first step, or remove it.")
        super()._read(plan, cascade)

    def _found(self, route: str, cascade: Cascade) -> Found[Calibrated] | None:
        named = cascade.calibration
        if named is None:
            return None
        try:
            card = self._cards.get(route, "")
            now = tie_of(route, cascade, self._models, self._providers, self._folder, card)
        except IsthmusError as error:
            raise UnusableError(Code.CONFLICT, error.message, error.hint) from None
        content = content_of(named.file, self._folder, most=MOST_BYTES, word="calibration")
        calibration = loaded(named.file, content, load)
        if calibration.threshold is None:
            hint = "Leave the cascade out: its last step alone does the same for less."
            message = f"{named.file} promises nothing, and accepts no answer."
            raise UnusableError(Code.UNUSABLE_FILE, message, hint)
        calibrated = Calibrated(
            file=named.file,
            sha256=hashlib.sha256(content).hexdigest(),
            asked_at_us=calibration.asked_at_us,
            calibrator=calibration.calibrator,
            threshold=calibration.threshold,
            stale=calibration.tie.changes(now),
        )
        return Found(calibrated, now, calibration.evidence)

    def _with(self, calibrated: Calibrated, cascade: Cascade) -> Cascade:
        return cascade.calibrated(calibrated)

    def _on_stale(self, cascade: Cascade) -> str:
        return "go to the last step alone" if cascade.on_stale == "strong" else "go on all the same"


def pair_of(cascade: Cascade) -> tuple[str, str]:
    """The weak model and the strong one: those of the two steps.

    Raises IsthmusError (`not_calibratable`) where a step has several, or there are not two: what a third
    model in between answers is tested by no label, and nothing could be promised of it.
    """
    first, last = cascade.stages[0].plan.models(), cascade.stages[-1].plan.models()
    if len(cascade.stages) != 2 or len(first) > 1 or len(last) > 1:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            "Only a cascade from one model to another can be calibrated.",
            code="not_calibratable",
            hint="Let it have two steps, each a call of one model.",
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
