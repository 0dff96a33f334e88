"""A golden set's card: where its rows come from, on which terms, what was left out, its limits. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from isthmus.core.evaluation import Sample
from isthmus.core.label import Label, join
from isthmus.distill.curation import MEANINGS, Curated, class_of
from isthmus.distill.provenance import Origin, provenance_of
from isthmus.distill.sections import Collect
from isthmus.distill.terms import Clause, Ground, known_terms
from isthmus.reports.document import Block, Document, Prose, Section, Table

_MOST_CLASSES = 30


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the set: its rows, the hash of them as a dataset, and its classes."""

    rows: int
    hash: str
    classes: dict[str, int]


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Whose work a part of `rows` rows is, on which terms; see `provenance.Origin`."""

    part: str
    maker: str
    rows: int
    terms: str
    model: str
    weights: str | None
    document: str | None
    dated: str | None
    verdict: str | None
    ground: Ground | None


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a golden set. `hash` is that of all its rows as one dataset: it is its version.

    `label` is the join of its rows' labels, and `duties` are what the terms ask of whoever teaches by it.
    `rule` is the recipe's section that it was collected by, `held_out` the hash of what it must not touch.
    """

    name: str
    hash: str
    parts: dict[str, Part]
    considered: int
    dropped: dict[str, int]
    sources: tuple[Source, ...]
    ancestors: tuple[str, ...]
    label: str
    levels: dict[str, int]
    gold: int
    unverified: int
    duties: tuple[str, ...]
    limits: tuple[str, ...]
    rule: Collect
    held_out: str | None = None


def card_of(name: str, curated: Curated, rule: Collect, held_out: str | None = None) -> Card:
    """The card of that set."""
    samples = [it for part in curated.parts.values() for it in part.samples]
    told = [provenance for it in samples if (provenance := provenance_of(it)) is not None]
    origins = [origin for it in told for origin in it.origins]
    rows = [curated.rows[it.id] for it in samples]
    by = rule.cap.by if rule.cap is not None else None
    return Card(
        name=name,
        hash=curated.hash,
        parts={
            part: Part(rows=len(them.samples), hash=them.hash, classes=_classes(them.samples, by))
            for part, them in curated.parts.items()
        },
        considered=curated.considered,
        dropped=curated.dropped,
        sources=_sources(samples),
        ancestors=tuple(sorted({ancestor for it in told for ancestor in it.ancestors})),
        label=join(it.label for it in samples).in_words() if samples else Label().in_words(),
        levels=dict(sorted(Counter(it.label.level for it in samples).items())),
        gold=sum(it.marks.gold for it in rows),
        unverified=sum(not it.marks.seen for it in rows),
        duties=_duties(origins),
        limits=tuple(_limits(samples, curated, rule)),
        rule=rule,
        held_out=held_out,
    )


def _sources(samples: Iterable[Sample]) -> tuple[Source, ...]:
    counts: Counter[tuple[object, ...]] = Counter()
    for sample in samples:
        told = provenance_of(sample)
        counts.update({_key(it) for it in told.origins} if told is not None else ())
    names = ("part", "maker", "terms", "model", "weights", "document", "dated", "verdict", "ground")
    found = [Source(rows=rows, **dict(zip(names, key, strict=True))) for key, rows in counts.items()]  # type: ignore[arg-type]
    return tuple(sorted(found, key=lambda it: (it.part, -it.rows, it.terms, it.model, str(it.weights))))


def _key(it: Origin) -> tuple[object, ...]:
    dated = it.dated.isoformat() if it.dated is not None else None
    return it.part, it.maker, it.terms, it.model, it.weights, it.document, dated, it.verdict, it.ground


def _classes(samples: Iterable[Sample], by: str | None) -> dict[str, int]:
    """The classes, where the recipe has some, and they are few: a card is for more eyes than answers are."""
    if by is None:
        return {}
    counts = Counter(class_of(it, by) for it in samples)
    return dict(sorted(counts.items())) if len(counts) <= _MOST_CLASSES else {}


