"""The first request to a model: the caller who came first would else wait for what is set up on its way."""

from __future__ import annotations

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.providers.transport import TransportError
from isthmus.providers.upstream import Upstream, as_error

_QUESTION = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1, "stream": False}


async def warm(upstream: Upstream) -> None:
    """Have the model say one token. Raises IsthmusError where it does not."""
    wire = upstream.shared_wire("openai")
    assert wire is not None, "every server whose weights are ours to choose speaks it"
    body = msgspec.json.encode({"model": upstream.model.id, **_QUESTION})
    try:
        reply = await upstream.transport.send(upstream.outgoing(wire, body, False, {}, lambda _: None))
    except TransportError as failure:
        raise as_error(failure, upstream) from failure
    if reply.status != 200:
        raise IsthmusError(
            Fault.UNAVAILABLE,
            f"The model {upstream.model.name} answered its first request with status {reply.status}.",
            code="not_warm",
            hint="Look into the log of its engine.",
        )
