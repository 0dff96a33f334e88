"""What is mounted: one row per endpoint. Dispatch and the OpenAPI document both read this table."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from isthmus.core.feedback import (
    LONGEST_COMMENT,
    LONGEST_CORRECTION,
    LONGEST_NAME,
    LONGEST_VALUE,
    MOST_METADATA,
)

JsonSchema = dict[str, Any]


def _object(properties: JsonSchema, *optional: str) -> JsonSchema:
    """An object that has these properties, and perhaps others."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties}


_TEXT = {"type": "string"}
_MAYBE_TEXT = {"type": ["string", "null"]}
_NATURAL = {"type": "integer", "minimum": 0}
_OBJECTS = {"type": "array", "items": {"type": "object"}}

OPENAI_ERROR: JsonSchema = {
    "title": "OpenAI's error",
    **_object(
        {
            "error": _object({"message": _TEXT, "type": _TEXT, "param": _MAYBE_TEXT, "code": _TEXT}),
            "request_id": _TEXT,
        }
    ),
}
ANTHROPIC_ERROR: JsonSchema = {
    "title": "Anthropic's error",
    **_object(
        {
            "type": {"const": "error"},
            "error": _object({"type": _TEXT, "message": _TEXT, "code": _TEXT, "param": _TEXT}, "param"),
            "request_id": _TEXT,
        }
    ),
}
EITHER_ERROR: JsonSchema = {"anyOf": [OPENAI_ERROR, ANTHROPIC_ERROR]}
"""Of endpoints that both vendors' clients ask: who sends `anthropic-version` gets Anthropic's form."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path.

    `wire` names the client dialect of a model endpoint; the others are answered by the gateway itself, by
    `page`. `access` says who may ask: `key` anyone with a key (or this machine, while no key exists), `open`
    anyone. `answer` and `error` are schemas of the body, of a good status and of a bad one.
    """

    method: Literal["GET", "POST"]
    path: str
    summary: str
    access: Literal["key", "open"]
    wire: str | None = None
    page: str | None = None
    request: JsonSchema | None = None
    answer: JsonSchema
    answer_type: str = "application/json"
    error: JsonSchema | None = None
    statuses: tuple[int, ...] = (200,)


_MODEL = {"type": "string", "minLength": 1, "description": "A route of this gateway (see /v1/models)."}
_STREAM = {"type": ["boolean", "null"], "description": "Answer as server-sent events."}
_COUNT = {"type": ["integer", "null"], "minimum": 1}
_CONTENT = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}, {"type": "null"}]}
_FAILURES = (400, 401, 403, 404, 413, 429, 500, 502, 503, 504)


def _messages(roles: list[str], content: JsonSchema) -> JsonSchema:
    return {
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "required": ["role"],
            "properties": {"role": {"enum": roles}, "content": content},
        },
    }


