"""Faults as a compiler shows them: the place, the line, a caret, what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isthmus.config.faults import ConfigFault

_BOLD, _RED, _YELLOW, _BLUE, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[34m", "\x1b[0m"


def render(faults: Sequence[ConfigFault], *, colour: bool = False) -> str:
    """The faults for a person, ending in a count; empty for none. Colours repeat what the words say."""
    if not faults:
        return ""
    return "\n".join([*(_fault(fault, colour) for fault in faults), _count(faults)]) + "\n"


def as_data(faults: Sequence[ConfigFault]) -> list[dict[str, Any]]:
    """The faults for a machine: one mapping each, `severity` is `fault` or `warning`."""
    return [
        {
            "code": str(fault.code),
            "severity": "warning" if fault.warns else "fault",
            "message": fault.message,
            "hint": fault.hint,
            "file": fault.file,
            "line": fault.line,
            "column": fault.column,
            "path": fault.path,
        }
        for fault in faults
    ]


def _fault(fault: ConfigFault, colour: bool) -> str:
    tone = _YELLOW if fault.warns else _RED
    word = "warning" if fault.warns else "fault"
    place = f"{fault.file}:{fault.line}:{fault.column}"
    lines = [
        f"{_tinted(place, _BOLD, colour)}: {_tinted(f'{word} {fault.code}', tone, colour)}: {fault.message}"
    ]
    if fault.excerpt.strip():
        gutter = str(fault.line)
        # Tabs stay tabs above and below, so that the caret stands under its character at any tab width.
        lead = "".join("\t" if char == "\t" else " " for char in fault.excerpt[: fault.column - 1])
        lines.append(f" {_tinted(f'{gutter} |', _BLUE, colour)} {fault.excerpt}")
        lines.append(
            f" {_tinted(' ' * len(gutter) + ' |', _BLUE, colour)} {lead}{_tinted('^', tone, colour)}"
        )
    if fault.hint:
        lines.append(f" {_tinted('hint:', _BLUE, colour)} {fault.hint}")
    return "\n".join(lines) + "\n"


def _count(faults: Sequence[ConfigFault]) -> str:
    warnings = sum(fault.warns for fault in faults)
    said = [(len(faults) - warnings, "fault"), (warnings, "warning")]
    return ", ".join(f"{number} {word}{'s' if number != 1 else ''}" for number, word in said if number) + "."


def _tinted(text: str, tone: str, colour: bool) -> str:
    return f"{tone}{text}{_PLAIN}" if colour else text
