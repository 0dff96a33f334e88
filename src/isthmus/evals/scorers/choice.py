"""`choice`: which option of a multiple-choice question an answer chooses.

An option counts only where the answer says that it is chosen: after "answer" ("The answer is (B)",
"Answer: B", `\\boxed{B}`), or alone on the first or the last line, by its letter or by its text. Nothing is
taken from a letter or an option that is merely mentioned, so one that rambles scores 0, not one in four.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.evals.scorers.answers import text_of, unscorable

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

LONGEST = 1_000
"""So many characters are looked at of what may be an option's text."""

_MARKUP = re.compile(r"[*_`$\"“”]+|\\(?:text|textbf|mathrm|mathbf)\b")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_IS = r"(?:\s+(?:is|would\s+be|should\s+be|must\s+be)\b\s*:?|\s*[:=>])"
_STATED = re.compile(
    rf"(?<!/)\b(?:answer|(?:correct|right|best)\s+(?:one|option|choice)){_IS}\s*(?:(?:option|choice)\s+)?([^\n<]+)"
    r"|(?<!or\s)[\[(]?\b([A-Z])[\])]?\s+is\s+the\s+(?:correct|right|best)\s+(?:answer|option|choice)\b",
    re.IGNORECASE,
)
_DENIED = re.compile(r"(?:\bnot|n['’]t|\bnever)\s+(?:\w+\s+){0,3}\Z", re.IGNORECASE)
_LETTER = re.compile(
    r"[\s\[({]*([A-Za-z])(?![\w'’])(\s*[\])}]+|\s*[.:,;]+(?=\s|\Z)|\s+[-–—](?=\s))?\s*(.*)", re.DOTALL
)
_OTHERS = re.compile(r"(?:(?:and|or)\b(?!\s+(?:not|so)\b)|[/&,])", re.IGNORECASE)
_REASON = re.compile(r"(?:because|since|as|for|which|due|so|and)\b", re.IGNORECASE)
_CLAUSE = re.compile(r"\s+(?:because|since)\b|[.,;:](?=\s|\Z)|\s+\(")


class Choice:
    """1 where the answer chooses a right option, by its letter or its text; a mere mention is none."""

    binary = True

    def __init__(self, *, name: str = "choice") -> None:
        self.name = name

    async def score(self, sample: Sample, answered: Answered) -> Score:
        """1 or 0; `said` is the letter that was chosen, None where none can be told."""
        if missing := unscorable(sample, answered):
            return missing
        right = {letter for target in sample.target if (letter := _letter_of(target, sample.choices))}
        if not right:
            return Score(value=None, why="the target is neither a letter nor one of the choices")
        letter = chosen(text_of(answered), sample.choices)
        why = "no option can be told from the answer" if letter is None else None
        return Score(value=float(letter in right), said=letter, why=why)


def chosen(text: str, choices: Sequence[str] = ()) -> str | None:
    """The letter of the option that a text chooses; None where it chooses none, or more than one."""
    if boxed := _BOXED.findall(text):
        return _option(_MARKUP.sub("", boxed[-1]), choices)
    plain = _MARKUP.sub("", text)
    if stated := list(_statements(plain)):
        # Who thinks aloud may come to another answer: the last one counts.
        return _option(stated[-1], choices)
    lines = [line for line in plain.splitlines() if line.strip()]
    found = {_option(line, choices, alone=True) for line in (*lines[:1], *lines[-1:])} - {None}
    return found.pop() if len(found) == 1 else None


def _statements(text: str) -> Iterator[str]:
    """What stands after "the answer is" and its like, in order."""
    for match in _STATED.finditer(text):
        if not _DENIED.search(text, max(0, match.start() - 80), match.start()):
            yield match[1] or match[2]


def _option(words: str, choices: Sequence[str], *, alone: bool = False) -> str | None:
    """The letter of the option that the words begin with, or, if they must stand `alone`, that they are."""
    words = words[:LONGEST]
    match = _LETTER.match(words)
    if match and match[1].upper() in LETTERS[: len(choices) or len(LETTERS)]:
        letter, closed, rest = match[1].upper(), match[2], match[3]
        if not rest.strip(" .!)]}"):
            return letter
        return _by_text(words, choices) or _of_letter(letter, match[1], closed, rest, choices, alone)
    return _by_text(words, choices, clauses=not alone)


def _of_letter(
    letter: str, said: str, closed: str | None, rest: str, choices: Sequence[str], alone: bool
) -> str | None:
    """The letter, where what follows it, and the bracket or point that may have `closed` it, let it stand."""
    if choices and _same(rest, choices[LETTERS.index(letter)]):
        return letter
    if alone or _OTHERS.match(rest) or _by_text(rest, choices, clauses=True):
        return None
    if closed:
        # "B, C" are two; "B. A is wrong" is one.
        return None if closed.strip() in {",", ";"} and _LETTER.match(rest) else letter
    # "A good question": a letter that is a word as well needs a reason behind it.
    may_be_a_word = said in "AI" or not said.isupper()
    return letter if _REASON.match(rest) or not may_be_a_word else None


def _by_text(words: str, choices: Sequence[str], *, clauses: bool = False) -> str | None:
    """The letter of the one option whose text the words are, or with `clauses` begin with."""
    tries = [words, *(words[: it.start()] for it in _CLAUSE.finditer(words))] if clauses else [words]
    for words in tries:
        same = [LETTERS[at] for at, choice in enumerate(choices[: len(LETTERS)]) if _same(words, choice)]
        if len(same) == 1:
            return same[0]
    return None


def _same(said: str, choice: str) -> bool:
    return _bare(said) == _bare(choice)


def _bare(text: str) -> str:
    """The text without case, markup and what stands around its words: "-3" and "3.5" keep what they are."""
    words = _MARKUP.sub("", unicodedata.normalize("NFKC", text)).casefold().replace("\u2212", "-").split()
    return " ".join(bare for word in words if (bare := word.strip(".,;:!?()[]{}'"))) or text.strip()


def _letter_of(target: str, choices: Sequence[str]) -> str | None:
    """The letter that a target is, or that stands before the choice that it is."""
    letter = target.strip().strip("().").upper()
    if len(letter) == 1 and letter in LETTERS[: len(choices) or len(LETTERS)]:
        return letter
    return _by_text(target, choices)
