"""`calibration: FILE` in a cascade → what it says, and whether it holds for the config as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, TypeVar

import msgspec

from isthmus.confidence.artefact import Calibration, Tie, load, stale
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
        folder: FilePath,
        findings: Findings,
    ) -> None:
        self.files: list[CalibrationFile] = []
        self._models, self._providers = models, providers
        self._folder = folder
        self._findings = findings
        self._filled: dict[int, Calibrated] = {}
        for plan in plans:
            if isinstance(plan.node, Cascade):
                self._read_all(plan, plan.node)

    def filled(self, plan: Node) -> Node:
        """The plan with every calibration that it names in it."""
        return changed(plan, lambda was, now: self._with_calibration(self._filled.get(id(was)), now))

    def _with_calibration(self, calibration: Calibrated | None, cascade: Cascade) -> Cascade:
        if calibration is None:
            return cascade
        first, *others = cascade.stages
        accept = msgspec.structs.replace(first.accept, calibration=calibration)
        return msgspec.structs.replace(
            cascade, stages=(msgspec.structs.replace(first, accept=accept), *others)
        )

    def _read_all(self, plan: DecodedPlan, cascade: Cascade) -> None:
        def refuse(code: Code, message: str, hint: str) -> None:
            self._findings.add(code, message, hint, plan.tree.start, plan.path)

        if any(stage.accept.calibration is not None for stage in cascade.stages[1:]):
            message = "Only the first step of a cascade has a calibration."
            refuse(Code.UNREACHABLE, message, "Move it to the first step, or remove it.")
        named = cascade.stages[0].accept.calibration
        # What else is wrong with the names has been said.
        if named is None or not all(it in self._models for it in cascade.models()):
            return
        try:
            now = tie_of(str(plan.path[1]), cascade, self._models, self._providers, self._folder)
            content = _content(FilePath(absolute(named.file, self._folder)))
            calibration = load(content)
            threshold = _threshold(calibration)
        except FileNotFoundError:
            hint = "Leave `calibration` out, run `isthmus calibrate` for this route, and say it then."
            refuse(Code.FILE_NOT_FOUND, f"There is no file {named.file}.", hint)
        except OSError as error:
            reason = error.strerror or "unknown error"
            refuse(Code.UNUSABLE_FILE, f"{named.file} cannot be read: {reason}.", "")
        except IsthmusError as error:
            refuse(Code.UNUSABLE_FILE, f"{named.file} cannot be used. {error.message}", error.hint)
        else:
            reasons = stale(calibration, now)
            if reasons:
                then = "go to the last step alone" if cascade.on_stale == "strong" else "go on all the same"
                message = f"{named.file} is stale, as {', and '.join(reasons)}. Requests {then}."
                refuse(Code.STALE_CALIBRATION, message, "Run `isthmus calibrate` for this route again.")
            digest = hashlib.sha256(content).hexdigest()
            self._filled[id(cascade)] = Calibrated(
                file=named.file,
                sha256=digest,
                calibrator=calibration.calibrator,
                threshold=threshold,
                stale=reasons,
            )
            self.files.append(
                CalibrationFile(route=now.route, path=named.file, sha256=digest, stale=bool(reasons))
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
) -> Tie:
    """What a calibration of this cascade made now would hold for.

    Of the config only what decides about the two models' answers: who they are and how they are spoken to,
    not their prices, nor what else is demanded of the weak one's answer, since whoever accepts less adds no
    risk. Raises OSError where weights cannot be read, and IsthmusError (`not_calibratable`).
    """
    pair = pair_of(cascade)
    shown = WITH_ATTEMPT if cascade.stages[-1].context == "with_attempt" else ""
    return Tie(
        route=route,
        models={it: weights_sha256(models[it], folder) or models[it].id for it in pair},
        template=hashlib.sha256(shown.encode()).hexdigest(),
        config=hashlib.sha256(
            _canonical([pair, *(_speech(models[it], providers[models[it].provider]) for it in pair)])
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


def _speech(model: Model, provider: Provider) -> list[Any]:
    return [provider.wires, provider.base_url, provider.query, sorted(provider.quirks), provider.engine]


def _content(path: FilePath) -> bytes:
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise IsthmusError(Fault.INVALID_REQUEST, "It is too long.", code="bad_calibration")
    return content


def _threshold(calibration: Calibration) -> float:
    if calibration.threshold is None:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            "It promises nothing, and accepts no answer.",
            code="bad_calibration",
            hint="Leave the cascade out: its last step alone does the same for less.",
        )
    return calibration.threshold
