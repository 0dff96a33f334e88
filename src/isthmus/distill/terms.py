"""Whether the outputs of a model may teach another one: what contracts and licences say, as data.

The key is who serves the model, by which surface, and the day of the document: GLM by its makers' API may not
teach, and the same weights on one's own machines may. What is not known is refused. Not legal advice.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from isthmus.config.load import load_as
from isthmus.core.portfolio import Model, Provider

Verdict: TypeAlias = Literal["allow", "review", "forbid_competing", "forbid"]
"""What a document says of teaching: in rising order of strictness."""

WEIGHTS = "weights"
"""Stands for the provider where a licence governs, and no contract: the surface is the licence then."""

TABLE = Path(__file__).with_name("terms.yaml")
"""The documents that are known."""

_STRICTNESS: tuple[Verdict, ...] = ("allow", "review", "forbid_competing", "forbid")


class Clause(msgspec.Struct, frozen=True, kw_only=True):
    """What one document says of teaching by outputs.

    `provider` and `surface` are the key. `document` is its title. `dated` is the day from which on it counts;
    a licence has none. `verdict` is what it says, and `says` that in words. `authorisable` tells of what is
    forbidden that the document itself allows it to whom it is granted. `duties` are what whoever teaches so
    has to do. `source` is where it stands, `seen` the month in which the clause was last seen in a public
    copy, and `certainty` says where only others have told of it.
    """

    provider: str
    surface: str
    document: str
    dated: dt.date | None = None
    verdict: Verdict
    authorisable: bool = False
    says: str
    duties: tuple[str, ...] = ()
    source: str
    seen: dt.date
    certainty: Literal["copy", "second hand"] = "copy"

    @property
    def key(self) -> str:
        """What it is about: `zai/api`, `weights/MIT`."""
        return f"{self.provider}/{self.surface}"


class Table(msgspec.Struct, frozen=True):
    """All that is known. `rules` are the clauses, in any order."""

    rules: tuple[Clause, ...]


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """Why somebody may teach by outputs all the same: an agreement, a counsel's opinion.

    `terms` is what it is about, such as `anthropic/api`. `ground` is the agreement in words, with its date.
    `by` is who answers for it. `until` is the last day on which it counts.
    """

    terms: str
    ground: str
    by: str
    until: dt.date


class Ruling(msgspec.Struct, frozen=True, kw_only=True):
    """Whether outputs may teach, and by which document; `ground` is what lifts its ban.

    `verdict` is `unknown` where no document is known for that day. `why` says it in words.
    """

    may_teach: bool
    terms: str
    verdict: Verdict | Literal["unknown"]
    why: str
    document: str | None = None
    dated: dt.date | None = None
    duties: tuple[str, ...] = ()
    ground: Ground | None = None


@cache
def known_terms() -> tuple[Clause, ...]:
    """The clauses of the table that comes with the package."""
    return load_as(TABLE, Table).rules


def terms_of(model: Model, provider: Provider) -> str:
    """What governs the outputs of a model: `openai/api`, `weights/Apache-2.0`; empty where nobody says."""
    said = provider.terms or (WEIGHTS if model.kind == "local" else None)
    if said is None:
        return ""
    if said != WEIGHTS:
        return said
    # Of what is closed nobody has the weights, whatever server it is said to run on.
    return f"{WEIGHTS}/{model.licence or ''}" if model.kind != "closed" else ""


def tells(terms: str) -> bool:
    """True where terms, as `terms_of` has them, say by which document somebody's outputs are governed."""
    return terms not in ("", f"{WEIGHTS}/")


def ruling(
    terms: str,
    given: dt.date,
    today: dt.date,
    grounds: Iterable[Ground] = (),
    clauses: Sequence[Clause] | None = None,
) -> Ruling:
    """Whether what was put out on the day `given` may teach `today`.

    The document of that day counts, and the one of today: the stricter of the two, since training is a use of
    today. A ground counts until its last day, for what its document leaves open to agreements.
    """
    about = [it for it in (known_terms() if clauses is None else clauses) if it.key == terms]
    if not about:
        return _unknown(terms, _nothing_known(terms))
    then, now = _in_force(about, given), _in_force(about, today)
    if then is None or now is None:
        first = min(it.dated for it in about if it.dated is not None)
        return _unknown(terms, f"of {terms} no document from before {first} is known, and this is of {given}")
    strict = max((then, now), key=lambda it: _STRICTNESS.index(it.verdict))
    ground = _ground_for(strict, today, grounds)
    return Ruling(
        may_teach=strict.verdict == "allow" or ground is not None,
        terms=terms,
        verdict=strict.verdict,
        why=_why(strict, ground, today, grounds),
        document=strict.document,
        dated=strict.dated,
        duties=strict.duties,
        ground=ground,
    )


def _in_force(clauses: Iterable[Clause], day: dt.date) -> Clause | None:
    counting = [it for it in clauses if it.dated is None or it.dated <= day]
    return max(counting, key=lambda it: it.dated or dt.date.min, default=None)


def _ground_for(clause: Clause, today: dt.date, grounds: Iterable[Ground]) -> Ground | None:
    open_to_agreements = clause.verdict in ("review", "forbid_competing") or clause.authorisable
    if clause.verdict == "allow" or not open_to_agreements:
        return None
    counting = [it for it in grounds if it.terms == clause.key and today <= it.until]
    return max(counting, key=lambda it: (it.until, it.ground), default=None)


def _why(clause: Clause, ground: Ground | None, today: dt.date, grounds: Iterable[Ground]) -> str:
    dated = f" of {clause.dated}" if clause.dated else ""
    said = f"{clause.document}{dated}: {clause.says}"
    if ground is not None:
        return f"{said} Granted until {ground.until}, {ground.by} answers for it: {ground.ground}"
    over = [it.until for it in grounds if it.terms == clause.key and it.until < today]
    return f"{said} The ground that was given ended on {max(over)}." if over else said


def _nothing_known(terms: str) -> str:
    if not terms:
        return "nobody says which terms govern its outputs"
    if terms == f"{WEIGHTS}/":
        return "it runs on your machines, and nobody says which licence its weights have"
    return f"no document is known for {terms}"


def _unknown(terms: str, why: str) -> Ruling:
    return Ruling(may_teach=False, terms=terms, verdict="unknown", why=f"{why}; what is unknown is refused.")
