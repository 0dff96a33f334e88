"""What something that was learned holds for, and what it is from, so that what has changed since is seen."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What something was learned from, and what it was to promise, so that it can be learned again.

    `run` is the id of the evaluation run whose answers taught, with their scores by `scorer`. At most
    `max_risk` of a score may be lost on the mean, with a chance of at least 1 - `delta`. Of a cascade,
    `costs` says that it weighs what escalating costs; of a router, `named` that callers name their tasks, and
    `vectors` that it was learned by neighbours, too.
    """

    run: str
    scorer: str
    max_risk: float
    delta: float
    named: bool = False
    vectors: bool = True
    costs: bool = True


class Tie(msgspec.Struct, frozen=True, kw_only=True):
    """What a calibration or a learned router holds for, and for nothing else.

    `models` has the digest of each model's weights, or its provider's id where nobody can know more.
    `template` is the hash of the route's prompt template, `config` that of what the config
    says of them.
    """

    route: str
    models: Mapping[str, str]
    template: str
    config: str

    def changes(self, now: Tie) -> tuple[str, ...]:
        """What has changed since, in words; nothing while all is as it was."""
        reasons = []
        if self.route != now.route:
            reasons.append(f"it was made for the route {self.route}")
        for name in sorted({*self.models, *now.models}):
            if self.models.get(name) != now.models.get(name):
                reasons.append(f"{name} is another model than it was")
        if self.template != now.template:
            reasons.append("the prompt's template has changed")
        if self.config != now.config:
            reasons.append("the config has changed")
        return tuple(reasons)
