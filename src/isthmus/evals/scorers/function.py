"""`module:function` and `file.py:function`: a scorer of one's own."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.evals.scorers.answers import unscorable
from isthmus.evals.scorers.spec import invalid

_WRITTEN = re.compile(r"(?P<file>.+\.py):(?P<of_file>\w+)|(?P<module>[\w.]+):(?P<of_module>\w+)")


class Function:
    """What a function `(sample, answered)` of Python gives: a number from 0 to 1, True, False or a `Score`.

    It may be async; one that is not is called in a thread, perhaps in several at once. An attribute `binary`
    that is True says that it gives 0 and 1 only. An error in it is no score, and never ends a run.
    """

    def __init__(self, name: str) -> None:
        """Raises IsthmusError (`invalid_scorer`) where there is no such function."""
        self.name = name
        self._function = function_of(name)
        self.binary = getattr(self._function, "binary", False) is True

    async def score(self, sample: Sample, answered: Answered) -> Score:
        """What the function says."""
        if missing := unscorable(sample, answered, by_target=False):
            return missing
        try:
            said = await called(self._function, sample, answered)
        except (Exception, SystemExit) as error:
            return Score(value=None, why=f"{self.name} failed: {type(error).__name__}: {error}")
        if not isinstance(said, Score):
            return score_of(said, self.name)
        # Nobody checks what a Score is made of.
        checked = said if said.value is None else score_of(said.value, self.name)
        return checked if checked.value is None else said


def names_function(spec: str) -> bool:
    """True where a spec is written as one that names a function in a file or a module."""
    return _WRITTEN.fullmatch(spec) is not None


def is_there(spec: str) -> bool:
    """True where the module of such a spec exists; of a file the reading will tell."""
    written = _WRITTEN.fullmatch(spec)
    return written is not None and (written["file"] is not None or _exists(written["module"]))


def function_of(spec: str) -> Callable[..., Any]:
    """The function that is so written. Raises IsthmusError (`invalid_scorer`) where there is none."""
    written = _WRITTEN.fullmatch(spec)
    if written is None:
        raise invalid(f"`{spec}` names no function.", "Write package.module:function or file.py:function.")
    where = written["file"] or written["module"]
    try:
        module = _loaded(Path(where)) if written["file"] else importlib.import_module(where)
    except (Exception, SystemExit) as error:
        raise invalid(f"{where} cannot be loaded: {type(error).__name__}: {error}.") from error
    function = getattr(module, written["of_file"] or written["of_module"], None)
    if not callable(function):
        raise invalid(f"{where} has no function `{spec.rpartition(':')[2]}`.")
    return function  # type: ignore[no-any-return]


async def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, or what an async one comes to."""
    if inspect.iscoroutinefunction(function):
        return await function(*arguments)
    said = await asyncio.to_thread(function, *arguments)
    return await said if inspect.isawaitable(said) else said


def score_of(value: Any, whose: str) -> Score:
    """A number from 0 to 1 as a score; of anything else that it is none."""
    if isinstance(value, bool | int | float) and math.isfinite(value) and 0 <= value <= 1:
        return Score(value=float(value))
    return Score(value=None, why=f"{whose} gave {value!r:.100}, which is no number from 0 to 1")


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _loaded(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec, "the name ends with .py"
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
