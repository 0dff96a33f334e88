"""A student's files and the evidence of how it came about, as an artefact that can be signed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from isthmus.artefacts import declaration
from isthmus.artefacts.declaration import Base, Dataset, Declaration, Evaluation, Role, Teacher
from isthmus.artefacts.manifest import digests, opened
from isthmus.catalog.weights import find_weights
from isthmus.core.errors import Fault, IsthmusError
from isthmus.distill.card import Card, Source
from isthmus.distill.gate_report import GateRecord
from isthmus.distill.golden import CARD
from isthmus.distill.training.student import CONFIG, EVIDENCE, GGUF, SAFETENSORS
from isthmus.distill.training.student import Evidence as TrainingEvidence

GATE, RECIPE, CARD_TEXT = "gate.json", "recipe.yaml", "card.md"

_ROLES: dict[str, Role] = {
    GGUF: "weights",
    SAFETENSORS: "weights",
    CONFIG: "settings",
    declaration.TEMPLATE: "template",
    EVIDENCE: "evidence",
    RECIPE: "recipe",
    CARD: "card",
    CARD_TEXT: "card",
    GATE: "evaluation",
}


class Sources(NamedTuple):
    """Where an artefact's parts are: what the training wrote, the recipe, the golden set, the gate's record.

    `gate` is None before the student has been judged.
    """

    student: Path
    recipe: Path
    golden: Path
    gate: Path | None = None


def pack(sources: Sources, folder: Path) -> Declaration:
    """Write the artefact's folder, whole or not at all; one that is there is replaced.

    Raises IsthmusError (`gate_of_another`) where the gate judged a student that has learned other samples,
    and OSError.
    """
    made = msgspec.json.decode((sources.student / EVIDENCE).read_bytes(), type=TrainingEvidence)
    card = msgspec.json.decode((sources.golden / CARD).read_bytes(), type=Card)
    gate = _gate(sources.gate, made)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".new", dir=folder.parent))
    try:
        for name, path in _files(sources):
            shutil.copyfile(path, new / name)
        said = _declared(made, card, gate, new)
        (new / declaration.FILE).write_bytes(said.dump())
        _settle(new)
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return said


def _gate(path: Path | None, made: TrainingEvidence) -> GateRecord | None:
    if path is None:
        return None
    record = msgspec.json.decode(path.read_bytes(), type=GateRecord)
    if record.judgement.verdict != "passed" or made.dataset_sha256 not in record.learned:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"{path} is not the record of a student that passed, and has learned what this one has.",
            code="gate_of_another",
            hint="Judge this student: isthmus distill gate.",
        )
    return record


def _files(sources: Sources) -> Iterator[tuple[str, Path]]:
    yield from ((it.name, it) for it in sorted(sources.student.iterdir()) if it.name in _ROLES)
    yield RECIPE, sources.recipe
    yield CARD, sources.golden / CARD
    yield CARD_TEXT, sources.golden / CARD_TEXT
    if sources.gate is not None:
        yield GATE, sources.gate


def _declared(made: TrainingEvidence, card: Card, gate: GateRecord | None, folder: Path) -> Declaration:
    with opened(folder) as files:
        found = digests(files)
    row = find_weights(made.base)
    licence = row.licence if row is not None else None
    return Declaration(
        name=made.name,
        kind="adapter",
        weights=GGUF,
        files={name: _ROLES[name] for name in found},
        base=Base(name=made.base, sha256=made.base_sha256, licence=licence),
        template=found.get(declaration.TEMPLATE),
        licence=licence,
        datasets=(Dataset(name=card.name, sha256=card.hash, made_from=card.ancestors),),
        recipe=found[RECIPE],
        teachers=tuple(dict.fromkeys(_teacher(it) for it in card.sources if it.maker == "model")),
        evaluations=(_evaluation(gate),) if gate is not None else (),
    )


def _teacher(source: Source) -> Teacher:
    """Who taught: not by the config's name, which is nobody else's, but by what governs its outputs."""
    provider, _, surface = source.terms.partition("/")
    document = f"{source.document}, {source.dated}" if source.document else None
    return Teacher(
        provider=provider or "unknown",
        model=source.model or "unknown",
        surface=surface or None,
        terms=document,
        artefact=source.weights,
    )


def _evaluation(gate: GateRecord) -> Evaluation:
    scores = {it.role: it.quality for it in gate.models if it.quality is not None}
    return Evaluation(dataset="held-out", sha256=gate.held_out, scores=scores, report=GATE)


def _settle(folder: Path) -> None:
    """Down to the disk: what is signed next must not be empty after a crash."""
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
