"""What is foreseen of a request, for the choices of its route: by whoever decides it, live or explained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from isthmus.accounting.forecast import priced
from isthmus.catalog.prices import Price
from isthmus.config.routers import routers_in
from isthmus.core.call import Envelope
from isthmus.core.foresight import Foresight
from isthmus.core.portfolio import Model
from isthmus.dialects.asked import about_tokens, asked
from isthmus.dialects.features import features_of
from isthmus.routing.route import Route

if TYPE_CHECKING:
    # It needs numpy, which only a config with a learned router does.
    from isthmus.routing.learned.predictor import Predictor

TASK_HEADER = b"x-isthmus-task"
"""By this header a caller names the task that a request belongs to, as the samples of its route do."""

LONGEST_TASK = 128
"""Characters of a task's name that are looked at."""


class Foresights:
    """Asks the learned routers of a config, by the SHA-256 of their files."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        predictors: Mapping[str, Predictor],
        prices: Mapping[str, Price],
        models: Mapping[str, Model],
    ) -> None:
        self._predictors = predictors
        self._prices = prices
        self._versions = tuple((it.family, name) for name, it in models.items() if it.version_of is not None)
        self._asked = {
            (name, thrifty): routers_in(route.plan_for(thrifty))
            for name, route in routes.items()
            for thrifty in (False, True)
        }

    def of(
        self, route: str, envelope: Envelope, task: str, at_us: int, *, thrifty: bool = False
    ) -> tuple[Foresight, ...]:
        """What each router of the route foresees of a chat, at the prices of that time.

        `task` is the name of the request's task, empty where nobody said it.
        """
        routers = self._asked[route, thrifty]
        if not routers or envelope.operation != "chat":
            return ()
        words, tokens = asked(envelope), about_tokens(envelope)
        most = features_of(envelope, 0).max_output
        name = task[:LONGEST_TASK] or None
        seen = (self._predictors[it].foresee(words, name, tokens, most) for it in routers)
        return tuple(priced(self._with_versions(it), self._prices, at_us) for it in seen)

    def _with_versions(self, foresight: Foresight) -> Foresight:
        """The same, with what is foreseen of a model foreseen of its versions with other weights, too: the
        choice knows that they are others, and whether to go by it all the same."""
        if not self._versions:
            return foresight
        known = {it.model: it for it in foresight.outlooks}
        others = (
            msgspec.structs.replace(known[model], model=name)
            for model, name in self._versions
            if model in known
        )
        return msgspec.structs.replace(foresight, outlooks=(*foresight.outlooks, *others))


def routers_of(route: Route) -> tuple[str, ...]:
    """The SHA-256 of each learned router that the route may go by, thrifty or not."""
    return (*routers_in(route.plan_for(False)), *routers_in(route.plan_for(True)))
