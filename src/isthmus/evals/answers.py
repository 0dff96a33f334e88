"""Answers that are kept: nothing is asked, or paid for, twice.

An answer is found again by the hash of all that it depends on: which model that is, with its weights where
they are ours to know, what the perimeter lets it see, the sample's label, the request, and how often it was
asked before.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple
from uuid import uuid4
from weakref import WeakValueDictionary

import msgspec

from isthmus.config.config import Config
from isthmus.config.digests import weights_sha256
from isthmus.core.evaluation import Answered, Ask
from isthmus.core.label import BOTTOM, Label
from isthmus.store.runs import Candidate, Kept, Place, Runs

NOT_PERMITTED = "no_model_allowed"
"""The code of what was never sent: the model may not see it, or cannot serve it at all."""

NOT_ASKED = frozenset({"budget_spent"})
"""Codes that say nothing of a model: it was not asked, and may be another time."""

_canonical = msgspec.json.Encoder(order="deterministic").encode


def candidate_of(config: Config, name: str) -> Candidate:
    """The model as a run keeps it. Blocks: weights of one's own are read to the end, for their SHA-256."""
    model = config.models[name]
    return Candidate(
        name=name, id=model.id, provider=model.provider, kind=model.kind, weights=weights_sha256(model)
    )


def basis_of(config: Config, candidate: Candidate) -> bytes:
    """What of the config an answer of that model depends on, and whether it may be asked at all."""
    model, provider = config.models[candidate.name], config.providers[candidate.provider]
    return _canonical(
        [
            [candidate.id, candidate.weights, provider.name, provider.base_url, provider.wires],
            [model.kind, model.zone, model.clearance, model.promises, config.perimeter.hash],
        ]
    )


def key_of(basis: bytes, request: Mapping[str, Any], label: Label, nth: int) -> str:
    """Under which the answer to that request is found again."""
    return hashlib.sha256(b"\0".join([basis, _canonical([request, label, nth])])).hexdigest()


def first_asked_us(answers: Mapping[Place, Kept], models: Collection[str]) -> int:
    """When the first of these models' answers was given, whichever run has asked for it; 0 without any."""
    return min((kept.at_us for place, kept in answers.items() if place.model in models), default=0)


class Asked(NamedTuple):
    """An answer that stands in the store, and whether it had stood there before."""

    kept: Kept
    again: bool


class Remembering:
    """An `Ask` for a run: it looks first whether it is known what the model said, and keeps what it says.

    `bases` are those of the models, see `basis_of`; answers from before `since_us` do not count.
    `spent_nanousd` is what was asked now has cost, but for the `unpriced` answers of unknown price. Whoever
    leaves while an answer is being written down does not lose it: `close` waits for that.
    """

    def __init__(self, ask: Ask, runs: Runs, run: str, bases: Mapping[str, bytes], since_us: int = 0) -> None:
        self._ask = ask
        self._runs = runs
        self._run = run
        self._bases = bases
        self._since_us = since_us
        self.spent_nanousd = 0
        self.unpriced = 0
        self._pen = asyncio.Lock()
        self._writing: set[asyncio.Task[None]] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def __call__(self, model: str, request: Mapping[str, Any], label: Label = BOTTOM) -> Answered:
        """See `Ask`."""
        return (await self.ask(model, request, label)).kept.answered

    async def ask(
        self,
        model: str,
        request: Mapping[str, Any],
        label: Label = BOTTOM,
        place: Place | None = None,
    ) -> Asked:
        """The answer, kept; where that is said, it stands at that place of the run.

        Of failures only those at a place are kept, and none that says nothing of the model.
        """
        key = key_of(self._bases[model], request, label, place.nth if place else 0)
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            known = await asyncio.to_thread(self._runs.recall, key, self._since_us)
            if known is not None:
                if place is not None:
                    await self._write(self._runs.take, self._run, place, known.id)
                return Asked(known, again=True)
            answered = await self._ask(model, request, label)
            if answered.charge is not None:
                self.spent_nanousd += answered.charge.nanousd or 0
                self.unpriced += answered.charge.nanousd is None
            kept = Kept(
                id=answered.record_id or uuid4().hex,
                key=None if answered.code else key,
                at_us=time.time_ns() // 1000,
                run=self._run,
                answered=answered,
            )
            if answered.code is None or (place is not None and answered.code not in NOT_ASKED):
                await self._write(self._runs.keep, kept, place)
            return Asked(kept, again=False)

    async def close(self) -> None:
        """Returns when everything that came is written down."""
        await asyncio.gather(*self._writing, return_exceptions=True)

    async def _write(self, write: Any, *what: Any) -> None:
        task = asyncio.get_running_loop().create_task(self._written(write, *what))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        await asyncio.shield(task)

    async def _written(self, write: Any, *what: Any) -> None:
        async with self._pen:
            await asyncio.to_thread(write, *what)
