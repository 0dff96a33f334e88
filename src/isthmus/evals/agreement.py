"""How well a judge agrees with people, and with itself when answers change places."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.evaluation import Answered, Sample
from isthmus.evals.datasets import samples
from isthmus.evals.scorers.judge import Judge
from isthmus.evals.scorers.judging import NoVerdictError
from isthmus.evals.scorers.pairwise import Comparison, Pairwise
from isthmus.statistics.agreement import Agreement, kappa
from isthmus.statistics.intervals import Interval, mean, proportion

AT_ONCE = 16

Better = Literal["answer", "other", "tie"]

_BETTER: dict[float, Better] = {1.0: "answer", 0.0: "other", 0.5: "tie"}

T = TypeVar("T")


class Marked(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says: an answer's `mark` on the judge's scale, or which of two answers is `better`."""

    sample: Sample
    answer: str
    mark: int | None = None
    other: str | None = None
    better: Better | None = None


class Graded(msgspec.Struct, frozen=True, kw_only=True):
    """The judge's grades beside people's marks.

    `agreement` is Cohen's kappa, `weighted` the one in which a difference counts by its square. `bias` is by
    how many grades the judge is kinder than people. `confusion` counts the grades, by mark. `unscored` says
    of how many answers the judge gave no grade, and `because` why, as far as it differs.
    """

    agreement: Agreement
    weighted: Agreement
    bias: Interval
    confusion: dict[int, dict[int, int]]
    unscored: int
    because: tuple[str, ...]


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """The judge's choices between two answers beside people's.

    `consistent` counts the pairs on which swapping the places of the answers changed nothing.
    """

    agreement: Agreement
    consistent: int
    consistency: Interval
    confusion: dict[str, dict[str, int]]
    unscored: int
    because: tuple[str, ...]


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a judge; None where no answers were marked in that way."""

    judge: str
    graded: Graded | None
    compared: Compared | None


def read_marks(path: Path, scale: int) -> tuple[Marked, ...]:
    """The marked samples of a file of JSON Lines.

    Each line is a sample in our own form with `answer` and `mark`, or with `answer`, `other` and `better`.
    Raises IsthmusError (`bad_marks`, `bad_dataset`) that names the line.
    """
    with path.open("rb") as lines:
        marked = tuple(
            _marked(line, f"{path}:{number}", scale) for number, line in enumerate(lines, 1) if line.strip()
        )
    if not marked:
        raise _bad(str(path), "there is nothing in it")
    return marked


async def check(
    marked: Sequence[Marked],
    judge: Judge,
    pairwise: Pairwise,
    scale: int,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Checked:
    """Let the judge judge what people have judged, and compare; equal marks give equal intervals."""
    rng = np.random.default_rng(0)
    places, done = asyncio.Semaphore(AT_ONCE), 0

    async def one(work: Awaitable[T]) -> T:
        nonlocal done
        async with places:
            said = await work
        done += 1
        tell(done, len(marked))
        return said

    single = [it for it in marked if it.mark is not None]
    pairs = [it for it in marked if it.mark is None]
    grades = await asyncio.gather(*(one(judge.score(it.sample, _said(it.answer))) for it in single))
    choices = await asyncio.gather(*(one(_choice(pairwise, it)) for it in pairs))
    return Checked(
        judge=judge.model,
        graded=_graded(single, grades, scale, rng) if single else None,
        compared=_compared(pairs, choices, rng) if pairs else None,
    )


async def _choice(pairwise: Pairwise, it: Marked) -> Comparison | str:
    """The comparison, or why there is none."""
    try:
        return await pairwise.compare(it.sample, _said(it.answer), _said(it.other or ""))
    except NoVerdictError as error:
        return str(error)


def _graded(marked: Sequence[Marked], grades: Sequence[Any], scale: int, rng: np.random.Generator) -> Graded:
    both = [
        (it.mark, int(grade.said))
        for it, grade in zip(marked, grades, strict=True)
        if it.mark is not None and grade.value is not None
    ]
    people, judge = [mark for mark, _ in both], [grade for _, grade in both]
    because = [grade.why or "" for grade in grades if grade.value is None]
    return Graded(
        agreement=kappa(people, judge, rng),
        weighted=kappa(people, judge, rng, weights="quadratic"),
        bias=mean([grade - mark for mark, grade in both], least=1 - scale, most=scale - 1),
        confusion=_confusion(both),
        unscored=len(because),
        because=tuple(dict.fromkeys(because)),
    )


def _compared(
    marked: Sequence[Marked], choices: Sequence[Comparison | str], rng: np.random.Generator
) -> Compared:
    made = [
        (it.better, choice)
        for it, choice in zip(marked, choices, strict=True)
        if it.better is not None and isinstance(choice, Comparison)
    ]
    both = [(better, _BETTER[choice.value]) for better, choice in made]
    consistent = sum(choice.consistent for _, choice in made)
    because = [choice for choice in choices if isinstance(choice, str)]
    return Compared(
        agreement=kappa([better for better, _ in both], [choice for _, choice in both], rng),
        consistent=consistent,
        consistency=proportion(consistent, len(made)),
        confusion=_confusion(both),
        unscored=len(because),
        because=tuple(dict.fromkeys(because)),
    )


def _confusion(both: Sequence[tuple[Any, Any]]) -> dict[Any, dict[Any, int]]:
    people = sorted({mark for mark, _ in both})
    return {mark: dict(sorted(Counter(said for one, said in both if one == mark).items())) for mark in people}


def _said(text: str) -> Answered:
    return Answered(model="", text=text)


# Reading


class _Line(msgspec.Struct, kw_only=True):
    answer: str
    mark: int | None = None
    other: str | None = None
    better: Better | None = None


def _marked(line: bytes, where: str, scale: int) -> Marked:
    try:
        fields = msgspec.json.decode(line, type=dict[str, Any])
        said = msgspec.convert(fields, _Line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _bad(where, str(error)) from None
    pair = (said.other is not None, said.better is not None)
    if pair != ((False, False) if said.mark is not None else (True, True)):
        raise _bad(where, "it has neither a `mark` alone nor both of `other` and `better`")
    if said.mark is not None and not 1 <= said.mark <= scale:
        raise _bad(where, f"`mark` is {said.mark}, and the scale is from 1 to {scale}", "Say --scale.")
    rest = {name: it for name, it in fields.items() if name not in _Line.__struct_fields__}
    sample = samples.read(rest, where, Counter())
    return Marked(sample=sample, **msgspec.structs.asdict(said))


def _bad(where: str, what: str, hint: str = "") -> IsthmusError:
    return IsthmusError(
        Fault.INVALID_REQUEST,
        f"{where} is no marked answer: {what}.",
        code="bad_marks",
        hint=hint or "Write a sample with `answer` and `mark`, or with `answer`, `other` and `better`.",
    )
