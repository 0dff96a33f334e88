"""Training on a cluster, by Ray Train (https://docs.ray.io/en/latest/train/api/api.html).

Workers run our own loop: they share every batch and take the same steps. Ray starts them, keeps the
checkpoints where all machines see them, and goes on from the last one when a worker is lost; whoever gives
the same command again finds it, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, TypeAlias

import msgspec

from isthmus.cluster import joined
from isthmus.core.errors import Fault, IsthmusError
from isthmus.distill.recipe import Cluster
from isthmus.distill.training.base import folder_sha256
from isthmus.distill.training.checkpoint import KEPT, Checkpoints, State
from isthmus.distill.training.child import keep_to_oneself
from isthmus.distill.training.events import Event, Failed, Note, Phase
from isthmus.distill.training.job import Job, Lesson, Prepared, Workplace
from isthmus.distill.training.team import Group

Ended: TypeAlias = tuple[bytes, State] | Failed
"""What a worker comes to: the adapter's tensors as safetensors and where it ended, or why it cannot go on."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What each worker needs. `weights` are the SHA-256 by folder of what it has to find on its machine."""

    job: Job
    prepared: Prepared
    lessons: list[Lesson]
    weights: dict[str, str]


def train_by_ray(
    job: Job, prepared: Prepared, lessons: list[Lesson], place: Workplace, tell: Callable[[Event], None]
) -> tuple[dict[str, Any], State]:
    """The trained adapter's tensors and where it ended, by the cluster that the recipe names.

    Raises IsthmusError: `missing_extra`, `ray_unreachable`, `ray_failed`, `storage_unwritable`,
    `weights_differ`, and those of our own loop.
    """
    from safetensors.torch import load

    cluster = job.train.ray
    assert cluster is not None
    assert job.storage is not None
    _require_storage(job.storage)
    folders = [it for it in (prepared.model, prepared.teacher) if it is not None]
    weights = {it: folder_sha256(Path(it)) for it in folders}
    task = Task(job=job, prepared=prepared, lessons=lessons, weights=weights)
    tell(Phase(f"Joining the cluster {cluster.address}"))
    with joined(cluster.address, cluster.workers * cluster.cpus) as ray:
        _tell_what_lacks(ray.cluster_resources(), cluster, prepared, tell)
        with _heard(ray, tell) as told:
            ended = _fitted(ray, cluster, task, told)
    if isinstance(ended, Failed):
        raise IsthmusError(Fault.UNAVAILABLE, ended.message, code=ended.code, hint=ended.hint)
    tensors, state = ended
    return load(tensors), state


def _fitted(ray: Any, cluster: Cluster, task: Task, told: Any) -> Ended:
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    job, on_gpus = task.job, task.prepared.device == "cuda"
    trainer = TorchTrainer(
        _work,
        # By reference: what a trainer is configured with, Ray may show.
        train_loop_config={"task": [ray.put(task)], "told": told},
        scaling_config=ScalingConfig(
            num_workers=cluster.workers, use_gpu=on_gpus, resources_per_worker=_resources(cluster, on_gpus)
        ),
        run_config=RunConfig(
            # Ray goes on with the run of that name which it finds in the storage.
            name=f"{job.name}-{job.fingerprint[:16]}",
            storage_path=job.storage,
            failure_config=FailureConfig(max_failures=cluster.failures),
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT),
        ),
    )
    try:
        ended: Ended = trainer.fit().return_value
    except (TrainingFailedError, ray.exceptions.RayError) as error:
        print(error, file=sys.stderr)
        failures = getattr(error, "worker_failures", {0: getattr(error, "controller_failure", error)})
        kinds = ", ".join(sorted({type(it).__name__ for it in failures.values()}))
        raise IsthmusError(
            Fault.UNAVAILABLE,
            f"The Ray cluster at {cluster.address!r} could not train to the end: {kinds}.",
            code="ray_failed",
            hint="See train.log in the training's folder, and Ray's logs. The same command goes on from the "
            "last checkpoint.",
        ) from None
    return ended


def _require_storage(address: str) -> None:
    """Pass where checkpoints can be kept; of an address of the cloud that shows later."""
    if "://" in address:
        return
    try:
        Path(address).mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as fault:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"Checkpoints cannot be kept in {address}: {fault.strerror or fault}.",
            code="storage_unwritable",
            hint="Let `storage` under `ray` be a folder that you may write, on every machine of the cluster.",
        ) from fault


