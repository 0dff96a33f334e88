"""Who leads rollouts while the gateway serves: brings each turn into force, watches it, and adds the next.

All that lasts stands in the store. What is known of the traffic of a stage is read again after a restart.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import msgspec

from isthmus.config.config import Config, RolloutRule
from isthmus.config.rollouts import Pair
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.record import Record
from isthmus.core.rollout import Stage, Turn
from isthmus.evals.rollout.guards import Judgement
from isthmus.evals.rollout.jury import Jury
from isthmus.store.rollouts import Opinions, Rollouts

log = logging.getLogger("isthmus.rollout")

EVERY_S = 1.0
LONGEST_PAUSE_S = 60.0
MOST_HEARD = 100_000
GATEWAY = "the gateway"

Post = Callable[[RolloutRule, bytes], Awaitable[None]]
"""Posts JSON to the webhook of a rule, which has one; raises IsthmusError where it was not taken."""


class UnfitError(IsthmusError):
    """A version of a model that cannot serve: `model` is that of the config."""

    def __init__(self, model: str, message: str, hint: str = "") -> None:
        super().__init__(Fault.UNAVAILABLE, message, code="version_unfit", hint=hint)
        self.model = model


class Serving(Protocol):
    """The gateway, as far as rollouts change what it serves by."""

    @property
    def config(self) -> Config:
        """The config as its file says it."""

    @property
    def config_hash(self) -> str:
        """The hash of the config that serves, rollouts included."""

    def names(self, turn: Turn) -> Pair | None:
        """What the two versions of a turn are called; None where the turn is not in force."""

    async def take(self, turns: Sequence[Turn]) -> None:
        """Serve as these turns want it, once every version that is new is ready.

        Raises UnfitError where one cannot serve, and IsthmusError where something else is in the way; what
        served before serves on then.
        """

    def given_up(self, turn: Turn) -> str | None:
        """Why the engine of the new version, which serves beside the config's own or in its place, has given
        up; None where it has not."""


class Store(Rollouts, Opinions, Protocol):
    """The turns, and what people say of answers."""


class Steward:
    """Leads all rollouts of a gateway, one look after the other. It is for one event loop.

    `in_force` are the turns by which the gateway serves already, `told` is the number of the last turn that
    needs not be told of. `recall` gives the records since a time.
    """

    def __init__(
        self,
        store: Store,
        serving: Serving,
        recall: Callable[[int], Iterable[Record]],
        post: Post,
        now_us: Callable[[], int],
        *,
        in_force: Sequence[Turn] = (),
        told: int = 0,
    ) -> None:
        self._store = store
        self._serving = serving
        self._recall = recall
        self._post = post
        self._now_us = now_us
        self._heard: deque[Record] = deque(maxlen=MOST_HEARD)
        self._juries: dict[str, Jury] = {}
        self._judgements: dict[str, Judgement] = {}
        self._turns: Sequence[Turn] = ()
        self._wanted: Sequence[Turn] = ()
        self._in_force: Sequence[Turn] = in_force
        self._taking: asyncio.Task[None] | None = None
        self._told = told
        self._posting: set[asyncio.Task[None]] = set()
        self._trouble = ""
        self._rests: dict[str, _Rest] = {}

    def hear(self, record: Record) -> None:
        """Take a record as its request ends; it is looked at later, and off the event loop."""
        if self._juries:
            self._heard.append(record)

    async def lead(self) -> None:
        """Look every second, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Bring into force what has been decided, and decide what is due; no error ends the watch."""
        try:
            self._turns = await asyncio.to_thread(self._store.current)
            self._tell_of_new(self._turns)
            try:
                await self._bring_into_force()
            finally:
                await self._judge_all()
            self._trouble = ""
        except Exception as error:
            self._complain(error.text if isinstance(error, IsthmusError) else type(error).__name__)

    async def close(self) -> None:
        """Start nothing any more, and tell nobody."""
        tasks = [*self._posting, *([self._taking] if self._taking is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def stages(self) -> dict[tuple[str, ...], float]:
        """1 for the stage at which each version is."""
        return {(it.model, it.new.id, it.stage): 1.0 for it in self._turns}

    def p_values(self) -> dict[tuple[str, ...], float]:
        """The p-value of the claim that a version does no worse than it may, by what is watched."""
        return {
            (model, finding.quantity): finding.p
            for model, judgement in self._judgements.items()
            for finding in judgement.findings
        }

    async def _bring_into_force(self) -> None:
        """Let the gateway take the turn that is due; where that takes longer than a moment, it goes on beside
        the looks, and ends when something more urgent is due."""
        wanted = self._next()
        if self._taking is not None and wanted != self._wanted:
            self._taking.cancel()
            await asyncio.wait({self._taking})
            self._taking = None
        if self._taking is None:
            self._wanted = wanted
            self._taking = asyncio.create_task(self._serving.take(wanted))
        await asyncio.wait({self._taking}, timeout=EVERY_S)
        if not self._taking.done():
            return
        taking, self._taking = self._taking, None
        try:
            await taking
        except UnfitError as error:
            await self._go_back(wanted, error)
            return
        self._in_force = wanted
        for turn in wanted:
            if (why := self._serving.given_up(turn)) is not None:
                await self._turn(turn, "rolled back", 0.0, why)

    def _next(self) -> Sequence[Turn]:
        """What is in force, with the one turn more that is due: first what was sent back, for which nobody
        is to wait until some other engine has started."""
        for rest in self._rests.values():
            rest.left_s -= EVERY_S
        serving = {turn.model: turn for turn in self._in_force}
        due = [turn for turn in self._turns if serving.get(turn.model) != turn and not self._rests_for(turn)]
        if due:
            first = min(due, key=lambda turn: (turn.stage != "rolled back", turn.number))
            serving[first.model] = first
        return [serving[model] for model in sorted(serving)]

    def _rests_for(self, turn: Turn) -> bool:
        rest = self._rests.get(turn.model)
        return rest is not None and rest.number == turn.number and rest.left_s > 0

    async def _go_back(self, turns: Sequence[Turn], error: UnfitError) -> None:
        turn = next(it for it in turns if it.model == error.model)
        if turn.stage != "rolled back":
            await self._turn(turn, "rolled back", 0.0, error.text)
            return
        # There is nothing to go back to: what serves goes on, and this is tried ever less often.
        rest = self._rests.get(turn.model)
        pause_s = 2 * rest.pause_s if rest is not None and rest.number == turn.number else EVERY_S
        self._rests[turn.model] = _Rest(turn.number, min(pause_s, LONGEST_PAUSE_S))
        log.error("the old weights of %s cannot serve, and the new ones go on: %s", turn.model, error.text)

    async def _judge_all(self) -> None:
        heard = [self._heard.popleft() for _ in range(len(self._heard))]
        juries: dict[str, Jury] = {}
        for turn, names in self._under_way():
            juries[turn.model] = await self._jury(turn, names)
        self._juries = juries
        self._judgements = {it: self._judgements[it] for it in self._judgements.keys() & juries.keys()}
        for model, jury in juries.items():
            judgement = await asyncio.to_thread(self._judged, jury, heard)
            self._judgements[model] = judgement
            if judgement.verdict == "roll back":
                await self._turn(jury.turn, "rolled back", 0.0, judgement.why)
            elif judgement.verdict == "go on":
                following = jury.rule.after(jury.turn.stage, jury.turn.share)
                await self._turn(jury.turn, *following, judgement.why)

    def _under_way(self) -> Iterator[tuple[Turn, Pair]]:
        """The turns that are in force, and the last ones still."""
        for turn in self._in_force:
            if turn in self._turns and turn.under_way and (names := self._serving.names(turn)) is not None:
                yield turn, names

    async def _jury(self, turn: Turn, names: Pair) -> Jury:
        """The jury of this stage: the one that sits, unless the stage or the config is another."""
        rule = self._serving.config.rule_of(turn.model)
        sitting = self._juries.get(turn.model)
        if sitting is not None and (sitting.turn, sitting.config_hash) == (turn, self._serving.config_hash):
            return sitting
        return Jury(turn, names, self._serving.config_hash, rule)

    def _judged(self, jury: Jury, heard: Sequence[Record]) -> Judgement:
        if not jury.has_recalled:
            jury.recall(self._recall(jury.turn.at_us))
        jury.hear(heard)
        jury.listen(self._store.opinions(jury.config_hash, jury.models, jury.opinions_until))
        return jury.judgement()

    async def _turn(self, turn: Turn, stage: Stage, share: float, why: str) -> None:
        following = turn.then(stage, share, why=why, who=GATEWAY, at_us=self._now_us())
        try:
            await asyncio.to_thread(self._store.append, following, turn.number)
        except IsthmusError as error:
            # Somebody was faster: the next look sees what they have decided.
            if error.code != "rollout_changed":
                raise

    def _tell_of_new(self, turns: Sequence[Turn]) -> None:
        """Tell of the turns that were added since the last look, whoever added them."""
        told, self._told = self._told, max((turn.number for turn in turns), default=0)
        for turn in turns:
            if turn.number > told:
                level = logging.WARNING if turn.stage == "rolled back" else logging.INFO
                log.log(level, "rollout: %s", in_words(turn))
                rule = self._serving.config.rule_of(turn.model)
                if rule.webhook is not None:
                    # Beside the watch: a webhook that is slow to answer must not keep bad weights in force.
                    posting = asyncio.create_task(self._post_to_webhook(rule, turn))
                    self._posting.add(posting)
                    posting.add_done_callback(self._posting.discard)

    async def _post_to_webhook(self, rule: RolloutRule, turn: Turn) -> None:
        try:
            await self._post(rule, message(turn))
        except IsthmusError as error:
            log.error("a turn of a rollout was not taken by the webhook: %s", error.text)

    def _complain(self, trouble: str) -> None:
        """Log what is wrong, once for as long as it stays the same."""
        if trouble != self._trouble:
            log.error("rollouts stay as they are: %s", trouble)
        self._trouble = trouble


class _Rest:
    """How long a turn is not tried again."""

    def __init__(self, number: int, pause_s: float) -> None:
        self.number = number
        self.pause_s = pause_s
        self.left_s = pause_s


def message(turn: Turn) -> bytes:
    """What a webhook is told: JSON with everything that is known, and `text` for those that show a text."""
    known: dict[str, Any] = msgspec.to_builtins(turn)
    return msgspec.json.encode({"event": "rollout", "text": in_words(turn), **known})


def in_words(turn: Turn) -> str:
    """A turn as a sentence."""
    at = dt.datetime.fromtimestamp(turn.at_us / 1_000_000, dt.UTC)
    return (
        f"{turn.model}@{turn.new.id} is {turn.words()} ({at:%Y-%m-%d %H:%M} UTC, by {turn.who}): {turn.why}"
    )
