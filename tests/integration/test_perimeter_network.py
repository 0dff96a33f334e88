"""Law 1 as the network sees it: only models that may receive a request are knocked at, and nobody else is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from .walled_gateway import INSIDE, NOBODY, OUTSIDE, RENTED

ROOT = Path(__file__).parents[2]
ISOLATED = ("unshare", "--user", "--map-root-user", "--net")

HEARD = {
    "harmless": {NOBODY, INSIDE},
    "harmless, outside": {OUTSIDE},
    "harmless, inside fails": {NOBODY, INSIDE, RENTED},
    "harmless, only outside is left": {NOBODY, INSIDE, RENTED, OUTSIDE},
    "personal, inside fails": {NOBODY, INSIDE, RENTED},
    "personal, only outside is left": {NOBODY, INSIDE, RENTED},
    "secret, inside fails": {NOBODY, INSIDE},
    "personal, split": {RENTED},
    "personal, outside": set(),
    "secret, redirected": {NOBODY, INSIDE},
    "addresses in the request": {NOBODY, INSIDE},
}
"""Who is knocked at. The harmless ones show that every door is heard."""


@pytest.fixture(scope="module")
def told() -> Any:
    _require_namespaces()
    program = [*ISOLATED, sys.executable, "-m", "tests.integration.walled_gateway"]
    ran = subprocess.run(program, cwd=ROOT, capture_output=True, timeout=120)
    assert ran.returncode == 0, ran.stderr.decode()
    return msgspec.json.decode(ran.stdout)


def _require_namespaces() -> None:
    for tool, package in (("unshare", "util-linux"), ("ip", "iproute2")):
        if shutil.which(tool) is None:
            pytest.skip(f"There is no `{tool}` here: it comes with {package}.")
    tried = subprocess.run([*ISOLATED, "ip", "link", "set", "lo", "up"], capture_output=True)
    if tried.returncode != 0:
        pytest.skip(f"The kernel lets nobody make a network here: {tried.stderr.decode().strip()}")


@pytest.mark.parametrize("scenario", HEARD)
def test_only_who_may_receive_it_is_knocked_at(told: Any, scenario: str) -> None:
    assert set(told["scenarios"][scenario]["heard"]) == HEARD[scenario]


def test_every_scenario_is_judged_and_nothing_went_unheard(told: Any) -> None:
    assert told["scenarios"].keys() == HEARD.keys()
    assert told["missed"] == 0
