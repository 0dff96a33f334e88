"""The documents say what the code does, lead where they say, and show configs that work."""

from __future__ import annotations

import ast
import datetime as dt
import hashlib
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from ruamel.yaml import YAML
from tests import artefacts

from isthmus.catalog.prices import PriceBook
from isthmus.catalog.weights import WEIGHTS
from isthmus.cli.reference import CODES, pages
from isthmus.confidence.artefact import Calibration, LearnedPanel
from isthmus.confidence.voting import Panel
from isthmus.config.document import PLANNED_SECTIONS, Document
from isthmus.config.faults import Code
from isthmus.config.load import load_as, parse
from isthmus.core.calibrator import Calibrator
from isthmus.core.tie import Tie
from isthmus.distill.recipe import open_recipe
from isthmus.economics.tco.case import Case, check
from isthmus.economics.tco.listed import priced
from isthmus.evals.datasets import open_dataset
from isthmus.routing.learned.header import VERSION, Header, Origin, joined
from isthmus.store import schema

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")])

LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SECTIONS = set(Document.__struct_fields__)
STAND_IN = """
providers: {server: {dialect: openai, base_url: "http://127.0.0.1:9/v1"}}
models: {small: {provider: server}, large: {provider: server}, other: {provider: server}}
"""


_OF_ANOTHER_TIME = Calibration(
    tie=Tie(route="elsewhere", models={}, template="", config=""),
    made_at_us=1,
    calibrator=Calibrator(target="helps", bias=0.0, signals={}, labels=100),
    threshold=0.9,
    risk="added",
    max_risk=0.05,
    delta=0.1,
    promise="",
    labels=200,
    confidences=(),
)


_PANEL_OF_ANOTHER_TIME = LearnedPanel(
    tie=Tie(route="elsewhere", models={}, template="", config=""),
    made_at_us=1,
    panel=Panel(weights={"small": 1.0, "large": 1.5}, best="large", gain=0.1, why=""),
    overall={"small": 0.7, "large": 0.75},
    learned=100,
    tested=100,
)

_ROUTER_OF_ANOTHER_TIME = Header(
    version=VERSION,
    sha256=hashlib.sha256(b"").hexdigest(),
    origin=Origin(tie=Tie(route="elsewhere", models={}, template="", config=""), made_at_us=1),
    models=("small", "large"),
    overall=(0.5, 0.75),
    best=1,
    parts=(),
    tasks=False,
    both=False,
    support=0.0,
    embedding=None,
)


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


@pytest.mark.parametrize("name", ["cli.md", "http.md", "metrics.md", "records.md", "errors.md"])
def test_generated_pages_are_current(made: dict[str, str], name: str) -> None:
    committed = (REFERENCE / name).read_text(encoding="utf-8")
    assert committed == made[name], "run: python -m isthmus.cli.reference docs/reference"


def test_every_generated_page_is_published(made: dict[str, str]) -> None:
    assert set(made) <= {path.name for path in REFERENCE.iterdir()}


def test_every_code_of_the_errors_page_is_one_of_the_code() -> None:
    said = {
        text for path in (ROOT / "src").rglob("*.py") for text in _strings(path) if path.stem != "reference"
    }
    engine_states = {f"engine_{state}" for state in ("fetching", "starting", "restarting", "failed")}
    assert {code for code, _, _ in CODES} <= said | engine_states


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    broken = [link for link in LINK.findall(text) if not _leads_somewhere(page, link)]
    assert not broken