CHAT = {
    "type": "object",
    "required": ["model", "messages"],
    "properties": {
        "model": _MODEL,
        "messages": _messages(["system", "developer", "user", "assistant", "tool"], _CONTENT),
        "stream": _STREAM,
        "stream_options": {"type": ["object", "null"], "properties": {"include_usage": {"type": "boolean"}}},
        "max_completion_tokens": _COUNT,
        "max_tokens": _COUNT,
        "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
        "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": 128},
        "seed": {"type": ["integer", "null"]},
        "logprobs": {"type": ["boolean", "null"]},
        "tools": {"type": "array", "items": {"type": "object", "required": ["type"]}},
        "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required"]}, {"type": "object"}]},
        "response_format": {"type": "object", "required": ["type"]},
        "user": {"type": "string", "description": "Your end user: the unit of sticky splits."},
    },
}
RESPONSES = {
    "type": "object",
    "required": ["model", "input"],
    "properties": {
        "model": _MODEL,
        "input": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]},
        "instructions": {"type": ["string", "null"]},
        "stream": _STREAM,
        "max_output_tokens": _COUNT,
        "tools": {"type": "array", "items": {"type": "object", "required": ["type"]}},
        "store": {
            "type": ["boolean", "null"],
            "description": "The gateway stores no answer. An endpoint that speaks Responses is told what is "
            "said here, and where nothing is, the provider's default holds, which may be to store. For any "
            "other endpoint the request is translated: nothing is stored there, and true is refused.",
        },
    },
}
MESSAGES: JsonSchema = {
    "type": "object",
    "required": ["model", "messages", "max_tokens"],
    "properties": {
        "model": _MODEL,
        "max_tokens": {"type": "integer", "minimum": 1},
        "messages": _messages(["user", "assistant"], _CONTENT),
        "system": _CONTENT,
        "stream": _STREAM,
        "tools": {"type": "array", "items": {"type": "object", "required": ["name"]}},
        "thinking": {"type": "object", "required": ["type"]},
    },
}
COUNT = {
    "type": "object",
    "required": ["model", "messages"],
    "properties": {name: MESSAGES["properties"][name] for name in ("model", "messages", "system", "tools")},
}
EMBEDDINGS = {
    "type": "object",
    "required": ["model", "input"],
    "properties": {
        "model": _MODEL,
        "input": {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
                {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}},
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                },
            ]
        },
        "encoding_format": {"enum": ["float", "base64"]},
        "dimensions": {"type": "integer", "minimum": 1},
    },
}

FEEDBACK: JsonSchema = {
    "type": "object",
    "required": ["request_id"],
    "properties": {
        "request_id": {"type": "string", "description": "The x-request-id of a finished answer."},
        "score": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "thumb": {"enum": ["up", "down", None], "description": "`up` is a score of 1, `down` of 0."},
        "correction": {
            "type": ["string", "null"],
            "maxLength": LONGEST_CORRECTION,
            "description": "The answer as it should have been.",
        },
        "comment": {"type": ["string", "null"], "maxLength": LONGEST_COMMENT},
        "metadata": {
            "type": ["object", "null"],
            "maxProperties": MOST_METADATA,
            "propertyNames": {"maxLength": LONGEST_NAME},
            "additionalProperties": {"type": "string", "maxLength": LONGEST_VALUE},
        },
    },
    "additionalProperties": False,
}

