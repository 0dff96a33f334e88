"""The fold over recorded requests: each is decided again, and what changes is added up.

Requests that are alike in all that a decision depends on are judged once. So a million of them take little
longer than it takes to read them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from isthmus.accounting.charge import charge
from isthmus.accounting.forecast import priced
from isthmus.catalog.prices import Price
from isthmus.config.archive import Archived
from isthmus.config.config import Config
from isthmus.config.routers import routers_in
from isthmus.core.call import Operation
from isthmus.core.decision import Decision
from isthmus.core.errors import IsthmusError
from isthmus.core.foresight import Foresight
from isthmus.core.label import Label
from isthmus.core.record import Grounds
from isthmus.core.usage import Usage
from isthmus.evals.replay.boundary import Portfolio, crossed
from isthmus.evals.replay.changes import Outcome, Overlap, Then, as_data, compare, overlap, places, possible
from isthmus.evals.replay.fates import Chance, Question, chances
from isthmus.evals.replay.labels import Relabelled, Seen, relabel
from isthmus.evals.replay.latency import Spread
from isthmus.perimeter.policy import Policy
from isthmus.routing.decide import Router
from isthmus.routing.route import Route, route_of
from isthmus.store.history import Again, Past
from isthmus.store.keys import Key

MOST_REMEMBERED = 200_000
_DECIDED_LATER = frozenset({"unknown_route", "route_not_allowed"})
"""Refusals before a decision that depend on the config's routes alone."""

_to_kinds = msgspec.json.Decoder(dict[str, int]).decode
_to_grounds = msgspec.json.Decoder(Grounds).decode
_to_decision = msgspec.json.Decoder(Decision).decode


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """What records refer to: `decisions` by their hash, `configs` by theirs, `keys` by their id.

    `newer` finds a decision that was made after the others were read, while a gateway goes on writing.
    `today` is the portfolio of the config in force today: it stands for that of a config that was not kept.
    """

    decisions: Mapping[bytes, bytes]
    configs: Mapping[str, Archived]
    keys: Mapping[str, Key]
    today: Portfolio = Portfolio({}, {})
    newer: Callable[[bytes, int], bytes | None] = lambda *_: None


class Judgement(msgspec.Struct, kw_only=True):
    """What becomes of requests that are alike, and how many there are.

    `unknown` says why it cannot be told; there is one outcome then, with the places that may get them.
    `undecided` is the code with which they were refused before anything was decided. `then_nanousd` is what
    they cost, where that is known and would be known, `now_nanousd` what they would cost. `unpriced` of them
    have no such price, by their odds. `overlap` says what feedback on them tells of the new config.
    """

    route: str
    model: str | None
    label: Label
    label_then: Label | None
    outcomes: tuple[Outcome, ...]
    unknown: str | None = None
    undecided: str | None = None
    assumed: bool = False
    overlap: Overlap | None = None
    requests: int = 0
    then_nanousd: float = 0.0
    now_nanousd: float = 0.0
    unpriced: float = 0.0
    spread: Spread

    @property
    def stays(self) -> float:
        """How likely these requests go the way they went."""
        return sum(it.odds for it in self.outcomes if it.change in ("same", "still refused"))


class _Case(NamedTuple):
    """All that the new config is asked of requests that are alike, before anybody draws.

    `unveiled` says that pseudonyms stood for something for which they would not any more.
    """

    decided: Decision | None
    route: Route | None
    code: str | None
    label: Relabelled | None
    portfolio_then: Portfolio
    by_key: bool
    by_user: bool
    looked: bool
    unveiled: bool