def _resources(cluster: Cluster, on_gpus: bool) -> dict[str, float]:
    return {"CPU": cluster.cpus, **({"GPU": 1} if on_gpus else {})}


def _tell_what_lacks(
    there: dict[str, float], cluster: Cluster, prepared: Prepared, tell: Callable[[Event], None]
) -> None:
    """Ray waits for what is not there, since a cluster may grow; whoever waits should know for what."""
    for kind, each in _resources(cluster, prepared.device == "cuda").items():
        wanted, has = cluster.workers * each, there.get(kind, 0)
        if has < wanted:
            tell(Note(f"The cluster has {has:g} of {wanted:g} {kind}s that are needed: waiting for them."))


@contextmanager
def _heard(ray: Any, tell: Callable[[Event], None]) -> Iterator[Any]:
    """A queue whose events are told as they come."""
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # With whoever hears it: no other machine's end may end it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def hear() -> None:
        with suppress(ray.exceptions.RayError):
            while (event := queue.get()) is not None:
                tell(event)

    ear = Thread(target=hear, name="isthmus-events", daemon=True)
    ear.start()
    try:
        yield queue
    finally:
        with suppress(ray.exceptions.RayError):
            queue.put(None)
            ear.join()


def _work(config: dict[str, Any]) -> Ended:
    """What each worker does; that of the first is the result.

    What all workers come to alike is returned, so that Ray does not try it again.
    """
    import ray
    import ray.train
    from safetensors.torch import save

    keep_to_oneself()
    # Only now: it imports what must not reach the network.
    from isthmus.distill.training.worker import train_by_loop

    (reference,) = config["task"]
    task: Task = ray.get(reference)
    first = ray.train.get_context().get_world_rank() == 0
    team = Group(task.prepared.device)

    def tell(event: Event) -> None:
        if first:
            config["told"].put(event)

    try:
        _require_weights(task.weights, team)
        kept = _Reported(team, first, tell)
        tensors, state = train_by_loop(task.job, task.prepared, task.lessons, kept, tell, team)
    except IsthmusError as error:
        return Failed(error.code, error.message, error.hint)
    return save(tensors), state


def _require_weights(weights: dict[str, str], team: Group) -> None:
    """Pass where every worker finds what was prepared. Raises IsthmusError (`weights_differ`)."""
    lacking = [folder for folder, sha256 in weights.items() if not _is_whole(Path(folder), sha256)]
    (workers,) = team.total(bool(lacking))
    if workers:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"{workers:g} of the cluster's workers do not find the weights that were prepared here, in "
            f"{' and '.join(weights)}.",
            code="weights_differ",
            hint="Put them on a disk that all machines see at the same path. For those of a GGUF file, let "
            "ISTHMUS_HOME be a folder there.",
        )


def _is_whole(folder: Path, sha256: str) -> bool:
    try:
        return folder_sha256(folder) == sha256
    except (OSError, IsthmusError):
        return False


class _LostError(Exception):
    """The cluster's storage cannot be written: of no worker's making, and met by the first alone."""


class _Reported:
    """Checkpoints that Ray keeps: the first worker writes them, and all report at the same step."""

    def __init__(self, team: Group, first: bool, tell: Callable[[Event], None]) -> None:
        self._team, self._first, self._tell = team, first, tell

    def save(self, state: State, tensors: dict[str, Any]) -> None:
        """Keep it in the cluster's storage. Where that fails, Ray goes on from the one before."""
        from ray import train

        try:
            with TemporaryDirectory() as folder:
                if self._first:
                    Checkpoints(Path(folder)).save(state, tensors)
                kept = train.Checkpoint.from_directory(folder) if self._first else None
                train.report({"step": state.step, "loss": state.losses[-1]}, checkpoint=kept)
        except OSError as fault:
            raise _LostError(f"step {state.step}: {fault.strerror or fault}") from fault

    def newest(self, fingerprint: str) -> tuple[State, dict[str, Any]] | None:
        """The last one that was reported, None where there is none, or it is damaged."""
        from ray import train

        found, reported = None, train.get_checkpoint()
        if reported is not None:
            with reported.as_directory() as folder:
                found = Checkpoints(Path(folder)).newest(fingerprint)
            if found is None:
                self._tell(Note("The last checkpoint in the storage is damaged: beginning anew."))
        step = found[0].step if found is not None else 0
        steps, workers = self._team.total(step, 1)
        if steps != step * workers:
            raise _LostError("The workers have read different checkpoints.")
        return found
