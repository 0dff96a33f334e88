"""The whole story of one request, appended once, immutable."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from isthmus.core.decision import Decision
from isthmus.core.errors import Fault
from isthmus.core.label import BOTTOM, Label
from isthmus.core.usage import Charge, Usage

Outcome: TypeAlias = Literal["ok", "error", "cancelled", "interrupted"]
Purpose: TypeAlias = Literal["answer", "draft", "judge", "shadow"]
"""What a model was called for: the client's answer, a draft that is kept from the client until it is judged,
a judgement on others, or a comparison that no client sees."""
AnswerForm: TypeAlias = Literal["text", "json", "schema"]


MS = 1000.0
"""Milliseconds, which records report, in a second, which clocks tell."""


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream call. Times are milliseconds; `started_ms` counts from the request's arrival.

    `purpose` is what it was for. `confidence` in [0, 1] is what was made of a draft, None where nobody judged
    it; `verdict` says in words what came of that. `weights` is the identity of the weights, where they
    were read before their engine started: signed, pinned, or from a file that has changed while it served.

    `queue_ms` is waiting for a free connection. `fault` and `code` are set where it failed; `upstream_status`
    is the provider's HTTP status, if one came. `committed` says that some of its answer went to the client.
    `passthrough` says that bytes were relayed without translation.
    """

    number: int
    model: str
    provider: str
    model_id: str
    outcome: Outcome
    started_ms: float
    queue_ms: float = 0.0
    first_token_ms: float | None = None
    total_ms: float = 0.0
    fault: str | None = None
    code: str | None = None
    upstream_status: int | None = None
    finish: str | None = None
    usage: Usage | None = None
    charge: Charge | None = None
    committed: bool = False
    passthrough: bool = False
    dropped: tuple[str, ...] = ()
    purpose: Purpose = "answer"
    confidence: float | None = None
    verdict: str | None = None
    weights: str | None = None


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of a request went, in milliseconds.

    `queue` is waiting for a slot, `overhead` the gateway's own work before the model was asked and between
    the model's first byte and the client's, `first_token` the time to the first content, `total` all of it.
    """

    queue_ms: float
    overhead_ms: float
    first_token_ms: float | None
    total_ms: float


class Features(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a request looks like from outside: what decisions may depend on and analyses need, and no text.

    `size` is its body in bytes, `turns` how many messages it has, told by their roles. `max_output` is the
    longest answer that it asks for, in tokens. `pictures`, `files` and `audio` say that such a part stands in
    a message. `form` is what the answer must be: any text, JSON, or JSON by a schema. `temperature` is what
    was said, None where nothing was.
    """

    size: int
    turns: int = 0
    max_output: int | None = None
    tools: bool = False
    pictures: bool = False
    files: bool = False
    audio: bool = False
    form: AnswerForm = "text"
    temperature: float | None = None
    thinking: bool = False
    logprobs: bool = False


class Grounds(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a decision rested on besides the config and what was found: with it, another config can decide.

    `asked` is the model's name as the caller said it, None where that is the route's. `floor` is that of the
    key, and `said` are the levels' names that the caller sent. `blind` says that something could not be
    looked into. `unlooked` are kinds for which nobody looked, since finding them could not have raised the
    label. `before` is how the conversation was labelled so far, where it is known.
    """

    asked: str | None = None
    floor: Label = BOTTOM
    before: Label = BOTTOM
    said: tuple[str, ...] = ()
    blind: bool = False
    unlooked: tuple[str, ...] = ()


NO_GROUNDS = Grounds()
"""Of a decision that rested on nothing else."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One request: who asked what route, what was found in it and decided, every attempt, and what it cost.

    `at_us` is wall-clock time in microseconds since the epoch (UTC). `charge` is the sum over the attempts;
    its `nanousd` is None as soon as one attempt's price is unknown. Bodies are None unless the config says
    that they are kept. `mirrors` is the id of the request whose copy this is: a comparison, whose answer no
    client gets. `findings` says in how many places of the request each kind was found; it is None
    where nothing was looked at. What the values were is kept nowhere. `features` and `grounds` are None
    where the request could not be read so far, and in records of an older Isthmus.
    """

    id: str
    at_us: int
    dialect: str
    operation: str
    route: str
    stream: bool
    status: int
    outcome: Outcome
    key_id: str | None = None
    team: str | None = None
    user: str | None = None
    model: str | None = None
    mirrors: str | None = None
    code: str | None = None
    message: str | None = None
    decision: Decision | None = None
    findings: dict[str, int] | None = None
    features: Features | None = None
    grounds: Grounds | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    usage: Usage | None = None
    charge: Charge | None = None
    timings: Timings
    config_hash: str
    request_body: bytes | None = None
    response_body: bytes | None = None

    @property
    def fault(self) -> str | None:
        """The class of the failure of the attempt that ended the request; None where no attempt did."""
        failed = (it.fault for it in reversed(self.attempts) if it.fault is not None and it.code == self.code)
        return None if self.outcome == "ok" else next(failed, None)


def answered(outcome: Outcome, fault: str | None) -> bool | None:
    """Whether a request was answered, as far as that tells of the model; `fault` is `Record.fault`.

    None where it tells nothing: the client left, or what failed was the request's own doing or the gateway's.
    """
    if outcome == "ok":
        return True
    blamed = outcome == "error" and fault is not None and Fault(fault).blames_model
    return False if blamed else None


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is about to be tried: what the strict ledger commits before the first attempt.

    If the process dies, the intent is all that is left, and it becomes a record with outcome `interrupted`.
    """

    id: str
    at_us: int
    dialect: str
    operation: str
    route: str
    stream: bool
    key_id: str | None
    config_hash: str
