"""The tickets of the benchmark: what is held out was not taught, and answers are judged by their words."""

from __future__ import annotations

from collections import Counter

from bench.distill.run import share_right
from bench.distill.tickets import HELD_OUT, QUEUES, TAUGHT, tickets


def test_no_sentence_is_both_taught_and_held_out() -> None:
    for queue in QUEUES:
        assert not set(TAUGHT[queue]) & set(HELD_OUT[queue])


def test_tickets_are_different_even_and_the_same_for_a_seed() -> None:
    made = tickets(TAUGHT, 24, seed=1)
    assert len({ticket.text for ticket in made}) == len(made) == 192
    assert set(Counter(ticket.queue for ticket in made).values()) == {24}
    assert made == tickets(TAUGHT, 24, seed=1)
    assert made != tickets(TAUGHT, 24, seed=2)
    assert {ticket.text for ticket in made}.isdisjoint(it.text for it in tickets(HELD_OUT, 12, seed=2))


def test_an_answer_is_the_name_and_nothing_else() -> None:
    asked = tickets(HELD_OUT, 1, seed=2)[:4]
    names = [ticket.queue for ticket in asked]
    said = [names[0], f" {names[1].title()}.\n", f"The queue is {names[2]}.", QUEUES[-1]]
    assert share_right(asked, said) == 0.5
