"""Where in its file each thing stands that a config says."""

from __future__ import annotations

from typing import NamedTuple

from isthmus.config.tree import Mapping, Mark, Path, Sequence, Tree


class Place(NamedTuple):
    """A place in a file."""

    file: str
    mark: Mark


class Lines:
    """The places of what was said, in the file that says it: `trees` are by the file's name.

    A section is looked for in the first file that has it.
    """

    def __init__(self, trees: dict[str, Mapping]) -> None:
        self._trees = trees

    def find(self, path: Path) -> str | None:
        """Where the value at that path is said, as `isthmus.yaml:14`; None where it is said nowhere."""
        place = self.place(path)
        return None if place is None else f"{place.file}:{place.mark.line + 1}"

    def place(self, path: Path) -> Place | None:
        """The file that says the value at that path, and where in it; None where it is said nowhere."""
        for file, tree in self._trees.items():
            if path[0] in tree.entries:
                mark = _mark(tree, path)
                return None if mark is None else Place(file, mark)
        return None


def _mark(tree: Tree, path: Path) -> Mark | None:
    mark = tree.start
    for step in path:
        if isinstance(tree, Mapping) and step in tree.entries:
            key, tree = tree.entries[str(step)]
            mark = key.start
        elif isinstance(tree, Sequence) and isinstance(step, int) and step < len(tree.items):
            tree = tree.items[step]
            mark = tree.start
        else:
            return None
    return mark
