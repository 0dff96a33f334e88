"""Replaying recorded traffic, for any plans, rules and requests."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.accounting.forecast import priced
from isthmus.bootstrap import router_of
from isthmus.catalog.prices import OWN_ENGINE
from isthmus.config.archive import archive, unarchive
from isthmus.config.config import Config, GatewaySettings, LedgerSettings
from isthmus.config.routers import routers_in
from isthmus.core.decision import Silence
from isthmus.core.errors import Fault
from isthmus.core.foresight import Foresight
from isthmus.core.label import BOTTOM, LEVELS, Label
from isthmus.core.portfolio import Model, Provider
from isthmus.core.record import Grounds
from isthmus.core.usage import Usage
from isthmus.evals.replay.boundary import Place, Portfolio, crossed
from isthmus.evals.replay.changes import walk
from isthmus.evals.replay.fates import Question, chances
from isthmus.evals.replay.replayed import Ledger, Replayer
from isthmus.evals.replay.summary import Replay, summary
from isthmus.gateway.silences import awaited_in
from isthmus.perimeter.policy import Policy, Rule
from isthmus.routing.route import Route, Thrift
from isthmus.store import rows
from isthmus.store.history import Past, Tried
from isthmus.store.keys import Key
from isthmus.strategies.plan import CallModel
from isthmus.strategies.plan.node import Circumstances
from tests.laws.plans import NAMES, foresights, plans, silences

KINDS = ("pii.email", "pii.name", "secret.key", "term.projects")
ZONES = ("eu", "us", None)
levels = st.sampled_from(LEVELS)
floors = st.builds(
    Label, levels, zones=st.one_of(st.none(), st.frozensets(st.sampled_from(["eu", "us"]), min_size=1))
)
rules = st.builds(
    Rule,
    when=st.sampled_from(["pii", "secret", "pii.name", "term"]),
    level=levels,
    zones=st.one_of(st.none(), st.just(frozenset({"eu"}))),
)
policies = st.builds(Policy, default=levels, rules=st.lists(rules, max_size=3).map(tuple))
names = st.one_of(st.none(), st.sampled_from(["ann", "bob", "cy"]))
units = st.floats(0, 1, exclude_max=True)
few = settings(max_examples=40)


@st.composite
def configs(draw: st.DrawFn, identity: str = "one") -> Config:
    """A config with two routes over four models, anywhere."""
    models = {
        name: Model(
            name=name,
            provider="p",
            id=name,
            kind=draw(st.sampled_from(["local", "open", "closed"])),
            zone=draw(st.sampled_from(ZONES)),
        )
        for name in NAMES
    }
    routes = {
        name: Route(
            name=name,
            plan=draw(plans),
            floor=draw(st.one_of(st.just(BOTTOM), floors)),
            thrift=draw(st.one_of(st.none(), st.builds(Thrift, plan=plans))),
        )
        for name in ("r", "s")
    }
    return Config(
        providers={"p": Provider(name="p", wires=("openai",), base_url="http://127.0.0.1:9/v1")},
        models=models,
        routes=routes,
        gateway=GatewaySettings(),
        ledger=LedgerSettings(),
        perimeter=draw(policies),
        hash=identity,
    )


class Asked(msgspec.Struct, frozen=True):
    """A request as somebody makes it."""

    route: str
    kinds: frozenset[str]
    grounds: Grounds
    draw: float
    key: str | None
    user: str | None
    thrifty: bool
    foreseen: tuple[Foresight, ...] = ()
    silences: tuple[Silence, ...] = ()


requests = st.builds(
    Asked,
    route=st.sampled_from(["r", "s"]),
    kinds=st.frozensets(st.sampled_from(KINDS)),
    grounds=st.builds(
        Grounds,
        floor=st.one_of(st.just(BOTTOM), floors),
        said=st.lists(levels, max_size=2).map(tuple),
        blind=st.booleans(),
    ),
    draw=units,
    key=names,
    user=names,
    thrifty=st.booleans(),
    foreseen=foresights,
    silences=silences,
)

PRICES = dict.fromkeys(NAMES, OWN_ENGINE)


def circumstances_of(config: Config, it: Asked, draw: float) -> Circumstances:
    """Those in which this config decides the request: its routers are asked, at its prices, and its hedges'
    models are measured."""
    plan = config.routes[it.route].plan_for(it.thrifty)
    routers, awaited = routers_in(plan), awaited_in(plan)
    foreseen = tuple(priced(seen, PRICES, 0) for seen in it.foreseen if seen.by in routers)
    known = tuple(silence for silence in it.silences if (silence.model, silence.quantile) in awaited)
    return Circumstances(draw=draw, key=it.key, user=it.user, foreseen=foreseen, silences=known)


def served(config: Config, asked: list[Asked], hidden: Label | None = None) -> tuple[list[Past], Ledger]:
    """What the ledger has of these requests when this config has decided them, by the router of live ones."""
    router, decisions, history = router_of(config), dict[bytes, bytes](), []
    for number, it in enumerate(asked):
        route = config.routes[it.route]
        said = [config.perimeter.said(name) for name in it.grounds.said]
        label = config.perimeter.label_of(it.kinds, it.grounds.blind, (route.floor, it.grounds.floor, *said))
        circumstances = circumstances_of(config, it, it.draw)
        decided = router.decide(it.route, "chat", label, circumstances, hidden, it.thrifty)
        _, digest, body = rows.decision_row(0, decided)
        decisions[digest] = body
        model = walk(decided.plan, ())[1] if decided.plan is not None else None
        history.append(
            Past(
                number,
                str(number),
                it.route,
                "chat",
                it.key,
                it.user,
                model,
                None if model else "no_model_allowed",
                digest,
                # Where there are no rules, nobody looks.
                msgspec.json.encode(dict.fromkeys(it.kinds, 1)).decode() if config.perimeter.rules else None,
                msgspec.json.encode(it.grounds).decode(),
                config.hash,
                *msgspec.structs.astuple(Usage(input=10, output=5))[:-1],
                None,
                100 if model else None,
                "config" if model else None,
                25.0,
            )
        )
    keys = {name: Key(id=name, name=name, routes=(), created_us=0) for name in ("ann", "bob", "cy")}
    kept = unarchive(archive(config))
    assert kept is not None
    return history, Ledger(decisions=decisions, configs={config.hash: kept}, keys=keys)


def replayed(config: Config, history: list[Past], ledger: Ledger) -> Replay:
    replayer = Replayer(config, router_of(config), PRICES, ledger)
    for past in history:
        replayer.take(past)
    return summary(config.hash, replayer.judgements)


@few
@given(configs(), st.lists(requests, max_size=6), st.booleans())
def test_an_identical_config_replays_to_identical_decisions(
    config: Config, asked: list[Asked], renamed: bool
) -> None:
    if not config.perimeter.rules:
        # Nobody looked: what was found is not known, and does not count.
        asked = [msgspec.structs.replace(it, kinds=frozenset()) for it in asked]
    history, ledger = served(config, asked)
    # By another hash, every label is made anew instead of being known from the record.
    again = msgspec.structs.replace(config, hash="two") if renamed else config
    found = replayed(again, history, ledger)
    assert (found.changes, found.crossings, found.unknown, found.undecided) == ((), (), (), {})
    assert found.same == pytest.approx(len(asked))
    assert found.cost.then_nanousd == pytest.approx(found.cost.now_nanousd)


@few
@given(configs(), configs("two"), st.lists(requests, max_size=5))
def test_every_request_is_counted_once(one: Config, two: Config, asked: list[Asked]) -> None:
    history, ledger = served(one, asked)
    found = replayed(two, history, ledger)
    assert found.requests == len(asked)
    unknown = sum(it.requests for it in found.unknown)
    assert found.same + found.changed + unknown + sum(found.undecided.values()) == pytest.approx(len(asked))


@few
@given(configs(), configs("two"), requests)
def test_what_is_said_to_stay_inside_does(one: Config, two: Config, asked: Asked) -> None:
    """Where no crossing is told, no model that any draw chooses is beyond those that had the request."""
    history, ledger = served(one, [asked])
    found = replayed(two, history, ledger)
    if found.crossing("out", "perhaps out") or found.same == pytest.approx(1):
        return
    had = [Portfolio(one.models, one.providers).place(it) for it in [history[0].model] if it]
    said = [two.perimeter.said(name) for name in asked.grounds.said]
    floors = (two.routes[asked.route].floor, asked.grounds.floor, *said)
    label = two.perimeter.label_of(asked.kinds, asked.grounds.blind, floors)
    router = router_of(two)
    for step in range(20):
        circumstances = circumstances_of(two, asked, step / 20)
        plan = router.decide(asked.route, "chat", label, circumstances, None, asked.thrifty).plan
        asks = walk(plan, ())[0] if plan is not None else ()
        assert crossed([Portfolio(two.models, two.providers).place(it) for it in asks], had) == []


@few
@given(configs(), st.builds(Label, levels), names, names, st.booleans())
def test_odds_are_the_share_of_draws(
    config: Config, label: Label, key: str | None, user: str | None, thrifty: bool
) -> None:
    router = router_of(config)
    found = chances(router, Question("r", "chat", label, None, thrifty, key, user))
    assert sum(it.odds for it in found) == pytest.approx(1)
    drawn = Counter(
        msgspec.json.encode(
            router.decide(
                "r", "chat", label, Circumstances(draw=(step + 0.5) / 400, key=key, user=user), None, thrifty
            ).plan
        )
        for step in range(400)
    )
    odds: Counter[bytes] = Counter()
    for chance in found:
        odds[msgspec.json.encode(chance.decision.plan)] += chance.odds  # type: ignore[assignment]
    for plan, count in drawn.items():
        assert odds[plan] == pytest.approx(count / 400, abs=0.03)


def test_what_pseudonyms_stand_for_no_more_crosses_in_clear() -> None:
    email, name = (Rule(when=it, level="restricted", pseudonymise=True) for it in ("pii.email", "pii.name"))
    before = Config(
        providers={"p": Provider(name="p", wires=("openai",), base_url="http://127.0.0.1:9/v1")},
        models={"a": Model(name="a", provider="p", id="a", kind="closed", zone="us")},
        routes={"r": Route(name="r", plan=CallModel(model="a"))},
        gateway=GatewaySettings(),
        ledger=LedgerSettings(),
        perimeter=Policy(default="internal", rules=(email, name)),
        hash="one",
    )
    asked = Asked("r", frozenset({"pii.email", "pii.name"}), Grounds(), 0.0, None, None, False)
    history, ledger = served(before, [asked], hidden=Label("internal"))

    def crossings(*left: Rule) -> float:
        policy = msgspec.structs.replace(before.perimeter, rules=left, timeout=3.0)
        after = msgspec.structs.replace(before, perimeter=policy, hash="two")
        return replayed(after, history, ledger).crossing("out")

    assert history[0].model == "a"
    assert (crossings(email, name), crossings(email)) == (0, 1)


kinds, hosts = st.sampled_from(["local", "open", "closed"]), st.sampled_from(["one.test", "two.test"])
places = st.builds(Place, kinds, st.sampled_from(ZONES), hosts, st.booleans())


@given(st.lists(places), st.lists(places), st.lists(places))
def test_what_was_there_before_does_not_cross(
    before: list[Place], after: list[Place], more: list[Place]
) -> None:
    assert crossed(before, before) == []
    assert set(crossed(after, before + more)) <= set(crossed(after, before))
    assert all(place.kind != "local" for place in crossed(after, before))


def test_a_plan_walks_past_what_failed() -> None:
    from isthmus.strategies.plan import Fallback

    plan = Fallback(plans=(CallModel(model="a"), CallModel(model="b"), CallModel(model="c")))
    assert walk(plan, ()) == (("a",), "a", ())
    assert walk(plan, (Tried("a", Fault.TIMEOUT), Tried("b", None))) == (("a", "b"), "b", ())
    assert walk(plan, (Tried("a", Fault.INVALID_REQUEST),)) == (("a",), None, ())
    assert walk(plan, tuple(Tried(name, Fault.OVERLOADED) for name in "abc")) == (("a", "b", "c"), None, ())
