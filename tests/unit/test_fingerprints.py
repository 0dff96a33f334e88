"""A protected text is recognised by a piece of it, and `isthmus fingerprint` keeps what it takes for that."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from isthmus.bootstrap import inspection_of
from isthmus.cli.fingerprint import fingerprint
from isthmus.config.load import parse
from isthmus.perimeter.detectors.fingerprints import GUARANTEE, NOISE, Fingerprints, dump, load, prints_of
from isthmus.perimeter.policy import Policy

PLAN = """
The ferry company will sell its three oldest boats before the end of winter, and charter two new ones from a
yard in the north. Nobody outside the board may know the price, which is eleven million for the pair, nor the
date on which the crews are told. The morning line closes in March; the evening line stays until the bridge is
open.
"""
CODE = """
def settle(reservation, usage, prices):
    charge = sum(prices[kind] * count for kind, count in usage.items())
    reservation.release(reservation.amount - charge)
    return Charge(reservation.key, charge, reservation.currency)
"""
PRINTS = prints_of(PLAN) | prints_of(CODE) | prints_of("Too short to be found.")


def found(text: str) -> list[tuple[str, str]]:
    findings = Fingerprints("ours", PRINTS).find(text)
    return [(finding.kind, text[finding.start : finding.end]) for finding in findings]


def test_a_quoted_piece_is_found_with_other_line_ends() -> None:
    quoted = "nobody outside the board may know the price -- which is\n> eleven million\tfor the pair"
    ((kind, piece),) = found(f"I was told that {quoted} anything else; keep it quiet.")
    assert kind == "fingerprint.ours"
    assert piece in quoted
    assert len(piece.split()) >= NOISE


def test_code_is_found_after_it_was_wrapped_anew() -> None:
    assert [kind for kind, _ in found("// " + " ".join(CODE.split()))] == ["fingerprint.ours"]


def test_a_span_reaches_over_a_changed_word() -> None:
    ((_, piece),) = found(" ".join(PLAN.split()).replace("eleven", "twelve"))
    assert "Nobody outside" in piece
    assert "the crews are told" in piece


@pytest.mark.parametrize(
    "text",
    [
        "The ferry company will sell its boats in spring, and nobody minds.",
        "before the end of winter",
        "Too short to be found.",
        "",
    ],
)
def test_a_few_words_in_common_are_nothing(text: str) -> None:
    assert found(text) == []


def test_saved_prints_are_the_same_and_hold_no_words() -> None:
    saved = dump(PRINTS)
    assert load(saved) == PRINTS
    assert dump(load(saved)) == saved
    assert b"ferry" not in saved
    assert NOISE < GUARANTEE


@pytest.mark.parametrize(
    "data", [b"", b"x", dump(PRINTS)[:-1], dump(PRINTS)[:-8], b"y" + dump(PRINTS), dump(PRINTS)[:40]]
)
def test_a_damaged_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="fingerprints"):
        load(data)


# -- the command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "plans/winter.md": PLAN,
        "plans/code/settle.py": CODE,
        "plans/.hidden/x.md": PLAN,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "plans/boat.png").write_bytes(b"\x89PNG\xff")
    (tmp_path / "plans/note.txt").write_text("Too short.", encoding="utf-8")
    (tmp_path / "plans/circle").symlink_to(tmp_path / "plans")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(fingerprint, list(arguments))


def policy_of(folder: Path, text: str) -> Policy:
    config, faults = parse(f"perimeter: {text}", str(folder / "isthmus.yaml"))
    assert config is not None, faults
    return config.perimeter


def test_what_was_fingerprinted_is_found_by_a_rule_of_the_config(folder: Path) -> None:
    ran = run("plans", "-o", "ours.fp")
    assert (ran.exit_code, ran.stdout) == (0, "")
    assert ran.stderr.splitlines()[0].endswith(" fingerprints of 3 texts")
    assert ran.stderr.splitlines()[1:] == [
        "left out, as they are no text in UTF-8: 1",
        "too short to be known again: 1",
    ]
    policy = policy_of(
        folder,
        "{fingerprints: {ours: ours.fp}, labels: [{when: fingerprint.ours, level: restricted}]}",
    )
    inspection = inspection_of(policy, b"secret")
    quoted = " ".join(PLAN.split()[5:40]).replace("boats", "bo\u200bats").encode()
    known = inspection.look(b'{"messages": [{"role": "user", "content": "' + quoted + b'"}]}', ())
    assert {sighting.finding.kind for sighting in known.seen.found} >= {"fingerprint.ours"}
    assert known.label.level == "restricted"


def test_what_everybody_may_know_is_left_out(folder: Path) -> None:
    (folder / "LICENCE").write_text(PLAN, encoding="utf-8")
    assert run("plans", "-o", "ours.fp", "--except", "LICENCE").exit_code == 0
    detector = Fingerprints("ours", load((folder / "ours.fp").read_bytes()))
    assert detector.find(PLAN) == []
    assert detector.find(CODE)


def test_text_is_fingerprinted_as_it_is_seen_in_requests(folder: Path) -> None:
    (folder / "typeset.txt").write_text(PLAN.replace("o", "\uff4f"), encoding="utf-8")
    assert run("typeset.txt", "-o", "ours.fp").exit_code == 0
    assert Fingerprints("ours", load((folder / "ours.fp").read_bytes())).find(PLAN)


def test_nothing_to_go_by_is_said_and_leaves_the_old_file(folder: Path) -> None:
    assert run("plans", "-o", "ours.fp").exit_code == 0
    before = (folder / "ours.fp").read_bytes()
    ran = run("plans/note.txt", "-o", "ours.fp")
    assert ran.exit_code == 1
    assert "12 words" in ran.stderr
    assert (folder / "ours.fp").read_bytes() == before
