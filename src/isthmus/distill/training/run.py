"""A training from the outside: its folder is locked, its processes are started, and what they tell is heard.

This side needs none of the heavy packages. The processes run under a Python that has them, at a lower
priority, with none of our secrets in their environment, and end when this one does.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from isthmus.artefacts.faults import MalformedWeightsError
from isthmus.artefacts.gguf import check_gguf
from isthmus.catalog.weights import find_weights
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.evaluation import Sample
from isthmus.distill.lock import alone
from isthmus.distill.parity import PROBES, Parity, Reader, compare, require
from isthmus.distill.recipe import Cluster, Recipe, hash_of, needed
from isthmus.distill.training.base import file_sha256, folder_sha256
from isthmus.distill.training.checkpoint import replace_durably
from isthmus.distill.training.curve import Curve
from isthmus.distill.training.events import Event, Failed, Finished, Note, Phase, Step
from isthmus.distill.training.job import Ask, Base, Imprint, Job, Prepared, Workplace
from isthmus.distill.training.student import EVIDENCE, Evidence
from isthmus.evals.datasets import open_dataset
from isthmus.providers.engines.fetch import Report, fetch
from isthmus.providers.engines.llama_cpp import LlamaCppEngine, LlamaCppSettings

COMPARED = 64
"""So many of the dataset's conversations are compared with the engine, beside the probes."""

_PREPARE = "isthmus.distill.training.prepare"
_WORK = "isthmus.distill.training.worker"
_PASSED_ON = frozenset({"PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH"})
_PREFIXES = ("OMP_", "CUDA_", "NCCL_", "GLOO_", "NVIDIA_", "HIP_", "ROCR_", "RAY_")
_MISSING = re.compile(r"No module named '?(?P<package>[\w.]+)")

