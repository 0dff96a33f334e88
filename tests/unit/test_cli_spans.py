"""Lengths of time on the command line: what is read, and what is refused before it can overflow."""

from __future__ import annotations

import click
import pytest

from isthmus.cli.keys import Span


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800.0), ("1.5h", 5400.0), ("90d", 7_776_000.0), ("36525d", 3_155_760_000.0)],
)
def test_a_length_of_time_is_read(text: str, seconds: float) -> None:
    assert Span().convert(text, None, None) == seconds


def test_an_old_key_may_end_at_once() -> None:
    assert Span(or_none=True).convert("0s", None, None) == 0.0


@pytest.mark.parametrize("text", ["0s", "0.0w", "36526d", "99999999999999999999w", "9" * 400 + "s"])
def test_none_and_too_long_a_one_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="100 years"):
        Span().convert(text, None, None)
