"""Pseudonyms: what stands for a value where a model may not see it, and the way back in the answer.

A pseudonym such as `EMAIL_K7Q2M9AB` is the kind of the value and a keyed digest of it (BLAKE2b, RFC 7693), so
that one value has one pseudonym through all of a session, and nobody without the key can make or read one. It
is made of letters, digits and underscores alone: it may stand in JSON, in code, in a URL and in a tool's
name, and no encoder rewrites it.

Nothing is kept between requests. A client sends its whole conversation each time, so the values that an
answer can speak of stand in the request that it answers; and no other request's values can be restored.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from ahocorasick_rs import AhoCorasick, MatchKind

from isthmus.core.label import Label
from isthmus.perimeter.parts import parts_of, rewritten
from isthmus.perimeter.policy import Policy
from isthmus.perimeter.restore import Restored
from isthmus.perimeter.scanner import Sighting, Sightings

ROUNDS = 5
"""So often a request is looked at again for what only shows when the rest of it is hidden: each tier of
detectors may have its turn, and what stands beside a pseudonym may first be recognised then."""

LONGEST_WORD = 20
_TOKEN_BYTES = 5


class Pseudonyms:
    """The pseudonyms of one session. `key` is a secret; sessions are told apart by `session`."""

    def __init__(self, key: bytes, session: bytes) -> None:
        self._key = hashlib.blake2b(session, key=key[: hashlib.blake2b.MAX_KEY_SIZE]).digest()

    def of(self, kind: str, value: str) -> str:
        """What stands for this value: the last word of its kind, and eight characters of base32."""
        word = re.sub(r"[^A-Z]+", "_", kind.rpartition(".")[2].upper()).strip("_")[:LONGEST_WORD]
        raw = f"{kind}\0{value}".encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(raw, key=self._key, digest_size=_TOKEN_BYTES).digest()
        return f"{word or 'HIDDEN'}_{base64.b32encode(digest).decode()}"


class Hidden(NamedTuple):
    """A request without the values that may not be seen: its `body` as JSON, its `label`, the `values` by
    their pseudonyms, and what is seen of what is `left`."""

    label: Label
    body: bytes
    values: dict[str, str]
    left: Sightings


def session_of(value: Any) -> bytes:
    """What tells a conversation from others of the same caller: the words of its first turn of a user.

    It is the same in every request of a conversation. What has no turns, such as texts to embed, has no
    session of its own: its pseudonyms are those of the caller.
    """
    turns = (value.get("messages") or value.get("input")) if isinstance(value, dict) else None
    for turn in turns if isinstance(turns, list) else ():
        if isinstance(turn, dict) and turn.get("role") == "user":
            content = turn.get("content")
            words = content if isinstance(content, list) else [content]
            said = [word.get("text") if isinstance(word, dict) else word for word in words]
            return json.dumps([it for it in said if isinstance(it, str)]).encode()
    return b""


Heed: TypeAlias = "Callable[[Sightings], Sightings]"
"""Takes away from what was seen what is not to count."""


def hide(
    value: Any,
    seen: Sightings,
    look: Callable[[Any, Heed], Sightings],
    policy: Policy,
    floors: Iterable[Label],
    pseudonyms: Pseudonyms,
) -> Hidden | None:
    """The request, in which this was `seen`, with pseudonyms for what the policy lets go out so; None where
    that hides nothing.

    What is left is looked at like any other request, and labelled by what is found then: a value that could
    not be replaced (a number, a text cut in two) keeps the label up.
    """
    if seen.blind:
        return None
    values: dict[str, str] = {}
    hidden, left = value, seen
    for _ in range(ROUNDS):
        found = dict(_values(hidden, policy.hideable(left), pseudonyms, Restored(values)))
        if found.keys() <= values.keys():
            break
        values |= found
        hidden = _replaced(value, values)
        left = look(hidden, _Own(hidden, values).without)
    if not values:
        return None
    return Hidden(policy.label(left, floors), json.dumps(hidden).encode(), values, left)


def _values(
    value: Any, found: Iterable[Sighting], pseudonyms: Pseudonyms, known: Restored
) -> Iterator[tuple[str, str]]:
    """The values that were found, by their pseudonyms; what overlaps is one value."""
    spans: dict[str, list[tuple[int, int, str]]] = {}
    for sighting in found:
        finding = sighting.finding
        spans.setdefault(sighting.where, []).append((finding.start, finding.end, finding.kind))
    # A seam is no text of its own: what is cut in two there cannot be replaced.
    for where, text in _texts(value):
        for start, end, kind in _merged(spans.get(where, [])):
            original = known.text(text[start:end])
            yield pseudonyms.of(kind, original), original


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    for part in parts_of(value).texts:
        # Lone surrogates must go: an automaton takes characters only.
        yield part.where, _as_characters(part.text[part.before :])


def _as_characters(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _merged(places: list[tuple[int, int, str]]) -> Iterator[tuple[int, int, str]]:
    """Spans that do not overlap; a merged one has the kind of the longest in it."""
    merged: list[tuple[int, int, str]] = []
    longest = 0
    for start, end, kind in sorted(places):
        if merged and start < merged[-1][1]:
            begin, reached, known = merged[-1]
            merged[-1] = (begin, max(end, reached), kind if end - start > longest else known)
            longest = max(longest, end - start)
        else:
            merged.append((start, end, kind))
            longest = end - start
    yield from merged


def _replaced(value: Any, values: Mapping[str, str]) -> Any:
    """The request with each value, wherever it stands by itself, replaced by its pseudonym."""
    names, originals = list(values), list(values.values())
    automaton = AhoCorasick(originals, matchkind=MatchKind.LeftmostLongest)

    def rewrite(where: str, text: str) -> str:
        if where == "model":
            # The route's name; it is said to nobody.
            return text
        pieces: list[str] = []
        at = 0
        for index, start, end in automaton.find_matches_as_indexes(_as_characters(text)):
            if _stands_alone(text, start, end):
                pieces += (text[at:start], names[index])
                at = end
        return "".join((*pieces, text[at:]))

    return rewritten(value, rewrite)


def _stands_alone(text: str, start: int, end: int) -> bool:
    """No word or number goes on beyond the ends."""
    return not (
        _goes_on(text[start], text[start - 1 : start]) or _goes_on(text[end - 1], text[end : end + 1])
    )


def _goes_on(edge: str, beyond: str) -> bool:
    # Scripts without upper and lower case are, with few exceptions, those without spaces between words.
    cased = edge.lower() != edge.upper() and beyond.lower() != beyond.upper()
    return cased or (edge.isdigit() and beyond.isdigit())


class _Own:
    """Knows our own pseudonyms in a request from what else stands there."""

    def __init__(self, value: Any, values: Mapping[str, str]) -> None:
        automaton = AhoCorasick(list(values), matchkind=MatchKind.LeftmostLongest)
        self._spans: dict[str, list[tuple[int, int]]] = {}
        for where, text in _texts(value):
            spans = [(start, end) for _, start, end in automaton.find_matches_as_indexes(text)]
            # Two texts of one name are not told apart, so neither is trusted.
            self._spans[where] = [] if where in self._spans else spans

    def without(self, seen: Sightings) -> Sightings:
        """What was seen, without what a detector takes a pseudonym for."""
        return Sightings(tuple(it for it in seen.found if not self._holds(it)), seen.blind)

    def _holds(self, sighting: Sighting) -> bool:
        start, end = sighting.finding.start, sighting.finding.end
        return any(begin <= start and end <= stop for begin, stop in self._spans.get(sighting.where, ()))
