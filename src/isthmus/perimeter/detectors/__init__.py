"""Detectors, one a file: each looks for a few kinds of sensitive text, and says where it found them."""

from __future__ import annotations

from typing import Protocol

from isthmus.core.label import Finding


class Detector(Protocol):
    """Finds sensitive spans in a text. Pure: equal texts give equal findings, and nothing is kept.

    An error that it raises counts as the highest level; it must not be silent where it could not look.
    """

    name: str

    def find(self, text: str) -> list[Finding]:
        """The findings in order of their start; offsets are code points of `text`."""


class Recogniser(Detector, Protocol):
    """A detector that knows every kind that it may find, so that it is asked only where one would matter."""

    kinds: frozenset[str]
