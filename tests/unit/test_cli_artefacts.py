"""`isthmus models keygen|sign|verify|bom|lineage`, as somebody types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests import artefacts

from isthmus.artefacts import declaration
from isthmus.cli.models import models


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an unsigned artefact in it."""
    monkeypatch.chdir(tmp_path)
    artefacts.write(tmp_path / "student", artefacts.tiny_weights())
    return tmp_path


def run(*words: str) -> Result:
    result = CliRunner().invoke(models, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_from_a_key_to_a_verified_artefact(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run("keygen", "release", "--type", "p256")
    assert made.exit_code == 0
    assert len(made.stdout.strip()) == 64
    private = (home / "release").read_text()
    assert private.splitlines()[1] not in made.output
    assert run("sign", "student", "--key", "release").stdout == f"{home / 'student.sig'}\n"
    monkeypatch.setenv("RELEASE_KEY", private)
    for key in ("file:release", "env:RELEASE_KEY"):
        signed = run("sign", "student", "--key", key, "--json")
        assert signed.exit_code == 0
        assert json.loads(signed.stdout)["fingerprint"] == made.stdout.strip()
    verified = run("verify", "student", "--signer", "release.pub", "--json")
    found = json.loads(verified.stdout)
    assert found["artefact"] == json.loads(signed.stdout)["identity"]
    assert found["declaration"]["base"]["sha256"] == artefacts.TINY_BASE
    assert run("verify", "student", "--signer", "release.pub").stdout == f"{found['artefact']}\n"
    (home / "student" / ".added").write_text("")
    altered = run("verify", "student", "--signer", "release.pub", "--json")
    assert (altered.exit_code, altered.stdout) == (1, "")
    assert "added: '.added'" in altered.stderr


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["keygen", "release"], "is there already"),
        (["keygen", "none/release"], "No such file"),
        (["sign", "student", "--key", "nothing"], "No such file"),
        (["sign", "student", "--key", "release.pub"], "no private key"),
        (["sign", "student", "--key", "env:NOT_SET_AT_ALL"], "is not set"),
        (["sign", "student", "--key", "release", "--cert", "release.pub"], "no certificate"),
        (["sign", "release.pub", "--key", "release"], "cannot be used"),
        (["sign", ".", "--key", "release"], "cannot be used"),
        (["verify", "student", "--signer", "release.pub"], "is not signed"),
        (["verify", "student", "--signer", "release"], "a private key"),
        (["bom", "."], "is no artefact"),
        (["bom", "release.pub"], "is no artefact"),
        (["lineage", "student/evidence"], "There is no artefact in"),
        (["lineage", "release.pub"], "Not a directory"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(home: Path, words: list[str], why: str) -> None:
    run("keygen", "release")
    result = run(*words)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert why in result.stderr
    assert result.stderr.count("\n") == 1
    assert (home / "release").read_text().splitlines()[1] not in result.output


def test_a_bill_is_printed(home: Path) -> None:
    printed = json.loads(run("bom", "student").stdout)
    assert printed["specVersion"] == "1.6"
    assert printed["metadata"]["component"]["name"] == "student"
    assert (home / "student" / declaration.FILE).exists()


def test_lineage_tells_who_is_poisoned_by_its_status(home: Path) -> None:
    clean = run("lineage", ".")
    assert clean.exit_code == 0
    assert "teacher glm  vpc/self-hosted/glm" in clean.stdout
    (home / "quarantined").write_text("# found on Monday\nvpc/self-hosted\n\n")
    for words in (["--quarantine", "vpc"], ["--quarantined", "quarantined"]):
        poisoned = run("lineage", "student", *words, "--json")
        assert poisoned.exit_code == 3
        (found,) = json.loads(poisoned.stdout)
        assert found["poisoned_by"]
    assert "POISONED by vpc" in run("lineage", "student", "--quarantine", "vpc").stdout
