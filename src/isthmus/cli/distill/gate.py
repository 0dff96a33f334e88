"""`isthmus distill gate`: a student against its teacher, its base and the incumbent, before it may serve."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from isthmus.artefacts import keys
from isthmus.cli.distill.asking import Asking
from isthmus.cli.distill.permitting import recipe_or_exit
from isthmus.cli.options import config_option, load_or_exit, told
from isthmus.cli.runs import (
    Number,
    Usd,
    check_scorers,
    judges_of,
    outcome_of,
    require_cap,
    require_statistics,
)
from isthmus.cli.texts import replace
from isthmus.config.config import Config
from isthmus.config.digests import weights_sha256
from isthmus.config.load import locate
from isthmus.config.rollouts import version_of
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.rollout import Version
from isthmus.distill.contamination import require_untouched
from isthmus.distill.golden import CARD, PARTS
from isthmus.distill.provenance import provenance_of
from isthmus.distill.recipe import needed
from isthmus.distill.sections import Gate
from isthmus.evals.answers import NOT_PERMITTED, candidate_of
from isthmus.evals.datasets import Dataset, open_dataset
from isthmus.evals.datasets.dataset import once_each
from isthmus.reports.html import html
from isthmus.reports.markdown import markdown
from isthmus.store.runs import Run, Runs

if TYPE_CHECKING:
    from isthmus.distill.gate_report import GateRecord
    from isthmus.evals.outcome import Outcome

STATUS = {"passed": 0, "failed": 1, "undecided": 3}
"""The exit status by verdict."""

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.option("--student", required=True, help="The model of the config that is to be judged.")
@click.option(
    "--artefact",
    type=click.Path(path_type=Path, exists=True),
    help="Judge it with the weights of this artefact, in place of those of the config.",
)
@click.option("--signer", type=FILE, help="The public key that the artefact is signed by.")
@click.option("--teacher", required=True, help="The model whose quality it has to keep.")
@click.option("--base", required=True, help="The model that it was trained from.")
@click.option("--incumbent", help="The model that serves now, where there is one.")
@click.option("--held-out", required=True, type=FILE, help="Samples that no training has seen.")
@click.option("--retention", type=FILE, help="Samples of what the base could do and the student must keep.")
@click.option("--scorer", required=True, help="How answers are scored, such as exact.")
@click.option(
    "--trained-on",
    "trained_on",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="What the student has learned from: a golden set's folder, or a file; may be said again.",
)
@click.option("--by", help="Tell classes apart by this field of the metadata, or by `answer`.")
@click.option(
    "--recipe", type=FILE, help="The recipe whose section `gate` is the rule. Default: its defaults."
)
@click.option("--max-usd", type=Usd(), help="Spend at most so much on asking, however often it is resumed.")
@click.option("--max-tokens", type=click.IntRange(1), help="The longest answer, where a sample says none.")
@click.option("--temperature", type=Number(0, 2), default=0.0, show_default=True)
@click.option("--concurrency", type=click.IntRange(1, 256), default=8, show_default=True)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Write the record (gate.json)."
)
@click.option(
    "--html", "html_path", type=click.Path(path_type=Path, dir_okay=False), help="Write a page, too."
)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
@told
def gate(
    student: str,
    artefact: Path | None,
    signer: Path | None,
    teacher: str,
    base: str,
    incumbent: str | None,
    held_out: Path,
    retention: Path | None,
    scorer: str,
    trained_on: tuple[Path, ...],
    by: str | None,
    recipe: Path | None,
    max_usd: int | None,
    max_tokens: int | None,
    temperature: float,
    concurrency: int,
    output: Path | None,
    html_path: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Judge whether a student may serve: by held-out samples, a retention set, and safety probes.

    Requests go the way of live traffic, and answers that are kept are not asked for again: the same command
    goes on after it was stopped. Samples that touch what the student has learned from are refused. Ends with
    status 0 where the student passes, 1 where it fails or something is wrong, 3 where that cannot be told.
    """
    path = locate(config_path)
    config = load_or_exit(path)
    require_statistics()
    rule = needed(recipe_or_exit(recipe).gate, "gate") if recipe is not None else Gate()
    if (artefact is None) != (signer is None):
        raise click.UsageError("--artefact and --signer go together: unsigned weights are not loaded.")
    if artefact is not None and signer is not None:
        config, student = _with_artefact(config, student, artefact, signer)
    roles = {"student": student, "teacher": teacher, "base": base, "incumbent": incumbent}
    named = {role: name for role, name in roles.items() if name is not None}
    _require_known(named, config)
    _require_others(named, config)
    if rule.retention is not None and retention is None:
        raise click.UsageError("Say --retention, or `retention: null` in the recipe's gate to judge without.")
    check_scorers([scorer])
    judges = judges_of([scorer], config)
    require_cap(config, list(dict.fromkeys([*named.values(), *judges])), max_usd)
    tests = _Tests(
        held_out=once_each(open_dataset(held_out)),
        retention=once_each(open_dataset(retention)) if retention is not None else None,
        learned=tuple(_learned(trained_on)),
    )
    tests.require_untouched()
    asking = Asking(config, path, max_usd, concurrency)
    request = {"temperature": temperature, "max_tokens": max_tokens}
    record = _judged(rule, named, tests, asking, request, scorer, by)
    _present(record, output, html_path, as_json)
    raise SystemExit(STATUS[record.judgement.verdict])


