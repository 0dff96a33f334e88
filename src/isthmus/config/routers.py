"""`by: FILE` in a `choose` → what its learned router knows on the whole, and whether that holds still."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path as FilePath

import msgspec

from isthmus.catalog.weights import STATIC_VECTORS
from isthmus.config.artefacts import (
    Found,
    LearnedFiles,
    UnusableError,
    content_of,
    digest,
    identity,
    loaded,
    speech,
)
from isthmus.config.faults import Code
from isthmus.config.nodes import nodes_in
from isthmus.core.portfolio import Model, Provider
from isthmus.core.tie import Tie
from isthmus.routing.learned.header import parted
from isthmus.strategies.plan import Choose, Node
from isthmus.strategies.plan.node import Learned

MOST_BYTES = 200_000_000
"""No learned router is so long: ten thousand vectors and the words' weights for fifty models are 30 MB."""


class Routers(LearnedFiles[Choose, Learned]):
    """The learned routers that the plans of one config name."""

    strategy = Choose
    kind = "router"

    def _found(self, route: str, choose: Choose) -> Found[Learned]:
        if choose.by is None:
            message = f"Nothing is learned for this choice: requests go to `{choose.among[0]}`, its first."
            hint = f"Run `isthmus calibrate {route}`, and name its file under `by`."
            raise UnusableError(Code.NOT_LEARNED, message, hint)
        if find_spec("numpy") is None:
            hint = "Run: pip install 'isthmus[learned]'"
            raise UnusableError(Code.NOT_INSTALLED, "`by` needs a package that is not installed.", hint)
        file = choose.by.file
        content = content_of(file, self._folder, most=MOST_BYTES, word="by")
        header, _ = loaded(file, content, parted)
        if header.embedding not in (None, STATIC_VECTORS.sha256):
            message = f"{file} cannot be used: it was learned with vectors that this version does not have."
            raise UnusableError(Code.UNUSABLE_FILE, message, "Run `isthmus calibrate` for this route again.")
        if not set(header.models) & set(choose.among):
            message = f"{file} is about none of these models: it was learned for {', '.join(header.models)}."
            raise UnusableError(Code.UNUSABLE_FILE, message, "Run `isthmus calibrate` for this route.")
        now = tie_of(route, choose, self._models, self._providers, self._folder)
        then = header.origin.tie
        # A model that is not chosen any more makes nothing wrong that is known of the others.
        left = {name: was for name, was in then.models.items() if name in now.models}
        overall = sorted(zip(header.models, header.overall, strict=True), key=lambda pair: -pair[1])
        learned = Learned(
            file=file,
            sha256=hashlib.sha256(content).hexdigest(),
            overall=tuple(overall),
            asked_at_us=header.origin.asked_at_us,
            stale=msgspec.structs.replace(then, models=left).changes(now),
        )
        return Found(learned, now, header.origin.evidence)

    def _with(self, learned: Learned, choose: Choose) -> Choose:
        return msgspec.structs.replace(choose, by=learned)

    def _on_stale(self, choose: Choose) -> str:
        return "go to the best on the whole" if choose.on_stale == "best" else "go on by it all the same"


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
