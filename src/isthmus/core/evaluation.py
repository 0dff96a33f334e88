"""The words of evaluation: what is asked, what comes back, and how good that is.

They are those of inspect-ai (https://inspect.aisi.org.uk), where it has a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from isthmus.core.label import BOTTOM, Label
from isthmus.core.usage import Charge, Usage

CUT_SHORT = frozenset({"length", "context_length"})
"""How answers finish that were cut off at a limit of tokens."""

REFUSED = frozenset({"refusal", "content_filter"})
"""How answers finish that a model or its provider refused to give."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of work: a request without its model, and what a good answer is.

    `request` is the body of an OpenAI Chat Completions request (`messages`, and what else was asked for, such
    as `tools` or `response_format`), without `model` and `stream`. `target` holds the good answers, any of
    which will do; it is empty where a judge or a schema decides. `choices` are the options of a
    multiple-choice question, in order. `label` is how sensitive the sample is: it goes along with every
    request that is made of it, and only ever rises. `metadata` is whatever came with it: a task's kind, the
    record that it was taken from.
    """

    id: str
    request: dict[str, Any]
    target: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    label: Label = BOTTOM
    metadata: dict[str, Any] = {}


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What one model said to one request, and what that took.

    `text` is the answer in words, `message` the assistant's message as OpenAI's dialect writes it, tool calls
    included. Where it failed, `code` is the stable error code and `error` says it in words; `text` is empty
    then. `charge` is None where the model was not reached. Times are milliseconds. `record_id` leads to the
    ledger. `logprobs` are those of the answer's tokens, where they were asked for and given. `label` is what
    was found of the request: whoever sees the answer must be cleared for that, too.
    """

    model: str
    text: str = ""
    message: dict[str, Any] = {}
    finish: str | None = None
    usage: Usage | None = None
    charge: Charge | None = None
    first_token_ms: float | None = None
    total_ms: float = 0.0
    record_id: str | None = None
    code: str | None = None
    error: str | None = None
    logprobs: tuple[float, ...] | None = None
    label: Label = BOTTOM


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """How good an answer is: `value` from 0 (worthless) to 1 (as good as can be), None where nobody can say.

    `said` is what was taken from the answer and compared, `why` the reason in words.
    """

    value: float | None
    said: str | None = None
    why: str | None = None


class Ask(Protocol):
    """Asks one model of the portfolio, by the same way that live traffic goes: perimeter, budgets, ledger."""

    async def __call__(self, model: str, request: Mapping[str, Any], label: Label = BOTTOM) -> Answered:
        """What `model` answers to a request like `Sample.request`, which is at least of that label.

        A failure is an answer with a code, never an exception: `no_model_allowed` where the model may not see
        it, `budget_spent` where the money is used up.
        """
        ...


class Embedded(msgspec.Struct, frozen=True, kw_only=True):
    """The vectors that one model made of texts, one for each, in their order; none where it failed.

    `code` and `error` then say why, as those of an `Answered` do.
    """

    model: str
    vectors: tuple[tuple[float, ...], ...] = ()
    usage: Usage | None = None
    charge: Charge | None = None
    code: str | None = None
    error: str | None = None


class Embed(Protocol):
    """Asks one model of the portfolio for embeddings, by the same way that live traffic goes."""

    async def __call__(self, model: str, texts: Sequence[str], label: Label = BOTTOM) -> Embedded:
        """The vectors of these texts, which are at least of that label. A failure has a code, as of `Ask`."""
        ...


class Scorer(Protocol):
    """Scores answers.

    An answer that failed has no value: whoever asked decides what a failure is worth.
    """

    @property
    def name(self) -> str:
        """How it is written in a config or on a command line, with its arguments."""
        ...

    @property
    def binary(self) -> bool:
        """True where its values are 0 or 1 only: McNemar's test compares models then, not a bootstrap."""
        ...

    async def score(self, sample: Sample, answered: Answered) -> Score:
        """How good this answer to this sample is."""
        ...
