"""What a Claude model refuses, read from its id: facts of the wire that no response tells beforehand.

Sources: platform.claude.com/docs/en/about-claude/models (whats-new pages),
.../build-with-claude/adaptive-thinking and .../extended-thinking. Servers that speak Messages for other
models (llama.cpp, vLLM...) have no such limits.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_VERSION = re.compile(r"claude[a-z-]*?-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_NEWEST = (99, 0)


class Limits(NamedTuple):
    """What one model takes.

    `sampling`: temperature, top_p and top_k are accepted at all. `both_samplers`: temperature and top_p may
    be said together. `adaptive`: thinking is asked for by effort instead of by a budget in tokens.
    `blank_stop`: a stop sequence may be white space alone. `max_tokens` is what is sent where the caller set
    no limit, since Anthropic demands one: 16,384 where thinking counts towards it, else 4,096.
    """

    sampling: bool = True
    both_samplers: bool = True
    adaptive: bool = False
    blank_stop: bool = True
    max_tokens: int = 4_096


def limits(model_id: str) -> Limits:
    """The limits of a model; a Claude of unknown version is taken for the newest."""
    if "claude" not in model_id:
        return Limits()
    version = _version(model_id)
    adaptive = version >= (4, 6)
    return Limits(
        sampling=version < (4, 7),
        both_samplers=version < (4, 1),
        adaptive=adaptive,
        blank_stop=False,
        max_tokens=16_384 if adaptive else 4_096,
    )


def _version(model_id: str) -> tuple[int, int]:
    found = _VERSION.search(model_id)
    return (int(found[1]), int(found[2] or 0)) if found else _NEWEST
