"""The optional engines: spaCy for real on a pipeline made here; Presidio and GLiNER behind stand-ins."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import spacy

from isthmus.catalog.pipelines import ENGLISH
from isthmus.core.errors import IsthmusError
from isthmus.core.label import Finding
from isthmus.perimeter.detectors.gliner import Gliner
from isthmus.perimeter.detectors.ner import Ner, digest, installed
from isthmus.perimeter.detectors.presidio import Presidio


def still() -> float:
    return 0.0


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder; its recogniser knows two names by rule."""
    folder = tmp_path_factory.mktemp("pipeline")
    nlp = spacy.blank("en")
    ruler: Any = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Zorro"}, {"label": "MONEY", "pattern": "gold"}])
    nlp.to_disk(folder)
    return folder


def test_entities_become_findings(pipeline: Path) -> None:
    assert Ner(pipeline, clock=still).find("Zorro has gold") == [Finding("pii.name", 0, 5, "ner", 0.55)]


def test_a_long_text_is_read_in_pieces(pipeline: Path) -> None:
    text = ("Nothing is here.\n" * 200 + "Zorro was here. ") * 3
    found = Ner(pipeline, clock=still).find(text)
    assert [text[one.start : one.end] for one in found] == ["Zorro"] * 3


def test_a_text_without_any_border_is_read_too(pipeline: Path) -> None:
    assert Ner(pipeline, clock=still).find("x" * 5000) == []


def test_a_text_that_is_too_long_is_refused(pipeline: Path) -> None:
    with pytest.raises(IsthmusError) as caught:
        Ner(pipeline, clock=still, longest=10).find("Zorro was here")
    assert caught.value.code == "ner_too_long"


def test_a_text_that_takes_too_long_is_refused(pipeline: Path) -> None:
    ticks = count()
    with pytest.raises(IsthmusError) as caught:
        Ner(pipeline, clock=lambda: float(next(ticks)), budget_s=1.5).find("Zorro was here.\n" * 500)
    assert caught.value.code == "ner_late"


def test_only_the_pinned_folder_is_loaded(pipeline: Path, tmp_path: Path) -> None:
    pinned = digest(pipeline)
    assert Ner(pipeline, clock=still, sha256=pinned).find("Zorro")
    for path in pipeline.rglob("*"):
        if path.is_file():
            copy = tmp_path / path.relative_to(pipeline)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    assert digest(tmp_path) == pinned
    (tmp_path / "more").write_text("")
    with pytest.raises(IsthmusError) as caught:
        Ner(tmp_path, clock=still, sha256=pinned)
    assert caught.value.code == "ner_weights_changed"


def test_the_english_pipeline_is_the_pinned_one() -> None:
    try:
        folder = installed(ENGLISH)
    except IsthmusError as missing:
        pytest.skip(missing.message)
    text = "Margaret Osei flew to Houston."
    found = Ner(folder, clock=still, sha256=ENGLISH.sha256).find(text)
    assert ("pii.name", 0, 13) in [(one.kind, one.start, one.end) for one in found]


def test_a_missing_pipeline_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(IsthmusError) as caught:
        installed(ENGLISH)
    assert caught.value.code == "ner_weights_missing"
    assert "isthmus[ner]" in caught.value.hint


@pytest.mark.parametrize("module", ["spacy", "presidio_analyzer", "gliner"])
def test_a_missing_library_says_which_extra_to_install(
    module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    made = {
        "spacy": lambda: Ner(tmp_path, clock=still),
        "presidio_analyzer": Presidio,
        "gliner": lambda: Gliner(tmp_path),
    }
    with pytest.raises(IsthmusError) as caught:
        made[module]()
    assert "pip install 'isthmus[" in caught.value.hint


def test_presidios_entities_become_findings() -> None:
    class Engine:
        def analyze(self, text: str, language: str) -> list[Any]:
            assert (text, language) == ("some text", "en")
            return [
                SimpleNamespace(entity_type="UK_NHS", start=5, end=9, score=0.5),
                SimpleNamespace(entity_type="PERSON", start=0, end=4, score=0.85),
            ]

    assert Presidio(Engine()).find("some text") == [
        Finding("pii.name", 0, 4, "presidio", 0.85),
        Finding("pii.uk-nhs", 5, 9, "presidio", 0.5),
    ]


def test_gliners_entities_become_findings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class GLiNER:
        @classmethod
        def from_pretrained(cls, folder: str, *, local_files_only: bool) -> GLiNER:
            assert (folder, local_files_only) == (str(tmp_path), True)
            return cls()

        def predict_entities(self, text: str, labels: list[str], *, threshold: float) -> list[dict[str, Any]]:
            assert "person" in labels
            return [{"label": "person", "start": 0, "end": 4, "score": threshold, "text": text[:4]}]

    module = ModuleType("gliner")
    module.GLiNER = GLiNER  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gliner", module)
    assert Gliner(tmp_path).find("some text") == [Finding("pii.name", 0, 4, "gliner", 0.5)]
