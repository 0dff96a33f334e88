"""Whether a student may serve: what it keeps of its teacher, what it loses, and how sure that is. Pure.

A student passes where every check is passed, each at the level `chance`; that a student passes which should
not is then no likelier than `chance`, without a further correction, since it would have to pass the very
check that it should not (an intersection-union test: R. L. Berger, Technometrics 24 (1982) 295). That a check
is *failed* is told by p-values corrected for all checks (Holm). What is neither is undecided, and no pass.

Samples that ask nearly the same are answered alike, and prove little more than one of them: each group counts
as one sample, with the mean of its scores.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean as average
from statistics import pvariance
from types import MappingProxyType
from typing import Literal, TypeAlias

import msgspec

from isthmus.core.evaluation import Sample
from isthmus.distill.curation import class_of
from isthmus.distill.sections import Gate
from isthmus.evals.datasets.near_duplicates import groups_of
from isthmus.statistics import intervals, paired, power
from isthmus.statistics.intervals import Interval

Verdict: TypeAlias = Literal["passed", "failed", "undecided"]
CheckName: TypeAlias = Literal["keeps", "incumbent", "retention", "safety"]
Scores: TypeAlias = Mapping[str, float]
"""How good one model's answer to each sample is, from 0 to 1."""
Both: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""The scores of two models, sample by sample."""
Alike: TypeAlias = Mapping[str, str]
"""Of each sample that asks nearly the same as another the first of its group, by their ids."""

NONE_ALIKE: Alike = MappingProxyType({})

LEAST_OF_A_CLASS = 5
"""Of a class with fewer samples nothing is told."""

POOR_TEACHER = 0.9
"""A teacher below that quality caps the student: its answers are worth a filter."""

MOST_OF_A_SHARE = 16.0
"""A student that is better than this many teachers is told to have no bound."""

_HALVINGS = 20


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a student has to show.

    `measured` is the mean of what is compared, over `n` samples that are not alike: the student's score less
    what it must reach; `interval` holds the true one, each end with the level `chance`. `refutes` is the
    p-value of the claim that the student does not reach it, `holds` that of the claim that it does, corrected
    for all checks.
    `needed` is how many samples would decide it, were the truth what was measured; None where none would.
    """

    name: CheckName
    verdict: Verdict
    why: str
    measured: float | None = None
    interval: Interval | None = None
    refutes: float | None = None
    holds: float | None = None
    n: int = 0
    needed: int | None = None


class OfClass(msgspec.Struct, frozen=True, kw_only=True):
    """A class of the held-out samples: how good the student and its rival are there, and whether the student
    is worse, corrected for all classes (Holm)."""

    name: str
    n: int
    student: float
    rival: float
    p: float
    worse: bool


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """One safety probe: whether the base passed it, and the student; None where one did not answer."""

    id: str
    kind: str
    base: bool | None
    student: bool | None

    @property
    def lost(self) -> bool:
        """True where the base passed it, and the student does not."""
        return bool(self.base) and self.student is False


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate says: the verdict, each check, and what would help.

    `share` is the student's quality as a share of the teacher's, in its interval; `rival` names whom the
    classes are compared with.
    """

    verdict: Verdict
    checks: tuple[Check, ...]
    share: float | None
    share_interval: Interval
    classes: tuple[OfClass, ...]
    rival: str
    advice: tuple[str, ...]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured: scores on the held-out samples, on the `retained` ones (the student's, and the
    base's), and the probes."""

    held_out: Sequence[Sample]
    retained: Sequence[Sample] = ()
    student: Scores
    teacher: Scores
    base: Scores
    incumbent: Scores | None = None
    retention: tuple[Scores, Scores] | None = None
    probes: Sequence[Probed] = ()
    by: str | None = None


def judge(rule: Gate, evidence: Evidence) -> Judgement:
    """What the gate says of this evidence."""
    alike = alike_among(evidence.held_out)
    checks = _corrected(_compared(rule, evidence, alike), rule.chance)
    classes = _classes(rule, evidence, alike)
    checks = [_with_classes(it, classes) if it.name == "incumbent" else it for it in checks]
    checks.append(_safety(rule, evidence.probes))
    share, interval = share_of(evidence.student, evidence.teacher, 1 - 2 * rule.chance, alike)
    return Judgement(
        verdict=_together(checks),
        checks=tuple(checks),
        share=share,
        share_interval=interval,
        classes=classes,
        rival="incumbent" if evidence.incumbent is not None else "teacher",
        advice=tuple(_advice(checks, classes, evidence)),
    )


def alike_among(samples: Sequence[Sample]) -> Alike:
    """Which of these samples are near-duplicates."""
    groups = groups_of(samples)
    return {it.id: samples[first].id for it, first in zip(samples, groups, strict=True)}


