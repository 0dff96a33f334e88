"""Imports what training needs once, and forks a process for each line of JSON that it reads.

A line says `work` (one of `obey`'s), its `folder`, the pipe `tells` that gets
what the process writes to its standard output, and perhaps `file_bytes`, beyond which the process can write
no file: to it that is a disk that is full. The answer is the process's id, and when it has ended its status.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

# Warm: every process would import them.
from peft import PeftModel, get_peft_model  # noqa: F401
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen2ForCausalLM  # noqa: F401
from trl import SFTTrainer  # noqa: F401

from isthmus.distill.training.checkpoint import Checkpoints
from isthmus.distill.training.child import carry_out
from isthmus.distill.training.job import Job, Lesson, Prepared, Workplace
from isthmus.distill.training.lora import load, lora_config, with_adapter
from isthmus.distill.training.losses import divergence
from isthmus.distill.training.objective import Imitation
from isthmus.distill.training.prepare import prepare
from isthmus.distill.training.student import write_student
from isthmus.distill.training.team import Group
from isthmus.distill.training.template import Speech
from isthmus.distill.training.worker import train, train_by_loop


def serve() -> None:
    for line in sys.stdin.buffer:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            obey(order)
            os._exit(0)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def obey(order: dict[str, Any]) -> None:
    os.dup2(os.open(order["tells"], os.O_WRONLY), 1)
    # The process ends with its standard input, whose other end it holds itself.
    os.dup2(os.pipe()[0], 0)
    if "file_bytes" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"], order["file_bytes"]))
    sys.argv = ["-", order["folder"]]
    try:
        match order["work"]:
            case "prepare":
                carry_out(prepare)
            case "train":
                carry_out(train)
            case "trl":
                carry_out(train_by_trl_alone)
            case "team":
                carry_out(train_as_team)
            case "speak":
                speak(Path(order["folder"]), order)
            case "weigh":
                weigh(order)
            case "gradients":
                gradients(Workplace(Path(order["folder"])))
            case "numbers":
                numbers(Path(order["folder"]))
            case "merge":
                merge(Path(order["folder"]), order)
    except SystemExit as end:
        os._exit(int(end.code or 0))


def train_by_trl_alone(place: Workplace, tell: Any) -> None:
    """What a GPU would be trained by, on this CPU."""
    from isthmus.distill.training.trl import train_by_trl

    job, prepared = place.read(place.job, Job), place.read(place.prepared, Prepared)
    tensors, state = train_by_trl(job, prepared, place.read_lines(place.lessons, Lesson), place, tell)
    assert tensors is not None
    write_student(place, job, prepared, state, tensors, lora_config(job.train, job.base.name))


def train_as_team(place: Workplace, tell: Any) -> None:
    """What a cluster's workers do, as two processes of this machine."""
    other = os.fork()
    rank = int(other == 0)
    meeting = f"file://{place.folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    job, prepared = place.read(place.job, Job), place.read(place.prepared, Prepared)
    kept = Checkpoints(place.checkpoints / str(rank))
    lessons = place.read_lines(place.lessons, Lesson)
    heard = (lambda _: None) if rank else tell
    tensors, state = train_by_loop(job, prepared, lessons, kept, heard, Group("cpu"))
    torch.distributed.destroy_process_group()
    if rank:
        os._exit(0)
    assert os.waitpid(other, 0)[1] == 0
    write_student(place, job, prepared, state, tensors, lora_config(job.train, job.base.name))


def speak(folder: Path, order: dict[str, Any]) -> None:
    """What transformers and PEFT say greedily, with the log-probability of each token."""
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if order["adapter"]:
        model = PeftModel.from_pretrained(model, order["adapter"])
    said = []
    for messages in order["conversations"]:
        ids = Speech(folder).prompt(messages)
        probabilities, tokens = [], []
        for _ in range(order["tokens"]):
            with torch.no_grad():
                row = model(input_ids=torch.tensor([ids + tokens])).logits[0, -1].log_softmax(-1)
            tokens.append(int(row.argmax()))
            probabilities.append(float(row.max()))
        said.append({"tokens": tokens, "logprobs": probabilities})
    with os.fdopen(1, "w", closefd=False) as out:
        json.dump(said, out)


def numbers(adapter: Path) -> None:
    """All of an adapter's numbers."""
    tensors = load_file(adapter)
    with os.fdopen(1, "w", closefd=False) as out:
        json.dump([it for name in sorted(tensors) for it in tensors[name].flatten().tolist()], out)


def weigh(order: dict[str, Any]) -> None:
    """The divergence of two tables of logits."""
    teacher, student = torch.tensor(order["teacher"]), torch.tensor(order["student"])
    with os.fdopen(1, "w", closefd=False) as out:
        json.dump(float(divergence(teacher, student, order["beta"])), out)


def gradients(place: Workplace) -> None:
    """The loss and its gradients of all lessons side by side, and of each by itself."""
    torch.set_num_threads(1)
    job, prepared = place.read(place.job, Job), place.read(place.prepared, Prepared)
    model = with_adapter(load(prepared.model, prepared), job.train, "base")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.1)
    lessons = place.read_lines(place.lessons, Lesson)
    told = []
    for pieces in ([lessons], [[lesson] for lesson in lessons]):
        model.zero_grad()
        loss = sum(Imitation("cpu").loss(model, piece) for piece in pieces)
        loss.backward()
        found = [it.grad.flatten() for it in model.parameters() if it.requires_grad]
        told.append({"loss": float(loss.detach()), "gradients": torch.cat(found).tolist()})
    with os.fdopen(1, "w", closefd=False) as out:
        json.dump(told, out)


def merge(folder: Path, order: dict[str, Any]) -> None:
    """The model with the adapter computed into it, as a folder."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), order["adapter"])
    model.merge_and_unload().save_pretrained(order["into"])
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(folder / name, order["into"])


if __name__ == "__main__":
    serve()
