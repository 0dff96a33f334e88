"""The catalogue's rows of weights, as data."""

from __future__ import annotations

import re

import pytest

from isthmus.catalog.weights import (
    WEIGHTS,
    Artefact,
    HubFile,
    PackageParts,
    PackedBert,
    Source,
    find_weights,
)


def artefacts(artefact: Artefact) -> list[Artefact]:
    """The artefact, and all that it may be packed from."""
    packed = [source for source in artefact.sources if isinstance(source, PackedBert)]
    return [artefact, *(part for source in packed for part in (source.tensors, source.vocabulary))]


ARTEFACTS = [part for weights in WEIGHTS for part in artefacts(weights)]
SOURCES: list[tuple[Artefact, Source]] = [(part, source) for part in ARTEFACTS for source in part.sources]


def test_names_and_files_are_unique() -> None:
    assert len({weights.name for weights in WEIGHTS}) == len(WEIGHTS)
    assert len({weights.file for weights in WEIGHTS}) == len(WEIGHTS)


def test_a_row_is_found_by_its_name() -> None:
    assert [find_weights(weights.name) for weights in WEIGHTS] == list(WEIGHTS)
    assert find_weights("no-such-weights") is None


def test_there_is_a_chat_model_and_an_embedding_model() -> None:
    assert {weights.mode for weights in WEIGHTS} == {"chat", "embeddings"}


@pytest.mark.parametrize("artefact", ARTEFACTS, ids=lambda artefact: artefact.file)
def test_every_file_is_pinned_and_has_a_source(artefact: Artefact) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", artefact.sha256)
    assert artefact.size > 0
    assert artefact.sources
    assert "/" not in artefact.file


@pytest.mark.parametrize(("artefact", "source"), SOURCES)
def test_every_source_is_complete(artefact: Artefact, source: Source) -> None:
    match source:
        case HubFile(url):
            assert url.startswith("https://")
            assert url.endswith(f"/{artefact.file}")
        case PackageParts(packages, version, member):
            assert packages
            assert re.fullmatch(r"[\d.]+", version)
            assert member.startswith("*/")
        case PackedBert():
            assert source.heads > 0
            assert artefact.size > source.tensors.size * 0.99