class Replayer:
    """Takes recorded requests, one by one, and decides them by another config."""

    def __init__(self, config: Config, router: Router, prices: Mapping[str, Price], ledger: Ledger) -> None:
        self._config = config
        self._portfolio = Portfolio(config.models, config.providers)
        self._router = router
        self._prices = prices
        self._ledger = ledger
        self._decisions: dict[bytes, Decision] = {}
        self._odds_then = _odds_by_group(ledger.decisions)
        self._sticks = {name: _sticks(route) for name, route in config.routes.items()}
        self._routers = {
            (name, thrifty): frozenset(routers_in(route.plan_for(thrifty)))
            for name, route in config.routes.items()
            for thrifty in (False, True)
        }
        self._kinds: dict[str, frozenset[str]] = {}
        self._cases: dict[tuple[object, ...], _Case] = {}
        self._chances: dict[Question, tuple[Chance, ...]] = {}
        self._known: dict[tuple[object, ...], Judgement] = {}
        self._judged: dict[tuple[object, ...], Judgement] = {}

    @property
    def judgements(self) -> Iterable[Judgement]:
        """What became of all that was taken."""
        return self._judged.values()

    def take(self, past: Past) -> Judgement:
        """Judge one more request."""
        kinds = self._kinds_of(past.findings)
        alike = (
            past.decision,
            kinds,
            past.grounds,
            past.route,
            past.operation,
            past.key_id,
            past.model,
            past.code,
            past.tried,
            past.again,
            self._foreseen(past),
        )
        judgement = self._known.get(alike)
        if judgement is None:
            judgement, lasting = self._judge(past, kinds)
            if lasting:
                if len(self._known) >= MOST_REMEMBERED:
                    self._known.clear()
                self._known[alike] = judgement
        judgement.requests += 1
        judgement.spread.add(past.total_ms)
        self._charge(past, judgement)
        return judgement

    def _judge(self, past: Past, kinds: frozenset[str] | None) -> tuple[Judgement, bool]:
        """The judgement on a request, and whether it is the same whoever the user is."""
        case = self._case(past, kinds)
        if case.route is None or case.label is None:
            return self._undecided(past, case), True
        key = past.key_id if case.by_key else None
        user = past.user if case.by_user else None
        decided = case.decided
        thrifty = decided.thrifty if decided is not None else False
        lenient = self._ask(case, case.label.least, case.label.hidden, thrifty, past, key, user)
        unknown = None
        if not case.label.known:
            strict = self._ask(case, case.label.most, None, thrifty, past, key, user)
            unknown = case.label.why if _plans(lenient) != _plans(strict) else None
        if unknown is None and past.operation == "chat" and not self._foresees(case.route, thrifty, past):
            unknown = "what its learned router would foresee is not recorded"
        if case.unveiled:
            # What is read in clear now has to count, whatever else is hidden still.
            lenient = tuple(
                it._replace(decision=msgspec.structs.replace(it.decision, pseudonymised=())) for it in lenient
            )
        identity = (past.decision, case.label, past.route, past.operation, past.model, past.tried, past.code)
        index = (*identity, lenient, unknown)
        judgement = self._judged.get(index)
        if judgement is None:
            judgement = self._judged[index] = self._judgement(past, case, case.label, lenient, unknown)
        return judgement, not case.by_user

    def _judgement(
        self, past: Past, case: _Case, label: Relabelled, now: tuple[Chance, ...], unknown: str | None
    ) -> Judgement:
        decided, undecided = case.decided, None
        if decided is None:
            # As if it had been refused: nobody was asked.
            undecided = past.code or "undecided"
            unknown = unknown or "it was refused before anybody looked at it"
            decided = _nothing(past)
        then = Then(decided, past.model, past.tried, case.portfolio_then)
        portfolio = self._portfolio
        odds_then = self._odds_then.get(_group(decided), {})
        if unknown is not None:
            outcomes: tuple[Outcome, ...] = (possible(then, now, portfolio),)
        else:
            outcomes = compare(then, now, portfolio, odds_then)
        # A split that sticks is drawn for everybody once: its odds are those over all.
        anybody = self._ask(case, label.least, label.hidden, decided.thrifty, past, None, None)
        return Judgement(
            route=past.route or (case.route.name if case.route else ""),
            model=past.model,
            label=label.least,
            label_then=case.decided.label if case.decided else None,
            outcomes=outcomes,
            overlap=overlap(decided, anybody, odds_then) if case.decided is not None else None,
            unknown=unknown,
            undecided=undecided,
            assumed=self._assumes(case, label, now),
            spread=Spread(),
        )

    def _assumes(self, case: _Case, label: Relabelled, now: tuple[Chance, ...]) -> bool:
        """True where it is taken for granted that pseudonyms could stand for every value."""
        same_rules = case.decided is not None and case.decided.perimeter == self._config.perimeter.hash
        known = same_rules or case.looked
        return label.hidden is not None and not known and any(it.decision.pseudonymised for it in now)

    def _undecided(self, past: Past, case: _Case) -> Judgement:
        """Of a request that the new config refuses, or the old one did, before anything is decided."""
        index = (past.route, past.decision, past.model, past.code, past.tried, case.code)
        judgement = self._judged.get(index)
        if judgement is None:
            outcomes: tuple[Outcome, ...] = ()
            if case.decided is not None and case.decided.plan is not None:
                asked = {it.model for it in past.tried} or ({past.model} if past.model else set())
                had = tuple(places(asked, case.portfolio_then, case.decided.pseudonymised))
                reason = f"the gateway would answer {case.code}"
                back = tuple(crossed(had, ()))
                outcomes = (Outcome(1.0, "newly refused", reason, None, had=had, brings_in=back),)
            elif case.decided is not None:
                outcomes = (Outcome(1.0, "still refused", f"the gateway would answer {case.code}", None),)
            judgement = self._judged[index] = Judgement(
                route=past.route,
                model=past.model,
                label=case.decided.label if case.decided else Label(),
                label_then=case.decided.label if case.decided else None,
                outcomes=outcomes,
                undecided=None if outcomes else past.code or "undecided",
                spread=Spread(),
            )
        return judgement

    def _case(self, past: Past, kinds: frozenset[str] | None) -> _Case:
        said = (past.decision, kinds, past.grounds, past.route, past.operation, past.key_id, past.code)
        index = (*said, past.again)
        case = self._cases.get(index)
        if case is None:
            if len(self._cases) >= MOST_REMEMBERED:
                self._cases.clear()
            case = self._cases[index] = self._new_case(past, kinds)
        return case

    def _new_case(self, past: Past, kinds: frozenset[str] | None) -> _Case:
        decided = self._decided(past)
        grounds = None if past.grounds is None else _to_grounds(past.grounds)
        kept = self._ledger.configs.get(past.config_hash)
        then = Portfolio(kept.models, kept.providers) if kept is not None else self._ledger.today
        nothing = _Case(decided, None, past.code, None, then, False, False, False, False)
        if decided is None and (past.code not in _DECIDED_LATER or grounds is None):
            return nothing
        key = self._ledger.keys.get(past.key_id) if past.key_id is not None else None
        name = (grounds.asked if grounds is not None else None) or past.route
        try:
            route = route_of(name, key, self._config.routes)
        except IsthmusError as refusal:
            return nothing._replace(code=refusal.code)
        if past.config_hash == self._config.hash and decided is not None and past.again is None:
            # The same config has said so before.
            label = Relabelled(decided.label, decided.label, decided.hidden_label)
        else:
            seen = Seen(kinds, grounds, kept.perimeter if kept is not None else None)
            if past.again is not None and grounds is not None:
                seen = _seen_again(past.again, grounds, self._config.perimeter)
            label = relabel(self._config.perimeter, route, seen, decided)
            if past.again is not None:
                label = label._replace(hidden=past.again.hidden)
        if label.said is not None:
            return nothing._replace(code=label.said)
        by_key, by_user = self._sticks[route.name]
        hides = self._config.perimeter.hides
        hid = kept.perimeter.hides if kept is not None else hides
        unveiled = any(hid(kind) and not hides(kind) for kind in kinds or ())
        looked = past.again is not None
        return _Case(decided, route, None, label, then, by_key, by_user, looked, unveiled)

    def _ask(
        self,
        case: _Case,
        label: Label,
        hidden: Label | None,
        thrifty: bool,
        past: Past,
        key: str | None,
        user: str | None,
    ) -> tuple[Chance, ...]:
        assert case.route is not None
        operation: Operation = past.operation  # type: ignore[assignment]
        foreseen = self._foreseen(past)
        question = Question(case.route.name, operation, label, hidden, thrifty, key, user, foreseen)
        if (then := case.decided) is not None:
            question = msgspec.structs.replace(
                question,
                previous=then.previous,
                revises=then.revises,
                weights=then.weights,
                silences=then.silences,
            )
        found = self._chances.get(question)
        if found is None:
            if len(self._chances) >= MOST_REMEMBERED:
                self._chances.clear()
            found = self._chances[question] = chances(self._router, question)
        return found

    def _foreseen(self, past: Past) -> tuple[Foresight, ...]:
        """What was foreseen of a request, at the prices that the new config would have had then."""
        decided = self._decided(past)
        if decided is None or not decided.foreseen:
            return ()
        return tuple(priced(it, self._prices, past.at_us) for it in decided.foreseen)

    def _foresees(self, route: Route, thrifty: bool, past: Past) -> bool:
        """True where all is recorded that the choices of the route depend on."""
        return self._routers[route.name, thrifty] <= {it.by for it in self._foreseen(past)}

    def _charge(self, past: Past, judgement: Judgement) -> None:
        """Add what the request cost, and what it would cost."""
        then = past.nanousd if past.basis is not None else 0
        usage: Usage | None = None
        for outcome in judgement.outcomes:
            if outcome.keeps:
                now = then
            elif outcome.change in ("newly refused", "still refused"):
                now = 0
            elif outcome.answers is None or past.input is None:
                now = None
            else:
                usage = usage or _usage_of(past)
                now = charge(self._prices[outcome.answers], usage, past.at_us).nanousd
            if then is None or now is None:
                judgement.unpriced += outcome.odds
            else:
                judgement.then_nanousd += outcome.odds * then
                judgement.now_nanousd += outcome.odds * now

    def _decided(self, past: Past) -> Decision | None:
        digest = past.decision
        if digest is None:
            return None
        decided = self._decisions.get(digest)
        if decided is None:
            body = self._ledger.decisions.get(digest) or self._ledger.newer(digest, past.at_us)
            if body is None:
                return None
            decided = self._decisions[digest] = _to_decision(body)
        return decided

    def _kinds_of(self, findings: str | None) -> frozenset[str] | None:
        if findings is None:
            return None
        kinds = self._kinds.get(findings)
        if kinds is None:
            if len(self._kinds) >= MOST_REMEMBERED:
                self._kinds.clear()
            kinds = self._kinds[findings] = frozenset(_to_kinds(findings))
        return kinds


