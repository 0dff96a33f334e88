"""PEFT's LoRA adapters → GGUF, as llama.cpp loads them. Needs numpy, safetensors and gguf, and no torch.

A GGUF adapter is a file of the type `adapter` with the metadata `adapter.type` and `adapter.lora.alpha`, and
for each changed matrix the tensors `NAME.lora_a` and `NAME.lora_b`, with the shapes that PEFT gives them
(llama.cpp, convert_lora_to_gguf.py and src/llama-adapter.cpp). llama.cpp adds B·A scaled by alpha over the
rank, as PEFT does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from isthmus.core.errors import Fault, IsthmusError

# Of these the rows of a matrix stand in both formats in the same order. Llama's and Mistral's converters
# permute those of q and k for the rotary embedding, and an adapter would have to be permuted with them.
_ARCHITECTURES = {"qwen2": "qwen2", "qwen3": "qwen3"}

_MATRICES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NAME = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.([\w.]+)\.lora_(A|B)\.weight")

BASE_KEY = "isthmus.base.sha256"
"""The metadata that names the weights which the adapter fits. Engines do not know it: they compare shapes."""


class _Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What counts of adapter_config.json."""

    peft_type: str
    r: int
    lora_alpha: float
    use_dora: bool = False
    use_rslora: bool = False
    bias: str = "none"
    modules_to_save: list[str] | None = None
    fan_in_fan_out: bool = False
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}


class _Kind(msgspec.Struct, frozen=True):
    model_type: str


def is_convertible(base: Path) -> bool:
    """True for a base's folder whose adapters can be written as GGUF."""
    return _model_type(base) in _ARCHITECTURES


def require_convertible(base: Path) -> None:
    """Pass for a base's folder whose adapters can be written as GGUF.

    Raises IsthmusError (`architecture_not_supported`).
    """
    if not is_convertible(base):
        raise IsthmusError(
            Fault.UNSUPPORTED,
            f"Adapters of the architecture {_model_type(base)} cannot be written as GGUF.",
            code="architecture_not_supported",
            hint=f"Those of {', '.join(sorted(_ARCHITECTURES))} can.",
        )


def gguf_adapter(adapter: Path, base: Path, into: Path, *, base_sha256: str, name: str) -> None:
    """Write the adapter of PEFT's folder `adapter`, made on the base's folder `base`, as the file `into`.

    The same adapter gives the same bytes. Raises IsthmusError: `architecture_not_supported`,
    `adapter_not_supported` for what llama.cpp would apply otherwise than PEFT does, or not at all.
    """
    from gguf import GGUFWriter
    from safetensors.numpy import load_file

    require_convertible(base)
    settings = _settings(adapter / "adapter_config.json")
    tensors = load_file(adapter / "adapter_model.safetensors")
    named = {_engine_name(it): tensor for it, tensor in tensors.items()}
    _require_pairs(named, settings.r)
    writer = GGUFWriter(into, _ARCHITECTURES[_model_type(base)])
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", settings.lora_alpha)
    writer.add_string("general.name", name)
    writer.add_string(BASE_KEY, base_sha256)
    for it in sorted(named, key=_place):
        writer.add_tensor(it, named[it].astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _model_type(base: Path) -> str:
    return msgspec.json.decode((base / "config.json").read_bytes(), type=_Kind).model_type


def _settings(path: Path) -> _Settings:
    try:
        settings = msgspec.json.decode(path.read_bytes(), type=_Settings)
    except msgspec.MsgspecError as fault:
        raise _unsupported(f"its settings are not PEFT's ({fault})") from fault
    for is_so, what in (
        (settings.peft_type != "LORA", f"it is of the kind {settings.peft_type}, not LORA"),
        (settings.use_dora, "it is a DoRA"),
        (settings.use_rslora, "it is scaled by the rank's root (rsLoRA)"),
        (settings.bias != "none", "it changes biases"),
        (bool(settings.modules_to_save), "it replaces whole layers (`modules_to_save`)"),
        (settings.fan_in_fan_out, "its matrices are transposed (`fan_in_fan_out`)"),
        (
            bool(settings.rank_pattern or settings.alpha_pattern),
            "its layers have ranks or scales of their own",
        ),
    ):
        if is_so:
            raise _unsupported(what)
    return settings


def _engine_name(name: str) -> str:
    match = _NAME.fullmatch(name)
    matrix = _MATRICES.get(match[2]) if match else None
    if match is None or matrix is None:
        raise _unsupported(f"it changes {name}, which is no matrix of a block")
    return f"blk.{match[1]}.{matrix}.weight.lora_{match[3].lower()}"


def _require_pairs(named: dict[str, Any], rank: int) -> None:
    for name, tensor in named.items():
        partner = named.get(f"{name[:-1]}{'b' if name.endswith('a') else 'a'}")
        if partner is None:
            raise _unsupported(f"{name} stands alone")
        if tensor.ndim != 2 or tensor.shape[0 if name.endswith("a") else 1] != rank:
            raise _unsupported(f"{name} is not of the rank {rank}")


def _place(name: str) -> tuple[int, str]:
    return int(name.split(".")[1]), name


def _unsupported(why: str) -> IsthmusError:
    return IsthmusError(
        Fault.UNSUPPORTED,
        f"The adapter cannot be written as GGUF: {why}.",
        code="adapter_not_supported",
        hint="llama.cpp applies plain LoRA of the blocks' matrices.",
    )
