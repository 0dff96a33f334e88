"""From a config to what is foreseen: which files are read, which vectors are wanted, and what a task's name
does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from isthmus import bootstrap
from isthmus.catalog.weights import STATIC_VECTORS, STATIC_VOCABULARY, Artefact
from isthmus.config import routers
from isthmus.config.config import Config
from isthmus.config.faults import Code
from isthmus.config.load import parse
from isthmus.config.nodes import nodes_in
from isthmus.config.routers import tie_of
from isthmus.core.errors import IsthmusError
from isthmus.core.foresight import Foresight
from isthmus.dialects.openai import OpenAIChat
from isthmus.routing.learned.embedding import Embedding
from isthmus.routing.learned.file import dump
from isthmus.routing.learned.header import Origin
from isthmus.routing.learned.query import Outcomes, query_of
from isthmus.routing.learned.stack import learn
from isthmus.strategies.plan import Choose

CONFIG = """
providers: {p: {dialect: openai, base_url: "http://127.0.0.1:9/v1"}}
models:
  small: {provider: p, price: {input: 1, output: 2}}
  large: {provider: p}
routes:
  r: {choose: [small, large], quality_at_least: 0.8%s}
  plain: small
"""


@pytest.fixture(autouse=True)
def _forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path))
    for known in (bootstrap._predictor, bootstrap._vectors):
        known.cache_clear()
    yield
    for known in (bootstrap._predictor, bootstrap._vectors):
        known.cache_clear()


def written(folder: Path, embedding: Embedding | None) -> Config:
    """A config with a router that was learned for it: what is hard is told by a word, and by its task."""
    rng = np.random.default_rng(0)
    queries = [
        query_of(f"{('say', 'prove')[n % 2]} {rng.integers(20)}", ("a", "b")[n % 2], embedding)
        for n in range(200)
    ]
    scores = np.array([[1.0 - n % 2, 1.0] for n in range(200)])
    sha256 = embedding.sha256 if embedding is not None else None
    stack = learn(Outcomes(("small", "large"), queries, scores), rng, sha256)
    unlearned = _parsed(folder, "")
    (choose,) = nodes_in(unlearned.routes["r"].plan, Choose)
    tie = tie_of("r", choose, unlearned.models, unlearned.providers)
    origin = Origin(tie=tie, made_at_us=1, outputs={"small": 10, "large": 10})
    (folder / "r.router").write_bytes(dump(stack, origin))
    return _parsed(folder, ", by: r.router")


def _parsed(folder: Path, by: str) -> Config:
    config = parse(CONFIG % by, str(folder / "isthmus.yaml")).config
    assert config is not None
    return config


def foreseen(config: Config, words: str, route: str = "r", task: str = "") -> tuple[Foresight, ...]:
    body = msgspec.json.encode(
        {"model": route, "max_tokens": 4, "messages": [{"role": "user", "content": words}]}
    )
    return bootstrap.foresights_of(config).of(route, OpenAIChat().peek(body), task, 0)


def test_a_route_without_a_choice_foresees_nothing_and_a_price_may_be_unknown(tmp_path: Path) -> None:
    config = written(tmp_path, None)
    assert foreseen(config, "say 3", "plain") == ()
    (it,) = foreseen(config, "prove 3")
    small, large = it.outlooks
    assert it.supported
    assert (small.quality, large.quality) == (pytest.approx(0, abs=0.1), pytest.approx(1, abs=0.1))
    # Its length is bounded by what is asked for, and a price that nobody said is no price.
    assert small.nanousd == pytest.approx(it.input * 1_000 + 4 * 2_000, rel=0.05)
    assert large.nanousd is None


def test_without_numpy_a_config_with_a_router_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, None)
    monkeypatch.setattr(routers, "find_spec", lambda _: None)
    config, faults = parse(CONFIG % ", by: r.router", str(tmp_path / "isthmus.yaml"))
    assert config is None
    assert [(it.code, it.hint) for it in faults] == [
        (Code.NOT_INSTALLED, "Run: pip install 'isthmus[learned]'")
    ]


def test_a_tasks_name_vouches_for_its_requests_and_against_others(tmp_path: Path) -> None:
    config = written(tmp_path, None)
    (easy,), (unheard_of,) = (foreseen(config, "say 3", task=task) for task in ("a", "poems" * 100))
    assert easy.supported
    assert not unheard_of.supported
    assert "none of those" in unheard_of.why


def test_a_file_that_has_changed_since_is_not_used(tmp_path: Path) -> None:
    config = written(tmp_path, None)
    (tmp_path / "r.router").write_bytes(b"another")
    for use in (bootstrap.foresights_of, bootstrap.bring_vectors):
        with pytest.raises(IsthmusError) as refusal:
            use(config)
        assert refusal.value.code == "router_changed"


def test_vectors_are_brought_before_they_are_needed_and_never_while_requests_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    _write_vectors(folder)
    table, vocabulary = ((folder / it.file).read_bytes() for it in (STATIC_VECTORS, STATIC_VOCABULARY))
    config = written(tmp_path, Embedding(table, vocabulary, STATIC_VECTORS.sha256))
    for artefact in (STATIC_VECTORS, STATIC_VOCABULARY):
        (folder / artefact.file).unlink()
    with pytest.raises(IsthmusError) as refusal:
        bootstrap.foresights_of(config)
    assert refusal.value.code == "weights_unavailable"

    def fetch(artefact: Artefact, into: Path, report: object) -> Path:
        _write_vectors(into)
        return into / artefact.file

    monkeypatch.setattr(bootstrap, "fetch", fetch)
    bootstrap.bring_vectors(config)
    assert foreseen(config, "prove 3")[0].outlooks[0].quality < 0.2


def _write_vectors(folder: Path) -> None:
    """A vector for each letter, in the files' forms."""
    letters = ["\u2581", *"abcdefghijklmnopqrstuvwxyz0123456789"]
    table = np.random.default_rng(0).normal(size=(len(letters), 8)).astype(np.float16)
    header = json.dumps(
        {"e": {"dtype": "F16", "shape": list(table.shape), "data_offsets": [0, table.nbytes]}}
    ).encode()
    content = len(header).to_bytes(8, "little") + header + table.tobytes()
    (folder / STATIC_VECTORS.file).write_bytes(content)
    vocabulary = {"model": {"vocab": {letter: at for at, letter in enumerate(letters)}}}
    (folder / STATIC_VOCABULARY.file).write_text(json.dumps(vocabulary))
