"""What a request asks for, and how hard that is: by the words and the shape of it.

The rules are few and can be read; they are not learned, and no judgement of a model. What they say decides
nothing by itself: it sorts traffic, so that a pilot can measure each sort.
"""

from __future__ import annotations

import math
import re
from typing import Literal, TypeAlias

from isthmus.economics.workloads.traffic import Interaction

Task: TypeAlias = Literal[
    "embedding",
    "agent",
    "extraction",
    "classification",
    "translation",
    "summarisation",
    "code",
    "reasoning",
    "answering from documents",
    "rewriting",
    "drafting",
    "conversation",
]

_LOOKED_AT = 6_000


def _words(*some: str) -> re.Pattern[str]:
    return re.compile(rf"(?i)\b(?:{'|'.join(some)})")


# In this order: what is more particular comes first. English, with the commonest words of German, French
# and Spanish.
_SIGNS: tuple[tuple[Task, re.Pattern[str]], ...] = (
    ("translation", _words("translat", "übersetz", "tradui", "traduc")),
    ("summarisation", _words("summar", r"tl;?dr", "key points", "zusammenfass", "résum", "resum[ie]")),
    (
        "extraction",
        _words(
            r"extract (?:the|all|every|from)",
            "extract",
            r"pull out",
            "entit(?:y|ies)",
            "extrahier",
            "extrai",
            "extrae",
        ),
    ),
    (
        "classification",
        _words(
            "classif",
            "categori[sz]",
            r"sentiment",
            r"label (?:the|this|each)",
            r"one of the following",
            "spam",
            "klassifiz",
        ),
    ),
    (
        "rewriting",
        _words(
            "rewrite",
            "rephrase",
            "paraphras",
            "proofread",
            r"correct the (?:grammar|spelling)",
            "umformulier",
        ),
    ),
    (
        "code",
        re.compile(
            r"```|(?m:^\s*(?:def|class|import|func|public|SELECT)\b)"
            r"|(?i:\b(?:python|javascript|typescript|sql quer|regex|refactor|compile)\b)"
            r"|(?i:\b(?:source code|pull request|bug in|stack ?trace|unit tests?)\b)"
        ),
    ),
    (
        "answering from documents",
        _words(
            r"based on the (?:following|context|document)",
            r"(?:given|using) the context",
            "context:",
            "<context>",
            "<document",
        ),
    ),
    (
        "reasoning",
        _words(
            "prove",
            r"step by step",
            "calculate",
            r"how many",
            "solve",
            "equation",
            "theorem",
            r"what is the probability",
        ),
    ),
    (
        "drafting",
        _words(r"(?:write|draft|compose|create) (?:an?|the|me|us)\b", "schreib", "rédige", "redacta"),
    ),
)

_ASKS_FOR_THOUGHT = _words(
    "step by step", "analy[sz]e", "compare", "explain why", "trade-?offs?", "prove", "design", "plan "
)
_DEMANDS = re.compile(
    r"(?m)^\s*(?:[-*•]|\d+[.)])\s+\S|(?i:\b(?:must|should|never|always|do not|don't|ensure)\b)"
)

_HARDNESS: dict[Task, float] = {
    "embedding": 0.0,
    "classification": 0.1,
    "extraction": 0.2,
    "translation": 0.25,
    "rewriting": 0.25,
    "summarisation": 0.3,
    "conversation": 0.35,
    "answering from documents": 0.4,
    "drafting": 0.4,
    "code": 0.6,
    "agent": 0.65,
    "reasoning": 0.7,
}
"""How hard a plain request of each task is thought to be, from 0 to 1."""


def task_of(seen: Interaction) -> Task:
    """The task that the request seems to be: by its system text first, which tells of all requests with
    it."""
    if seen.embeds:
        return "embedding"
    if seen.tools:
        return "agent"
    for text in (seen.system[:_LOOKED_AT], seen.words[:_LOOKED_AT]):
        for task, signs in _SIGNS:
            if signs.search(text):
                return task
    return "extraction" if seen.schema else "conversation"


def complexity(seen: Interaction, task: Task) -> float:
    """How hard the request seems, from 0 to 1: its task, then its length, demands, tools and turns."""
    prompt, output = seen.tokens
    text = f"{seen.system[:_LOOKED_AT]}\n{seen.words[:_LOOKED_AT]}"
    more = (
        0.15 * _share(math.log2(1 + prompt / 500), 6)
        + 0.10 * _share(math.log2(1 + output / 200), 5)
        + 0.15 * _share(len(_DEMANDS.findall(text)), 20)
        + 0.10 * _share(seen.tools, 10)
        + 0.05 * _share(seen.turns - 1, 10)
        + 0.15 * bool(_ASKS_FOR_THOUGHT.search(seen.words[:_LOOKED_AT]))
    )
    return min(1.0, _HARDNESS[task] + more)


def _share(value: float, most: float) -> float:
    return min(1.0, value / most)
