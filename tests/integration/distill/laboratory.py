"""What tests of training share: a tiny model, and processes that need not import PyTorch each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.distill.recipe import Recipe, hash_of
from isthmus.distill.training.events import Event
from isthmus.distill.training.job import Ask, Job, Workplace
from isthmus.distill.training.run import base_of

HERE = Path(__file__).parent
PYTHON = Path(os.environ.get("ISTHMUS_TRAIN_PYTHON", HERE.parents[2] / ".venv-train" / "bin" / "python"))

needs_training = pytest.mark.skipif(
    not PYTHON.exists(), reason="the extra `train` is not installed: make train-install"
)

_ENVIRON = {"HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"], "PYTHONHASHSEED": "0"}

ANSWERS = ("alpha", "beta", "gamma")


def samples(count: int) -> list[dict[str, Any]]:
    """Samples whose answer follows from one word."""
    colours = ("red", "green", "blue")
    return [
        {
            "input": [
                {"role": "system", "content": "Name it."},
                {"role": "user", "content": f"canary {colours[number % 3]} of land {number}"},
            ],
            "target": ANSWERS[number % 3],
        }
        for number in range(count)
    ]


class Laboratory:
    """A process that has imported everything, and forks those that train."""

    def __init__(self, folder: Path, zygote: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self._zygote = zygote

    def begin(self, recipe: Recipe, count: int = 24, *, to: str) -> Workplace:
        """The folder of a training that nobody has worked in yet."""
        work = Workplace(self.folder / to)
        work.folder.mkdir()
        asks = [
            Ask(f"{number:03}", sample["input"], sample["target"])
            for number, sample in enumerate(samples(count))
        ]
        work.asks.write_bytes(b"".join(msgspec.json.encode(ask) + b"\n" for ask in asks))

        def base(said: str) -> Any:
            return base_of(said, self.folder, self.folder, lambda _: None)

        job = Job(
            name=recipe.name,
            recipe_sha256=hash_of(recipe),
            dataset_sha256="0" * 64,
            base=base(recipe.student),
            teacher=base(recipe.train.gkd.teacher) if recipe.train.gkd else None,
            train=recipe.train,
            threads=1,
            cache=str(self.folder / "cache"),
        )
        work.job.write_bytes(msgspec.json.encode(job))
        assert self.run("prepare", work)[0] == 0
        return work

    def copy(self, work: Workplace, to: str) -> Workplace:
        """A folder in the same state."""
        return Workplace(Path(shutil.copytree(work.folder, self.folder / to)))

    def run(
        self, what: str, work: Workplace, kill_at: int | None = None, **more: Any
    ) -> tuple[int, list[Event]]:
        """The status of a process that does `what`, and what it told; killed when it tells of that step."""
        with self._ordered(what, work.folder, **more) as (pid, out):
            events: list[Event] = []
            for line in out:
                event = msgspec.json.decode(line, type=Event)
                events.append(event)
                if kill_at is not None and getattr(event, "step", 0) == kill_at:
                    os.kill(pid, 9)
                    break
        assert self._zygote.stdout
        return int(self._zygote.stdout.readline()), events

    def told(self, what: str, folder: Path, **more: Any) -> Any:
        """What a process writes, as JSON; None for nothing."""
        with self._ordered(what, folder, **more) as (_, out):
            said = out.read()
        assert self._zygote.stdout
        assert int(self._zygote.stdout.readline()) == 0
        return json.loads(said) if said else None

    def speak(
        self, kind: str, conversations: Sequence[list[dict[str, str]]], tokens: int, adapter: Path | None
    ) -> list[dict[str, list[Any]]]:
        """What transformers and PEFT say."""
        more = {"conversations": conversations, "tokens": tokens, "adapter": adapter and str(adapter)}
        said: list[dict[str, list[Any]]] = self.told("speak", self.folder / kind, **more)
        return said

    def merge(self, adapter: Path, to: str) -> None:
        """Make a folder of the model `qwen2` with that adapter in it."""
        self.told("merge", self.folder / "qwen2", adapter=str(adapter), into=str(self.folder / to))

    def numbers(self, adapter: Path) -> list[float]:
        """All of an adapter's numbers, in the order of their names."""
        found: list[float] = self.told("numbers", adapter)
        return found

    @contextmanager
    def _ordered(self, what: str, folder: Path, **more: Any) -> Iterator[tuple[int, Any]]:
        pipe = self.folder / "tells"
        os.mkfifo(pipe)
        order = {"work": what, "folder": str(folder), "tells": str(pipe), **more}
        assert self._zygote.stdin
        assert self._zygote.stdout
        self._zygote.stdin.write(json.dumps(order).encode() + b"\n")
        self._zygote.stdin.flush()
        pid = int(self._zygote.stdout.readline())
        with pipe.open("rb") as out:
            pipe.unlink()
            yield pid, out


def make_models(folder: Path) -> None:
    """Put the tiny models of tiny.py into `folder`."""
    subprocess.run([PYTHON, HERE / "tiny.py", folder], check=True, env=_ENVIRON, capture_output=True)


@contextmanager
def open_laboratory(folder: Path) -> Iterator[Laboratory]:
    """A laboratory with the tiny models in `folder`."""
    make_models(folder)
    with subprocess.Popen(
        [PYTHON, HERE / "zygote.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_ENVIRON
    ) as zygote:
        try:
            yield Laboratory(folder, zygote)
        finally:
            assert zygote.stdin
            zygote.stdin.close()
            zygote.wait()
