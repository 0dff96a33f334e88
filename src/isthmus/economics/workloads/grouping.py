"""Traffic gathered into workloads: requests of one caller, for one task, under one template.

A workload is a sum: it can be added to and merged, so that traffic larger than memory is read in parts, by
several processes. It keeps counts and places, never a text.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator

import msgspec

from isthmus.core.label import Label
from isthmus.economics.workloads.tasks import Task, complexity, task_of
from isthmus.economics.workloads.traffic import Interaction

MOST_TEMPLATES = 5_000
"""So many templates are told apart; what comes under further ones is gathered by caller and task."""

ALIKE = 8
"""Templates whose fingerprints differ in at most so many of 64 bits are one."""

_BINS = 20
_EXAMPLES = 3
_TEMPLATE_WORDS = 200
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+")


class Group(msgspec.Struct, frozen=True):
    """What makes a workload one: who asks, for what, under which template (its fingerprint; 0 for none)."""

    app: str
    task: Task
    template: int


class Asked(msgspec.Struct):
    """What was asked of one model: requests, tokens in and out, and what of it was recorded with its
    price."""

    requests: int = 0
    prompt: int = 0
    output: int = 0
    unpriced_prompt: int = 0
    unpriced_output: int = 0
    usd: float = 0.0

    def merge(self, other: Asked) -> None:
        """Add the other's counts."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Workload(msgspec.Struct):
    """The sum of the requests of one group.

    `hardness` counts requests by their complexity, in twentieths. `blind` counts those that could not be
    looked into. `examples` are places in the files, for a person to look at.
    """

    group: Group
    requests: int = 0
    models: dict[str, Asked] = {}
    levels: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    hardness: list[int] = []
    blind: int = 0
    first_us: int | None = None
    last_us: int | None = None
    examples: list[str] = []

    @classmethod
    def of(cls, group: Group) -> Workload:
        """An empty one."""
        return cls(group, models={}, levels=Counter(), kinds=Counter(), hardness=[0] * _BINS, examples=[])

    @property
    def name(self) -> str:
        """What it is called: its task, and a mark for its caller and template."""
        mark = hashlib.blake2b(f"{self.group.app}\0{self.group.template}".encode(), digest_size=2).hexdigest()
        return f"{self.group.task.replace(' ', '-')}-{mark}"

    @property
    def prompt_tokens(self) -> int:
        """Tokens that were sent."""
        return sum(asked.prompt for asked in self.models.values())

    @property
    def output_tokens(self) -> int:
        """Tokens that were answered."""
        return sum(asked.output for asked in self.models.values())

    def share(self, *levels: str) -> float:
        """The share of its requests that have one of these levels."""
        return sum(self.levels[level] for level in levels) / self.requests if self.requests else 0.0

    def hardness_at(self, quantile: float) -> float:
        """The complexity that this share of its requests does not exceed."""
        wanted, seen = quantile * self.requests, 0
        for at, count in enumerate(self.hardness):
            seen += count
            if seen >= wanted:
                return (at + 1) / _BINS
        return 1.0

    def add(self, seen: Interaction, label: Label, blind: bool, where: str) -> None:
        """Count one request."""
        prompt, output = seen.tokens
        asked = self.models.setdefault(seen.model, Asked())
        asked.requests += 1
        asked.prompt += prompt
        asked.output += output
        if seen.usd is None:
            asked.unpriced_prompt += prompt
            asked.unpriced_output += output
        else:
            asked.usd += seen.usd
        self.requests += 1
        self.levels[label.level] += 1
        self.kinds.update(label.categories)
        self.blind += blind
        self.hardness[min(_BINS - 1, int(complexity(seen, self.group.task) * _BINS))] += 1
        if seen.at_us is not None:
            self._span(seen.at_us, seen.at_us)
        if len(self.examples) < _EXAMPLES:
            self.examples.append(where)

    def merge(self, other: Workload) -> None:
        """Add another's sum."""
        for model, asked in other.models.items():
            self.models.setdefault(model, Asked()).merge(asked)
        self.requests += other.requests
        self.levels += other.levels
        self.kinds += other.kinds
        self.blind += other.blind
        self.hardness = [one + two for one, two in zip(self.hardness, other.hardness, strict=True)]
        if other.first_us is not None and other.last_us is not None:
            self._span(other.first_us, other.last_us)
        self.examples = (self.examples + other.examples)[:_EXAMPLES]

    def _span(self, first_us: int, last_us: int) -> None:
        self.first_us = first_us if self.first_us is None else min(self.first_us, first_us)
        self.last_us = last_us if self.last_us is None else max(self.last_us, last_us)


class Audit:
    """The workloads of some traffic, and what could not be read."""

    def __init__(self) -> None:
        self.workloads: dict[Group, Workload] = {}
        self.unread = 0

    def add(self, seen: Interaction, label: Label, blind: bool, where: str) -> None:
        """Count one request under its workload."""
        group = Group(seen.app, task_of(seen), fingerprint(seen.system))
        if group not in self.workloads and len(self.workloads) >= MOST_TEMPLATES:
            group = Group(seen.app, group.task, 0)
        self._workload(group).add(seen, label, blind, where)

    def merge(self, other: Audit) -> None:
        """Add what another has counted."""
        self.unread += other.unread
        for group, workload in other.workloads.items():
            self._workload(group).merge(workload)

    def gathered(self) -> list[Workload]:
        """The workloads, those under templates that are alike as one, the largest by tokens first."""
        found: dict[tuple[str, Task], list[Workload]] = {}
        for workload in sorted(self.workloads.values(), key=lambda it: -it.requests):
            alike = found.setdefault((workload.group.app, workload.group.task), [])
            same = next((it for it in alike if _are_alike(it.group.template, workload.group.template)), None)
            if same is None:
                alike.append(_copy(workload))
            else:
                same.merge(workload)
        every = [it for alike in found.values() for it in alike]
        return sorted(every, key=lambda it: (-(it.prompt_tokens + it.output_tokens), it.name))

    def _workload(self, group: Group) -> Workload:
        workload = self.workloads.get(group)
        if workload is None:
            workload = self.workloads[group] = Workload.of(group)
        return workload


def fingerprint(system: str) -> int:
    """64 bits that are nearly the same for texts that are (SimHash: M. Charikar, STOC 2002); 0 for no
    text."""
    sums = [0] * 64
    shingles = set(_shingles(system))
    for shingle in shingles:
        bits = int.from_bytes(hashlib.blake2b(shingle.encode(), digest_size=8).digest())
        for at in range(64):
            sums[at] += 1 if bits >> at & 1 else -1
    return sum(1 << at for at, value in enumerate(sums) if value > 0) if shingles else 0


def _shingles(text: str) -> Iterator[str]:
    words = _WORD.findall(_NUMBER.sub("0", text.lower()))[:_TEMPLATE_WORDS]
    for at in range(max(1, len(words) - 2) if words else 0):
        yield " ".join(words[at : at + 3])


def _are_alike(one: int, other: int) -> bool:
    return (one == 0) == (other == 0) and (one ^ other).bit_count() <= ALIKE


def _copy(workload: Workload) -> Workload:
    copy = Workload.of(workload.group)
    copy.merge(workload)
    return copy
