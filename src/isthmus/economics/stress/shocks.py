"""Named shocks: what may happen to prices, providers, models and zones, written in a word or two.

Each of them has happened: 39 of 463 recorded price changes were a tripling or more, a model's alias was
pointed at one that costs 3.75 times as much, rents of GPUs rose by 60 % in half a year.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.portfolio import Model, Provider

TRIPLED = 3.0
RENTS = 1.6
TENFOLD = 10.0

FORMS = {
    "price": "price:PROVIDER[:FACTOR]",
    "gone": "gone:PROVIDER",
    "withdrawn": "withdrawn:MODEL[@DAY]",
    "rents": "rents[:FACTOR]",
    "volume": "volume[:FACTOR]",
    "revoked": "revoked:ZONE",
    "peak": "peak",
    "day": "day:DAY",
}
"""How each kind of shock is written."""


class Shock(msgspec.Struct, frozen=True, kw_only=True):
    """What happens.

    `gone` are the models that cannot be called any more, `dearer` the factor by which models cost more,
    `volume` the factor by which traffic grows; with `peak` every request costs what it would in the dearest
    hour of its day. `since` is the day whose prices hold then, None for those of now.
    """

    name: str
    says: str
    gone: frozenset[str] = frozenset()
    dearer: Mapping[str, float] = {}
    volume: float = 1.0
    peak: bool = False
    since: dt.date | None = None


def standard_shocks(models: Mapping[str, Model], providers: Mapping[str, Provider]) -> list[Shock]:
    """The shocks that a portfolio should be ready for, where it says nothing of which."""
    return [shock_of(name, models, providers) for name in _standard_names(models, providers)]


def shock_of(text: str, models: Mapping[str, Model], providers: Mapping[str, Provider]) -> Shock:
    """The shock that is so written. Raises IsthmusError (`unknown_shock`)."""
    kind, _, rest = text.partition(":")
    match kind:
        case "price":
            provider, _, factor = rest.partition(":")
            hit = _of_provider(provider, models, providers)
            times = _factor(factor, TRIPLED)
            says = f"the prices of {provider} become {times:g} times what they are"
            return Shock(name=text, says=says, dearer=dict.fromkeys(hit, times))
        case "gone":
            return Shock(
                name=text,
                says=f"the provider {rest} cannot be reached any more",
                gone=frozenset(_of_provider(rest, models, providers)),
            )
        case "withdrawn":
            name, _, day = rest.partition("@")
            _known(name, models, "model")
            return Shock(
                name=text,
                says=f"the model {name} is withdrawn" + (f" on {day}" if day else ""),
                gone=frozenset({name}),
                since=_day(day) if day else None,
            )
        case "rents":
            times = _factor(rest, RENTS)
            rented = [name for name, model in models.items() if model.kind == "open"]
            says = f"rented machines cost {times:g} times what they do, and open models with them"
            return Shock(name=text, says=says, dearer=dict.fromkeys(rented, times))
        case "volume":
            times = _factor(rest, TENFOLD)
            return Shock(name=text, says=f"{times:g} times as many requests come", volume=times)
        case "revoked":
            _known(rest, {model.zone for model in models.values() if model.zone}, "zone")
            return Shock(
                name=text,
                says=f"nothing may go to the zone {rest} any more",
                gone=frozenset(name for name, model in models.items() if model.zone == rest),
            )
        case "peak":
            return Shock(name=text, says="every request comes in the dearest hour of its day", peak=True)
        case "day":
            return Shock(
                name=text, says=f"it is {rest}, with the prices announced for then", since=_day(rest)
            )
    raise _unknown(f"There is no shock {text!r}.", kind, FORMS)


def _standard_names(models: Mapping[str, Model], providers: Mapping[str, Provider]) -> Iterator[str]:
    bought = [model for model in models.values() if providers[model.provider].engine is None]
    for provider in dict.fromkeys(model.provider for model in bought):
        yield f"price:{provider}"
        yield f"gone:{provider}"
    yield from (f"withdrawn:{model.name}" for model in bought)
    yield from (f"revoked:{zone}" for zone in sorted({model.zone for model in bought if model.zone}))
    if any(model.kind == "open" for model in bought):
        yield "rents"
    yield "volume"
    yield "peak"


def _of_provider(
    provider: str, models: Mapping[str, Model], providers: Mapping[str, Provider]
) -> tuple[str, ...]:
    _known(provider, providers, "provider")
    return tuple(name for name, model in models.items() if model.provider == provider)


def _known(name: str, known: Iterable[str], what: str) -> None:
    names = list(known)
    if name not in names:
        raise _unknown(f"The portfolio has no {what} {name!r}.", name, names)


def _factor(text: str, usual: float) -> float:
    if not text:
        return usual
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0 < factor < 1e6:
        raise _unknown(f"{text!r} is no factor.", text, FORMS)
    return factor


def _day(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise _unknown(f"{text!r} is no day such as 2027-01-31.", text, FORMS) from None


def _unknown(message: str, said: str, known: Iterable[str]) -> IsthmusError:
    near = get_close_matches(said, list(known), n=1)
    forms = f"Shocks are written {', '.join(FORMS.values())}."
    return IsthmusError(
        Fault.INVALID_REQUEST,
        message,
        code="unknown_shock",
        hint=f"Did you mean {near[0]!r}? {forms}" if near else forms,
    )
