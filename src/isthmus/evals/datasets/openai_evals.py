"""Samples of OpenAI Evals: of the open-source framework, and of the hosted service.

The framework's lines have `input` and `ideal` (github.com/openai/evals, docs/build-eval.md). The service's
have an `item` with fields of one's own, and perhaps a `sample` with the answer that was given
(developers.openai.com/api/docs/guides/evals); which field is asked and which is the good answer stood in the
eval's templates, not in the file, so that usual names are tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from isthmus.evals.datasets.faults import refused

_ASKED = ("input", "messages", "question", "prompt", "query", "text")
_IDEAL = ("ideal", "target", "ground_truth", "reference_answer", "reference", "expected", "expected_output")
_IDEAL_TOO = ("answer", "correct_answer", "correct_label", "label", "output", "completion")


def recognises(value: Mapping[str, Any]) -> bool:
    """True for a line of either."""
    return {"input", "ideal"} <= value.keys() or isinstance(value.get("item"), dict)


def translate(value: Mapping[str, Any], where: str, left_out: Counter[str]) -> dict[str, Any]:
    """The line in our own form. Raises IsthmusError (`bad_dataset`) where nothing says what is asked."""
    if "item" in value:
        return _hosted(value, where, left_out)
    others = {name: it for name, it in value.items() if name not in ("input", "ideal")}
    return {"input": value["input"], "target": value["ideal"], "metadata": others}


def _hosted(value: Mapping[str, Any], where: str, left_out: Counter[str]) -> dict[str, Any]:
    item: dict[str, Any] = value["item"]
    asked, ideal = _first(item, _ASKED), _first(item, (*_IDEAL, *_IDEAL_TOO))
    if asked is None:
        raise refused(
            where,
            f"None of the item's fields is known to be what is asked: {', '.join(item)}.",
            "Import it with --input NAME, and --target NAME for the good answer.",
        )
    left_out[f"`item.{asked}` is taken for what is asked"] += 1
    if ideal is not None:
        left_out[f"`item.{ideal}` is taken for the good answer"] += 1
    metadata = {name: it for name, it in item.items() if name not in (asked, ideal)}
    sample = value.get("sample")
    if isinstance(sample, dict) and "output_text" in sample:
        metadata["answer"] = sample["output_text"]
    return {"input": item[asked], "target": item[ideal] if ideal else None, "metadata": metadata}


def _first(item: Mapping[str, Any], names: Iterable[str]) -> str | None:
    return next((name for name in names if item.get(name) not in (None, "")), None)
