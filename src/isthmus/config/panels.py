"""`by: FILE` in an `ensemble` that votes → who votes with what weight, and whether that holds still."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path as FilePath

from isthmus.confidence.artefact import load_panel
from isthmus.config.artefacts import (
    Found,
    LearnedFiles,
    UnusableError,
    content_of,
    identity,
    loaded,
    spoken_to,
)
from isthmus.config.faults import Code
from isthmus.core.portfolio import Model, Provider
from isthmus.core.tie import Tie
from isthmus.strategies.plan import Ensemble
from isthmus.strategies.plan.node import Empanelled, once_each

MOST_BYTES = 1_000_000
"""No panel is so long."""


class Panels(LearnedFiles[Ensemble, Empanelled]):
    """The panels that the plans of one config name."""

    strategy = Ensemble
    kind = "panel"

    def _found(self, route: str, ensemble: Ensemble) -> Found[Empanelled] | None:
        if ensemble.combine != "vote":
            # That nothing is learned for others has been said.
            return None
        if ensemble.by is None:
            if ensemble.weights or ensemble.otherwise is not None:
                return None
            message = (
                "Nothing is learned for this vote: all count alike, be they better than the best or not."
            )
            hint = f"Run `isthmus calibrate {route}`, and name its file under `by`; or say `weights`."
            raise UnusableError(Code.NOT_LEARNED, message, hint)
        file = ensemble.by.file
        if len(voters_of(ensemble)) < len(ensemble.members):
            message = "A vote by a panel asks each of its members once, and here one stands twice."
            raise UnusableError(Code.CONFLICT, message, "Leave `by` out, or name each model once.")
        content = content_of(file, self._folder, most=MOST_BYTES, word="by")
        learned = loaded(file, content, load_panel)
        if not learned.overall.keys() & {*ensemble.members}:
            message = f"{file} is about none of these models: it was learned of {', '.join(learned.overall)}."
            raise UnusableError(Code.UNUSABLE_FILE, message, "Run `isthmus calibrate` for this route.")
        card = self._cards.get(route, "")
        now = tie_of(route, ensemble, self._models, self._providers, self._folder, card)
        empanelled = Empanelled(
            file=file,
            sha256=hashlib.sha256(content).hexdigest(),
            asked_at_us=learned.asked_at_us,
            weights=tuple(learned.panel.weights.items()),
            why=learned.panel.why,
            overall=learned.ranking,
            stale=learned.tie.changes(now),
        )
        return Found(empanelled, now, learned.evidence)

    def _with(self, empanelled: Empanelled, ensemble: Ensemble) -> Ensemble:
        return ensemble.seating(empanelled)

    def _on_stale(self, ensemble: Ensemble) -> str:
        if ensemble.on_stale == "warn":
            return "go on by it all the same"
        return "go to the best alone" if ensemble.otherwise is None else "count the best alone"


def voters_of(ensemble: Ensemble) -> tuple[str, ...]:
    """The models of whose answers a panel for this vote is learned."""
    return once_each(list(ensemble.members))


def tie_of(
    route: str,
    ensemble: Ensemble,
    models: Mapping[str, Model],
    providers: Mapping[str, Provider],
    folder: FilePath = FilePath(),
    card: str = "",
) -> Tie:
    """What a panel that is learned for this vote now would hold for, on a route with this style card: who the
    members are and how they are spoken to, in whatever order. Raises OSError where weights cannot be read."""
    voters = tuple(sorted(voters_of(ensemble)))
    return Tie(
        route=route,
        models={name: identity(models[name], folder) for name in voters},
        template=hashlib.sha256(card.encode()).hexdigest(),
        config=spoken_to(voters, models, providers),
    )
