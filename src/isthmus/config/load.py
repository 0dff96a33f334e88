"""isthmus.yaml → Config, or everything that is wrong with it."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from isthmus.config.compile import Sections, compile_config
from isthmus.config.config import Config, GatewaySettings, LedgerSettings
from isthmus.config.decode import INVALID, Decoder
from isthmus.config.faults import Code, ConfigError, ConfigFault
from isthmus.config.findings import Findings
from isthmus.config.lines import Lines
from isthmus.config.tree import Mapping, Mark, read_tree

DEFAULT_FILE = Path(__file__).with_name("default.yaml")
"""The built-in config, as a file to copy."""

_PORTFOLIO = ("providers", "models", "routes")
_TOP = Mark(0, 0)

T = TypeVar("T")


class Parsed(NamedTuple):
    """What came of a text: the config, None where it was refused, and the faults, warnings among them."""

    config: Config | None
    faults: tuple[ConfigFault, ...]


def locate(path: Path | None = None) -> Path | None:
    """The config file to use: `path`, else $ISTHMUS_CONFIG, else ./isthmus.yaml if it exists, else None."""
    if path is not None:
        return path
    if named := os.environ.get("ISTHMUS_CONFIG"):
        return Path(named)
    here = Path("isthmus.yaml")
    return here if here.exists() else None


def load(path: Path | None) -> Config:
    """The config of a file, or the built-in one for None; raises ConfigError with all faults."""
    config, faults = read(path)
    if config is None:
        raise ConfigError(faults)
    return config


def read(path: Path | None, *, check_secrets: bool = True) -> Parsed:
    """The config of a file with its warnings, or its faults. An unreadable file is a fault, too."""
    path = path or DEFAULT_FILE
    text = _text(path)
    return text if isinstance(text, Parsed) else parse(text, str(path), check_secrets=check_secrets)


def load_as(path: Path, kind: type[T]) -> T:
    """A file that is written as a config is, as a struct of that kind; raises ConfigError with all faults."""
    text = _text(path)
    if isinstance(text, Parsed):
        raise ConfigError(text.faults)
    findings = Findings(str(path))
    reading = read_tree(text, findings.add)
    value = None if reading.tree is None else Decoder(findings).whole(reading.tree, kind)
    if value is None or findings.refused:
        raise ConfigError(findings.faults(reading.lines))
    return value


def _text(path: Path) -> str | Parsed:
    """The text of a file, or the fault that it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        reason = error.strerror or "unknown error"
        return _unreadable(
            path, f"The config cannot be read: {reason}.", "Say `--config FILE`, or leave it out."
        )
    except UnicodeDecodeError as error:
        return _unreadable(
            path, f"The config is not UTF-8: byte {error.start} is wrong.", "Save it as UTF-8."
        )


def lines_of(path: Path | None) -> Lines:
    """Where it stands what the config of a file says; the file has been loaded before."""
    trees = {DEFAULT_FILE.name: _default_tree()}
    if path is not None:
        own = read_tree(path.read_text(encoding="utf-8"), Findings(str(path)).add).tree
        trees = {str(path): own, **trees} if own is not None else trees
    return Lines(trees)


def parse(text: str, file: str, *, check_secrets: bool = True) -> Parsed:
    """The config that a text means, with its warnings, or its faults.

    Paths in the text are relative to the folder of `file`. `check_secrets` also looks whether every secret is
    there.
    """
    findings = Findings(file)
    reading = read_tree(text, findings.add)
    config = None
    if reading.tree is not None:
        tree = _with_portfolio(reading.tree, findings)
        sections = _decoded(tree, findings)
        folder = Path(file).parent
        config = compile_config(sections, tree, folder, findings, check_secrets=check_secrets)
    return Parsed(config, findings.faults(reading.lines))


def _with_portfolio(tree: Mapping, findings: Findings) -> Mapping:
    """The tree with the built-in portfolio where it has none of its own; half a portfolio is a fault."""
    missing = [section for section in _PORTFOLIO if section not in tree.entries]
    if len(missing) == len(_PORTFOLIO):
        return Mapping({**_default_tree().entries, **tree.entries}, tree.start)
    for section in missing:
        hint = "A file with none of providers, models and routes has the built-in ones."
        findings.add(Code.MISSING, f"`{section}` is missing.", hint, tree.start, (section,))
    return tree


def _decoded(tree: Mapping, findings: Findings) -> Sections:
    decoder = Decoder(findings)
    decoded = {name: value for name, value in decoder.document(tree).items() if value is not INVALID}
    for section in _PORTFOLIO:
        entry = tree.entries.get(section)
        if entry is not None and isinstance(entry[1], Mapping) and not entry[1].entries:
            findings.add(
                Code.MISSING, f"`{section}` is empty.", "Name at least one.", entry[0].start, (section,)
            )
    return Sections(
        providers=decoded.get("providers", {}),
        models=decoded.get("models", {}),
        routes=decoded.get("routes", {}),
        gateway=decoded.get("gateway", GatewaySettings()),
        ledger=decoded.get("ledger", LedgerSettings()),
        perimeter=decoded.get("perimeter"),
        budgets=decoded.get("budgets", ()),
        drift=decoded.get("drift", ()),
        rollouts=decoded.get("rollouts", ()),
        plans=decoder.plans,
    )


@cache
def _default_tree() -> Mapping:
    findings = Findings(DEFAULT_FILE.name)
    tree = read_tree(DEFAULT_FILE.read_text(encoding="utf-8"), findings.add).tree
    assert tree is not None, "the built-in config is a mapping"
    return tree


def _unreadable(path: Path, message: str, hint: str) -> Parsed:
    findings = Findings(str(path))
    findings.add(Code.UNREADABLE, message, hint, _TOP, ())
    return Parsed(None, findings.faults([""]))
