"""Money as a whole number of nano-dollars, so that sums are exact and order does not matter."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

NANO_PER_USD = 1_000_000_000


def nanousd(usd: Decimal) -> int:
    """The amount in nano-dollars (1e-9 USD), rounded half to even once, here."""
    return int((usd * NANO_PER_USD).to_integral_value(rounding=ROUND_HALF_EVEN))


def format_usd(amount: int | None) -> str:
    """The amount in dollars with nine decimals at most and two at least; `unknown` for None."""
    if amount is None:
        return "unknown"
    sign, rest = ("-", -amount) if amount < 0 else ("", amount)
    whole, fraction = divmod(rest, NANO_PER_USD)
    digits = f"{fraction:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{digits}"