Listener = Callable[[Event], None]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a training happens: its folder, those of fetched and of computed weights, and its Python."""

    out: Path
    weights: Path
    cache: Path
    python: str
    threads: int


def train(recipe: Recipe, beside: Path, place: Place, listener: Listener, fetched: Report) -> Evidence:
    """Train the recipe's student, or go on with it; what came out. Paths are relative to `beside`.

    Raises IsthmusError: `training_in_progress`, `another_training`, `no_answers`, `tokens_differ`, and those
    of datasets, weights, engines and of the two processes.
    """
    work = Workplace(place.out)
    job, asks = _job(recipe, beside, place, listener, fetched)
    work.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with alone(work.lock, "training_in_progress", "training") as lock:
        job = _begun(work, job)
        if (work.student / EVIDENCE).exists():
            return work.read(work.student / EVIDENCE, Evidence)
        if not _is_prepared(work):
            replace_durably(work.asks, b"".join(msgspec.json.encode(ask) + b"\n" for ask in asks))
            _hear(_command(place.python, _PREPARE, work), work, lock, listener)
        prepared = work.read(work.prepared, Prepared)
        if job.base.form == "gguf":
            listener(Phase("Comparing tokens with the engine"))
            require(asyncio.run(parity_of(work, asks, Path(job.base.path))))
        with Curve(work.steps) as curve:

            def hear(event: Event) -> None:
                if isinstance(event, Step):
                    curve.add(event)
                listener(event)

            try:
                # Our own loop, which follows a teacher, knows one GPU; a cluster starts its processes itself.
                gpus = prepared.gpus if job.teacher is None and job.train.ray is None else 1
                _hear(_command(place.python, _WORK, work, gpus), work, lock, hear)
            finally:
                work.curve.write_text(curve.page(job.name), encoding="utf-8")
        return work.read(work.student / EVIDENCE, Evidence)


async def parity_of(work: Workplace, asks: Sequence[Ask], weights: Path) -> Parity:
    """What an engine that serves these weights reads, beside what the training has read."""
    imprints = work.read(work.imprints, list[Imprint])
    taught = {it.id for it in imprints}
    conversations = {**PROBES, **{it.id: it.messages for it in _spread(asks, COMPARED) if it.id in taught}}
    settings = LlamaCppSettings(weights=weights, context=512, parallel=1)
    async with LlamaCppEngine("parity", settings, work.folder) as engine:
        reader = Reader(engine.base_url.removesuffix("/v1"), engine.api_key)
        prompts = await reader.prompts(list(conversations.values()))
    return compare(imprints, list(conversations), prompts)


def base_of(said: str, beside: Path, weights: Path, fetched: Report) -> Base:
    """The weights that a recipe names; those of the catalogue are fetched.

    Raises IsthmusError: `unknown_weights`, `unsafe_weights`, `incomplete_weights`, and those of fetching.
    """
    row = find_weights(said)
    if row is not None and row.mode == "chat":
        path = fetch(row, weights, fetched)
        return Base(name=row.name, form="gguf", path=str(path.resolve()), sha256=row.sha256)
    path = (beside / said).expanduser().resolve()
    if path.is_dir():
        return Base(name=path.name, form="folder", path=str(path), sha256=folder_sha256(path))
    try:
        with path.open("rb") as file:
            check_gguf(file)
    except (MalformedWeightsError, OSError) as fault:
        why = (fault.strerror or fault) if isinstance(fault, OSError) else fault
        raise IsthmusError(
            Fault.NOT_FOUND,
            f"The weights {said} cannot be taken: {why}.",
            code="unknown_weights",
            hint="Name a chat model of the built-in catalogue, a GGUF file, or a folder with config.json, "
            "tokenizer.json and safetensors.",
        ) from fault
    return Base(name=path.name, form="gguf", path=str(path), sha256=file_sha256(path))


def asks_of(samples: Sequence[Sample]) -> tuple[list[Ask], dict[str, int]]:
    """The samples as they are taught, in the order of their ids, and why others cannot be, with how many.

    Raises IsthmusError (`no_answers`) where nothing is left.
    """
    asks, left_out = [], Counter[str]()
    for sample in sorted(samples, key=lambda it: it.id):
        messages = sample.request["messages"]
        if not sample.target or not sample.target[0].strip():
            left_out["without an answer"] += 1
        elif sample.request.get("tools"):
            left_out["with tools, which are not taught yet"] += 1
        elif not all(isinstance(turn.get("content"), str) for turn in messages):
            left_out["with more than text"] += 1
        else:
            asks.append(Ask(sample.id, messages, sample.target[0]))
    if not asks:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            "No sample of the dataset can be taught: "
            + ", ".join(f"{count:,} are {why}" for why, count in left_out.items())
            + ".",
            code="no_answers",
            hint='Each needs a good answer: {"input": ..., "target": "the answer"}.',
        )
    return asks, dict(left_out)


def _job(
    recipe: Recipe, beside: Path, place: Place, listener: Listener, fetched: Report
) -> tuple[Job, list[Ask]]:
    dataset = open_dataset(beside / needed(recipe.dataset, "dataset"))
    asks, left_out = asks_of(dataset.samples)
    for why, count in left_out.items():
        listener(Note(f"{count:,} of {len(dataset.samples):,} samples are left out: {why}."))
    gkd, ray = recipe.train.gkd, recipe.train.ray
    job = Job(
        name=needed(recipe.name, "name"),
        recipe_sha256=hash_of(recipe),
        dataset_sha256=dataset.hash,
        base=base_of(needed(recipe.student, "student"), beside, place.weights, fetched),
        teacher=None if gkd is None else base_of(gkd.teacher, beside, place.weights, fetched),
        train=recipe.train,
        threads=place.threads if ray is None else ray.cpus,
        cache=str(place.cache),
        storage=None if ray is None else _storage(ray, beside, place.out),
    )
    return job, asks


def _storage(ray: Cluster, beside: Path, out: Path) -> str:
    if ray.storage is None:
        return str(Workplace(out).checkpoints / "ray")
    return ray.storage if "://" in ray.storage else str((beside / ray.storage).expanduser().resolve())


def _begun(work: Workplace, job: Job) -> Job:
    """The job as it goes on in this folder: where it was begun before, with the same number of threads."""
    if work.job.exists():
        before = work.read(work.job, Job)
        if before.fingerprint != job.fingerprint:
            raise IsthmusError(
                Fault.INVALID_REQUEST,
                f"{work.folder} holds another training: of other weights, samples or settings.",
                code="another_training",
                hint="Name another folder with --out, or remove that one.",
            )
        job = msgspec.structs.replace(job, threads=before.threads)
    replace_durably(work.job, msgspec.json.encode(job))
    return job


def _is_prepared(work: Workplace) -> bool:
    """True where nothing has to be prepared again; who cleans up the cache takes the weights away."""
    if not work.prepared.exists():
        return False
    prepared = work.read(work.prepared, Prepared)
    return all(Path(it).is_dir() for it in (prepared.model, prepared.teacher) if it is not None)


def _command(python: str, module: str, work: Workplace, gpus: int = 1) -> list[str]:
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(gpus)]
    return [python, *(launch if gpus > 1 else ["-P"]), "-m", module, str(work.folder)]


def _hear(command: Sequence[str], work: Workplace, lock: int, listener: Listener) -> None:
    """Run a process to its end and pass on what it tells. Raises IsthmusError with why it failed."""
    log = work.folder / "train.log"
    finished = False
    with log.open("wb") as out, _started(command, out.fileno(), lock) as process:
        assert process.stdout
        for line in process.stdout:
            match msgspec.json.decode(line, type=Event):
                case Failed(code, message, hint):
                    raise IsthmusError(Fault.UNAVAILABLE, message, code=code, hint=hint)
                case Finished():
                    finished = True
                case event:
                    listener(event)
        status = process.wait()
    if status or not finished:
        raise _died(status, log, command[0])


@contextmanager
def _started(command: Sequence[str], errors: int, lock: int) -> Iterator[subprocess.Popen[bytes]]:
    """The process, which does not outlast the block."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_environ(os.environ),
            # The lock lasts as long as whoever still writes here, even where we are killed.
            pass_fds=(lock,),
            # A Ctrl-C at the terminal is ours to handle.
            start_new_session=True,
        )
    except OSError as fault:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"{command[0]} cannot be run: {fault.strerror or fault}.",
            code="no_python",
            hint="Name a Python that has the extra `train`: --python FILE.",
        ) from fault
    with process:
        try:
            yield process
        finally:
            process.kill()