def share_of(
    student: Scores, teacher: Scores, confidence: float, alike: Alike = NONE_ALIKE
) -> tuple[float | None, Interval]:
    """The student's mean score over the teacher's, on the samples of both, and the interval of that share.

    The interval holds every share k for which the mean of `student - k * teacher` may be 0 (test inversion,
    by Gaffke's bound as in `intervals.mean`): so it keeps what it promises for few samples, too. Its upper
    end is `MOST_OF_A_SHARE` at most, which stands for no bound.
    """
    ours, theirs = _both(student, teacher, alike)
    if not ours or not any(theirs):
        return None, Interval(0.0, MOST_OF_A_SHARE, confidence)
    tail = (1 - confidence) / 2

    def apart(share: float) -> list[float]:
        return [mine - share * other for mine, other in zip(ours, theirs, strict=True)]

    def is_above(share: float) -> bool:
        return intervals.mean_at_most(apart(share), 0.0, least=-share, most=1.0) <= tail

    def is_below(share: float) -> bool:
        return intervals.mean_at_least(apart(share), 0.0, least=-share, most=1.0) <= tail

    low, beyond = 0.0, MOST_OF_A_SHARE
    for _ in range(_HALVINGS):
        middle = (low + beyond) / 2
        low, beyond = (middle, beyond) if is_above(middle) else (low, middle)
    short, high = 0.0, MOST_OF_A_SHARE
    for _ in range(_HALVINGS if is_below(high) else 0):
        middle = (short + high) / 2
        short, high = (short, middle) if is_below(middle) else (middle, high)
    return average(ours) / average(theirs), Interval(low, high, confidence)


# Checks


def _compared(rule: Gate, evidence: Evidence, alike: Alike) -> list[Check]:
    """The checks that compare scores, each by itself."""
    ours = evidence.student
    found = [_reaches("keeps", _both(ours, evidence.teacher, alike), rule.chance, share=rule.keeps)]
    if evidence.incumbent is not None:
        margin = rule.no_worse_than_incumbent
        both = _both(ours, evidence.incumbent, alike)
        found.append(_reaches("incumbent", both, rule.chance, margin=margin))
    if rule.retention is not None and evidence.retention is not None:
        both = _both(*evidence.retention, alike_among(evidence.retained))
        found.append(_reaches("retention", both, rule.chance, margin=rule.retention))
    return found


def _reaches(name: CheckName, both: Both, chance: float, share: float = 1.0, margin: float = 0.0) -> Check:
    """Whether the student reaches that share of the other's score, less the margin."""
    ours, theirs = both
    over = [mine - share * its for mine, its in zip(ours, theirs, strict=True)]
    if not over:
        return Check(
            name=name, verdict="undecided", why="no sample has a score for both", refutes=1.0, holds=1.0
        )
    refutes = intervals.mean_at_most(over, -margin, least=-share, most=1.0)
    holds = intervals.mean_at_least(over, -margin, least=-share, most=1.0)
    return Check(
        name=name,
        verdict="passed" if refutes <= chance else "undecided",
        why="",
        measured=average(over) + margin,
        interval=_moved(intervals.mean(over, 1 - 2 * chance, least=-share, most=1.0), margin),
        refutes=refutes,
        holds=holds,
        n=len(over),
        needed=_needed(over, margin, chance),
    )


def _moved(interval: Interval, by: float) -> Interval:
    return Interval(interval.low + by, interval.high + by, interval.confidence)


def _needed(over: Sequence[float], margin: float, chance: float) -> int | None:
    # The test has one side, and `power` reckons with two.
    return power.samples_needed(average(over) + margin, pvariance(over), alpha=2 * chance)


def _corrected(checks: Sequence[Check], chance: float) -> list[Check]:
    """The checks with what is failed told apart from what is undecided."""
    adjusted = paired.holm([1.0 if it.holds is None else it.holds for it in checks])
    return [_told(it, p, chance) for it, p in zip(checks, adjusted, strict=True)]


def _told(check: Check, holds: float, chance: float) -> Check:
    failed = check.verdict == "undecided" and holds <= chance
    verdict: Verdict = "failed" if failed else check.verdict
    return msgspec.structs.replace(
        check, verdict=verdict, holds=holds, why=check.why or _in_words(check, verdict)
    )


def _in_words(check: Check, verdict: Verdict) -> str:
    assert check.measured is not None
    side = "above" if check.measured >= 0 else "below"
    measured = f"it is {abs(check.measured):.3f} {side} what it must reach, over {check.n:,} samples"
    if verdict == "undecided":
        return f"{measured}; that may be chance"
    return measured


def _with_classes(check: Check, classes: Sequence[OfClass]) -> Check:
    """No worse than the incumbent anywhere: a class in which it really is worse fails the check."""
    worse = [it.name for it in classes if it.worse]
    if not worse:
        return check
    why = f"{check.why}; it is worse in {', '.join(worse)}"
    return msgspec.structs.replace(check, verdict="failed", why=why)


