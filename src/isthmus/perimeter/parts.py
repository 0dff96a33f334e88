"""The texts of a request, wherever they stand in it, and the parts of it that nobody can look into.

A request is walked as JSON and not as a dialect: what a codec does not know, and what a provider adds
tomorrow, is looked at as well. That holds for system texts, every turn, tools, their arguments and results,
names, metadata, keys of objects and URLs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from isthmus.perimeter.encodings import is_sealed

# Words of the dialects under which a text stands by itself: naming them to a detector would tell it nothing.
_PLAIN_KEYS = frozenset(
    {"arguments", "content", "description", "id", "input", "instructions", "model", "name", "output", "role"}
    | {"system", "text", "thinking", "type"}
)
# Sound, pictures and files, by the type that a dialect gives to a part.
_BLIND_TYPES = frozenset(
    {"audio", "computer_screenshot", "container_upload", "document", "encrypted_content", "file", "image"}
    | {"image_file", "image_url", "input_audio", "input_file", "input_image", "input_video", "item_reference"}
    | {"redacted_thinking", "video", "video_url"}
)
# What stands elsewhere, and is only pointed to; and what only its issuer can read.
_BLIND_KEYS = frozenset(
    {"encrypted_content", "fileData", "file_data", "file_id", "file_ids", "file_uri", "inlineData"}
    | {"inline_data", "previous_response_id", "vector_store_ids"}
)
# These mean it only at the top of a request; elsewhere they are words like any other.
_BLIND_AT_TOP = frozenset({"container", "conversation"})
# And these in a turn, where some servers take a picture without its type.
_BLIND_IN_CONTENT = frozenset({"audio_url", "image_url", "input_audio", "video_url"})
# Tokens of a text that only a tokenizer could read.
_TOKENS = re.compile(r"(?:input|prompt)(?:\[\d+\])?")
# What a provider seals, and sends back to itself alone: long, and no text.
_SEALS = frozenset({"encrypted_index", "signature", "thoughtSignature", "thought_signature"})
# By one of these a JSON Schema says what may stand under a name, and nothing stands there.
_SCHEMA_KEYS = frozenset({"$ref", "allOf", "anyOf", "description", "enum", "oneOf", "type"})
# What `type` and `role` say in the dialects: no texts, and none that may stand between two cut apart.
_PROTOCOL_KEYS = frozenset({"type", "role"})
_PROTOCOL_WORDS = _BLIND_TYPES | frozenset(
    {"array", "assistant", "boolean", "custom", "developer", "ephemeral", "function", "function_call"}
    | {"function_call_output", "input_text", "integer", "json_object", "json_schema", "message", "model"}
    | {"number", "object", "output_text", "reasoning", "refusal", "string", "summary_text", "system", "text"}
    | {"thinking", "tool", "tool_result", "tool_use", "user"}
)
_SHORTEST_NUMBER = 10**6
_LONGEST_STEP = 64


class Part(NamedTuple):
    """A text at the place `where` (a path such as `messages[2].content`).

    `text` begins with `before` characters that are not of the request: the name of its field, as a context.
    """

    where: str
    text: str
    before: int = 0


class Parts(NamedTuple):
    """The `texts` of a request in order, and the places that are `blind`: what stands there is not known."""

    texts: tuple[Part, ...]
    blind: tuple[str, ...]


def parts_of(value: Any) -> Parts:
    """What there is to look at in a decoded JSON value."""
    texts: list[Part] = []
    blind: list[str] = []
    for part in _walk("", "", value):
        if isinstance(part, Part):
            texts.append(part)
        else:
            blind.append(part)
    return Parts(tuple(texts), tuple(blind))


def rewritten(value: Any, rewrite: Callable[[str, str], str]) -> Any:
    """The value with each of its texts as `rewrite(where, text)` has it.

    The places are those of `parts_of`; a key is rewritten at the place of all keys of its object, and the
    words of the dialects and numbers stay as they are.
    """
    return _rewritten("", "", value, rewrite)


def _rewritten(where: str, key: str, value: Any, rewrite: Callable[[str, str], str]) -> Any:
    match value:
        case str():
            return value if _is_protocol(key, value) else rewrite(where, value)
        case list():
            return [_rewritten(f"{where}[{at}]", key, item, rewrite) for at, item in enumerate(value)]
        case dict():
            return {
                name if name in _PLAIN_KEYS else rewrite(f"{where}{{}}", name): _rewritten(
                    _inner(where, name), name, item, rewrite
                )
                for name, item in value.items()
            }
    return value


def _walk(where: str, key: str, value: Any) -> Iterator[Part | str]:
    # Depth is bounded by the parser of the JSON.
    match value:
        case str():
            if value and not _is_protocol(key, value):
                yield _text(where, key, value)
            if key not in _SEALS and is_sealed(value):
                yield where or "."
        case bool() | None:
            pass
        case int() | float():
            if abs(value) >= _SHORTEST_NUMBER:
                yield _text(where, key, str(value))
        case list():
            if _TOKENS.fullmatch(where) and any(type(item) is int for item in value):
                yield where
            for index, item in enumerate(value):
                yield from _walk(f"{where}[{index}]", key, item)
        case dict():
            yield from _walk_object(where, key, value)


def _walk_object(where: str, name: str, value: dict[str, Any]) -> Iterator[Part | str]:
    if _is_blind(value):
        yield where or "."
    unknown = [key for key in value if key not in _PLAIN_KEYS]
    if unknown:
        yield Part(f"{where}{{}}", "\n".join(unknown))
    for key, item in value.items():
        inner = _inner(where, key)
        if item and not _is_schema(item) and _points_away(where, name, key, item):
            yield inner
        yield from _walk(inner, key, item)


def _points_away(where: str, name: str, key: str, item: Any) -> bool:
    """True where `key`, in the object `name` at `where`, leads to what does not stand here as a text."""
    if key == "audio":
        # An answer that was spoken, by its id; at the top of a request, the voice that is wanted.
        return isinstance(item, dict) and "id" in item
    return (
        key in _BLIND_KEYS
        or (key in _BLIND_AT_TOP and not where)
        or (key in _BLIND_IN_CONTENT and name == "content")
    )


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict) and not _SCHEMA_KEYS.isdisjoint(value)


def _inner(where: str, key: str) -> str:
    step = key[:_LONGEST_STEP]
    return f"{where}.{step}" if where else step


def _is_protocol(key: str, value: str) -> bool:
    return key in _PROTOCOL_KEYS and value in _PROTOCOL_WORDS


def _is_blind(value: dict[str, Any]) -> bool:
    kind = value.get("type")
    if isinstance(kind, str) and kind in _BLIND_TYPES:
        # A document may be plain text, which is walked like any other.
        source = value.get("source")
        return not (kind == "document" and isinstance(source, dict) and source.get("type") == "text")
    return isinstance(value.get("data"), str) and ("mime_type" in value or "mimeType" in value)


def _text(where: str, key: str, text: str) -> Part:
    if not key or key in _PLAIN_KEYS:
        return Part(where, text)
    context = f"{key[:_LONGEST_STEP]}: "
    return Part(where, context + text, len(context))
