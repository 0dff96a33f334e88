"""The faults of one file, gathered while it is read."""

from __future__ import annotations

from isthmus.config.faults import Code, ConfigFault
from isthmus.config.tree import Mark, Path


class Findings:
    """Takes down what is wrong as it is found; `faults` puts it in order, with the lines it stands in."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._found: dict[tuple[int, int, Code, str], tuple[str, Path]] = {}
        self._miswritten: set[Mark] = set()

    def add(self, code: Code, message: str, hint: str, mark: Mark, path: Path) -> None:
        """Note a fault, once. What is refused for how it is written is not refused for what it says, too."""
        if code is Code.UNUSUAL_YAML:
            self._miswritten.add(mark)
        elif mark in self._miswritten:
            return
        self._found.setdefault((mark.line, mark.column, code, _printable(message)), (_printable(hint), path))

    @property
    def refused(self) -> bool:
        """True where something is wrong that the config cannot work with."""
        return any(not code.warns for _, _, code, _ in self._found)

    def faults(self, lines: list[str]) -> tuple[ConfigFault, ...]:
        """All faults in the order of the file. `lines` are the file's lines as they may be shown."""
        return tuple(
            self._fault(lines, key, hint, path)
            for key, (hint, path) in sorted(self._found.items(), key=_order)
        )

    def _fault(self, lines: list[str], key: tuple[int, int, Code, str], hint: str, path: Path) -> ConfigFault:
        line, column, code, message = key
        line = min(line, len(lines) - 1)
        return ConfigFault(
            code=code,
            message=message,
            hint=hint,
            file=self._file,
            line=line + 1,
            column=min(column, len(lines[line])) + 1,
            path=format_path(path),
            excerpt=lines[line],
        )


def format_path(path: Path) -> str:
    """The path as people write it: `routes.support.fallback[1]`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.removeprefix(".")


def _printable(text: str) -> str:
    """The text without what could move a terminal's cursor or forge another line: a key may hold anything."""
    return (
        text
        if text.isprintable()
        else "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    )


def _order(item: tuple[tuple[int, int, Code, str], object]) -> tuple[int, int, Code, str]:
    return item[0]
