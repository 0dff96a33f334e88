"""How a client is told that what it has seen of an answer does not count.

Only Chat Completions can carry it: its stream is a sequence of chunks, and one without choices adds nothing
for those who do not know it. A stream of Messages or of Responses is one message or one response from its
first event on; clients of these refuse a second beginning.
"""

from __future__ import annotations

import msgspec

from isthmus.dialects import sse

CARRIERS = frozenset({"openai"})
"""The wires, by name, whose streams can be revised."""


def revision(model: str, request_id: str, created: int) -> bytes:
    """The event that takes back every chunk before it: a chunk without choices, with the member `isthmus`."""
    chunk = {
        "id": request_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": [],
        "isthmus": {"revision": "restart"},
    }
    return sse.encode(None, msgspec.json.encode(chunk))
