"""OpenAI's errors: one shape for all of its endpoints."""

from __future__ import annotations

from isthmus.testing.script import Refusal
from isthmus.testing.wire import JsonObject, RefusedError

_MESSAGES = {
    401: ("Incorrect API key provided.", "invalid_api_key"),
    403: ("You are not allowed to use this model.", "unsupported_country_region_territory"),
    404: ("The model does not exist or you do not have access to it.", "model_not_found"),
    429: ("Rate limit reached for requests.", "rate_limit_exceeded"),
    503: ("The engine is currently overloaded, please try again later.", None),
}

_REASONS = {
    "context": (
        (
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 "
            "tokens. Please reduce the length of the messages."
        ),
        "context_length_exceeded",
    ),
    "quota": (
        "You exceeded your current quota, please check your plan and billing details.",
        "insufficient_quota",
    ),
    "filter": (
        "The response was filtered due to the prompt triggering our content policy.",
        "content_filter",
    ),
}


def error(refused: RefusedError) -> JsonObject:
    """The body of an error (platform.openai.com/docs/guides/error-codes)."""
    return {
        "error": {
            "message": refused.message,
            "type": _type(refused),
            "param": refused.param,
            "code": refused.code,
        }
    }


def refusal(planned: Refusal) -> RefusedError:
    """OpenAI's words for a planned refusal."""
    fallback = ("The server had an error while processing your request.", None)
    message, code = _REASONS.get(planned.reason) or _MESSAGES.get(planned.status, fallback)
    return RefusedError(message, status=planned.status, code=code)


def check_key(headers: dict[str, str], key: str | None) -> None:
    """Refuses a request without the bearer token that the house wants."""
    # Azure, which speaks this wire too, has a header of its own.
    given = headers.get("authorization", "").removeprefix("Bearer ") or headers.get("api-key")
    if key is not None and given != key:
        raise RefusedError("Incorrect API key provided.", status=401, code="invalid_api_key")


def _type(refused: RefusedError) -> str:
    if refused.code == "insufficient_quota":
        return "insufficient_quota"
    if refused.status == 429:
        return "requests"
    return "invalid_request_error" if refused.status < 500 else "server_error"
