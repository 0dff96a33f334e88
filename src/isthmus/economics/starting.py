"""How an option is brought up: the engine's command, and the model's rows in isthmus.yaml. Pure."""

from __future__ import annotations

from isthmus.economics.sizing import Option

_PORTS = {"vllm": 8000, "sglang": 30_000, "trtllm": 8000, "llamacpp": 8080}
_PRESETS = {"vllm": "preset: vllm", "sglang": "preset: sglang", "llamacpp": "preset: llama-cpp"}
_QUANTIZED = {"fp8": "fp8", "int8": "compressed-tensors"}


def command(option: Option, model: str, native: str, longest: int) -> str:
    """The shell command that starts one replica; `longest` is the longest request in tokens."""
    if option.engine == "llamacpp":
        return (
            f"llama-server -m MODEL.gguf -ngl 999 -np {option.places}"
            f" -c {option.places * longest} --port 8080"
        )
    if option.engine == "sglang":
        return (
            f"python -m sglang.launch_server --model-path {model} --tp-size {option.gpus}"
            f" --context-length {longest} --max-running-requests {option.places} --port 30000"
        )
    if option.engine == "trtllm":
        return (
            f"trtllm-serve {model} --tp_size {option.gpus} --max_seq_len {longest}"
            f" --max_batch_size {option.places} --port 8000"
        )
    quantized = _QUANTIZED.get(option.precision) if option.precision != native else None
    quantization = f" --quantization {quantized}" if quantized else ""
    return (
        f"vllm serve {model} --tensor-parallel-size {option.gpus} --max-model-len {longest}"
        f" --max-num-seqs {option.places} --gpu-memory-utilization 0.9{quantization}"
    )


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
