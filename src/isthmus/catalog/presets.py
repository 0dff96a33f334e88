"""The providers that Isthmus knows by name: pure data, one row each.

A row says what the provider's own documentation says (`docs` is the page) and nothing more: a server that
speaks no more than Chat Completions lists no other wire, and is translated to. Whatever is missing here is
reached with `dialect:` and a `base_url`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from isthmus.core.portfolio import Auth, Kind

Dialect: TypeAlias = Literal["openai", "responses", "anthropic", "gemini"]

QUIRKS: dict[str, str] = {
    "max_completion_tokens": "wants the answer's bound as `max_completion_tokens`, not `max_tokens`",
    "no_developer_role": "refuses messages of the role `developer`: they are sent as `system`",
    "no_reasoning_field": "refuses a model's earlier thinking in its messages: it is left out",
    "no_top_k": "refuses the sampler `top_k`: it is left out",
    "short_tool_ids": "takes ids of tool calls of nine letters and digits only: others are rewritten",
    "no_finish_reason": "gives no finish reason: `[DONE]` alone ends its streams, even one that was cut off",
    "no_stream_options": "refuses `stream_options`; usage comes with the last chunk, unasked",
    "constrained_tools": "has no tool calls of its own: they are constrained by a grammar and translated",
}
"""Every departure from the OpenAI dialect that the codec allows for, and what it means for the server."""


class Speech(msgspec.Struct, frozen=True, kw_only=True):
    """How an endpoint that is known by its dialect alone is spoken to."""

    wires: tuple[str, ...]
    auth: Auth
    headers: dict[str, str] = {}
    forward_headers: tuple[str, ...] = ()
    quirks: frozenset[str] = frozenset()


_ANTHROPIC_VERSION = {"anthropic-version": "2023-06-01"}

# Every server that takes `developer` takes `system` too, so an unknown one is never sent the rarer word.
DIALECTS: dict[Dialect, Speech] = {
    "openai": Speech(
        wires=("openai", "openai-embeddings"), auth="bearer", quirks=frozenset({"no_developer_role"})
    ),
    "responses": Speech(wires=("responses", "openai-embeddings"), auth="bearer"),
    # Bytes that pass through are of the version that the client speaks, so its header goes with them.
    "anthropic": Speech(
        wires=("anthropic", "anthropic-count"),
        auth="x-api-key",
        headers=_ANTHROPIC_VERSION,
        forward_headers=("anthropic-version",),
    ),
    "gemini": Speech(wires=("gemini", "gemini-embeddings", "gemini-count"), auth="x-goog-api-key"),
}
"""What `dialect:` means for a server that has no preset."""


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """A provider known by name.

    `wires` are those that the server itself speaks, preferred first. `base_url` includes the API's version;
    where it differs for each customer it is None and `base_url_form` shows its form. `key_env` is the
    customary environment variable of the key, None where a key is optional. `forward_headers` are those of
    the caller that belong to the dialect, and go with its bytes. `prices` is the provider's id in
    genai-prices. `kind` is None where only the user knows whether the machine is rented or their own.
    `engine` is set where Isthmus runs the server itself, `client` where a library instead of our HTTP client
    speaks to servers whose addresses it knows. `adapters` says that the server can load LoRA adapters while
    it runs. `docs` is the page that the row was written from.
    """

    name: str
    title: str
    wires: tuple[str, ...]
    docs: str
    base_url: str | None = None
    base_url_form: str | None = None
    auth: Auth = "bearer"
    headers: dict[str, str] = {}
    forward_headers: tuple[str, ...] = ()
    query: dict[str, str] = {}
    key_env: str | None = None
    prices: str | None = None
    quirks: frozenset[str] = frozenset({"no_developer_role"})
    kind: Kind | None = None
    engine: Literal["llama.cpp"] | None = None
    client: Literal["anyllm"] | None = None
    adapters: bool = False


_OPENAI_QUIRKS = frozenset({"max_completion_tokens", "no_reasoning_field", "no_top_k"})
# These check requests against their schema, and refuse each field that is not in it.
_STRICT_QUIRKS = frozenset({"no_developer_role", "no_reasoning_field", "no_top_k"})

PRESETS: tuple[Preset, ...] = (
    Preset(
        name="builtin",
        title="The engine inside Isthmus (llama.cpp)",
        wires=("openai", "openai-embeddings", "anthropic-count"),
        docs="https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
        auth="none",
        quirks=frozenset({"no_developer_role", "constrained_tools"}),
        kind="local",
        engine="llama.cpp",
    ),
    Preset(
        name="openai",
        title="OpenAI",
        wires=("openai", "responses", "openai-embeddings"),
        docs="https://platform.openai.com/docs/api-reference",
        base_url="https://api.openai.com/v1",
        key_env="OPENAI_API_KEY",
        prices="openai",
        quirks=_OPENAI_QUIRKS,
        kind="closed",
    ),
    Preset(
        name="azure-openai",
        title="Azure OpenAI, v1 API (a model's id is the deployment's name)",
        wires=("openai", "responses", "openai-embeddings"),
        docs="https://learn.microsoft.com/azure/foundry/openai/api-version-lifecycle",
        base_url_form="https://RESOURCE.openai.azure.com/openai/v1",
        auth="api-key",
        key_env="AZURE_OPENAI_API_KEY",
        prices="azure",
        quirks=_OPENAI_QUIRKS,
        kind="closed",
    ),
    Preset(
        name="anthropic",
        title="Anthropic",
        wires=("anthropic", "anthropic-count"),
        docs="https://platform.claude.com/docs/en/api/overview",
        base_url="https://api.anthropic.com/v1",
        auth="x-api-key",
        headers=_ANTHROPIC_VERSION,
        forward_headers=("anthropic-version", "anthropic-beta"),
        key_env="ANTHROPIC_API_KEY",
        prices="anthropic",
        quirks=frozenset(),
        kind="closed",
    ),
    Preset(
        name="gemini",
        title="Google Gemini API",
        wires=("gemini", "gemini-embeddings", "gemini-count"),
        docs="https://ai.google.dev/api",
        base_url="https://generativelanguage.googleapis.com/v1beta",
        auth="x-goog-api-key",
        key_env="GEMINI_API_KEY",
        prices="google",
        quirks=frozenset(),
        kind="closed",
    ),
    Preset(
        name="vllm",
        title="vLLM (a server that you run)",
        wires=("openai", "responses", "anthropic", "openai-embeddings", "anthropic-count"),
        docs="https://docs.vllm.ai/en/stable/serving/online_serving.html",
        base_url="http://localhost:8000/v1",
        adapters=True,
    ),
    Preset(
        name="sglang",
        title="SGLang (a server that you run)",
        wires=("openai", "anthropic", "openai-embeddings", "anthropic-count"),
        docs="https://docs.sglang.io/docs/basic_usage/anthropic_api",
        base_url="http://localhost:30000/v1",
    ),
    Preset(
        name="ollama",
        title="Ollama (a server that you run)",
        wires=("openai", "responses", "anthropic", "openai-embeddings"),
        docs="https://docs.ollama.com/api/openai-compatibility",
        base_url="http://localhost:11434/v1",
    ),
    Preset(
        name="llama-cpp",
        title="llama-server of llama.cpp (a server that you run)",
        wires=("openai", "anthropic", "openai-embeddings", "anthropic-count"),
        docs="https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
        base_url="http://localhost:8080/v1",
    ),
    Preset(
        name="lmstudio",
        title="LM Studio (a server that you run)",
        wires=("openai", "responses", "anthropic", "openai-embeddings"),
        docs="https://lmstudio.ai/docs/developer/openai-compat",
        base_url="http://localhost:1234/v1",
    ),
    Preset(
        name="mistral",
        title="Mistral AI",
        wires=("openai", "openai-embeddings"),
        docs="https://docs.mistral.ai/api",
        base_url="https://api.mistral.ai/v1",
        key_env="MISTRAL_API_KEY",
        prices="mistral",
        quirks=_STRICT_QUIRKS | {"no_stream_options", "short_tool_ids"},
        kind="closed",
    ),
    Preset(
        name="deepseek",
        title="DeepSeek",
        wires=("openai",),
        docs="https://api-docs.deepseek.com/",
        base_url="https://api.deepseek.com",
        key_env="DEEPSEEK_API_KEY",
        prices="deepseek",
        kind="open",
    ),
    Preset(
        name="zai",
        title="Z.ai (GLM)",
        wires=("openai",),
        docs="https://docs.z.ai/guides/develop/openai/python",
        base_url="https://api.z.ai/api/paas/v4",
        key_env="ZAI_API_KEY",
        prices="zai",
        kind="open",
    ),
    Preset(
        name="groq",
        title="Groq",
        wires=("openai", "responses"),
        docs="https://console.groq.com/docs/openai",
        base_url="https://api.groq.com/openai/v1",
        key_env="GROQ_API_KEY",
        prices="groq",
        quirks=_STRICT_QUIRKS,
        kind="open",
    ),
    Preset(
        name="together",
        title="Together AI",
        wires=("openai", "openai-embeddings"),
        docs="https://docs.together.ai/docs/inference/openai-compatibility",
        base_url="https://api.together.ai/v1",
        key_env="TOGETHER_API_KEY",
        prices="together",
        kind="open",
    ),
    Preset(
        name="openrouter",
        title="OpenRouter",
        wires=("openai",),
        docs="https://openrouter.ai/docs/api-reference/overview",
        base_url="https://openrouter.ai/api/v1",
        key_env="OPENROUTER_API_KEY",
        prices="openrouter",
        quirks=frozenset(),
    ),
    Preset(
        name="fireworks",
        title="Fireworks AI",
        wires=("openai", "anthropic", "openai-embeddings"),
        docs="https://docs.fireworks.ai/tools-sdks/openai-compatibility",
        base_url="https://api.fireworks.ai/inference/v1",
        key_env="FIREWORKS_API_KEY",
        prices="fireworks",
        kind="open",
    ),
    Preset(
        name="xai",
        title="xAI",
        wires=("openai", "responses"),
        docs="https://docs.x.ai/api/integrations",
        base_url="https://api.x.ai/v1",
        key_env="XAI_API_KEY",
        prices="x-ai",
        kind="closed",
    ),
    Preset(
        name="cerebras",
        title="Cerebras",
        wires=("openai",),
        docs="https://inference-docs.cerebras.ai/resources/openai",
        base_url="https://api.cerebras.ai/v1",
        key_env="CEREBRAS_API_KEY",
        prices="cerebras",
        quirks=_STRICT_QUIRKS,
        kind="open",
    ),
    Preset(
        name="nvidia",
        title="NVIDIA API catalogue",
        wires=("openai",),
        docs="https://docs.api.nvidia.com/nim/reference/",
        base_url="https://integrate.api.nvidia.com/v1",
        key_env="NVIDIA_API_KEY",
        kind="open",
    ),
    Preset(
        name="anyllm",
        title="Every provider of any-llm (the extra `isthmus[anyllm]`; a model's id is `provider:model`)",
        wires=("openai", "openai-embeddings"),
        docs="https://github.com/mozilla-ai/any-llm",
        quirks=_STRICT_QUIRKS,
        client="anyllm",
    ),
)


def find_preset(name: str) -> Preset | None:
    """The row of that name, or None."""
    return next((preset for preset in PRESETS if preset.name == name), None)


def preset_at(url: str) -> Preset | None:
    """The row of the provider that alone is at the URL's host, or None: by whatever name it is called."""
    own = (preset for preset in PRESETS if preset.base_url and preset.key_env)
    return next((preset for preset in own if _host(preset.base_url or "") == _host(url)), None)


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "").removesuffix(".")