class _Tests(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked, and what was learned."""

    held_out: Dataset
    retention: Dataset | None
    learned: tuple[Dataset, ...]

    def require_untouched(self) -> None:
        """Raises IsthmusError where anything that was learned touches what is asked, or descends from it."""
        learned = [sample for it in self.learned for sample in it.samples]
        through = {
            ancestor
            for sample in learned
            if (told := provenance_of(sample)) is not None
            for ancestor in told.ancestors
        }
        for test in (self.held_out, self.retention):
            if test is None:
                continue
            if test.hash in through or test.hash in {it.hash for it in self.learned}:
                raise IsthmusError(
                    Fault.INVALID_REQUEST,
                    f"What was learned comes from {test.name} itself.",
                    code="test_touched_training",
                    hint="Judge by samples that no training has seen.",
                )
            require_untouched(learned, test.samples, "what was learned")


def _judged(
    rule: Gate,
    named: Mapping[str, str],
    tests: _Tests,
    asking: Asking,
    request: Mapping[str, Any],
    scorer: str,
    by: str | None,
) -> GateRecord:
    from isthmus.distill.gate import Evidence, judge
    from isthmus.distill.gate_report import GateRecord, measured_of
    from isthmus.distill.probes import REQUEST, probed, probes_dataset

    main = asking.run(tests.held_out, list(named.values()), request, [scorer])
    runs = {"held-out": main.id}
    scores = _scores(main, scorer, named["student"], asking.runs)
    kept = None
    if tests.retention is not None:
        pair = [named["student"], named["base"]]
        retained = asking.run(tests.retention, pair, request, [scorer])
        runs["retention"] = retained.id
        by_model = _scores(retained, scorer, named["student"], asking.runs)
        kept = (by_model[named["student"]], by_model[named["base"]])
    probing = asking.run(probes_dataset(), [named["student"], named["base"]], REQUEST)
    runs["probes"] = probing.id
    answers = asking.runs.answers(probing.id)
    said = {
        role: {place.sample: it.answered for place, it in answers.items() if place.model == named[role]}
        for role in ("student", "base")
    }
    probes = tuple(probed(said["base"], said["student"]))
    outcome = outcome_of(main, asking.runs)
    standings = {it.model.name: it for it in outcome.standings}
    judgement = judge(
        rule,
        Evidence(
            held_out=tests.held_out.samples,
            retained=tests.retention.samples if tests.retention is not None else (),
            student=scores[named["student"]],
            teacher=scores[named["teacher"]],
            base=scores[named["base"]],
            incumbent=scores[named["incumbent"]] if "incumbent" in named else None,
            retention=kept,
            probes=probes,
            by=by,
        ),
    )
    return GateRecord(
        judgement=judgement,
        rule=rule,
        scorer=scorer,
        models=tuple(measured_of(role, standings[name]) for role, name in named.items()),
        probes=probes,
        runs=runs,
        held_out=tests.held_out.hash,
        retention=tests.retention.hash if tests.retention is not None else None,
        learned=tuple(sorted(it.hash for it in tests.learned)),
        notes=tuple(_notes(tests, outcome, named, asking.config)),
        config_hash=asking.config.hash,
        at_us=time.time_ns() // 1000,
    )


def _with_artefact(config: Config, name: str, artefact: Path, signer: Path) -> tuple[Config, str]:
    """The config with one model more, which is that of `name` with these weights; and what it is called."""
    _require_known({"student": name}, config)
    model = config.models[name]
    if config.providers[model.provider].engine is None:
        raise click.BadParameter(f"the engine of {name} is not run by Isthmus", param_hint="--artefact")
    signers = (keys.signer(signer.read_text(encoding="utf-8"), str(signer)),)
    weights = str(artefact.absolute())
    trusted = msgspec.structs.replace(model, weights=weights, signers=signers)
    version = version_of(trusted, Version(weights, weights_sha256(trusted)))
    # Not the model's own name: the incumbent may be called so.
    known = msgspec.json.encode([config.hash, version.name, [it.pem for it in signers]])
    changed = msgspec.structs.replace(
        config,
        models={**config.models, version.name: version},
        hash=hashlib.sha256(known).hexdigest(),
    )
    return changed, version.name


def _scores(run: Run, scorer: str, student: str, runs: Runs) -> dict[str, dict[str, float]]:
    """The scores by model and sample. Where the student has failed, or nobody can say how good its answer is,
    it is worth nothing; where that happened to another, the sample says nothing of the two."""
    marks = runs.scores(run.id).get(scorer, {})
    found: dict[str, dict[str, float]] = {it.name: {} for it in run.models}
    for place, kept in runs.answers(run.id).items():
        value = marks[place].value if place in marks and kept.answered.code is None else None
        if value is not None:
            found[place.model][place.sample] = value
        elif place.model == student and kept.answered.code != NOT_PERMITTED:
            found[student][place.sample] = 0.0
    return found


def _notes(tests: _Tests, outcome: Outcome, named: Mapping[str, str], config: Config) -> list[str]:
    from isthmus.distill.gate import alike_among

    notes = [note for test in (tests.held_out, tests.retention) if test is not None for note in test.notes]
    groups = len(set(alike_among(tests.held_out.samples).values()))
    if alike := len(tests.held_out.samples) - groups:
        notes.append(
            f"{alike:,} held-out samples ask nearly the same as another: each group of them counts as one."
        )
    teacher = config.models[named["teacher"]].id
    own = sum(
        any(it.part == "answer" and it.model == teacher for it in told.origins)
        for sample in tests.held_out.samples
        if (told := provenance_of(sample)) is not None
    )
    if own:
        notes.append(
            f"The good answers of {own:,} held-out samples are the teacher's own: its quality is flattered, "
            "and the share tells of likeness. Let people write them."
        )
    for it in outcome.standings:
        unscored = it.qualities[0].unscored if it.qualities else 0
        failed = sum(it.failed.values())
        if it.not_permitted or unscored or failed:
            worth = "count as 0" if it.model.name == named["student"] else "are left out"
            notes.append(
                f"{it.model.name}: {it.not_permitted:,} samples were not permitted to it, and are left out; "
                f"{failed:,} failed and {unscored:,} could not be scored, and {worth}."
            )
    return notes


def _learned(places: Sequence[Path]) -> list[Dataset]:
    """The datasets that were learned from: of a golden set, what is not its test."""
    found = []
    for place in places:
        if place.is_file():
            found.append(open_dataset(place))
            continue
        files = [place / f"{part}.jsonl" for part in PARTS if part != "test"]
        there = [it for it in files if it.exists() and it.stat().st_size]
        if not there or not (place / CARD).exists():
            raise click.BadParameter(f"{place} is no golden set", param_hint="--trained-on")
        found += [open_dataset(it) for it in there]
    return found


def _require_known(named: Mapping[str, str], config: Config) -> None:
    for role, name in named.items():
        if name not in config.models:
            known = ", ".join(config.models)
            raise click.BadParameter(f"{name!r} is none of: {known}", param_hint=f"--{role}")
    for role in ("teacher", "base", "incumbent"):
        if named.get(role) == named["student"]:
            raise click.BadParameter("the student is not judged by itself", param_hint=f"--{role}")


def _require_others(named: Mapping[str, str], config: Config) -> None:
    """Refuse a student that is another of them by another name: known answers would be taken for its own."""
    told = {role: candidate_of(config, name) for role, name in named.items()}
    student = told.pop("student")
    for role, it in told.items():
        if (it.id, it.provider, it.weights) == (student.id, student.provider, student.weights):
            raise IsthmusError(
                Fault.INVALID_REQUEST,
                f"{student.name} and {it.name} are the same model: id, provider and weights are alike.",
                code="same_model",
                hint=f"Name the student's own weights or id in the config, and another model as --{role}.",
            )


def _present(record: GateRecord, output: Path | None, html_path: Path | None, as_json: bool) -> None:
    from isthmus.distill.gate_report import gate_report

    content = msgspec.json.encode(record, order="deterministic")
    document = gate_report(record)
    click.echo(content if as_json else markdown(document), nl=as_json)
    if output is not None:
        replace(output, content + b"\n")
        click.echo(f"Written: {output}.", err=True)
    if html_path is not None:
        html_path.write_text(html(document), encoding="utf-8")
    click.echo(f"{record.judgement.verdict.capitalize()}: {record.models[0].model.name}.", err=True)
