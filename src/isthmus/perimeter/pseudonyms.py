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
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, pairwise
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from ahocorasick_rs import AhoCorasick, MatchKind

from isthmus.core.label import Finding, Label
from isthmus.perimeter.parts import parts_of, rewritten
from isthmus.perimeter.policy import Policy
from isthmus.perimeter.restore import Restored
from isthmus.perimeter.scanner import Seam, Sighting, Sightings, said, seams

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

    It is the same in every request of a conversation; a lone text is its first turn.
    """
    turns = (value.get("messages") or value.get("input")) if isinstance(value, dict) else None
    if isinstance(turns, str):
        turns = [{"role": "user", "content": turns}]
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
    not be replaced (a number, a text cut in two) keeps the label up. So does whatever may not be hidden, even
    where a pseudonym in its midst keeps it from being found again.
    """
    if seen.blind:
        return None
    values: dict[str, str] = {}
    kept = Sightings()
    hidden, left = value, seen
    for _ in range(ROUNDS):
        kept = kept.join(Sightings(tuple(it for it in left.found if not policy.hides(it.finding.kind))))
        found = dict(_values(hidden, policy.hideable(left), pseudonyms, Restored(values)))
        if found.keys() <= values.keys():
            break
        values |= found
        hidden = _replaced(value, values)
        left = look(hidden, _Own(hidden, values).without)
    if not values:
        return None
    left = left.join(kept)
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
        places = list(_merged(spans.get(where, [])))
        in_json = bool(places) and _is_json(text)
        for start, end, kind in places:
            original = known.text(text[start:end])
            if in_json:
                original = _unescaped(original)
            yield pseudonyms.of(kind, original), original


def _is_json(text: str) -> bool:
    """True for a text that is JSON itself, such as the arguments or the result of a tool."""
    try:
        return text.lstrip()[:1] in ("{", "[") and isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _unescaped(text: str) -> str:
    """What a piece of a string of JSON says."""
    try:
        said = json.loads(f'"{text}"', strict=False) if "\\" in text else text
    except ValueError:
        return text
    return str(said)


def _spellings(value: str) -> set[str]:
    """How a value may stand in a text: as it is, and escaped in JSON that is a text, once or twice."""
    once = {json.dumps(value, ensure_ascii=ascii)[1:-1] for ascii in (True, False)}
    return {value} | once | {json.dumps(it)[1:-1] for it in once}


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    for part in parts_of(value).texts:
        # Lone surrogates must go: an automaton takes characters only.
        yield part.where, _as_characters(said(part))


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
    spelled = {_as_characters(it): name for name, value in values.items() for it in _spellings(value)}
    spelled |= {value: name for name, value in values.items()}
    names = list(spelled.values())
    automaton = AhoCorasick(list(spelled), matchkind=MatchKind.LeftmostLongest)

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
        self._texts: dict[str, list[_Marked]] = {}
        texts = parts_of(value).texts
        for it in chain((Seam(part.where, said(part), ()) for part in texts), seams(texts)):
            spans = automaton.find_matches_as_indexes(_as_characters(it.text))
            marked = _Marked(it, tuple((start, end) for _, start, end in spans))
            self._texts.setdefault(it.where, []).append(marked)

    def without(self, seen: Sightings) -> Sightings:
        """What was seen, without what a detector takes a pseudonym for."""
        return Sightings(tuple(it for it in seen.found if not self._is_ours(it)), seen.blind)

    def _is_ours(self, sighting: Sighting) -> bool:
        # Texts of one name are not told apart: it must be ours in each.
        texts = self._texts.get(sighting.where, [])
        return bool(texts) and all(text.is_ours(sighting.finding) for text in texts)


class _Marked(NamedTuple):
    """A text, or several that meet, with the `spans` of our own pseudonyms there."""

    text: Seam
    spans: tuple[tuple[int, int], ...]

    def is_ours(self, finding: Finding) -> bool:
        """True for a finding in a pseudonym; and for one over a cut with pseudonyms on all sides but one.

        What is not ours lies in a single text then, and that is looked at by itself.
        """
        cuts = [cut for cut in self.text.cuts if finding.start < cut < finding.end]
        sides = list(pairwise((finding.start, *cuts, finding.end)))
        strange = sum(not self._holds(start, end) for start, end in sides)
        return self._holds(finding.start, finding.end) or strange < min(len(sides), 2)

    def _holds(self, start: int, end: int) -> bool:
        # They are in order and apart: only the last that begins so early can hold it.
        last = bisect_right(self.spans, start, key=itemgetter(0))
        return last > 0 and end <= self.spans[last - 1][1]
