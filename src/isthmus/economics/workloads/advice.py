"""Where each workload belongs, why, what that would save, and what must be proved first.

An audit sees what was asked and not how good the answers were. So it proposes, and says by how many samples
of which kind the proposal is to be proved; nothing here claims that a smaller model is good enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import msgspec

from isthmus.economics.workloads.grouping import Asked, Workload
from isthmus.economics.workloads.tasks import Task

Place: TypeAlias = Literal["local", "open", "hybrid", "closed"]
UsdRange: TypeAlias = tuple[float, float]
PriceOf: TypeAlias = Callable[[str, int, int], float | None]
"""What tokens in and out of a model cost in USD, None where that is not known."""

EASY, HARD = 0.4, 0.7
"""Complexities from which on a workload is no longer easy, and hard."""

ESCALATED: UsdRange = (0.1, 0.5)
"""The share of a hybrid's requests that goes on to the strong model: assumed, until a pilot has measured
it."""

TOLD = 0.01
"""A share of requests that is worth a rule."""

MONTH_US = 30 * 86_400_000_000
SHORTEST_SPAN_US = 86_400_000_000

_PROOFS: Mapping[Task, str] = {
    "embedding": "retrieval of known pairs (recall at 10)",
    "agent": "whole tasks, judged by their outcome",
    "extraction": "field-wise match with checked records",
    "classification": "agreement with checked labels",
    "translation": "chrF and a blind comparison by readers",
    "summarisation": "a blind pairwise comparison with a rubric",
    "code": "tests that run",
    "reasoning": "known results, numeric with tolerance",
    "answering from documents": "answers checked against their sources",
    "rewriting": "a blind pairwise comparison",
    "drafting": "a blind pairwise comparison",
    "conversation": "a blind pairwise comparison with a rubric",
}


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """An open model as a hosted reference for prices: who hosts it, and its id there."""

    host: str
    id: str


SMALL = (
    Open(host="groq", id="openai/gpt-oss-20b"),
    Open(host="groq", id="llama-3.1-8b-instant"),
    Open(host="cloudflare", id="@cf/openai/gpt-oss-20b"),
    Open(host="ovhcloud", id="Llama-3.1-8B-Instruct"),
)
LARGE = (
    Open(host="groq", id="openai/gpt-oss-120b"),
    Open(host="ovhcloud", id="gpt-oss-120b"),
    Open(host="together", id="zai-org/GLM-5.3"),
    Open(host="zai", id="GLM-5.3"),
)
"""What small and large open models cost where they are hosted: the range of these is the interval."""


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """Where a workload belongs. Money is for a month where the traffic's times are known, else for the
    traffic; None where a price is not known. `saving` is from the least to the most."""

    workload: Workload
    place: Place
    reasons: tuple[str, ...]
    now_usd: float | None
    saving: UsdRange | None
    proof: str


def propose(
    workload: Workload, price_now: PriceOf, small: UsdRange | None, large: UsdRange | None
) -> Proposal:
    """The proposal for a workload; `small` and `large` are what all of its tokens would cost on open
    models."""
    place, reasons = _place(workload)
    scale = _to_month(workload)
    now = _now(workload, price_now)
    later = _later(place, now, small, large)
    saving = None if now is None or later is None else (scale * (now - later[1]), scale * (now - later[0]))
    return Proposal(
        workload=workload,
        place=place,
        reasons=tuple(reasons),
        now_usd=None if now is None else scale * now,
        saving=saving,
        proof=f"{samples_to_tell(0.05)} samples: {_PROOFS[workload.group.task]}",
    )


def samples_to_tell(difference: float, disagree: float = 0.15) -> int:
    """Pairs of answers that tell a difference of quality, at 5 % error and 80 % power.

    `disagree` is the share of pairs of which only one answer is good. (McNemar's test; R. Connor,
    Biometrics 43, 1987: n = (z_a + z_b)^2 * disagree / difference^2.)
    """
    return -(-int((1.96 + 0.84) ** 2 * disagree / difference**2 * 1000) // 1000)


def _place(workload: Workload) -> tuple[Place, list[str]]:
    restricted, confidential = workload.share("restricted"), workload.share("confidential")
    median, hard_end = workload.hardness_at(0.5), workload.hardness_at(0.9)
    reasons = [f"{workload.group.task}, complexity {median:.2f} (the hardest tenth {hard_end:.2f})"]
    if restricted >= TOLD:
        reasons.append(f"{restricted:.0%} of it is restricted, and stays inside your own walls")
    if confidential >= TOLD:
        reasons.append(
            f"{confidential:.0%} of it is confidential: no closed model without a contract or pseudonyms"
        )
    if restricted >= 0.5:
        return "local", reasons
    if median < EASY and hard_end < HARD:
        reasons.append("easy enough for a small open model")
        return ("local" if restricted >= TOLD else "open"), reasons
    if restricted >= TOLD:
        reasons.append("by its label, each request stays inside or may go on to a strong model")
        return "hybrid", reasons
    if median < HARD:
        reasons.append("most may be answered by a small model, the hard rest by a strong one")
        return "hybrid", reasons
    if confidential >= 0.5:
        reasons.append("hard and confidential: a large open model on machines of yours")
        return "open", reasons
    reasons.append("hard: a strong model, with a large open one as its challenger")
    return "closed", reasons


def _now(workload: Workload, price_of: PriceOf) -> float | None:
    costs = [_cost(model, asked, price_of) for model, asked in workload.models.items()]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _cost(model: str, asked: Asked, price_of: PriceOf) -> float | None:
    if not asked.unpriced_prompt and not asked.unpriced_output:
        return asked.usd
    rest = price_of(model, asked.unpriced_prompt, asked.unpriced_output)
    return None if rest is None else asked.usd + rest


def _later(
    place: Place, now: float | None, small: UsdRange | None, large: UsdRange | None
) -> UsdRange | None:
    """What it would cost there; a machine of your own is not priced here (see `isthmus cost tco`)."""
    match place:
        case "local":
            return None
        case "open":
            # Whether a small one is good enough is what the pilot shows: the interval goes up to a large one.
            return None if small is None or large is None else (small[0], max(small[1], large[1]))
        case "hybrid":
            if small is None or now is None:
                return None
            return small[0] + ESCALATED[0] * now, small[1] + ESCALATED[1] * now
        case "closed":
            return None if now is None else (now, now)


def _to_month(workload: Workload) -> float:
    if workload.first_us is None or workload.last_us is None:
        return 1.0
    span = workload.last_us - workload.first_us
    return MONTH_US / span if span >= SHORTEST_SPAN_US else 1.0


def is_monthly(workload: Workload) -> bool:
    """True where the money of its proposal is for a month."""
    return _to_month(workload) != 1.0