def _leads_somewhere(page: Path, link: str) -> bool:
    if re.match(r"[a-z]+:", link):
        return True
    path, _, anchor = link.partition("#")
    target = page if not path else (page.parent / unquote(path)).resolve()
    if not target.exists() or ROOT not in (target, *target.parents):
        return False
    return not anchor or anchor in _anchors(target)


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = HEADING.findall(BLOCK.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _configs() -> list[tuple[Path, str]]:
    """Every YAML block that has sections of isthmus.yaml and nothing else."""
    found = []
    for page in PAGES:
        for indent, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if language == "yaml":
                block = re.sub(f"^{indent}", "", text, flags=re.MULTILINE)
                top = YAML(typ="safe").load(block)
                if isinstance(top, dict) and top and set(top) <= SECTIONS:
                    found.append((page, block))
    return found


@pytest.mark.parametrize(("page", "text"), _configs(), ids=lambda it: it.name if isinstance(it, Path) else "")
def test_configs_in_the_documents_work(page: Path, text: str, tmp_path: Path) -> None:
    for named in re.findall(r"(?:weights|ca_file): ([\w./-]+\.(?:gguf|pem))", text):
        (tmp_path / named).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / named).touch()
    for named in re.findall(r"calibration: ([\w./-]+\.json)", text):
        (tmp_path / named).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / named).write_bytes(_OF_ANOTHER_TIME.dump())
    for named in re.findall(r"by: ([\w./-]+\.json)", text):
        (tmp_path / named).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / named).write_bytes(_PANEL_OF_ANOTHER_TIME.dump())
    for named in re.findall(r"by: ([\w./-]+\.router)", text):
        (tmp_path / named).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / named).write_bytes(joined(_ROUTER_OF_ANOTHER_TIME, b""))
    for artefact, key in re.findall(r"weights: ([\w./-]+/), signers: \[([\w./-]+)\]", text):
        artefacts.write(tmp_path / artefact, artefacts.tiny_weights(), base=WEIGHTS[0].sha256)
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_text(artefacts.pair()[1].pem)
    config, faults = parse(_completed(text), str(tmp_path / "isthmus.yaml"), check_secrets=False)
    assert config is not None, [f"{fault.line}: {fault.message}" for fault in faults]
    harmless = {Code.UNUSED, Code.KEY_IN_THE_OPEN, Code.STALE_CALIBRATION, Code.NOT_LEARNED}
    assert {fault.code for fault in faults} <= harmless, faults


def test_what_is_stored_is_told_of_every_table() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    told = page.partition("## What is stored\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in told.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(schema.metadata.tables)


def test_the_sections_that_are_refused_are_told() -> None:
    page = (ROOT / "docs" / "design" / "0010-not-in-this-version.md").read_text(encoding="utf-8")
    context = page.partition("**Context.**")[2].partition("**Decision.**")[0]
    assert set(re.findall(r"`(\w+)`", context)) == PLANNED_SECTIONS


def _cases() -> list[str]:
    """Every YAML block that is a case of `isthmus cost tco`."""
    blocks = [it for page in PAGES for it in BLOCK.findall(page.read_text(encoding="utf-8"))]
    return [text for _, language, text in blocks if language == "yaml" and "\nstacks:" in text]


@pytest.mark.parametrize("text", _cases())
def test_cases_in_the_documents_hold_together(text: str, tmp_path: Path) -> None:
    (tmp_path / "case.yaml").write_text(text, encoding="utf-8")
    case = load_as(tmp_path / "case.yaml", Case)
    check(priced(case, PriceBook().price, dt.date(2026, 11, 27)))


def _recipes() -> list[str]:
    """Every YAML block that is a recipe of `isthmus distill`, or a part of one."""
    blocks = [it for page in PAGES for it in BLOCK.findall(page.read_text(encoding="utf-8"))]
    begins = re.compile(r"(?:collect|gate|student|name):.*", re.DOTALL)
    return [
        text
        for _, language, text in blocks
        if language == "yaml" and (begins.match(text) or "\nstudent:" in text)
    ]


@pytest.mark.parametrize("text", _recipes())
def test_recipes_in_the_documents_are_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    recipe = open_recipe(tmp_path / "recipe.yaml")
    assert recipe.student or recipe.collect or recipe.gate


def _completed(text: str) -> str:
    """The text; where it shows routes alone, with the models that the documents speak of."""
    shown = set(YAML(typ="safe").load(text)) & {"providers", "models", "routes"}
    return text + STAND_IN if shown == {"routes"} else text


def _strings(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_metrics_in_the_documents_exist(made: dict[str, str]) -> None:
    known = set(re.findall(r"`(isthmus_\w+)`", made["metrics.md"]))
    said = {name for page in PAGES for name in re.findall(r"\bisthmus_\w+", page.read_text(encoding="utf-8"))}
    assert {name.removesuffix("_bucket") for name in said} <= known


def test_samples_in_the_documents_can_be_opened(tmp_path: Path) -> None:
    blocks = [it for page in PAGES for it in BLOCK.findall(page.read_text(encoding="utf-8"))]
    shown = [text for _, language, text in blocks if language == "jsonl"]
    assert shown
    for text in shown:
        (tmp_path / "shown.jsonl").write_text(text, encoding="utf-8")
        assert len(open_dataset(tmp_path / "shown.jsonl").samples) == text.count("\n")
