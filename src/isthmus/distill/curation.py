"""Which rows become golden, and why the others do not: every one is counted by the first reason. Pure.

In order: may it teach; is it an answer at all; is it good enough; may it go where the student is trained;
does it touch the test; is there one like it; are there enough of its kind.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from isthmus.confidence.signals.wording import begins_with_refusal
from isthmus.core.evaluation import CUT_SHORT, REFUSED, Sample
from isthmus.distill.contamination import touched
from isthmus.distill.permission import Permission
from isthmus.distill.provenance import sealed
from isthmus.distill.rows import Look, Row
from isthmus.distill.sections import Collect
from isthmus.evals.datasets.dataset import Dataset, hash_of
from isthmus.evals.datasets.near_duplicates import groups_of
from isthmus.evals.datasets.samples import line_of, made_id
from isthmus.evals.datasets.splits import split

MEANINGS = {
    "quarantined": "its source, or one that it descends from, is in quarantine",
    "unknown_origin": "nobody says whose answer it is",
    "relabelled": "its answer was changed after its origin was noted",
    "terms_unknown": "no terms are known for one who had a part in it",
    "terms_forbid": "the terms of one who had a part in it forbid that it teaches",
    "no_sample": "the texts of the request were not kept, or cannot be read",
    "earlier_turns": "the request holds earlier answers of a model that nobody knows",
    "not_answered": "the model failed, was not asked, or was not permitted to see it",
    "no_answer": "it has no answer",
    "cut_short": "the answer was cut off",
    "refused": "the answer is a refusal",
    "above_clearance": "it is more sensitive than what may go to the place of training",
    "unreadable": "something in it could not be looked into",
    "personal_data": "personal data was found in it",
    "secret": "a secret was found in it",
    "below_floor": "its score is too low",
    "not_scored": "a scorer was asked for, and could not say",
    "unverified": "nobody has looked at the answer",
    "disagreement": "the answers to it do not agree",
    "unsure": "the model was not sure of it",
    "same": "it asks the same as a held-out sample",
    "near": "it asks nearly the same as a held-out sample",
    "passage": "it has a passage of a held-out sample",
    "double": "a better one asks nearly the same",
    "class_full": "there are enough of its class",
}
"""Every reason for which a row is left out."""


NOTHING: Mapping[str, int] = MappingProxyType({})


class Curated(msgspec.Struct, frozen=True, kw_only=True):
    """The golden set: `rows` by the id of their sample, the `parts` by name, and what was dropped, by reason.

    `considered` counts all rows that there were.
    """

    rows: dict[str, Row]
    parts: dict[str, Dataset]
    hash: str
    considered: int
    dropped: dict[str, int]


def curate(
    rows: Sequence[Row],
    rule: Collect,
    permission: Permission,
    look: Look,
    held_out: Sequence[Sample] = (),
    left_out: Mapping[str, int] = NOTHING,
    name: str = "golden",
) -> Curated:
    """The golden set of these rows; `left_out` counts what fell away before it was one."""
    dropped = Counter(left_out)
    good = []
    for row in rows:
        found = _looked_through(row, rule, permission, look)
        if isinstance(found, Row):
            good.append(found)
        else:
            dropped[found] += 1
    # The best first: what is kept of several alike is the best, and so it is in full classes.
    good.sort(key=_rank)
    chosen = _without_doubles(_untouched(good, held_out, dropped), rule, dropped)
    chosen = _capped(chosen, rule, dropped)
    parts = _divided(chosen, rule, dropped, name)
    kept = {sample.id for part in parts.values() for sample in part.samples}
    by_id = {row.sample.id: row for row in chosen if row.sample.id in kept}
    return Curated(
        rows=by_id,
        parts=parts,
        hash=hash_of(sample for part in parts.values() for sample in part.samples),
        considered=len(rows) + sum(left_out.values()),
        dropped={reason: count for reason, count in sorted(dropped.items()) if count},
    )


def _looked_through(row: Row, rule: Collect, permission: Permission, look: Look) -> Row | str:
    """The row as it may go along, or the reason why it may not."""
    row = _known(row, permission)
    refusal = permission.refuses(row.sample)
    if row.relabelled and (refusal is None or refusal.reason != "quarantined"):
        return "relabelled"
    if refusal is not None:
        return refusal.reason
    if (reason := _no_answer(row) or _not_good(row, rule)) is not None:
        return reason
    found = look(row)
    if isinstance(found, str):
        return found
    # It may have other texts now, pseudonyms, and as such be in quarantine.
    found = _known(found, permission)
    refusal = permission.refuses(found.sample)
    return found if refusal is None else refusal.reason


def _known(row: Row, permission: Permission) -> Row:
    """The row with what is found of its origins, and with an id that its content makes."""
    origins = tuple(map(permission.settled, row.origins))
    content = made_id(row.sample.request, row.sample.target, row.sample.choices)
    marks = msgspec.to_builtins(row.marks)
    metadata = {**row.sample.metadata, **({"marks": marks} if marks else {})}
    sample = msgspec.structs.replace(row.sample, id=content, metadata=metadata)
    return msgspec.structs.replace(row, sample=sealed(sample, origins, row.ancestors), origins=origins)


def _no_answer(row: Row) -> str | None:
    if row.finish in CUT_SHORT:
        return "cut_short"
    if row.marks.gold:
        return None
    refused = row.finish in REFUSED or row.message.get("refusal") or begins_with_refusal(row.answer)
    return "refused" if refused else None


def _not_good(row: Row, rule: Collect) -> str | None:
    """Why it is not good enough: what people say of it goes before all else."""
    marks = row.marks
    if marks.gold:
        return None
    if marks.human is not None:
        return "below_floor" if marks.human < rule.floor else None
    if rule.scorer is not None and marks.score is None:
        return "not_scored"
    if marks.score is not None and marks.score < rule.floor:
        return "below_floor"
    if (marks.agreement if marks.agreement is not None else 1.0) < rule.agreement:
        return "disagreement"
    if rule.confidence and (marks.confidence or 0.0) < rule.confidence:
        return "unsure"
    return "unverified" if not (marks.seen or rule.unverified) else None


def _rank(row: Row) -> tuple[object, ...]:
    marks = row.marks
    seen = [marks.human, marks.score, marks.confidence, marks.agreement]
    told = (-(it if it is not None else -1.0) for it in seen)
    # The same row may come from several sources: which of them is kept must not depend on their order.
    return (not marks.gold, *told, row.sample.id, line_of(row.sample))


def _untouched(rows: Sequence[Row], held_out: Sequence[Sample], dropped: Counter[str]) -> list[Row]:
    """The rows that touch no held-out sample: until none does, since what is common changes with them."""
    left = list(rows)
    while found := touched([it.sample for it in left], held_out):
        dropped.update(found.values())
        left = [row for place, row in enumerate(left) if place not in found]
    return left


def _without_doubles(rows: Sequence[Row], rule: Collect, dropped: Counter[str]) -> list[Row]:
    """The best of each group; what is the very same is there once in any case."""
    kept: dict[object, Row] = {}
    groups = groups_of([it.sample for it in rows]) if rule.doubles == "one" else [None] * len(rows)
    for row, group in zip(rows, groups, strict=True):
        # Near-duplicates are told by what people say; under other instructions that asks for something else.
        kept.setdefault(row.sample.id if group is None else (group, _instructions(row)), row)
    dropped["double"] += len(rows) - len(kept)
    return list(kept.values())


def _instructions(row: Row) -> bytes:
    """What stands in a request beside what people say: the system's turns, tools, and the answer's form."""
    request = row.sample.request
    told = [turn for turn in request["messages"] if turn.get("role") in ("system", "developer")]
    form = [told, request.get("tools"), request.get("response_format")]
    return msgspec.json.encode(form, order="deterministic")


def _capped(rows: Sequence[Row], rule: Collect, dropped: Counter[str]) -> list[Row]:
    if rule.cap is None:
        return list(rows)
    classes: defaultdict[str, int] = defaultdict(int)
    kept = []
    for row in sorted(rows, key=lambda it: (_rank(it)[:-2], _draw(rule.seed, it))):
        name = class_of(row.sample, rule.cap.by)
        classes[name] += 1
        if classes[name] <= rule.cap.rows:
            kept.append(row)
    dropped["class_full"] += len(rows) - len(kept)
    return kept


def class_of(sample: Sample, by: str) -> str:
    """The class of a sample: its answer, or the value of that field of its metadata."""
    return (sample.target[0] if sample.target else "") if by == "answer" else str(sample.metadata.get(by, ""))


def _draw(seed: int, row: Row) -> str:
    return hashlib.sha256(f"{seed}:{row.sample.id}".encode()).hexdigest()


def _divided(rows: Sequence[Row], rule: Collect, dropped: Counter[str], name: str) -> dict[str, Dataset]:
    """The parts, of which none that is learned touches the test."""
    shares = {part: share for part, share in msgspec.structs.asdict(rule.split).items() if share}
    samples = tuple(sorted((row.sample for row in rows), key=lambda it: it.id))
    if not samples:
        return {}
    whole = Dataset(name=name, samples=samples, hash=hash_of(samples))
    parts = split(whole, shares, rule.seed).parts
    tests = parts["test"].samples if "test" in parts else ()
    learned = [it for part, them in parts.items() if part != "test" for it in them.samples]
    while found := touched(learned, tests):
        dropped.update(found.values())
        learned = [it for place, it in enumerate(learned) if place not in found]
    left = {it.id for it in (*learned, *tests)}
    kept = {part: [it for it in them.samples if it.id in left] for part, them in parts.items()}
    return {part: _part(f"{name}:{part}", them) for part, them in kept.items() if them}


def _part(name: str, samples: Sequence[Sample]) -> Dataset:
    return Dataset(name=name, samples=tuple(samples), hash=hash_of(samples))
