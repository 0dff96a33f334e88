"""Whether what is learned has touched what is tested: the same, nearly the same, or a passage of it. Pure.

A passage is thirteen words in a row (T. Brown et al., "Language Models are Few-Shot Learners", 2020,
arXiv:2005.14165, appendix C), and as there, what many rows have in common is no passage of a test but a form.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.evaluation import Sample
from isthmus.distill.provenance import asking_of
from isthmus.evals.datasets.near_duplicates import groups_of, text_of

PASSAGE = 13
"""So many words in a row, and a row has read the test."""

COMMON = 10
"""In more rows than these, a passage is a form that all are written in."""

COMMON_SHARE = 0.1
"""In more of the tests than this share, it is such a form, too."""

_WORD = re.compile(r"\w+")


def touched(learned: Sequence[Sample], tests: Sequence[Sample]) -> dict[int, str]:
    """The places of the learned samples that touch a test, with how: `same`, `near` or `passage`."""
    if not learned or not tests:
        return {}
    found = dict.fromkeys(_with_passages(learned, tests), "passage")
    found |= dict.fromkeys(_near(learned, tests), "near")
    asked = {asking_of(it) for it in tests}
    found |= {place: "same" for place, it in enumerate(learned) if asking_of(it) in asked}
    return dict(sorted(found.items()))


def require_untouched(learned: Sequence[Sample], tests: Sequence[Sample], where: str) -> None:
    """Raises IsthmusError (`test_touched_training`) where anything that is learned touches a test."""
    found = touched(learned, tests)
    if not found:
        return
    counts = ", ".join(f"{how} {count:,}" for how, count in Counter(found.values()).most_common())
    shown = ", ".join(learned[place].id for place in list(found)[:5])
    raise IsthmusError(
        Fault.INVALID_REQUEST,
        f"{len(found):,} of the {len(learned):,} samples of {where} touch the held-out ones: {counts}. "
        f"The first are {shown}. What was learned by heart proves nothing.",
        code="test_touched_training",
        hint="Judge by other samples; or collect anew with these as `held_out`, and train anew.",
    )


def _near(learned: Sequence[Sample], tests: Sequence[Sample]) -> Iterator[int]:
    groups = groups_of([*learned, *tests])
    of_tests = set(groups[len(learned) :])
    return (place for place in range(len(learned)) if groups[place] in of_tests)


def _with_passages(learned: Sequence[Sample], tests: Sequence[Sample]) -> list[int]:
    of_tests = Counter(passage for it in tests for passage in _passages(it))
    most = max(1, int(COMMON_SHARE * len(tests)))
    wanted = {passage for passage, count in of_tests.items() if count <= most}
    read = [wanted.intersection(_passages(it)) for it in learned]
    common = Counter(passage for passages in read for passage in passages)
    return [place for place, it in enumerate(read) if any(common[passage] <= COMMON for passage in it)]


def _passages(sample: Sample) -> set[int]:
    """All passages of a sample, of what it asks and of what it wants, by their hashes."""
    texts = (text_of(sample), *sample.target)
    return {passage for text in texts for passage in _of_text(text)}


def _of_text(text: str) -> Iterator[int]:
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return (hash(tuple(words[at : at + PASSAGE])) for at in range(len(words) - PASSAGE + 1))
