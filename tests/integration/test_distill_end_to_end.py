"""The built-in model learns to sort tickets, and sorts others that it has not seen, through the gateway.

`make bench-distill` is the same with more of everything, beside a teacher.
"""

from __future__ import annotations

from pathlib import Path

from bench.distill.run import STUDENT, ask, share_right, train, verify
from bench.distill.tickets import HELD_OUT, TAUGHT, tickets
from tests.integration.distill.laboratory import needs_training

pytestmark = needs_training


def test_a_student_learns_what_its_base_cannot_do(tmp_path: Path) -> None:
    evidence, _ = train(tmp_path, tickets(TAUGHT, 8, seed=1), epochs=2)
    assert evidence["steps"] == 16
    student = Path(evidence["student"])
    verify(student, evidence)
    held_out = tickets(HELD_OUT, 4, seed=2)
    said = ask(tmp_path, student / "adapter.gguf", [STUDENT], held_out)
    base, taught = (share_right(held_out, said[name]) for name in (STUDENT, "student"))
    assert taught >= base + 0.5, (base, taught)
