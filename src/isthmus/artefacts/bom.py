"""An artefact's bill of materials: CycloneDX 1.6 (ECMA-424) as JSON, with a model card.

https://cyclonedx.org/docs/1.6/json/. What the format has no field for (the template's hash, whose answers
were learned from, who signs) stands in properties that begin with `isthmus:`. The same artefact gives the
same bytes: there is no time in it and no chance.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

import msgspec

from isthmus import __version__
from isthmus.artefacts.declaration import BOM, Base, Dataset, Declaration, Teacher
from isthmus.artefacts.manifest import Digests, identity

SPEC = "1.6"


def bill(said: Declaration, digests: Digests, signer: str | None = None) -> bytes:
    """The bill as a file's content, of every file but itself; `signer` is the key's who will sign."""
    files = {name: digest for name, digest in digests.items() if name != BOM}
    return msgspec.json.format(msgspec.json.encode(_bill(said, files, signer)), indent=1) + b"\n"


def _bill(said: Declaration, files: Digests, signer: str | None) -> dict[str, Any]:
    name = identity(files)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, name)}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "isthmus", "version": __version__}]},
            "component": _model(said, files, signer),
        },
        "components": [
            *([_base(said.base)] if said.base is not None else []),
            *map(_dataset, said.datasets),
            *(
                {"type": "file", "bom-ref": f"file:{it}", "name": it, "hashes": _hashes(files[it])}
                for it in files
            ),
        ],
        "dependencies": [
            {
                "ref": "model",
                "dependsOn": [
                    *(["base"] if said.base is not None else []),
                    *(_ref(it) for it in said.datasets),
                    *(f"file:{it}" for it in files),
                ],
            }
        ],
    }


def _model(said: Declaration, files: Digests, signer: str | None) -> dict[str, Any]:
    facts = [
        ("kind", said.kind),
        ("chat-template:sha256", said.template),
        ("recipe:sha256", said.recipe),
        ("signer:key:sha256", signer),
        *(("teacher", _teacher(it)) for it in said.teachers),
        *((f"file:{role}", name) for name, role in said.files.items()),
    ]
    model: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": said.name,
        "hashes": _hashes(files[said.weights]),
        "modelCard": _card(said),
        "properties": _properties(facts),
    }
    if said.licence is not None:
        model["licenses"] = _licences(said.licence)
    if said.base is not None:
        model["pedigree"] = {"ancestors": [_base(said.base, ref=False)]}
    return model


def _card(said: Declaration) -> dict[str, Any]:
    metrics = [
        {"type": name, "value": f"{value:g}", "slice": evaluation.dataset}
        for evaluation in said.evaluations
        for name, value in sorted(evaluation.scores.items())
    ]
    return {
        "modelParameters": {
            "task": "text-generation",
            "datasets": [{"ref": _ref(it)} for it in said.datasets],
        },
        "quantitativeAnalysis": {"performanceMetrics": metrics},
    }


def _base(base: Base, *, ref: bool = True) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        **({"bom-ref": "base"} if ref else {}),
        "name": base.name,
        "hashes": _hashes(base.sha256),
        **({"licenses": _licences(base.licence)} if base.licence is not None else {}),
        **({"properties": _properties([("artefact", base.artefact)])} if base.artefact is not None else {}),
    }


def _dataset(dataset: Dataset) -> dict[str, Any]:
    return {
        "type": "data",
        "bom-ref": _ref(dataset),
        "name": dataset.name,
        "hashes": _hashes(dataset.sha256),
        "data": [{"type": "dataset", "name": dataset.name}],
        "properties": _properties(("made-from:sha256", it) for it in dataset.made_from),
    }


def _teacher(teacher: Teacher) -> str:
    parts = (teacher.provider, teacher.surface, teacher.model, teacher.terms, teacher.artefact)
    return " / ".join(part for part in parts if part is not None)


def _ref(dataset: Dataset) -> str:
    return f"dataset:{dataset.sha256}"


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest}]


def _licences(expression: str) -> list[dict[str, str]]:
    return [{"expression": expression}]


def _properties(facts: Iterable[tuple[str, str | None]]) -> list[dict[str, str]]:
    return [{"name": f"isthmus:{name}", "value": value} for name, value in facts if value is not None]