def _seen_again(again: Again, grounds: Grounds, policy: Policy) -> Seen:
    """What was seen by the new rules themselves: they have looked for all that they are about."""
    looked = msgspec.structs.replace(grounds, blind=again.blind, unlooked=again.unlooked)
    return Seen(again.kinds, looked, policy)


def _nothing(past: Past) -> Decision:
    return Decision(
        route=past.route,
        operation=past.operation,
        allowed=(),
        refused=(),
        plan=None,
        reasons=(),
        propensity=1.0,
        config_hash=past.config_hash,
    )


def _plans(now: tuple[Chance, ...]) -> list[tuple[float, bytes, tuple[str, ...]]]:
    """What matters of the chances: the plans, their odds, and who sees pseudonyms."""
    return sorted((it.odds, as_data(it.decision.plan), it.decision.pseudonymised) for it in now)


def _group(decided: Decision) -> tuple[object, ...]:
    """Decisions of one group differ by their draw only."""
    return (
        decided.config_hash,
        decided.route,
        decided.operation,
        decided.label,
        decided.hidden_label,
        decided.thrifty,
        decided.previous,
        decided.revises,
        decided.weights,
        decided.foreseen,
        decided.silences,
    )


def _odds_by_group(decisions: Mapping[bytes, bytes]) -> dict[tuple[object, ...], dict[bytes, float]]:
    """How likely each plan was among those that the same draw decided between, as far as they were drawn."""
    odds: dict[tuple[object, ...], dict[bytes, float]] = defaultdict(dict)
    for body in decisions.values():
        decided = _to_decision(body)
        odds[_group(decided)][as_data(decided.plan)] = decided.propensity
    return odds


def _sticks(route: Route) -> tuple[bool, bool]:
    """Whether a split of the route sticks to keys, and whether one sticks to users."""
    plans = msgspec.json.encode([route.plan, route.thrift])
    return b'"sticky":"key"' in plans, b'"sticky":"user"' in plans


def _usage_of(past: Past) -> Usage:
    return Usage(
        input=past.input or 0,
        output=past.output or 0,
        cache_read=past.cache_read or 0,
        cache_write_5m=past.cache_write_5m or 0,
        cache_write_1h=past.cache_write_1h or 0,
        reasoning=past.reasoning or 0,
        input_audio=past.input_audio or 0,
        output_audio=past.output_audio or 0,
        estimated=True,
        # Another model runs no tools and serves no tiers that this one had.
        beyond=(),
    )
