"""`signers:` in a config: what is missing or contradicts itself is told before anything starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests import artefacts

from isthmus.artefacts import keys
from isthmus.catalog.weights import WEIGHTS, find_weights
from isthmus.config.digests import weights_sha256
from isthmus.config.faults import Code
from isthmus.config.load import parse

ENGINE = "{engine: builtin}"
PRIVATE, SIGNER = artefacts.pair()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A config's folder with an artefact for the built-in model, one for another base, and keys."""
    artefacts.write(tmp_path / "student", artefacts.tiny_weights(), base=WEIGHTS[0].sha256)
    artefacts.write(tmp_path / "other", artefacts.tiny_weights())
    (tmp_path / "plain").mkdir()
    (tmp_path / "model.gguf").write_bytes(artefacts.tiny_weights())
    (tmp_path / "m-00001-of-00003.gguf").write_bytes(artefacts.tiny_weights())
    (tmp_path / "release.pub").write_text(SIGNER.pem)
    (tmp_path / "release").write_text(PRIVATE)
    (tmp_path / "note.txt").write_text("no key")
    (tmp_path / "both.pub").write_text(SIGNER.pem + SIGNER.pem)
    (tmp_path / "circle").symlink_to("circle")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def text(model: str, provider: str = ENGINE) -> str:
    return f"providers: {{p: {provider}}}\nmodels: {{m: {{provider: p, {model}}}}}\nroutes: {{d: m}}\n"


@pytest.mark.parametrize(
    "model",
    [
        "weights: student, signers: [release.pub]",
        "weights: student/, signers: [release.pub]",
        "weights: other/, base: model.gguf, signers: [release.pub]",
        "weights: model.gguf, signers: [release.pub]",
    ],
)
def test_an_artefact_and_its_signers_are_read(folder: Path, model: str) -> None:
    config, faults = parse(text(model), str(folder / "isthmus.yaml"))
    assert config is not None, faults
    (signer,) = config.models["m"].signers
    assert (signer.file, signer.pem) == ("release.pub", SIGNER.pem)
    assert Path(config.models["m"].weights or "").is_absolute()


def test_another_key_in_the_same_file_is_another_config(folder: Path) -> None:
    said = text("weights: student/, signers: [release.pub]")
    before = parse(said, str(folder / "isthmus.yaml")).config
    (folder / "release.pub").write_text(keys.generate("ed25519")[1])
    after = parse(said, str(folder / "isthmus.yaml")).config
    assert before is not None
    assert after is not None
    assert before.hash != after.hash


@pytest.mark.parametrize(
    ("model", "code", "why"),
    [
        ("weights: student/, signers: []", Code.MISSING, "names nobody"),
        ("weights: student/, signers: [none.pub]", Code.FILE_NOT_FOUND, "no file none.pub"),
        ("weights: student/, signers: [note.txt]", Code.UNUSABLE_FILE, "no public key"),
        ("weights: student/, signers: [plain]", Code.FILE_NOT_FOUND, "no file plain"),
        ("weights: student/, signers: [pipe]", Code.FILE_NOT_FOUND, "no file pipe"),
        ('weights: student/, signers: ["a\\0b"]', Code.FILE_NOT_FOUND, "no file"),
        ("weights: student/, signers: [both.pub]", Code.UNUSABLE_FILE, "more than one"),
        ("weights: circle/, signers: [release.pub]", Code.FILE_NOT_FOUND, "no file or folder circle/"),
        ("weights: student/, signers: [release]", Code.SECRET_IN_CLEAR, "a private key"),
        ("weights: none/, signers: [release.pub]", Code.FILE_NOT_FOUND, "no file or folder none/"),
        ("weights: plain/, signers: [release.pub]", Code.UNUSABLE_FILE, "is no artefact"),
        ("weights: other/, signers: [release.pub]", Code.MISSING, "which the catalogue does not have"),
        ("weights: other/, base: none.gguf, signers: [release.pub]", Code.FILE_NOT_FOUND, "none.gguf"),
        ("weights: model.gguf, base: model.gguf", Code.CONFLICT, "nobody has to sign"),
        ("weights: student/", Code.FILE_NOT_FOUND, "no file student/"),
        ("weights: student/, signers: release.pub", Code.WRONG_TYPE, ""),
    ],
)
def test_what_cannot_be_verified_is_refused_when_it_is_read(
    folder: Path, model: str, code: Code, why: str
) -> None:
    config, faults = parse(text(model), str(folder / "isthmus.yaml"))
    assert config is None
    (fault,) = faults
    assert (fault.code, why in fault.message) == (code, True), fault
    assert PRIVATE.splitlines()[1] not in fault.message + fault.hint


@pytest.mark.parametrize("weights", ["", "weights: qwen2.5-coder-1.5b-instruct, "])
def test_weights_of_the_catalogue_may_say_who_signs_what_follows_them(folder: Path, weights: str) -> None:
    said = text(f"{weights}signers: [release.pub]")
    config, faults = parse(said, str(folder / "isthmus.yaml"))
    assert config is not None, faults
    model = config.models["m"]
    row = find_weights(model.weights or "")
    assert row is not None
    assert (len(model.signers), weights_sha256(model)) == (1, row.sha256)


PIN = "a" * 64


@pytest.mark.parametrize("model", ["weights: model.gguf", "weights: student/, signers: [release.pub]"])
def test_the_one_version_that_is_served_may_be_pinned(folder: Path, model: str) -> None:
    config, faults = parse(text(f"{model}, sha256: {PIN}"), str(folder / "isthmus.yaml"))
    assert config is not None, faults
    assert config.models["m"].sha256 == PIN


@pytest.mark.parametrize(
    ("model", "provider", "code", "why"),
    [
        (f"weights: model.gguf, sha256: {PIN[1:]}", ENGINE, Code.WRONG_TYPE, ""),
        (f"weights: model.gguf, sha256: {PIN.upper()}", ENGINE, Code.WRONG_TYPE, ""),
        (f"weights: m-00001-of-00003.gguf, sha256: {PIN}", ENGINE, Code.CONFLICT, "one of several"),
        (f"sha256: {PIN}", ENGINE, Code.CONFLICT, "knows the hash"),
        (f"weights: qwen2.5-coder-1.5b-instruct, sha256: {PIN}", ENGINE, Code.CONFLICT, "knows the hash"),
        (
            f"sha256: {PIN}",
            '{preset: vllm, base_url: "http://127.0.0.1:9/v1"}',
            Code.CONFLICT,
            "loads its own",
        ),
    ],
)
def test_a_pin_that_nobody_could_hold_to_is_refused(
    folder: Path, model: str, provider: str, code: Code, why: str
) -> None:
    config, faults = parse(text(model, provider), str(folder / "isthmus.yaml"))
    assert config is None
    assert [(it.code, why in it.message) for it in faults] == [(code, True)]


def test_weights_that_others_load_cannot_have_signers(folder: Path) -> None:
    vllm = '{preset: vllm, base_url: "http://127.0.0.1:9/v1"}'
    config, faults = parse(text("signers: [release.pub]", vllm), str(folder / "isthmus.yaml"))
    assert config is None
    assert [fault.code for fault in faults] == [Code.CONFLICT]
    assert "nobody here can verify what it serves" in faults[0].message
