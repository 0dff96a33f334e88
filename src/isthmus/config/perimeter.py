"""The section `perimeter` → the policy: its rules checked, its files read, its engines looked for."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path as FilePath
from typing import Protocol

from isthmus.catalog.pipelines import ENGLISH
from isthmus.config.document import PerimeterEntry
from isthmus.config.faults import Code, did_you_mean
from isthmus.config.paths import absolute
from isthmus.config.tree import Path
from isthmus.perimeter.detectors.weights import digest
from isthmus.perimeter.engines import PACKAGES, Engine
from isthmus.perimeter.files import FileKind, RuleFile, sha256
from isthmus.perimeter.policy import FAMILIES, Policy

_FAMILIES_OF_FILES: dict[str, FileKind] = {
    "term": "terms",
    "fingerprint": "fingerprints",
    "topic": "topics",
}


class Add(Protocol):
    """Notes a fault at the place of a path, or at that of its key."""

    def __call__(
        self, code: Code, message: str, hint: str, path: Path, /, *, at_key: bool = False
    ) -> None: ...


def compile_policy(entry: PerimeterEntry | None, folder: FilePath, add: Add) -> Policy:
    """The policy that the section means; whatever is wrong is added to the faults.

    Paths in it are relative to `folder`, and stay as they were said.
    """
    return _Compiler(entry, folder, add).policy() if entry is not None else Policy()


def warn_of_unheeded(policy: Policy, add: Add) -> None:
    """Note each file whose findings would raise no label: nothing would be protected by it."""
    for family, section in _FAMILIES_OF_FILES.items():
        for file in policy.files:
            kind = f"{family}.{file.name}"
            if file.kind == section and not any(rule.fits(kind) for rule in policy.rules):
                path: Path = ("perimeter", section, file.name)
                add(Code.UNUSED, f"No label is about `{kind}`.", "", path, at_key=True)


class _Compiler:
    def __init__(self, entry: PerimeterEntry, folder: FilePath, add: Add) -> None:
        self._entry = entry
        self._folder = folder
        self._add = add

    def policy(self) -> Policy:
        entry = self._entry
        for index, rule in enumerate(entry.labels):
            place: Path = ("perimeter", "labels", index)
            self._check_kind(rule.when, (*place, "when"))
            if rule.pseudonymise and rule.when.partition(".")[0] == "topic":
                message = "A topic is what a text is about as a whole: no part of it can be hidden."
                self._add(Code.CONFLICT, message, "Remove it.", (*place, "pseudonymise"))
        self._check_engines()
        return Policy(
            default=entry.default,
            clearance=entry.clearance,
            rules=entry.labels,
            names=entry.names,
            timeout=entry.timeout,
            files=tuple(self._rule_files()),
            engines=entry.engines,
            key=entry.key,
        )

    # Kinds of findings

    def _check_kind(self, kind: str, place: Path) -> None:
        family, _, name = kind.partition(".")
        if family not in FAMILIES:
            hint = did_you_mean(family, FAMILIES) or "Kinds are `pii`, `secret`, or such as `pii.email`."
            self._add(Code.UNKNOWN_NAME, f"`{kind[:40]}` is no kind of finding.", hint, place)
        section = _FAMILIES_OF_FILES.get(family)
        files = getattr(self._entry, section) if section is not None else {}
        if section is not None and not (name in files if name else files):
            message = f"There is {f'no `{name}`' if name else 'nothing'} under `{section}`."
            hint = did_you_mean(name, files) or f"Name its file under `{section}:`."
            self._add(Code.UNKNOWN_NAME, message, hint, place)

    # Files

    def _rule_files(self) -> Iterator[RuleFile]:
        for section in _FAMILIES_OF_FILES.values():
            for name, path in sorted(getattr(self._entry, section).items()):
                yield from self._rule_file(section, name, path, ("perimeter", section, name))
        if self._entry.gitleaks is not None:
            yield from self._rule_file(
                "gitleaks", "gitleaks", self._entry.gitleaks, ("perimeter", "gitleaks")
            )

    def _rule_file(self, kind: FileKind, name: str, path: str, place: Path) -> Iterator[RuleFile]:
        """The file as it is now, if it says what it should."""
        try:
            content = FilePath(absolute(path, self._folder)).read_bytes()
            file = RuleFile(kind, name, path, sha256(content))
            file.detector(content)
        except FileNotFoundError:
            self._add(Code.FILE_NOT_FOUND, f"There is no file {path}.", "", place)
        except OSError as error:
            message = f"{path} cannot be read: {error.strerror or 'unknown error'}."
            self._add(Code.UNUSABLE_FILE, message, "", place)
        except ValueError as error:
            self._add(Code.UNUSABLE_FILE, f"{path} cannot be used. {error}", "", place)
        else:
            yield file

    # Engines

    def _check_engines(self) -> None:
        chosen: set[str] = set()
        for index, engine in enumerate(self._entry.engines):
            place: Path = ("perimeter", "engines", index)
            if engine.engine in chosen:
                self._add(Code.CONFLICT, f"`{engine.engine}` is chosen twice.", "Keep one of them.", place)
            chosen.add(engine.engine)
            package = PACKAGES[engine.engine]
            if find_spec(package.module) is None:
                hint = f"Run: pip install 'isthmus[{package.extra}]'"
                self._add(Code.NOT_INSTALLED, f"The engine `{engine.engine}` is not installed.", hint, place)
            if engine.folder is None:
                self._check_own_weights(engine, place)
            else:
                self._check_folder(engine.folder, engine.sha256, place)

    def _check_own_weights(self, engine: Engine, place: Path) -> None:
        if engine.sha256 is not None:
            self._add(Code.CONFLICT, "`sha256` is that of a `folder`.", "Name one.", (*place, "sha256"))
        if engine.engine == "gliner":
            hint = "Name the folder of a GLiNER model that you have fetched."
            self._add(Code.MISSING, "`folder` is missing.", hint, place)
        elif find_spec(ENGLISH.module) is None:
            hint = "Run: pip install 'isthmus[ner]' (Python 3.12 on), or name a spaCy pipeline's `folder`."
            self._add(Code.NOT_INSTALLED, f"The weights {ENGLISH.name} are not installed.", hint, place)

    def _check_folder(self, said: str, pin: str | None, place: Path) -> None:
        folder = FilePath(absolute(said, self._folder))
        if not folder.is_dir():
            self._add(Code.FILE_NOT_FOUND, f"There is no folder {said}.", "", (*place, "folder"))
        elif pin is None:
            hint = f"It is {digest(folder)}: say so if these are the weights that you trust."
            self._add(Code.MISSING, "`sha256` is missing.", hint, place)
