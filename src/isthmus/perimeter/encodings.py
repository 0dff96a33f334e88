"""Text in what looks like base64, hexadecimal, percent-encoding or escapes, decoded once."""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Callable, Iterator
from urllib.parse import unquote

import msgspec

from isthmus.perimeter import shapes

_WORD = r"[A-Za-z0-9._~+@:/?=\-]*"
_REST = r"[A-Za-z0-9._~+@:/?=&\-]*"

_LEAST_PLAIN = 0.85
"""The share of letters, digits and common marks from which on decoded bytes count as text."""

_SHORTEST_RUN = 960
# Fewer different characters make a line of dashes, or a genome, and no encoding.
_LEAST_LETTERS = 16

_ROT13 = str.maketrans(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
    "NOPQRSTUVWXYZABCDEFGHIJKLMnopqrstuvwxyzabcdefghijklm",
)
_TAGS = re.compile("[\U000e0020-\U000e007e]{4,}")
_REVERSED = re.compile("\u202e([^\u202c\u2069\n]{4,})")
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2}))")
_PLAIN = re.compile(
    "[\t\n\r -~\u00a0-\u02ff\u0370-\u1fff\u2010-\u206f\u20a0-\u20bf\u3040-\u9fff\uac00-\ud7a3\uff01-\uff5e]"
)


class Decoded(msgspec.Struct, frozen=True):
    """The text that `start:end` of another one encodes."""

    text: str
    start: int
    end: int


def decoded(text: str) -> Iterator[Decoded]:
    """What is encoded in a normalised `text`, where it is text; encodings within encodings are not followed.

    Together it is at most as long as `text` for each encoding that is known.
    """
    data = shapes.searchable(text)
    for which in _ENCODINGS.present(data):
        decode, at = _DECODERS[which], 0
        while span := _ENCODINGS.next(which, data, at):
            at = span[1]
            plain = decode(text[span[0] : span[1]])
            if plain:
                yield Decoded(plain, *span)


def is_sealed(text: str) -> bool:
    """True where a long run of base64 or hexadecimal in it encodes something else than text: a picture, say,
    an archive, or what was encrypted.
    """
    return len(text) >= _SHORTEST_RUN and any(map(_is_no_text, _LONG_RUN.findall(text)))


def _is_no_text(run: str) -> bool:
    word = "".join(run.split())
    return (
        len(set(word)) >= _LEAST_LETTERS and not _base64(word) and not (_HEX.fullmatch(word) and _hex(word))
    )


def hidden(text: str) -> Iterator[Decoded]:
    """What invisible characters mean: ASCII written in Unicode's tags, and text whose display is reversed."""
    for match in _TAGS.finditer(text):
        yield Decoded("".join(chr(ord(tag) - 0xE0000) for tag in match[0]), *match.span())
    for match in _REVERSED.finditer(text):
        yield Decoded(match[1][::-1], *match.span())


def _base64(word: str) -> str:
    letters = re.sub(r"[\s=]", "", word).translate({ord("-"): "+", ord("_"): "/"})
    if len(letters) % 4 == 1:
        return ""
    return _text(base64.b64decode(letters + "=" * (-len(letters) % 4)))


def _hex(word: str) -> str:
    digits = re.sub(r"0x|\\x|[\s:,]", "", word)
    return _text(binascii.unhexlify(digits)) if len(digits) % 2 == 0 else ""


def _escapes(word: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1] or match[2], 16)), word)


def _rot13(text: str) -> str:
    return text.translate(_ROT13)


def _text(raw: bytes) -> str:
    """`raw` as text, or "" where it is something else."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return text if len(_PLAIN.findall(text)) >= _LEAST_PLAIN * len(text) else ""


# In one line, or in as many as mail breaks it into.
_LONG_RUN = re.compile(
    r"(?<![A-Za-z0-9+/_=-])(?:[A-Za-z0-9+/_=-]{1024,}|(?:[A-Za-z0-9+/_=-]{60,}\r?\n){16,})"
)
_HEX = re.compile("[0-9A-Fa-f]+")

_DECODERS: tuple[Callable[[str], str], ...] = (_base64, _hex, unquote, _escapes, html.unescape, _rot13)

_ENCODINGS = shapes.Shapes(
    [
        r"(?:[A-Za-z0-9+/]{60,76}\r?\n)*[A-Za-z0-9+/_\-]{16,}={0,2}",
        r"(?:0x)?\b[0-9A-Fa-f]{2}(?:[ :,]?(?:0x|\\x)?[0-9A-Fa-f]{2}){7,}\b",
        rf"{_REST}(?:%[0-9A-Fa-f]{{2}}{_REST})+",
        rf"{_REST}(?:\\(?:u[0-9A-Fa-f]{{4}}|x[0-9A-Fa-f]{{2}}){_REST})+",
        rf"{_WORD}(?:&#(?:\d{{2,7}}|[xX][0-9A-Fa-f]{{2,6}});{_WORD})+",
        # Digits do not turn, and an address keeps its form: only the words that mark a secret are looked for.
        r"\S*(?:\b(?:NXVN|NFVN|tuc_|tub_|tvguho_cng_|tycng-|fx-|kbk[ocne]-)|-----ORTVA )\S{6,}(?: \S+)*",
    ]
)
