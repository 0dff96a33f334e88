"""What has been published about the costs of self-hosting, worked out: what holds, and what does not.

Each case is a file that `isthmus cost tco` takes; what `--export-case` writes can be put beside them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from isthmus.config.load import load_as
from isthmus.economics.tco.case import Case, check
from isthmus.economics.tco.figures import claimed, verdicts

CASES = sorted((Path(__file__).parent / "economics").glob("*.yaml"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_case_gives_what_it_is_known_to_give(path: Path) -> None:
    case = load_as(path, Case)
    check(case)
    assert case.expect
    assert [it for it in verdicts(case) if not it.holds] == []


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_claim_holds_where_we_say_that_it_does(path: Path) -> None:
    case = load_as(path, Case)
    assert case.claim is not None
    verdict = claimed(case, case.claim)
    assert verdict.holds is case.claim.holds, verdict


def test_claims_of_both_kinds_are_there() -> None:
    held = [claim.holds for path in CASES if (claim := load_as(path, Case).claim) is not None]
    assert held.count(True) > 5
    assert held.count(False) > 5
