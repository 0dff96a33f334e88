"""Identifiers that sort by time."""

from __future__ import annotations


def request_id(at_us: int, random: int) -> str:
    """`req_` and 32 hexadecimal digits: 48 bits of milliseconds, then 80 random bits, as a ULID has them.

    `random` is any non-negative integer; its low 80 bits are used. Layout: github.com/ulid/spec.
    """
    return f"req_{_ulid(at_us, random)}"


def feedback_id(at_us: int, random: int) -> str:
    """`fb_` and 32 hexadecimal digits: see `request_id`."""
    return f"fb_{_ulid(at_us, random)}"


def _ulid(at_us: int, random: int) -> str:
    milliseconds = (at_us // 1000) & 0xFFFF_FFFF_FFFF
    return f"{milliseconds << 80 | random & ((1 << 80) - 1):032x}"
