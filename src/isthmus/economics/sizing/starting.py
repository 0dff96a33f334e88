"""How an option is brought up: the engine's command, and the model's rows in isthmus.yaml. Pure."""

from __future__ import annotations

from isthmus.economics.sizing.search import Option

_PORTS = {"vllm": 8000, "sglang": 30_000, "trtllm": 8000, "llamacpp": 8080}
_PRESETS = {"vllm": "preset: vllm", "sglang": "preset: sglang", "llamacpp": "preset: llama-cpp"}
_AT_START = ("fp8",)
"""Precisions to which engines bring a model while they load it; the others need weights made beforehand."""


_FORMS = {
    "vllm": "vllm serve {model} --tensor-parallel-size {gpus} --max-model-len {longest}"
    " --max-num-seqs {places} --gpu-memory-utilization 0.9",
    "sglang": "python -m sglang.launch_server --model-path {model} --tp-size {gpus}"
    " --context-length {longest} --max-running-requests {places} --port 30000",
    "trtllm": "trtllm-serve {model} --tp_size {gpus} --max_seq_len {longest}"
    " --max_batch_size {places} --port 8000",
}


def command(option: Option, model: str, native: str, longest: int) -> str:
    """The shell command that starts one replica; `longest` is the longest request in tokens."""
    if option.engine == "llamacpp":
        return (
            f"llama-server -m MODEL.gguf -ngl 999 -np {option.places}"
            f" -c {option.places * longest} --port 8080"
        )
    return _FORMS[option.engine].format(
        model=model, gpus=option.gpus, longest=longest, places=option.places
    ) + _quantized(option, native)


def _quantized(option: Option, native: str) -> str:
    if option.precision == native:
        return ""
    if option.precision in _AT_START and option.engine != "trtllm":
        return f" --quantization {option.precision}"
    return f"  # with weights that were quantized to {option.precision}"


def rows(option: Option, model: str) -> str:
    """What is to be written into isthmus.yaml for the model; a balancer stands before several replicas."""
    name = model.rpartition("/")[2].lower()
    endpoint = _PRESETS.get(option.engine, "dialect: openai")
    return "\n".join(
        (
            "providers:",
            f"  gpus: {{{endpoint}, base_url: http://127.0.0.1:{_PORTS[option.engine]}/v1}}",
            "models:",
            f"  {name}: {{provider: gpus, id: {model}, kind: open}}",
        )
    )
