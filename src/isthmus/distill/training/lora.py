"""The student as a model: frozen weights, an adapter upon them, and the logits where an answer stands."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from isthmus.core.errors import Fault, IsthmusError
from isthmus.distill.recipe import Training
from isthmus.distill.training.job import Lesson, Prepared
from isthmus.distill.training.schedule import shared_prefix

TOLERANCE = 1e-3
"""How far logits may differ, relative to their largest, and still be taken for the same model's."""


class Rows(NamedTuple):
    """Lessons as one rectangle, behind the tokens `shared` that all of them begin with, None where none are.

    `predicts` marks the places whose next token is an answer's.
    """

    shared: Any | None
    ids: Any
    predicts: Any
    answers: Any


def load(folder: str, prepared: Prepared, bits: int = 16, *, place: bool = True) -> Any:
    """A model of that folder, frozen; with `place` on the device that was found, else where it was loaded."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = getattr(torch, prepared.dtype)
    packed = (
        BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        if bits == 4
        else None
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        quantization_config=packed,
        # Packed weights cannot be moved; each process of several has a GPU of its own.
        device_map=None if packed is None else {"": int(os.environ.get("LOCAL_RANK", "0"))},
    )
    model.requires_grad_(False)
    return model.to(prepared.device) if place and packed is None else model


def lora_config(train: Training, base: str) -> Any:
    """PEFT's description of the adapter; `base` names what it fits, and is no path."""
    from peft import LoraConfig

    return LoraConfig(
        r=train.rank,
        lora_alpha=train.alpha,
        lora_dropout=0.0,
        target_modules=list(train.targets),
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )


def with_adapter(model: Any, train: Training, base: str) -> Any:
    """The model with a new adapter, which changes nothing yet; its numbers are drawn by the seed."""
    import torch
    from peft import get_peft_model

    torch.manual_seed(train.seed)
    try:
        return get_peft_model(model, lora_config(train, base))
    except ValueError as fault:
        raise IsthmusError(
            Fault.UNSUPPORTED,
            f"The student has none of the matrices that `targets` names: {', '.join(train.targets)}.",
            code="no_such_targets",
        ) from fault


def adapter_tensors(model: Any) -> dict[str, Any]:
    """The adapter's tensors by their names in PEFT's files, on the CPU."""
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}


def rows_of(lessons: Sequence[Lesson], device: str) -> Rows:
    """The lessons side by side, filled up to the right.

    What is filled up comes after all that counts, and a causal model does not look ahead: no mask is needed.
    """
    import torch

    start = shared_prefix(lessons) if len(lessons) > 1 else 0
    width = max(lesson.length for lesson in lessons) - start
    ids = torch.zeros(len(lessons), width, dtype=torch.long)
    predicts = torch.zeros(len(lessons), width, dtype=torch.bool)
    for row, lesson in enumerate(lessons):
        ids[row, : lesson.length - start] = torch.tensor([*lesson.prompt[start:], *lesson.answer])
        predicts[row, len(lesson.prompt) - 1 - start : lesson.length - 1 - start] = True
    answers = torch.tensor([token for lesson in lessons for token in lesson.answer])
    shared = torch.tensor([lessons[0].prompt[:start]], device=device) if start else None
    return Rows(shared, ids.to(device), predicts.to(device), answers.to(device))


def answer_logits(model: Any, rows: Rows) -> Any:
    """The logits of the answers' tokens alone, one row each.

    The head is applied to those places only, as one flat product: on a vocabulary of 150,000 tokens all
    places would cost more than the rest of the model, and a sliced batch copies the head's weights for every
    row.
    """
    plain = _plain(model)
    past = None if rows.shared is None else _read_once(plain.base_model, rows)
    hidden = plain.base_model(
        input_ids=rows.ids, past_key_values=past, use_cache=past is not None
    ).last_hidden_state
    return plain.get_output_embeddings()(hidden[rows.predicts])


def _read_once(backbone: Any, rows: Rows) -> Any:
    """The keys and values of the shared beginning, for every row.

    A system prompt is often most of a lesson. Gradients flow through it from all rows, as if each had read it
    by itself.
    """
    from transformers import DynamicCache

    past = DynamicCache(config=backbone.config)
    backbone(input_ids=rows.shared, past_key_values=past, use_cache=True)
    past.batch_repeat_interleave(len(rows.ids))
    return past


def require_plain_head(model: Any, lesson: Lesson, device: str) -> None:
    """Pass if the model is what `answer_logits` takes it for, by trying it.

    Raises IsthmusError (`architecture_not_supported`) for one that scales or caps its logits.
    """
    import torch

    rows = rows_of([lesson], device)
    with torch.no_grad():
        ours = answer_logits(model, rows).float()
        own = model(input_ids=rows.ids, use_cache=False).logits[rows.predicts].float()
    if not torch.allclose(ours, own, rtol=0, atol=TOLERANCE * float(own.abs().max())):
        kind = _plain(model).config.model_type
        raise IsthmusError(
            Fault.UNSUPPORTED,
            f"Models of the architecture {kind} do more to their logits than this training knows.",
            code="architecture_not_supported",
            hint="Take a student of another architecture, or `device: cuda`, where TRL trains it.",
        )


def _plain(model: Any) -> Any:
    """The causal language model within PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
