"""From usage to money."""

from __future__ import annotations

from collections.abc import Iterable

from isthmus.catalog.prices import Price, Rates
from isthmus.core.usage import Charge, Usage


def charge(price: Price, usage: Usage | None, at_us: int) -> Charge:
    """What the usage costs at the price of that time (wall-clock microseconds), rounded half to even once.

    Unknown where the usage is, where no price holds, and where something was used that has none: tokens of
    some class, or the provider's tools. An estimate where the usage is one, and where it was served at other
    prices than those of the list.
    Audio counts as part of the uncached prompt; providers do not say how much of it was cached.
    """
    found = price.in_force(at_us)
    estimated = usage is not None and (usage.estimated or bool(usage.beyond))
    snapshot = "" if found is None else found[0].snapshot
    if usage is None or found is None or usage.ran_tools:
        return Charge(nanousd=None, basis="unknown", snapshot=snapshot, estimated=estimated)
    listed, period = found
    amount = _nanousd(period.rates(usage.prompt), usage)
    basis = "unknown" if amount is None else listed.basis
    return Charge(nanousd=amount, basis=basis, snapshot=snapshot, estimated=estimated)


def charge_together(price: Price, usage: Usage, requests: int, at_us: int) -> int | None:
    """What many requests cost together in nano-dollars, at the tier of their mean; None where not known."""
    found = price.in_force(at_us)
    if found is None or requests == 0:
        return None
    rates = found[1].rates(round(usage.prompt / requests))
    amount = _nanousd(rates, usage)
    return None if amount is None else amount + _rounded((requests - 1) * rates.request, rates.scale)


def total(charges: Iterable[Charge | None]) -> Charge | None:
    """The sum of attempts' charges: exact, and unknown as soon as one is.

    None stands for an attempt that used nothing, and is the sum where no attempt used anything. Where the
    parts do not agree on their basis or snapshot, all are named, in order of appearance.
    """
    parts = [part for part in charges if part is not None]
    if len(parts) < 2:
        return parts[0] if parts else None
    amounts = [part.nanousd for part in parts if part.nanousd is not None]
    known = len(amounts) == len(parts)
    return Charge(
        nanousd=sum(amounts) if known else None,
        basis=_joined(part.basis for part in parts) if known else "unknown",
        snapshot=_joined(part.snapshot for part in parts),
        estimated=any(part.estimated for part in parts),
    )


def _nanousd(rates: Rates, usage: Usage) -> int | None:
    if rates.input is None and rates.output is None:
        return None
    heard = min(usage.input_audio, usage.input)
    spoken = min(usage.output_audio, usage.output)
    thought = min(usage.reasoning, usage.output - spoken)
    scaled = rates.request
    for tokens, rate in (
        (usage.input - heard, rates.input),
        (usage.output - spoken - thought, rates.output),
        (usage.cache_read, rates.cache_read),
        (usage.cache_write_5m, rates.cache_write_5m),
        (usage.cache_write_1h, rates.cache_write_1h),
        (heard, rates.input_audio),
        (spoken, rates.output_audio),
        (thought, rates.reasoning),
    ):
        if tokens:
            if rate is None:
                return None
            scaled += tokens * rate
    return _rounded(scaled, rates.scale)


def _rounded(scaled: int, scale: int) -> int:
    whole, rest = divmod(scaled, scale)
    return whole + (2 * rest > scale or (2 * rest == scale and whole % 2 == 1))


def _joined(names: Iterable[str]) -> str:
    return " + ".join(dict.fromkeys(name for name in names if name))
