"""The optional engines: spaCy for real on a pipeline made here; Presidio and GLiNER behind stand-ins."""

from __future__ import annotations

import shutil
import sys
from importlib.machinery import ModuleSpec
from itertools import count
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest
import spacy

from isthmus.bootstrap import inspection_of
from isthmus.catalog.pipelines import ENGLISH
from isthmus.config.faults import Code
from isthmus.config.load import parse
from isthmus.core.errors import IsthmusError
from isthmus.core.label import Finding
from isthmus.perimeter.detectors.gliner import Gliner
from isthmus.perimeter.detectors.ner import Ner
from isthmus.perimeter.detectors.presidio import Presidio
from isthmus.perimeter.detectors.weights import digest, installed
from isthmus.perimeter.policy import SURE_ENOUGH, Policy


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
    assert caught.value.code == "weights_changed"


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
        "presidio_analyzer": lambda: Presidio(tmp_path),
        "gliner": lambda: Gliner(tmp_path),
    }
    with pytest.raises(IsthmusError) as caught:
        made[module]()
    assert "pip install 'isthmus[" in caught.value.hint


class AnalyzerEngine:
    """Stands in for Presidio's; it is told what a real one is, and finds the first word."""

    def __init__(self, *, nlp_engine: Any, supported_languages: list[str]) -> None:
        assert supported_languages == ["en"]
        self.pipeline: str = nlp_engine["models"][0]["model_name"]
        self.removed: list[str] = []
        self.registry = SimpleNamespace(remove_recognizer=self.removed.append)

    def get_supported_entities(self, language: str) -> list[str]:
        return ["PERSON", "UK_NHS", "UUID"]

    def analyze(self, text: str, language: str) -> list[Any]:
        assert self.removed == ["EmailRecognizer"], "it would ask the network"
        return [
            SimpleNamespace(entity_type="UK_NHS", start=5, end=9, score=0.5),
            SimpleNamespace(entity_type="PERSON", start=0, end=4, score=0.85),
        ]


class GLiNER:
    """Stands in for a model; it finds Zorro, and reads as much of a text as a real one does."""

    folder = ""

    @classmethod
    def from_pretrained(cls, folder: str, *, local_files_only: bool) -> GLiNER:
        assert local_files_only, "it would ask the network"
        cls.folder = folder
        return cls()

    def predict_entities(self, text: str, labels: list[str], *, threshold: float) -> list[dict[str, Any]]:
        assert "person" in labels
        at = text[:1000].find("Zorro")
        return [{"label": "person", "start": at, "end": at + 5, "score": threshold}] if at >= 0 else []


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    presidio, nlp, gliner = ModuleType("presidio_analyzer"), ModuleType("nlp_engine"), ModuleType("gliner")
    presidio.AnalyzerEngine = AnalyzerEngine  # type: ignore[attr-defined]
    nlp.NlpEngineProvider = lambda nlp_configuration: SimpleNamespace(  # type: ignore[attr-defined]
        create_engine=lambda: nlp_configuration
    )
    gliner.GLiNER = GLiNER  # type: ignore[attr-defined]
    for name, module in {
        "presidio_analyzer": presidio,
        "presidio_analyzer.nlp_engine": nlp,
        "gliner": gliner,
    }.items():
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.usefixtures("stand_ins")
def test_presidios_entities_become_findings(tmp_path: Path) -> None:
    presidio = Presidio(tmp_path)
    assert presidio.find("some text") == [
        Finding("pii.name", 0, 4, "presidio", 0.85),
        Finding("pii.uk-nhs", 5, 9, "presidio", 0.5),
    ]
    assert presidio.kinds == {"pii.name", "pii.uk-nhs", "pii.uuid"}


@pytest.mark.usefixtures("stand_ins")
def test_gliners_entities_become_findings_to_the_end_of_a_long_text(tmp_path: Path) -> None:
    gliner = Gliner(tmp_path)
    assert GLiNER.folder == str(tmp_path)
    assert gliner.find("Zorro was here") == [Finding("pii.name", 0, 5, "gliner", 0.5)]
    text = "Nothing is here.\n" * 300 + "Zorro was here."
    assert [text[one.start : one.end] for one in gliner.find(text)] == ["Zorro"]


# -- chosen by the config


def policy_of(folder: Path, engines: str) -> Policy:
    text = f"perimeter: {{engines: {engines}}}"
    config, faults = parse(text, str(folder / "isthmus.yaml"))
    assert config is not None, faults
    return config.perimeter


def found_in(policy: Policy, text: str) -> list[Finding]:
    known = inspection_of(policy, b"secret").look(msgspec.json.encode({"content": text}), ())
    return [sighting.finding for sighting in known.seen.found]


def test_spacy_is_asked_about_names_in_doubt(pipeline: Path) -> None:
    chosen = f"[{{engine: spacy, folder: {pipeline}, sha256: {digest(pipeline)}}}]"
    doubtful = "Zorro met Marlow by the harbour at noon"
    alone, *_ = found_in(policy_of(pipeline, "[]"), doubtful)
    confirmed, *_ = found_in(policy_of(pipeline, chosen), doubtful)
    assert alone.score < SURE_ENOUGH <= confirmed.score


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("engine", ["presidio", "gliner"])
def test_an_engine_is_asked_where_what_it_finds_would_raise_the_label(engine: str, pipeline: Path) -> None:
    chosen = f"[{{engine: {engine}, folder: {pipeline}, sha256: {digest(pipeline)}}}]"
    policy = policy_of(pipeline, chosen)
    assert ("pii.name", engine) in {(one.kind, one.detector) for one in found_in(policy, "Zorro")}
    assert engine not in {one.detector for one in found_in(policy, "Zorro, zorro@example.org")}


@pytest.mark.usefixtures("stand_ins")
def test_weights_that_changed_are_not_loaded(pipeline: Path, tmp_path: Path) -> None:
    policy = policy_of(pipeline, f"[{{engine: gliner, folder: {pipeline}, sha256: {'f' * 64}}}]")
    with pytest.raises(IsthmusError) as caught:
        inspection_of(policy, b"secret")
    assert caught.value.code == "weights_changed"


def test_a_missing_sha256_is_told(pipeline: Path) -> None:
    config, faults = parse(f"perimeter: {{engines: [{{engine: spacy, folder: {pipeline}}}]}}", "isthmus.yaml")
    assert config is None
    assert [fault.code for fault in faults] == [Code.MISSING]
    assert digest(pipeline) in faults[0].hint


@pytest.mark.usefixtures("stand_ins")
def test_the_hash_of_the_rules_knows_weights_by_their_digest(pipeline: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pipeline, copy)
    pin = digest(pipeline)
    one, two = (f"[{{engine: gliner, folder: {folder}, sha256: {pin}}}]" for folder in (pipeline, copy))
    assert policy_of(pipeline, one).hash == policy_of(pipeline, two).hash
    assert policy_of(pipeline, one).hash != policy_of(pipeline, one.replace(pin, "f" * 64)).hash
