"""The words that the detectors go by, as data: vocabulary.txt says what each section is."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources


def vocabulary(section: str) -> frozenset[str]:
    """The words of a section, in lower case."""
    return _sections()[section]


@lru_cache(maxsize=1)
def _sections() -> dict[str, frozenset[str]]:
    text = resources.files(__package__).joinpath("vocabulary.txt").read_text(encoding="utf-8")
    words: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("="):
            section = words.setdefault(line[1:], [])
        elif line and not line.startswith("#"):
            section.extend(line.split())
    return {name: frozenset(found) for name, found in words.items()}
