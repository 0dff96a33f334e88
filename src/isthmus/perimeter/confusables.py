"""Letters of other scripts that look like Latin ones, and marks that look like ASCII's.

A small table of our own; Unicode Technical Standard 39 names thousands more.
"""

from __future__ import annotations

import re

_CYRILLIC = ("АВЕЅІЈКМНОРСТУХаеорсухіјѕһԁԛԝѵԍ", "ABESIJKMHOPCTYXaeopcyxijshdqwvg")
_GREEK = ("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧοανικρτυχϲ", "ABEZHIKMNOPTYXoavikptuxc")
_OTHER = ("ıȷɡɑոօսԼⅼℓ", "ijganouLll")
_MARKS = ("‐‑‒–—―−‘’‚′“”„⁄∕․·•", "-------''''\"\"\"//...")

_LETTERS = {
    ord(strange): plain
    for table in (_CYRILLIC, _GREEK, _OTHER)
    for strange, plain in zip(*table, strict=True)
}
_PUNCTUATION = dict(zip(*_MARKS, strict=True))
_LOOK_ALIKE = "".join(map(chr, _LETTERS))
_ANY_LETTER = re.compile(f"[{_LOOK_ALIKE}]")
_ANY_PUNCTUATION = re.compile(f"[{''.join(_PUNCTUATION)}]")
# A word that has such a letter; most words of most texts have none.
_WORD = re.compile(rf"(?<!\S)[^\s{_LOOK_ALIKE}]*[{_LOOK_ALIKE}]\S*")
_ASCII = re.compile(r"[0-9A-Za-z]")


def folded(text: str) -> str:
    """`text` as it looks in ASCII, of the same length.

    A letter is folded only in a word that has ASCII letters or digits too: what is written in Cyrillic or
    Greek throughout stays as it is.
    """
    text = _ANY_PUNCTUATION.sub(lambda match: _PUNCTUATION[match[0]], text)
    return _WORD.sub(_folded_word, text) if _ANY_LETTER.search(text) else text


def _folded_word(match: re.Match[str]) -> str:
    word = match[0]
    return word.translate(_LETTERS) if _ASCII.search(word) else word
