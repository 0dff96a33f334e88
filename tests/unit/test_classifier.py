"""A topic is learned from texts about it, measured by texts that were kept back, and found in requests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from isthmus.bootstrap import inspection_of
from isthmus.cli.topic import topic
from isthmus.config.load import parse
from isthmus.perimeter.detectors.classifier import FEWEST, WINDOW, Classifier, Model, load, train
from isthmus.perimeter.policy import SURE_ENOUGH

PARTIES = ("the buyer", "the seller", "either party", "the licensee", "the tenant", "the lender")
DUTIES = (
    "shall indemnify",
    "shall notify in writing",
    "may terminate for breach",
    "waives any warranty towards",
)
TERMS = (
    "within thirty days",
    "under the governing law",
    "save for gross negligence",
    "without prior consent",
)
DISHES = ("the soup", "a flat bread", "the lentils", "roasted roots", "a plum cake", "the dumplings")
STEPS = ("simmers slowly", "rests under a cloth", "is stirred until smooth", "bakes on the lowest shelf")
TASTES = ("with salt and butter", "for twenty minutes", "until golden brown", "and is served warm")


def sentences(*parts: tuple[str, ...]) -> list[str]:
    firsts, seconds, thirds = parts
    return [
        f"Today {one} {two} {three}, as agreed here." for one in firsts for two in seconds for three in thirds
    ]


CONTRACTS = sentences(PARTIES, DUTIES, TERMS)
RECIPES = sentences(DISHES, STEPS, TASTES)


@pytest.fixture(scope="module")
def model() -> Model:
    return train(CONTRACTS, RECIPES, SURE_ENOUGH, lambda: None)


def test_it_is_measured_by_texts_that_it_was_not_trained_on(model: Model) -> None:
    measured = model.measured
    assert (measured.about, measured.other) == (len(CONTRACTS[::5]), len(RECIPES[::5]))
    assert measured.found == measured.about
    assert measured.mistaken == 0


def test_one_paragraph_in_a_long_text_is_found_in_its_place(model: Model) -> None:
    before, after = " ".join(RECIPES[:60]), " ".join(RECIPES[30:])
    about = " ".join(CONTRACTS[:12])
    text = f"{before} {about} {after}"
    findings = Classifier("contracts", model).find(text)
    sure = [finding for finding in findings if finding.score >= SURE_ENOUGH]
    assert {finding.kind for finding in sure} == {"topic.contracts"}
    start, end = len(before), len(before) + len(about)
    assert all(finding.start < end and start < finding.end for finding in sure)


@pytest.mark.parametrize(
    "text", ["", "The tenant shall indemnify.", "1 2 3 4 5 6 7 8 9 10", "\ud800 \ud801 " * 20]
)
def test_what_is_too_short_to_judge_is_nothing(model: Model, text: str) -> None:
    assert Classifier("contracts", model).find(text) == []


def test_words_without_spaces_are_judged_too(model: Model) -> None:
    Classifier("contracts", model).find("\u6f22" * WINDOW * 2)


def test_a_saved_model_says_the_same_and_holds_no_words(model: Model) -> None:
    saved = model.dump()
    again = load(saved)
    words = CONTRACTS[3].lower().split()
    assert again.score(words) == pytest.approx(model.score(words), abs=1e-5)
    assert again.measured == model.measured
    assert load(again.dump()).dump() == saved
    assert b"tenant" not in saved


def test_equal_texts_give_equal_models(model: Model) -> None:
    again = train(CONTRACTS[::-1] + CONTRACTS[:5], RECIPES[::-1], SURE_ENOUGH, lambda: None)
    assert again.dump() == model.dump()


def test_what_is_no_classifier_is_refused(model: Model) -> None:
    saved = model.dump()
    document = json.loads(saved)
    broken = [
        b"",
        b"{}",
        saved[:-10],
        json.dumps({**document, "weights": "AAAA"}).encode(),
        json.dumps({**document, "weights": "%%%"}).encode(),
        json.dumps({**document, "isthmus": "other"}).encode(),
    ]
    for data in broken:
        with pytest.raises(ValueError, match="no classifier"):
            load(data)


@pytest.mark.parametrize("others", [RECIPES[: FEWEST - 1], [RECIPES[0]] * 100, ["short"] * 5 + RECIPES[:5]])
def test_too_few_texts_are_refused(others: list[str]) -> None:
    with pytest.raises(ValueError, match="least"):
        train(CONTRACTS, others, SURE_ENOUGH, lambda: None)


def test_texts_that_are_all_too_short_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer than 8 words"):
        train(CONTRACTS, [f"note {number}" for number in range(30)], SURE_ENOUGH, lambda: None)


# -- the command


def run(*arguments: str) -> Result:
    return CliRunner().invoke(topic, list(arguments))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"text": text}) for text in CONTRACTS]
    (tmp_path / "contracts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "recipes").mkdir()
    for number, text in enumerate(RECIPES):
        (tmp_path / "recipes" / f"{number}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "recipes" / "dish.png").write_bytes(b"\xff\xd8")
    return tmp_path


def test_what_was_learned_is_found_by_a_rule_of_the_config(folder: Path) -> None:
    ran = run("--about", "contracts.jsonl", "--other", "recipes", "-o", "contracts.topic")
    assert (ran.exit_code, ran.stdout) == (0, "")
    assert "20 of 20 about the topic were found, and 0 of 20 others were taken for it" in ran.stderr
    labels = "[{when: topic.contracts, level: confidential}]"
    text = f"perimeter: {{topics: {{contracts: contracts.topic}}, labels: {labels}}}"
    config, faults = parse(text, str(folder / "isthmus.yaml"))
    assert config is not None, faults
    inspection = inspection_of(config.perimeter, b"secret")
    for asked, level in ((CONTRACTS[7], "confidential"), (RECIPES[7], "internal")):
        assert inspection.look(json.dumps({"content": asked}).encode(), ()).label.level == level


def test_a_broken_line_is_told(folder: Path) -> None:
    (folder / "contracts.jsonl").write_text('{"text": "a"}\n\n{broken\n', encoding="utf-8")
    ran = run("--about", "contracts.jsonl", "--other", "recipes", "-o", "contracts.topic")
    assert ran.exit_code == 1
    assert "contracts.jsonl:3 is not JSON" in ran.stderr
    assert not (folder / "contracts.topic").exists()


def test_too_few_texts_are_told(folder: Path) -> None:
    ran = run("--about", "recipes/1.txt", "--other", "recipes", "-o", "contracts.topic")
    assert ran.exit_code == 1
    assert "least to learn from" in ran.stderr