def _duties(origins: Iterable[Origin]) -> tuple[str, ...]:
    used = {it.terms for it in origins if it.maker == "model"}
    clauses: Iterable[Clause] = (it for it in known_terms() if it.key in used)
    return tuple(sorted({f"{it.document}: {duty}" for it in clauses for duty in it.duties}))


def _limits(samples: list[Sample], curated: Curated, rule: Collect) -> Iterator[str]:
    """What the set is not good for, as far as that shows."""
    made = sum(_has(it, "answer", "model") for it in samples)
    if made:
        yield (
            f"{made:,} answers are a model's: by them the student can become as good as that model, and its "
            "errors are learned with the rest. A test part of such answers measures likeness to the teacher."
        )
    unmarked = sum(not curated.rows[it.id].marks.seen for it in samples)
    if unmarked:
        yield f"Of {unmarked:,} answers nobody has said that they are right."
    synthetic = sum(_has(it, "input", "model") for it in samples)
    if synthetic:
        yield f"{synthetic:,} requests were made by a model: real ones may ask differently."
    unstated = sum(not _has(it, "input") for it in samples)
    if unstated:
        yield f"Of {unstated:,} requests nobody says who has written them."
    if rule.personal_data == "pseudonymise":
        yield "Where personal data was found, pseudonyms stand for it. What no detector finds is still there."
    else:
        yield "Rows in which personal data was found are left out. What no detector finds is still there."
    if rule.held_out is None:
        yield "It was not compared with a held-out set of its own; its test part is from the same sources."
    yield "Provenance is what was noted; the seal of a row finds mishaps, no forger."


def _has(sample: Sample, part: str, maker: str | None = None) -> bool:
    told = provenance_of(sample)
    return told is not None and any(it.part == part and maker in (None, it.maker) for it in told.origins)


# The card as a report


def card_report(card: Card) -> Document:
    """The card in words and tables."""
    sections = (
        Section("What it is", tuple(_summary(card))),
        Section("Sources and terms", tuple(_terms(card))),
        Section("Left out", tuple(_dropped(card.dropped))),
        Section("Known limits", tuple(Prose(f"- {it}") for it in card.limits)),
    )
    return Document(f"Golden set {card.name}", sections)


def _summary(card: Card) -> Iterator[Block]:
    rows = sum(it.rows for it in card.parts.values())
    yield Prose(
        f"Version {card.hash}. {rows:,} rows of {card.considered:,} that were looked at; {card.gold:,} by "
        f"people, {card.unverified:,} unverified. It is {card.label}, and so is whatever learns from it."
    )
    yield Table(
        ("part", "rows", "hash"),
        tuple((name, f"{it.rows:,}", it.hash[:12]) for name, it in card.parts.items()),
    )
    names = sorted({name for it in card.parts.values() for name in it.classes})
    if names:
        heads = ("class", *card.parts)
        yield Table(
            heads,
            tuple(
                (_short(name), *(f"{it.classes.get(name, 0):,}" for it in card.parts.values()))
                for name in names
            ),
        )
    if card.held_out is not None:
        yield Prose(f"No row touches the held-out set {card.held_out[:12]}.")


def _terms(card: Card) -> Iterator[Block]:
    rows = tuple(
        (it.part, it.model or it.maker, it.terms or "-", _document(it), it.verdict or "-", f"{it.rows:,}")
        for it in card.sources
    )
    yield Table(("part", "by", "terms", "document", "verdict", "rows"), rows, numbers=5)
    for ground in dict.fromkeys(it.ground for it in card.sources if it.ground is not None):
        yield Prose(f"{ground.terms} until {ground.until}, by {ground.by}: {ground.ground}")
    for duty in card.duties:
        yield Prose(f"Duty. {duty}")


def _document(it: Source) -> str:
    return "-" if it.document is None else f"{it.document}{f', {it.dated}' if it.dated else ''}"


def _dropped(dropped: Mapping[str, int]) -> Iterator[Block]:
    if not dropped:
        yield Prose("Nothing.")
        return
    rows = sorted(dropped.items(), key=lambda it: (-it[1], it[0]))
    yield Table(
        ("reason", "what it means", "rows"),
        tuple((reason, MEANINGS[reason], f"{count:,}") for reason, count in rows),
        numbers=2,
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"