def _died(status: int, log: Path, python: str) -> IsthmusError:
    text = log.read_text(encoding="utf-8", errors="replace")
    if match := _MISSING.search(text):
        return IsthmusError(
            Fault.UNSUPPORTED,
            f"{python} does not have the package {match['package']}, which training needs.",
            code="missing_extra",
            hint="Install it there: pip install 'isthmus[train]'. Or name a Python that has it: "
            "--python FILE.",
        )
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    why = "It may have been for a lack of memory" if -status == signal.SIGKILL else f"Its log is {log}"
    return IsthmusError(
        Fault.UNAVAILABLE,
        f"The training {how}.",
        code="training_died",
        hint=f"{why}. The same command goes on from the last checkpoint.",
    )


def _environ(own: Mapping[str, str]) -> dict[str, str]:
    passed = {name: it for name, it in own.items() if name in _PASSED_ON or name.startswith(_PREFIXES)}
    # Threads that spin while they wait for each other starve whatever shares the cores, and themselves: on
    # two busy ones a step took 45 s with the default of OpenMP, and 13 s with this.
    polite = {"OMP_WAIT_POLICY": "PASSIVE"}
    # What Python and cuBLAS (docs.nvidia.com/cuda/cublas, "Results reproducibility") leave to chance else.
    certain = {"PYTHONHASHSEED": "0", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    return {**polite, **passed, **certain}


def _spread(asks: Sequence[Ask], most: int) -> list[Ask]:
    """At most so many of them, at equal distances."""
    return list(asks[:: -(-len(asks) // most)])
