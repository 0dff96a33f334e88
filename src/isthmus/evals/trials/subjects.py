"""Who is counted in an experiment, once each, in bounded memory. Pure."""

from __future__ import annotations

import hashlib

MOST_SUBJECTS = 50_000
"""So many are remembered of each experiment and measure; of more, a sample."""

_ALL = 2**64


class Subjects:
    """Tells whose first value this is.

    A sticky split draws an arm for a subject (a key or a user), and not for each of its requests: so each
    subject tells one thing, by its first request, however many it sends.

    Whom it has seen it knows by digests. Where these are too many, it halves the numbers that count, and
    forgets those whose digest is above for good: they count no more. So nobody counts twice, and who counts
    is drawn without a look at arms or values, by a digest that has nothing to do with the one that deals the
    arms.
    """

    def __init__(self, most: int = MOST_SUBJECTS) -> None:
        self._most = most
        self._below = _ALL
        self._known: set[int] = set()

    def __len__(self) -> int:
        return len(self._known)

    def first(self, subject: str | None) -> bool:
        """True where this is the subject's first value; always where none is known."""
        if subject is None:
            return True
        digest = _digest(subject)
        if digest >= self._below or digest in self._known:
            return False
        self._known.add(digest)
        while len(self._known) > self._most:
            self._below //= 2
            self._known = {it for it in self._known if it < self._below}
        return digest < self._below


def _digest(subject: str) -> int:
    encoded = subject.encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8, person=b"counted").digest())
