"""A learned router at work: a request's words, and what is foreseen of it."""

from __future__ import annotations

from isthmus.core.foresight import Foresight, Outlook, two_digits
from isthmus.routing.learned.embedding import Embedding
from isthmus.routing.learned.file import load
from isthmus.routing.learned.header import Header, bad_router, parted
from isthmus.routing.learned.query import query_of

DIGITS = 2
"""Qualities are told to so many decimals: nobody foresees them better."""


class Predictor:
    """Foresees how good each model's answer will be, by a file of that SHA-256.

    A foresight takes about a millisecond, whatever the request's length. Raises IsthmusError (`bad_router`),
    also where the file needs vectors and `embedding` is not those.
    """

    def __init__(self, content: bytes, sha256: str, embedding: Embedding | None) -> None:
        self.header: Header = parted(content)[0]
        self._sha256 = sha256
        self._stack = load(content)
        self._embedding = embedding if self.header.embedding is not None else None
        if self.header.embedding != (self._embedding.sha256 if self._embedding else None):
            raise bad_router()
        try:
            self.foresee("a word", None, 1)
        except (ValueError, IndexError) as error:
            # Arrays that do not go together: better now than at a request.
            raise bad_router() from error

    def foresee(
        self, words: str | None, task: str | None, input: int, max_output: int | None = None
    ) -> Foresight:
        """What is foreseen of a request of these words and about `input` tokens."""
        header = self.header
        if words is None:
            qualities, supported, why = header.overall, False, "it has no words to go by"
        else:
            estimate = self._stack.estimate(query_of(words, task, self._embedding))
            qualities, supported, why = estimate.qualities, estimate.supported, estimate.why
        return Foresight(
            by=self._sha256,
            supported=supported,
            why=why,
            input=two_digits(input),
            max_output=max_output,
            outlooks=tuple(
                Outlook(model, round(quality, DIGITS), header.origin.outputs.get(model))
                for model, quality in zip(header.models, qualities, strict=True)
            ),
        )
