"""`explain` names the line of the config that says so, for every rule by which a model is refused or not."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from isthmus.cli.explain import explain
from isthmus.config.load import lines_of

TEXT = """\
providers:
  here: {dialect: openai, base_url: "http://127.0.0.1:9/v1", kind: local, zone: eu}
  out:
    dialect: anthropic
    base_url: https://llm.example.com/v1
    kind: closed
    zone: us
    promises: {retention_days: 30}
models:
  small: {provider: here}
  large: {provider: out}
  near: {provider: out, clearance: restricted, zone: eu}
  embed: {provider: here, capabilities: [embeddings]}
perimeter:
  clearance:
    closed: internal
  labels:
    - {when: pii, level: confidential, zones: [eu]}
    - when: pii.card
      level: public
      needs: {retention_days: 0}
routes:
  all: {fallback: [small, large, near], floor: internal}
  embed: embed
"""
CARD = "My card is 4111 1111 1111 1111"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = Path("i.yaml")
    file.write_text(TEXT, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (["all", "hello"], "internal, the route's floor (routes.all.floor at i.yaml:23)"),
        (["all", "hello"], "internal, where nobody vouches (by default)"),
        (["all", "hello"], "small is local, and is cleared for restricted (by default)"),
        (
            ["all", "hello"],
            "large is closed, and is cleared for internal (perimeter.clearance.closed at i.yaml:16)",
        ),
        (["all", "hello"], "near is cleared for restricted (models.near.clearance at i.yaml:12)"),
        (["all", "hello", "--label", "confidential"], "confidential, as the caller says"),
        (["all", CARD], "confidential, only in eu, for pii.card (perimeter.labels[0] at i.yaml:18)"),
        (["all", CARD], "small runs in eu (providers.here.zone at i.yaml:2)"),
        (["all", CARD], "small is local, and asked for no promise (providers.here.kind at i.yaml:2)"),
        (["all", CARD], "near promises at most 30 days kept (providers.out.promises at i.yaml:8)"),
        (
            ["all", CARD],
            "public, with the promise of nothing kept, for pii.card (perimeter.labels[1] at i.yaml:19)",
        ),
        (
            ["embed", "hello"],
            "embed is declared capable of less (models.embed.capabilities at i.yaml:13)",
        ),
        (
            ["all", "hello", "--embeddings"],
            "out speaks no wire for it (providers.out.dialect at i.yaml:4)",
        ),
    ],
)
def test_explain_names_the_line(path: Path, asked: list[str], line: str) -> None:
    said = CliRunner().invoke(explain, [*asked, "-c", str(path)])
    assert f"\n          {line}\n" in said.output


@pytest.mark.parametrize(
    ("prompt", "lines"),
    [
        (
            "Write to anna@example.org",
            [
                "large is closed, and is cleared for internal (perimeter.clearance.closed at i.yaml:16)",
                "pseudonyms may go out for pii.email (perimeter.labels[0].pseudonymise at i.yaml:18)",
            ],
        ),
        (
            f"Write to anna@example.org, {CARD}",
            [
                "large is closed, and is cleared for internal (perimeter.clearance.closed at i.yaml:16)",
                "confidential, for pii.card (perimeter.labels[1] at i.yaml:19)",
            ],
        ),
    ],
)
def test_a_model_that_may_see_pseudonyms_is_judged_by_what_is_left(
    path: Path, prompt: str, lines: list[str]
) -> None:
    labels = (
        "    - {when: pii.email, level: confidential, pseudonymise: true}\n"
        "    - {when: pii.card, level: confidential}\n"
    )
    text = f"{TEXT[: TEXT.index('    - {when: pii')]}{labels}routes: {{one: large}}\n"
    path.write_text(text, encoding="utf-8")
    said = CliRunner().invoke(explain, ["one", prompt, "-c", str(path)])
    because = [line.strip() for line in said.output.splitlines()]
    at = because.index(lines[0])
    assert because[at : at + len(lines)] == lines


def test_what_the_file_leaves_to_the_built_in_config_stands_there(path: Path) -> None:
    path.write_text("perimeter: {default: public}\n", encoding="utf-8")
    lines = lines_of(path)
    assert lines.find(("perimeter", "default")) == "i.yaml:1"
    assert lines.find(("perimeter", "clearance", "closed")) is None
    assert lines.find(("ledger",)) is None
    assert str(lines.find(("models", "small", "weights"))).startswith("default.yaml:")
    assert str(lines_of(None).find(("routes", "default"))).startswith("default.yaml:")
