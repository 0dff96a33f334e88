"""`by: FILE` in a `choose` → what its learned router knows on the whole, and whether that holds still."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path as FilePath

import msgspec

from isthmus.catalog.weights import STATIC_VECTORS
from isthmus.config.artefacts import UnusableError, content_of, digest, identity, speech
from isthmus.config.config import CalibrationFile
from isthmus.config.decode import DecodedPlan
from isthmus.config.faults import Code
from isthmus.config.findings import Findings
from isthmus.config.nodes import changed, nodes_in
from isthmus.core.errors import IsthmusError
from isthmus.core.portfolio import Model, Provider
from isthmus.core.tie import Tie
from isthmus.routing.learned.header import parted
from isthmus.strategies.plan import Choose, Node
from isthmus.strategies.plan.node import Learned

MOST_BYTES = 200_000_000
"""No learned router is so long: ten thousand vectors and the words' weights for fifty models are 30 MB."""


class Routers:
    """The learned routers that the plans of one config name: `files` are those that can be used.

    Whatever is wrong with one is added to the faults, where the choice stands; paths are relative to
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
        self._filled: dict[int, Learned] = {}
        for plan in plans:
            if isinstance(plan.node, Choose):
                self._read(plan, plan.node)

    def filled(self, plan: Node) -> Node:
        """The plan with what each learned router that it names knows in it."""
        return changed(plan, Choose, self._with_router)

    def _with_router(self, was: Choose, now: Choose) -> Choose:
        found = self._filled.get(id(was))
        return now if found is None else msgspec.structs.replace(now, by=found)

    def _read(self, plan: DecodedPlan, choose: Choose) -> None:
        def note(code: Code, message: str, hint: str) -> None:
            self._findings.add(code, message, hint, plan.tree.start, plan.path)

        route = str(plan.path[1])
        # What else is wrong with the names has been said.
        if not all(it in self._models for it in choose.models()):
            return
        if choose.by is None:
            message = f"Nothing is learned for this choice: requests go to `{choose.among[0]}`, its first."
            hint = f"Run `isthmus calibrate {route}`, and name its file under `by`."
            note(Code.NOT_LEARNED, message, hint)
            return
        try:
            learned = self._learned(route, choose, choose.by.file)
        except UnusableError as fault:
            note(*fault.args)
            return
        if learned.stale:
            then = "go to the best on the whole" if choose.on_stale == "best" else "go on by it all the same"
            message = f"{learned.file} is stale, as {', and '.join(learned.stale)}. Requests {then}."
            note(Code.STALE_CALIBRATION, message, "Run `isthmus calibrate` for this route again.")
        self._filled[id(choose)] = learned
        self.files.append(
            CalibrationFile(
                route=route,
                path=learned.file,
                sha256=learned.sha256,
                stale=bool(learned.stale),
                kind="router",
            )
        )

    def _learned(self, route: str, choose: Choose, file: str) -> Learned:
        if find_spec("numpy") is None:
            hint = "Run: pip install 'isthmus[learned]'"
            raise UnusableError(Code.NOT_INSTALLED, "`by` needs a package that is not installed.", hint)
        content = content_of(file, self._folder, most=MOST_BYTES, word="by")
        try:
            header, _ = parted(content)
        except IsthmusError as error:
            message = f"{file} cannot be used. {error.message}"
            raise UnusableError(Code.UNUSABLE_FILE, message, error.hint) from None
        if header.embedding not in (None, STATIC_VECTORS.sha256):
            message = f"{file} cannot be used: it was learned with vectors that this version does not have."
            raise UnusableError(Code.UNUSABLE_FILE, message, "Run `isthmus calibrate` for this route again.")
        if not set(header.models) & set(choose.among):
            message = f"{file} is about none of these models: it was learned for {', '.join(header.models)}."
            raise UnusableError(Code.UNUSABLE_FILE, message, "Run `isthmus calibrate` for this route.")
        try:
            now = tie_of(route, choose, self._models, self._providers, self._folder)
        except OSError as error:
            message = f"The weights of a model cannot be read: {error.strerror or 'unknown error'}."
            raise UnusableError(Code.UNUSABLE_FILE, message, "") from None
        then = header.origin.tie
        # A model that is not chosen any more makes nothing wrong that is known of the others.
        left = {name: was for name, was in then.models.items() if name in now.models}
        overall = sorted(zip(header.models, header.overall, strict=True), key=lambda pair: -pair[1])
        return Learned(
            file=file,
            sha256=hashlib.sha256(content).hexdigest(),
            overall=tuple(overall),
            stale=msgspec.structs.replace(then, models=left).changes(now),
        )


def tie_of(
    route: str,
    choose: Choose,
    models: Mapping[str, Model],
    providers: Mapping[str, Provider],
    folder: FilePath = FilePath(),
) -> Tie:
    """What a router that is learned for this choice now would hold for: its route, and who each model is and
    how it is spoken to. Raises OSError where weights cannot be read."""
    return Tie(
        route=route,
        models={
            name: digest([identity(models[name], folder), speech(providers[models[name].provider])])
            for name in choose.models()
        },
        template="",
        config="",
    )


def routers_in(plan: Node) -> tuple[str, ...]:
    """The SHA-256 of each learned router that a plan goes by."""
    by = (choose.by for choose in nodes_in(plan, Choose))
    return tuple(dict.fromkeys(it.sha256 for it in by if it is not None))
