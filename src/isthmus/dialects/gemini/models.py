"""What differs between generations of Gemini, read from a model's id.

Sources: ai.google.dev/gemini-api/docs/thinking, .../thought-signatures, .../function-calling.
"""

from __future__ import annotations

import re
from typing import Any

# Google's own mapping of effort to tokens: ai.google.dev/gemini-api/docs/openai.
_BUDGETS = {"minimal": 1_024, "low": 1_024, "medium": 8_192}
_HIGH_BUDGET = 24_576
# 2.5 Pro cannot stop thinking; this is its least budget.
_LEAST_BUDGET_OF_PRO = 128
_LEVELS = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM"}
_OLDER = re.compile(r"gemini-[12](\.|-|$)")


def is_older(model_id: str) -> bool:
    """Whether a model is of a generation before Gemini 3; one without a number is taken for a newer one.

    Newer models think in levels instead of budgets, demand the signatures of tool calls back, and take
    pictures inside a tool's result.
    """
    return _OLDER.search(model_id) is not None


def thinking_config(model_id: str, enabled: bool, effort: str | None, budget: int | None) -> dict[str, Any]:
    """The `thinkingConfig` for a wish, with the thoughts told where thinking is on.

    What a model cannot do is rounded: thinking that cannot be switched off becomes the least that there is.
    """
    if not enabled:
        return _least(model_id)
    told: dict[str, Any] = {"includeThoughts": True}
    if budget is not None:
        return told | {"thinkingBudget": budget}
    if effort is None:
        return told
    if is_older(model_id):
        return told | {"thinkingBudget": _BUDGETS.get(effort, _HIGH_BUDGET)}
    if effort == "minimal":
        return told | _least(model_id)
    return told | {"thinkingLevel": _LEVELS.get(effort, "HIGH")}


def _least(model_id: str) -> dict[str, Any]:
    pro = "pro" in model_id
    if is_older(model_id):
        return {"thinkingBudget": _LEAST_BUDGET_OF_PRO if pro else 0}
    return {"thinkingLevel": "LOW" if pro else "MINIMAL"}
