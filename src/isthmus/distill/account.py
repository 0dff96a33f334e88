"""How a student came about, from its teachers' terms to its signature, for who has to answer for it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from isthmus.distill.card import Card, card_report
from isthmus.distill.gate_report import GateRecord, gate_report
from isthmus.distill.training.student import Evidence
from isthmus.reports.document import Block, Document, Prose, Section, Table


class Signed(NamedTuple):
    """The artefact as it was signed, and where its rollout began, if it has."""

    folder: str
    identity: str
    fingerprint: str
    promoted: str | None = None


class Account(NamedTuple):
    """All that is known so far; None for a step that was not reached."""

    name: str
    card: Card | None = None
    training: Evidence | None = None
    gate: GateRecord | None = None
    signed: Signed | None = None


def account_report(it: Account) -> Document:
    """The report on a student."""
    sections = [Section("In short", tuple(_short(it)))]
    if it.card is not None:
        sections += [Section(f"Golden answers: {s.title}", s.blocks) for s in card_report(it.card).sections]
    if it.training is not None:
        sections.append(Section("Training", tuple(_training(it.training))))
    if it.gate is not None:
        sections += [Section(f"The gate: {s.title}", s.blocks) for s in gate_report(it.gate).sections]
    if it.signed is not None:
        sections.append(Section("Signature", tuple(_signature(it.signed))))
    return Document(f"How the student {it.name} came about", tuple(sections))


def _short(it: Account) -> Iterator[Block]:
    verdict = it.gate.judgement.verdict if it.gate is not None else None
    steps = (
        ("golden answers collected", f"{_rows(it.card):,} rows" if it.card is not None else "not yet"),
        ("trained", f"{it.training.steps:,} steps" if it.training is not None else "not yet"),
        ("judged", verdict or "not yet"),
        ("signed", it.signed.identity if it.signed is not None else "no"),
        ("promoted", (it.signed.promoted if it.signed is not None else None) or "no"),
    )
    yield Table(("step", "state"), steps, numbers=2)
    yield Prose(
        "This is evidence for whoever decides, and no statement that a law or a contract is kept. What is "
        "claimed of the student holds for the samples that it was judged by."
    )


def _rows(card: Card) -> int:
    return sum(part.rows for part in card.parts.values())


def _training(it: Evidence) -> Iterator[Block]:
    rows = (
        ("base", f"{it.base} ({it.base_sha256})"),
        ("samples learned", f"{it.lessons:,} ({it.dataset_sha256})"),
        ("method", f"{it.train.method}, LoRA of rank {it.train.rank}, seed {it.train.seed}"),
        ("steps", f"{it.steps:,}, {it.tokens:,} tokens in {it.seconds:,.0f} s on {it.device}"),
        ("loss", f"{it.losses[0]:.3f} to {it.losses[-1]:.3f} nats a token" if it.losses else "none"),
        ("chat template", it.template_sha256),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(it.versions.items()))),
    )
    yield Table(("", ""), rows, numbers=2)
    for why, count in sorted(it.left_out.items()):
        yield Prose(f"{count:,} samples were left out: {why}.")


def _signature(it: Signed) -> Iterator[Block]:
    yield Prose(f"The artefact {it.folder} ({it.identity}) is signed by the key {it.fingerprint}.")
    yield Prose(
        "The signature covers the weights, the chat template, the recipe, the card of the golden answers, "
        "the gate's record and the bill of materials (bom.cdx.json). An engine with `signers` verifies it "
        "before every start."
    )
