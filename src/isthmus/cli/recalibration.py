"""What `isthmus models promote` does first: new weights are judged by what was learned of their own answers.

It is learned again as it was for the weights before: from the same samples, scored in the same way, with the
same promise. The new weights answer them on an engine of this process, before anybody is sent to them; what
the other models said is kept, and not asked for again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from isthmus.bootstrap import alarms_in, open_runs
from isthmus.cli.calibrate import AT_ONCE, Outcome, asked_of, learned_from, strategy_of
from isthmus.cli.pilot import carried_out, user_name
from isthmus.cli.runs import judges_of, require_cap, require_statistics
from isthmus.cli.texts import replace
from isthmus.confidence.artefact import load, load_panel
from isthmus.config.config import CalibrationFile, Config
from isthmus.config.doubts import OF_REQUESTS_AND_ANSWERS, VOIDS_CALIBRATIONS, heard, objections
from isthmus.config.places import ledger_path
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.rollout import Anew, Recalibrated, Reempanelled, Relearned, Version
from isthmus.core.tie import Evidence
from isthmus.evals.answers import candidate_of
from isthmus.evals.datasets import Dataset
from isthmus.evals.pilot import new_run
from isthmus.routing.learned.header import parted
from isthmus.store.runs import Run, Runs
from isthmus.strategies.plan import Cascade

WITHOUT = "Or say --uncalibrated: `on_stale` decides then what the route does with the new weights."


def learned_of(config: Config, model: str) -> list[CalibrationFile]:
    """The files of what routes go by and was learned of this model's answers."""
    return [it for it in config.calibrations if it.tie is not None and model in it.tie.models]


def learned_anew(
    config: Config, path: Path | None, model: str, new: Version, max_usd: int | None
) -> tuple[Anew, ...]:
    """What every route that goes by what was learned of this model goes by where it has the new weights.

    Files are written only if all of it is good. Raises IsthmusError: `not_learnable_again`, `not_calibrated`.
    """
    files = learned_of(config, model)
    if not files:
        return ()
    require_statistics()
    with_new = _with(config, model, new)
    made = list(_learned_anew(files, with_new, path, new, max_usd))
    for anew, content in made:
        replace(Path(anew.file), content)
        click.echo(f"Written: {anew.file}. By it {anew.route} judges {model}@{new.id}.", err=True)
    return tuple(anew for anew, _ in made)


def _with(config: Config, model: str, new: Version) -> Config:
    """The config as it will be once the new weights stand in it."""
    weights = msgspec.structs.replace(config.models[model], weights=new.weights)
    return msgspec.structs.replace(config, models=config.models | {model: weights})


def _learned_anew(
    files: list[CalibrationFile], config: Config, path: Path | None, new: Version, max_usd: int | None
) -> Iterator[tuple[Anew, bytes]]:
    runs = open_runs(config, path)
    for file in files:
        evidence = _evidence(file)
        if sum(it.route == file.route for it in files) > 1:
            raise _impossible(file.route, "The route goes by several things that were learned.")
        click.echo(f"Asking for the calibration of {file.route}.", err=True)
        run = _asked_again(evidence, file.route, config, path, runs, max_usd)
        again = msgspec.structs.replace(evidence, run=run.id)
        outcome = learned_from(again, file.route, strategy_of(config, file.route), config, runs, run)
        yield _made(file, new, outcome, config, path)


def _evidence(file: CalibrationFile) -> Evidence:
    if file.evidence is None:
        raise _impossible(file.route, f"{file.path} does not say what it was made from.")
    return file.evidence


def _asked_again(
    evidence: Evidence, route: str, config: Config, path: Path | None, runs: Runs, max_usd: int | None
) -> Run:
    """A run like that of the evidence, of the models that the config has now."""
    try:
        before = runs.find(evidence.run)
    except IsthmusError as error:
        raise _impossible(route, f"The run {evidence.run}, of which it was made, is gone.") from error
    models = asked_of(strategy_of(config, route))
    judges = judges_of([evidence.scorer], config)
    require_cap(config, [*models, *judges], max_usd)
    samples = runs.samples(before)
    run = new_run(
        dataset := Dataset(name=before.dataset, samples=samples, hash=before.dataset_hash),
        samples,
        [candidate_of(config, name) for name in models],
        [evidence.scorer],
        config.hash,
        split=before.split,
        request=before.request,
        cap_nanousd=max_usd,
        who=user_name(),
    )
    return runs.find(carried_out(run, dataset, config, path, runs, judges, AT_ONCE).id)


def _made(
    file: CalibrationFile, new: Version, outcome: Outcome, config: Config, path: Path | None
) -> tuple[Anew, bytes]:
    """What came of it, beside the file of the weights before, and its content."""
    if outcome.content is None:
        raise _not_good(file.route, f"{outcome.trial.verdict}, as {outcome.trial.why}")
    cascades = isinstance(strategy_of(config, file.route), Cascade)
    alarms = heard(config, alarms_in(ledger_path(config, path))).get(file.route, ())
    if why := objections(
        alarms, outcome.asked_at_us, VOIDS_CALIBRATIONS if cascades else OF_REQUESTS_AND_ANSWERS
    ):
        raise _not_good(file.route, f"{', and '.join(why)}, after the first of the answers was given")
    there = Path(file.path)
    place = str(there.with_name(f"{there.stem}.{new.id}{there.suffix}"))
    return _anew(file, new, place, outcome.content), outcome.content


def _anew(file: CalibrationFile, new: Version, place: str, content: bytes) -> Anew:
    sha256 = hashlib.sha256(content).hexdigest()
    if file.kind == "router":
        header, _ = parted(content)
        by_quality = sorted(zip(header.models, header.overall, strict=True), key=lambda pair: -pair[1])
        return Relearned(
            route=file.route,
            version=new.id,
            file=place,
            sha256=sha256,
            asked_at_us=header.origin.asked_at_us,
            tie=header.origin.tie,
            overall=tuple(by_quality),
        )
    if file.kind == "panel":
        learned = load_panel(content)
        return Reempanelled(
            route=file.route,
            version=new.id,
            file=place,
            sha256=sha256,
            asked_at_us=learned.asked_at_us,
            tie=learned.tie,
            weights=tuple(learned.panel.weights.items()),
            why=learned.panel.why,
            overall=learned.ranking,
        )
    calibration = load(content)
    assert calibration.threshold is not None, "a cascade that accepts nothing is none to be advised"
    return Recalibrated(
        route=file.route,
        version=new.id,
        file=place,
        sha256=sha256,
        asked_at_us=calibration.asked_at_us,
        tie=calibration.tie,
        calibrator=calibration.calibrator,
        threshold=calibration.threshold,
    )


def _not_good(route: str, why: str) -> IsthmusError:
    return IsthmusError(
        Fault.INVALID_REQUEST,
        f"Nothing was promoted: what {route} would judge these weights by promises nothing: {why}.",
        code="not_calibrated",
        hint=f"Other weights, or more samples, may help. {WITHOUT}",
    )


def _impossible(route: str, why: str) -> IsthmusError:
    return IsthmusError(
        Fault.INVALID_REQUEST,
        f"Nothing was promoted: the route {route} cannot be calibrated for these weights. {why}",
        code="not_learnable_again",
        hint=f"Run `isthmus calibrate {route}`, name its file in the config, and promote then. {WITHOUT}",
    )
