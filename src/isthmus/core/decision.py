"""Why a request goes where it goes, in words and in data."""

from __future__ import annotations

from typing import Any

import msgspec

from isthmus.core.foresight import Foresight
from isthmus.core.label import BOTTOM, Label

NEEDLESS = "needless"
"""The rule by which a model is left out that the request might reach, since the plan does not ask it."""


class Refused(msgspec.Struct, frozen=True):
    """A model of the route that this request may not or cannot reach; `rule` is stable, `reason` is prose."""

    model: str
    rule: str
    reason: str


class Previous(msgspec.Struct, frozen=True, kw_only=True):
    """Who answered a conversation's last turn: the model, and the arms that had been drawn for it."""

    model: str
    arms: tuple[str, ...] = ()


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """How long a model has been silent lately before its first token: `seconds` is that `quantile`, such as
    `p95`, of its last attempts at such requests."""

    model: str
    quantile: str
    seconds: float


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of routing: a value, the same for `explain` and for the live request.

    `label` is how sensitive the request is, and `perimeter` the hash of the rules that said so.
    `pseudonymised` are those of the allowed models that may see it only with pseudonyms, and `hidden_label`
    is its label with them, None where it may not go out so. `thrifty` says that a budget was nearly used.
    `allowed` are the models that the plan may call, in the order of the route; `plan` is the tree that is
    left of the strategy after pruning and drawing (a strategies.plan Node), None where nothing is left;
    `propensity` is the probability with which this plan was chosen among the route's alternatives (1.0 where
    nothing was drawn), kept so that other policies can be estimated from logged traffic. `arms` are the names
    of the arms that were drawn, outer ones first. `foreseen` is what learned routers said of the request,
    where the route asks any. `previous` is who answered the conversation before, None where it begins, or is
    not known, or the route does not heed it. `revises` says that the client takes back what it has seen of a
    stream, where it is told to. `weights` are those of arms that had other ones by then than the config says.
    `silences` are those that the route's hedges go by, as far as they were known.
    """

    route: str
    operation: str
    allowed: tuple[str, ...]
    refused: tuple[Refused, ...]
    plan: Any
    reasons: tuple[str, ...]
    propensity: float
    config_hash: str
    label: Label = BOTTOM
    perimeter: str = ""
    pseudonymised: tuple[str, ...] = ()
    hidden_label: Label | None = None
    thrifty: bool = False
    arms: tuple[str, ...] = ()
    previous: Previous | None = None
    revises: bool = False
    weights: tuple[tuple[str, float], ...] = ()
    foreseen: tuple[Foresight, ...] = ()
    silences: tuple[Silence, ...] = ()
