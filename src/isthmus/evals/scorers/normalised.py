"""`normalised`: the same words, as question answering compares them."""

from __future__ import annotations

import re
import unicodedata

from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.evals.scorers.answers import best

_ARTICLES = re.compile(r"\b(a|an|the)\b")


class Normalised:
    """1 where the answer is one of the targets but for case, punctuation, articles and space."""

    binary = True

    def __init__(self, *, name: str = "normalised") -> None:
        self.name = name

    async def score(self, sample: Sample, answered: Answered) -> Score:
        """1 or 0."""
        return best(sample, answered, lambda said, target: normalised(said) == normalised(target))


def normalised(text: str) -> str:
    """The text as SQuAD's evaluation compares it: lower case, no punctuation, no articles, single spaces.

    After `normalize_answer` of evaluate-v1.1.py (Rajpurkar et al., 2016, https://arxiv.org/abs/1606.05250),
    which knows ASCII only: here compatible characters are one (NFKC), and punctuation is Unicode's.
    """
    lower = unicodedata.normalize("NFKC", text).casefold()
    bare = "".join(char for char in lower if not _is_punctuation(char))
    # What is nothing but an article or a sign is kept, or all such texts would be the same: "A", "the", "?".
    return " ".join(_ARTICLES.sub(" ", bare).split()) or lower.strip()


def _is_punctuation(char: str) -> bool:
    # SQuAD takes string.punctuation, in which are also the signs that Unicode calls symbols: $+<=>^`|~
    return unicodedata.category(char).startswith("P") or char in "$+<=>^`|~"
