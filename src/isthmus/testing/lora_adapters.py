"""vLLM's endpoints that load and unload LoRA adapters while the server runs.

Source: docs.vllm.ai/en/stable/features/lora.html, "Dynamically serving LoRA Adapters".
"""

from __future__ import annotations

from isthmus.testing.wire import JsonObject, Received, RefusedError


def answer(received: Received, adapters: dict[str, str]) -> JsonObject | str:
    """Loads or unloads what is asked for, into and out of `adapters`."""
    body = received.body or {}
    name, path = body.get("lora_name"), body.get("lora_path")
    if not isinstance(name, str) or not name:
        raise RefusedError("Both 'lora_name' and 'lora_path' must be provided.")
    if received.path.endswith("/unload_lora_adapter"):
        if adapters.pop(name, None) is None:
            raise RefusedError(f"The lora adapter '{name}' cannot be found.", status=404)
        return f"Success: LoRA adapter '{name}' removed successfully."
    if not isinstance(path, str) or not path:
        raise RefusedError("Both 'lora_name' and 'lora_path' must be provided.")
    if "missing" in path:
        raise RefusedError(f"Loading lora {name} failed: No adapter found for {path}", status=404)
    if name in adapters:
        raise RefusedError(f"The lora adapter '{name}' has already been loaded.")
    adapters[name] = path
    return f"Success: LoRA adapter '{name}' added successfully."
