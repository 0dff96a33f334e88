"""Secrets: keys, tokens and passwords, by rules in the format of gitleaks.

The rules of our own are `credentials.toml` beside this file; an operator may give others. Source of the
format: gitleaks, README, "Configuration" (version 8).
"""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import resources
from typing import Literal

import msgspec
import re2
from ahocorasick_rs import AhoCorasick

from isthmus.core.label import Finding
from isthmus.perimeter import shapes
from isthmus.perimeter.lowercase import lowered

_SURE = 0.95
_UNSURE = 0.7
"""How sure a rule is that tells secrets from other text by their entropy."""


class Allowlist(msgspec.Struct, frozen=True, rename="camel"):
    """What is no secret although a rule says so. Paths and commits are not known here.

    `condition` AND wants everything that is named to hold; where that is a path or a commit, it never does.
    """

    regexes: tuple[str, ...] = ()
    stopwords: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    commits: tuple[str, ...] = ()
    regex_target: Literal["secret", "match", "line", ""] = "secret"
    condition: Literal["OR", "AND", "or", "and", "||", "&&", ""] = "OR"


class Rule(msgspec.Struct, frozen=True, rename="camel"):
    """A secret's form. It is searched for where one of `keywords` stands in the text, in whatever case.

    `secret_group` is the group of `regex` that is the secret; 0 means the first one that is not empty, or
    all. `entropy` is the least that the secret has, in bits a character.
    """

    id: str
    regex: str = ""
    keywords: tuple[str, ...] = ()
    entropy: float = 0.0
    secret_group: int = 0
    allowlists: tuple[Allowlist, ...] = ()
    allowlist: Allowlist | None = None


class Rules(msgspec.Struct, frozen=True):
    """A file of rules; what it says of other things is read over."""

    rules: tuple[Rule, ...] = ()
    allowlists: tuple[Allowlist, ...] = ()
    allowlist: Allowlist | None = None


class Secrets:
    """Finds secrets by rules. A finding's kind is `secret.` and the rule's id, its span the secret's.

    Raises ValueError for an expression that RE2 does not take; it names the rule.
    """

    name = "secrets"

    def __init__(self, rules: Rules) -> None:
        everywhere = [_Allowed(allowed) for allowed in _both(rules.allowlists, rules.allowlist)]
        self._rules = [_Searched(rule, everywhere) for rule in rules.rules if rule.regex]
        keywords: dict[str, list[int]] = {}
        for number, rule in enumerate(self._rules):
            for keyword in rule.keywords:
                keywords.setdefault(keyword, []).append(number)
        self._always = {number for number, rule in enumerate(self._rules) if not rule.keywords}
        self._of_keyword = list(keywords.values())
        self._keywords = AhoCorasick(list(keywords))

    def find(self, text: str) -> list[Finding]:
        """The findings in order of their start."""
        awake = self._awake(text)
        if not awake:
            return []
        data = shapes.searchable(text)
        found = {
            (finding.start, finding.end): finding
            for number in sorted(awake, reverse=True)
            for finding in self._rules[number].find(data, text)
        }
        return [found[span] for span in sorted(found)]

    def _awake(self, text: str) -> set[int]:
        """The rules of which a keyword stands in the text."""
        hits = self._keywords.find_matches_as_indexes(lowered(text), overlapping=True)
        return self._always.union(*(self._of_keyword[which] for which in {hit[0] for hit in hits}))


class _Searched:
    """A rule that is ready to be searched for."""

    def __init__(self, rule: Rule, everywhere: Sequence[_Allowed]) -> None:
        self.keywords = tuple(keyword.lower() for keyword in rule.keywords)
        self._kind = f"secret.{rule.id}"
        self._expression = _compiled(rule.regex, f"rule {rule.id}")
        self._group = rule.secret_group
        self._entropy = rule.entropy
        own = [_Allowed(allowed, rule.id) for allowed in _both(rule.allowlists, rule.allowlist)]
        self._allowed = [*everywhere, *own]

    def find(self, data: bytes, text: str) -> Iterator[Finding]:
        for match in self._expression.finditer(data):
            start, end = self._secret(match)
            secret = text[start:end]
            if not secret or (self._entropy and entropy(secret) <= self._entropy):
                continue
            if not any(allowed.permits(data, match.span(), (start, end)) for allowed in self._allowed):
                yield Finding(self._kind, start, end, Secrets.name, _UNSURE if self._entropy else _SURE)

    def _secret(self, match: shapes.Match) -> tuple[int, int]:
        if self._group:
            start, end = match.span(self._group)
            return start, end
        groups = (match.span(group) for group in range(1, self._expression.groups + 1))
        return next(((start, end) for start, end in groups if end > start), match.span())


class _Allowed:
    """An allowlist that is ready to be asked."""

    def __init__(self, allowed: Allowlist, rule: str = "") -> None:
        where = f"the allowlist of rule {rule}" if rule else "the allowlist"
        self._expressions = [_compiled(regex, where) for regex in allowed.regexes]
        self._stopwords = AhoCorasick([word.lower() for word in allowed.stopwords])
        self._target = allowed.regex_target or "secret"
        self._all = allowed.condition.upper() in ("AND", "&&")
        self._never = self._all and bool(allowed.paths or allowed.commits)
        self._criteria = bool(allowed.regexes) + bool(allowed.stopwords)

    def permits(self, data: bytes, match: tuple[int, int], secret: tuple[int, int]) -> bool:
        if self._never:
            return False
        said = self._is_known(data, match, secret) + self._is_word(data[secret[0] : secret[1]])
        return said == self._criteria > 0 if self._all else said > 0

    def _is_known(self, data: bytes, match: tuple[int, int], secret: tuple[int, int]) -> bool:
        if not self._expressions:
            return False
        start, end = {"secret": secret, "match": match, "line": _line(data, *match)}[self._target]
        target = data[start:end]
        return any(expression.search(target) for expression in self._expressions)

    def _is_word(self, secret: bytes) -> bool:
        return bool(self._stopwords.find_matches_as_indexes(secret.decode("latin-1").lower()))


def load_gitleaks(data: bytes) -> Secrets:
    """The detector that a gitleaks.toml describes.

    Of it the rules' expressions, keywords, entropy, secret groups and allowlists are used. Paths and commits
    do not exist here: a rule of paths alone is left out. Raises ValueError for what is no such file.
    """
    try:
        return Secrets(msgspec.convert(tomllib.loads(data.decode("utf-8")), Rules))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"This is no file of gitleaks rules: {error}") from None


@cache
def credentials() -> Secrets:
    """The detector with the rules of our own."""
    return load_gitleaks(resources.files(__package__).joinpath("credentials.toml").read_bytes())


def entropy(text: str) -> float:
    """Shannon's entropy of the characters of `text`, in bits a character; 0 where it is empty."""
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)


def _both(many: Sequence[Allowlist], one: Allowlist | None) -> Iterable[Allowlist]:
    """The present spelling and the older one, of a single allowlist."""
    return many if one is None else (*many, one)


def _compiled(regex: str, where: str) -> shapes.Expression:
    try:
        return shapes.compiled(regex)
    except (re2.error, UnicodeEncodeError):
        raise ValueError(f"The regular expression of {where} is none that RE2 takes.") from None


def _line(data: bytes, start: int, end: int) -> tuple[int, int]:
    """The line or lines that hold `start:end`."""
    after = data.find(b"\n", end)
    return data.rfind(b"\n", 0, start) + 1, after if after >= 0 else len(data)