# Answers that pass through are the provider's own: only what its dialect cannot do without is promised.
CHAT_ANSWER = _object(
    {
        "id": _TEXT,
        "object": {"const": "chat.completion"},
        "created": _NATURAL,
        "model": _TEXT,
        "choices": _OBJECTS,
    }
)
RESPONSE = _object(
    {
        "id": _TEXT,
        "object": {"const": "response"},
        "status": {"enum": ["completed", "incomplete", "failed", "in_progress", "queued", "cancelled"]},
        "model": _TEXT,
        "output": _OBJECTS,
    }
)
MESSAGE = _object(
    {
        "id": _TEXT,
        "type": {"const": "message"},
        "role": {"const": "assistant"},
        "model": _TEXT,
        "content": _OBJECTS,
        "stop_reason": _MAYBE_TEXT,
    }
)
TOKENS = _object({"input_tokens": _NATURAL})
VECTORS = _object({"object": {"const": "list"}, "data": _OBJECTS, "model": _TEXT})
OPENAI_MODEL = _object(
    {"id": _TEXT, "object": {"const": "model"}, "created": _NATURAL, "owned_by": {"const": "isthmus"}}
)
ANTHROPIC_MODEL = _object(
    {
        "type": {"const": "model"},
        "id": _TEXT,
        "display_name": _TEXT,
        "created_at": {**_TEXT, "format": "date-time"},
    }
)
MODELS: JsonSchema = {
    "anyOf": [
        _object({"object": {"const": "list"}, "data": {"type": "array", "items": OPENAI_MODEL}}),
        _object(
            {
                "data": {"type": "array", "items": ANTHROPIC_MODEL},
                "has_more": {"const": False},
                "first_id": _MAYBE_TEXT,
                "last_id": _MAYBE_TEXT,
            }
        ),
    ]
}
FEEDBACK_RECEIPT = _object(
    {
        "id": _TEXT,
        "object": {"const": "feedback"},
        "request_id": _TEXT,
        "created": _NATURAL,
        "score": {"type": ["number", "null"]},
    }
)
READINESS = _object(
    {
        "status": {"enum": ["ready", "not ready", "draining"]},
        "ledger": {"type": "object"},
        "engines": {"type": "object", "additionalProperties": _TEXT},
        "weights": {"type": "object", "additionalProperties": _TEXT},
        "config": _TEXT,
    }
)

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        method="POST",
        path="/v1/chat/completions",
        summary="Chat, in OpenAI's Chat Completions dialect.",
        access="key",
        wire="openai",
        request=CHAT,
        answer=CHAT_ANSWER,
        error=OPENAI_ERROR,
        statuses=(200, *_FAILURES),
    ),
    Endpoint(
        method="POST",
        path="/v1/responses",
        summary="Chat, in OpenAI's Responses dialect.",
        access="key",
        wire="responses",
        request=RESPONSES,
        answer=RESPONSE,
        error=OPENAI_ERROR,
        statuses=(200, *_FAILURES),
    ),
    Endpoint(
        method="POST",
        path="/v1/messages",
        summary="Chat, in Anthropic's Messages dialect.",
        access="key",
        wire="anthropic",
        request=MESSAGES,
        answer=MESSAGE,
        error=ANTHROPIC_ERROR,
        statuses=(200, *_FAILURES),
    ),
    Endpoint(
        method="POST",
        path="/v1/messages/count_tokens",
        summary="How many tokens a Messages request would have.",
        access="key",
        wire="anthropic-count",
        request=COUNT,
        answer=TOKENS,
        error=ANTHROPIC_ERROR,
        statuses=(200, *_FAILURES),
    ),
    Endpoint(
        method="POST",
        path="/v1/embeddings",
        summary="Embedding vectors, in OpenAI's dialect.",
        access="key",
        wire="openai-embeddings",
        request=EMBEDDINGS,
        answer=VECTORS,
        error=OPENAI_ERROR,
        statuses=(200, *_FAILURES),
    ),
    Endpoint(
        method="POST",
        path="/v1/feedback",
        summary="What somebody thought of an answer, and what it should have been.",
        access="key",
        page="feedback",
        request=FEEDBACK,
        answer=FEEDBACK_RECEIPT,
        error=EITHER_ERROR,
        statuses=(200, 400, 401, 403, 404, 413, 429, 503),
    ),
    Endpoint(
        method="GET",
        path="/v1/models",
        summary="The routes of the key, as models; in Anthropic's form to whom sends `anthropic-version`.",
        access="key",
        page="models",
        answer=MODELS,
        error=EITHER_ERROR,
        statuses=(200, 401, 403),
    ),
    Endpoint(
        method="GET",
        path="/v1/models/{model}",
        summary="One route, as a model.",
        access="key",
        page="model",
        answer={"anyOf": [OPENAI_MODEL, ANTHROPIC_MODEL]},
        error=EITHER_ERROR,
        statuses=(200, 401, 403, 404),
    ),
    Endpoint(
        method="GET",
        path="/healthz",
        summary="The process lives.",
        access="open",
        page="healthz",
        answer=_object({"status": {"const": "ok"}}),
    ),
    Endpoint(
        method="GET",
        path="/readyz",
        summary="The gateway can serve: its ledger writes and its engines run. 503 says what is missing.",
        access="open",
        page="readyz",
        answer=READINESS,
        error=READINESS,
        statuses=(200, 503),
    ),
    Endpoint(
        method="GET",
        path="/metrics",
        summary="Metrics in Prometheus' text format.",
        access="key",
        page="metrics",
        answer={},
        answer_type="text/plain",
        error=EITHER_ERROR,
        statuses=(200, 401, 403),
    ),
    Endpoint(
        method="GET",
        path="/openapi.json",
        summary="This description.",
        access="open",
        page="openapi",
        answer={"type": "object"},
    ),
)
