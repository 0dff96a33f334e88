"""Tickets of customers and the queue that each belongs to: made up, and the same for a seed.

The sentences of the tickets that are held out occur in none that is taught, only what fills their gaps.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

QUEUES = ("billing", "shipping", "returns", "account", "technical", "sales", "privacy", "careers")
SYSTEM = f"Answer with the one queue that the ticket belongs to: {', '.join(QUEUES)}."

TAUGHT: dict[str, tuple[str, ...]] = {
    "billing": (
        "I was charged twice for my {thing} in {month}.",
        "The invoice of {month} shows {sum} euros too much.",
        "Why did you take {sum} euros from my card?",
        "My payment for the {thing} failed, but the money is gone.",
        "Please send the receipt for the {thing} from {month}.",
        "There is a fee of {sum} euros on my bill that I do not know.",
    ),
    "shipping": (
        "Where is my {thing}? It should have come in {month}.",
        "The parcel with the {thing} has been on its way for {days} days.",
        "The courier left the {thing} at a wrong address.",
        "Can the {thing} be delivered on another day?",
        "The tracking number of my {thing} does not move since {days} days.",
        "My delivery of the {thing} is late.",
    ),
    "returns": (
        "I want to send the {thing} back.",
        "The {thing} does not fit, how do I get another size?",
        "How long may I keep the {thing} before I give it back?",
        "I sent the {thing} back {days} days ago and heard nothing.",
        "The {thing} came broken and I want a new one in exchange.",
        "Please give me a return label for the {thing}.",
    ),
    "account": (
        "I cannot log in any more since {days} days.",
        "Please change the email address of my login.",
        "I forgot my password and the reset mail never comes.",
        "How do I change my user name?",
        "My account was locked after {days} attempts.",
        "I want to merge my two user accounts.",
    ),
    "technical": (
        "The app crashes when I open the {thing}.",
        "The {thing} does not turn on any more.",
        "I get error {sum} when I update the {thing}.",
        "The {thing} does not connect to the wireless network.",
        "The screen of the {thing} flickers since {days} days.",
        "The latest update made my {thing} very slow.",
    ),
    "sales": (
        "Do you have the {thing} in blue, and what does it cost?",
        "We want to order {sum} of the {thing} for our office. Is there a discount?",
        "Which {thing} do you recommend for a small company?",
        "Can I get an offer for {sum} licences?",
        "When will the new {thing} be on sale?",
        "Is there a cheaper version of the {thing}?",
    ),
    "privacy": (
        "Delete all my personal data, please.",
        "Which data do you store about me?",
        "Do not share my address with partners.",
        "I withdraw my consent to the use of my data from {month}.",
        "Send me a copy of everything that you know about me.",
        "Who has seen the personal data of my {thing} order?",
    ),
    "careers": (
        "Do you have an open position for an engineer in {month}?",
        "I applied for a job {days} days ago and heard nothing.",
        "Where do I send my curriculum vitae?",
        "Do you offer internships in {month}?",
        "Is the vacancy in your warehouse still open?",
        "I would like to work for you as a designer.",
    ),
}

HELD_OUT: dict[str, tuple[str, ...]] = {
    "billing": (
        "You debited {sum} euros, although I had cancelled in {month}.",
        "The amount on the statement for the {thing} is wrong.",
        "My bank says that you booked the {thing} two times.",
    ),
    "shipping": (
        "It is {month} already, and the postman has not brought the {thing}.",
        "Has the {thing} left your warehouse yet?",
        "The package with the {thing} went to my neighbour's old house.",
    ),
    "returns": (
        "The {thing} is too small, may I swap it for a larger one?",
        "I do not like the {thing}. What must I do to hand it back?",
        "Did the {thing} that I mailed back to you arrive?",
    ),
    "account": (
        "The sign-in page refuses my password.",
        "Someone else has got into my profile. Please block the login.",
        "I never receive the code to sign in.",
    ),
    "technical": (
        "My {thing} freezes all the time since {month}.",
        "Installing the software for the {thing} stops with code {sum}.",
        "Bluetooth on the {thing} is broken after a restart.",
    ),
    "sales": (
        "How much is the {thing} if we buy {sum} pieces?",
        "I am interested in the {thing}. Can somebody advise me before I buy?",
        "Will the {thing} be in stock in {month}?",
    ),
    "privacy": (
        "I want to be forgotten: erase my records.",
        "Stop handing my details to advertisers.",
        "What information about me is kept, and for how long?",
    ),
    "careers": (
        "Are you hiring at the moment?",
        "What became of my application as an accountant in {month}?",
        "I finish my studies in {month} and look for a first job with you.",
    ),
}

_GAPS = {
    "thing": (
        "lamp",
        "laptop",
        "jacket",
        "printer",
        "phone",
        "chair",
        "camera",
        "router",
        "backpack",
        "kettle",
    ),
    "month": ("January", "March", "April", "June", "August", "October", "December"),
    "sum": ("12", "25", "49", "80", "130", "415"),
    "days": ("3", "5", "8", "12", "20"),
}

# Some sentences have no gap.
_GREETINGS = ("", "Hello. ", "Hi, ", "Good day. ", "Please help. ")


class Ticket(NamedTuple):
    """What a customer writes, and the queue that it belongs to."""

    text: str
    queue: str

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The request: the queues, and the ticket."""
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": self.text}]


def tickets(sentences: dict[str, tuple[str, ...]], each: int, seed: int) -> list[Ticket]:
    """`each` different tickets of every queue, spread over its sentences; the queues take turns."""
    chance = random.Random(seed)
    queues = [list(_of_queue(queue, sentences[queue], each, chance)) for queue in QUEUES]
    return [ticket for row in zip(*queues, strict=True) for ticket in row]


def _of_queue(queue: str, sentences: tuple[str, ...], each: int, chance: random.Random) -> Iterator[Ticket]:
    seen: set[str] = set()
    for sentence in itertools.cycle(sentences):
        if len(seen) == each:
            return
        filled = sentence.format(**{gap: chance.choice(words) for gap, words in _GAPS.items()})
        text = f"{chance.choice(_GREETINGS)}{filled}"
        if text not in seen:
            seen.add(text)
            yield Ticket(text, queue)
