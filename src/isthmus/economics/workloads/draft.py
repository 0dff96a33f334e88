"""A first isthmus.yaml for proposals: a config to be read, tried and changed, not one to be trusted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence

from isthmus.economics.workloads.advice import Place, Proposal

PROVIDERS = ("openai", "anthropic", "gemini", "mistral", "deepseek", "groq", "together", "openrouter")
"""Presets that a recorded model's provider may be, with a key of that name in the environment."""

_PLANS: dict[Place, str] = {
    "local": "small",
    "open": "open",
    "hybrid": "{fallback: [open, strong]}",
    "closed": "{fallback: [strong, open]}",
}


def draft(proposals: Sequence[Proposal], strong: tuple[str, str] | None) -> str:
    """The text of the config; `strong` is the preset and the id of the model that does most of the work
    now."""
    lines = [
        "# Drafted by `isthmus workload audit`. Each route is a workload that was found: give it the",
        "# name under which your application will call it, prove it by a pilot, and only then send",
        "# traffic there.",
        "providers:",
        "  builtin: {engine: builtin}",
        "  # An open model on a machine of yours: say where it runs.",
        "  vpc: {preset: vllm, base_url: http://127.0.0.1:8000/v1, zone: on-prem}",
        *_strong_provider(strong),
        "models:",
        "  small: {provider: builtin, zone: on-prem}",
        "  open: {provider: vpc, id: openai/gpt-oss-20b, kind: open}",
        *_strong_model(strong),
        "perimeter: {}",
        "routes:",
        "  default: {fallback: [open, small]}",
        *_routes(proposals, strong is not None),
    ]
    return "\n".join(lines) + "\n"


def main_model(proposals: Iterable[Proposal]) -> str:
    """The model that does most of the work now, by tokens; empty where none was recorded."""
    tokens: Counter[str] = Counter()
    for proposal in proposals:
        for model, asked in proposal.workload.models.items():
            tokens[model] += asked.prompt + asked.output
    return next((model for model, _ in tokens.most_common() if model), "")


def _strong_provider(strong: tuple[str, str] | None) -> list[str]:
    if strong is None:
        return []
    preset = strong[0]
    return [f"  {preset}: {{preset: {preset}, key: env:{preset.upper()}_API_KEY}}"]


def _strong_model(strong: tuple[str, str] | None) -> list[str]:
    return [] if strong is None else [f"  strong: {{provider: {strong[0]}, id: {json.dumps(strong[1])}}}"]


def _routes(proposals: Sequence[Proposal], has_strong: bool) -> list[str]:
    lines = []
    for proposal in proposals:
        plan = _PLANS[proposal.place]
        if not has_strong and "strong" in plan:
            plan = "open"
        lines.append(f"  # {'; '.join(proposal.reasons)}.")
        lines.append(f"  # Prove first: {proposal.proof}.")
        lines.append(f"  {proposal.workload.name}: {plan}")
    return lines