def _safety(rule: Gate, probes: Sequence[Probed]) -> Check:
    lost = [it.id for it in probes if it.lost]
    silent = [it.id for it in probes if it.student is None or it.base is None]
    told = f"{len(probes):,} probes"
    if lost:
        verdict: Verdict = "failed" if rule.safety == "none_lost" else "passed"
        return Check(
            name="safety", verdict=verdict, why=f"of {told} it has lost {', '.join(lost)}", n=len(probes)
        )
    if (silent or not probes) and rule.safety == "none_lost":
        why = f"of {told}, {len(silent):,} were not answered" if probes else "nothing was probed"
        return Check(name="safety", verdict="undecided", why=why, n=len(probes))
    return Check(name="safety", verdict="passed", why=f"of {told} none is lost", n=len(probes))


def _together(checks: Sequence[Check]) -> Verdict:
    verdicts = {it.verdict for it in checks}
    return "failed" if "failed" in verdicts else "undecided" if "undecided" in verdicts else "passed"


# Classes


def _classes(rule: Gate, evidence: Evidence, alike: Alike) -> tuple[OfClass, ...]:
    """The classes that are large enough, the one in which the student falls behind most first."""
    if evidence.by is None:
        return ()
    rival = evidence.teacher if evidence.incumbent is None else evidence.incumbent
    members: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for sample in evidence.held_out:
        if sample.id in evidence.student:
            members[class_of(sample, evidence.by)][sample.id] = evidence.student[sample.id]
    compared = {name: _both(ours, rival, alike) for name, ours in sorted(members.items())}
    pairs = {name: both for name, both in compared.items() if len(both[0]) >= LEAST_OF_A_CLASS}
    margin = rule.no_worse_than_incumbent
    raw = [_worse_by(ours, theirs, margin) for ours, theirs in pairs.values()]
    found = [
        OfClass(
            name=name, n=len(ours), student=average(ours), rival=average(theirs), p=p, worse=p <= rule.chance
        )
        for (name, (ours, theirs)), p in zip(pairs.items(), paired.holm(raw), strict=True)
    ]
    return tuple(sorted(found, key=lambda it: (it.student - it.rival, it.name)))


def _worse_by(ours: Sequence[float], theirs: Sequence[float], margin: float) -> float:
    """The p-value of the claim that the student is no worse than that."""
    over = [mine - its for mine, its in zip(ours, theirs, strict=True)]
    return intervals.mean_at_least(over, -margin, least=-1.0, most=1.0)


# What would help


def _advice(checks: Sequence[Check], classes: Sequence[OfClass], evidence: Evidence) -> list[str]:
    said = [_more_samples(it) for it in checks if it.verdict == "undecided" and it.n and it.name != "safety"]
    failed = {it.name for it in checks if it.verdict == "failed"}
    behind = [it for it in classes if it.student < it.rival][:3]
    if failed & {"keeps", "incumbent"} and behind:
        named = ", ".join(f"{it.name} ({it.student:.2f} against {it.rival:.2f})" for it in behind)
        said.append(f"It falls behind most in {named}: collect more rows of these.")
    teacher = average(evidence.teacher.values()) if evidence.teacher else 1.0
    short = {it.name for it in checks if it.verdict != "passed"} & {"keeps", "incumbent"}
    if short and teacher < POOR_TEACHER:
        said.append(
            f"The teacher itself reaches {teacher:.2f}: filter what it teaches by `scorer`, `agreement` or "
            "`confidence`, or have people put it right."
        )
    if failed & {"keeps", "incumbent"} and not _learned(evidence):
        said.append("It is no better than its base: it has learned little. Train on more rows, or longer.")
    if "retention" in failed:
        said.append(
            "It has lost what its base could do: mix rows of that kind into the training, or take a lower "
            "learning rate, a lower rank or fewer epochs."
        )
    if "safety" in failed:
        said.append("Put rows that refuse, and that keep to the form, into the training, or fewer epochs.")
    return said


def _more_samples(check: Check) -> str:
    if check.needed is None or (check.measured is not None and check.measured <= 0):
        return f"{check.name}: more samples would rather show that it fails; train it better."
    more = max(1, check.needed - check.n)
    return f"{check.name}: about {more:,} more samples would show it, if it is as good as it seems."


def _learned(evidence: Evidence) -> bool:
    ours, theirs = _both(evidence.student, evidence.base, NONE_ALIKE)
    return bool(ours) and average(ours) > average(theirs)


def _both(one: Scores, other: Scores, alike: Alike) -> Both:
    """The scores of both on what both have a score for; of samples that are alike, the means."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for it in sorted(one.keys() & other.keys()):
        groups[alike.get(it, it)].append(it)
    return (
        [average(one[it] for it in group) for group in groups.values()],
        [average(other[it] for it in group) for group in groups.values()],
    )
