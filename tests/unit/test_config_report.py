"""How faults are shown: the golden reports, colours, JSON, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from isthmus.cli.check import check
from isthmus.config.faults import Code
from isthmus.config.load import parse, read
from isthmus.config.report import as_data, render

GOLDEN = Path(__file__).parents[1] / "golden" / "config"
BAD_FILES = sorted(file.stem for file in GOLDEN.glob("*.yaml"))


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ISTHMUS_CONFIG", "UNSET_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_reported_as_agreed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The expected report stands beside the file; read a change of it as a user would."""
    monkeypatch.chdir(GOLDEN)
    config, faults = read(Path(f"{name}.yaml"))
    assert render(faults) == Path(f"{name}.txt").read_text(encoding="utf-8")
    assert (config is None) == any(not fault.warns for fault in faults)


def test_the_golden_files_show_every_code() -> None:
    shown = "".join((GOLDEN / f"{name}.txt").read_text(encoding="utf-8") for name in BAD_FILES)
    # The one is of no file, the other of what is known of prices on that day.
    elsewhere = (Code.UNREADABLE, Code.UNPRICED)
    assert not [code for code in Code if code not in shown and code not in elsewhere]


def test_a_caret_stands_under_its_character_after_tabs() -> None:
    _, faults = parse('{"a\tb": 1, gatway: 2}', "f")
    assert render(faults).splitlines()[-5:-3] == [' 1 | {"a\tb": 1, gatway: 2}', "   |    \t       ^"]


def test_a_report_cannot_be_forged_by_a_key() -> None:
    _, faults = parse('"\\e[2J\\nisthmus.yaml": fine', "f")
    assert "\x1b" not in render(faults)
    assert faults[0].message == "Nothing reads `\ufffd[2J\ufffdisthmus.yaml`."


def test_colours_repeat_what_the_words_say() -> None:
    _, faults = parse("gateway: 5", "f")
    coloured = render(faults, colour=True)
    assert "\x1b[" in coloured
    plain = coloured
    for tone in ("\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[34m", "\x1b[0m"):
        plain = plain.replace(tone, "")
    assert plain == render(faults)


def test_faults_are_data_too() -> None:
    _, faults = parse("gatway: {}", "f")
    assert as_data(faults) == [
        {
            "code": "C003",
            "severity": "fault",
            "message": "Nothing reads `gatway`.",
            "hint": "Did you mean `gateway`?",
            "file": "f",
            "line": 1,
            "column": 1,
            "path": "gatway",
        }
    ]


def test_check_shows_what_a_sound_config_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(check)
    assert result.exit_code == 0
    assert "qwen2.5-coder-0.5b-instruct" in result.stdout
    assert "(run by Isthmus)" in result.stdout


def test_check_refuses_with_1_and_prints_json(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    portfolio = "models: {m: {provider: p}}\nroutes: {d: m}\n"
    file.write_text(f"providers: {{p: {{preset: mistral, key: env:UNSET_KEY}}}}\n{portfolio}")
    refused = CliRunner().invoke(check, ["--config", str(file), "--json"])
    assert refused.exit_code == 1
    assert [fault["code"] for fault in json.loads(refused.stdout)] == ["C011"]
    fine = CliRunner().invoke(check, ["--config", str(file), "--json", "--no-secrets"])
    assert (fine.exit_code, json.loads(fine.stdout)) == (0, [])
    assert CliRunner().invoke(check, ["--cofig", "x"]).exit_code == 2


def test_check_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(check, ["--config", str(tmp_path / "none.yaml")])
    assert result.exit_code == 1
    assert "C018" in result.stdout
