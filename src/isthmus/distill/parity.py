"""Does the engine read a conversation as the training did? Compared are the ids of tokens, by hash.

llama.cpp tells both halves of the way: `POST /apply-template` writes a conversation as the model's chat
template does, and `POST /tokenize` turns that into ids (tools/server/README.md of llama.cpp). A student that
was taught on other tokens than it is served by is a worse student, and nothing else would say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from isthmus.core.errors import Fault, IsthmusError
from isthmus.distill.training.job import Imprint, imprint_of

_USER, _ASSISTANT, _SYSTEM = "user", "assistant", "system"


def _turns(*turns: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


PROBES: Mapping[str, list[dict[str, Any]]] = {
    "probe:plain": _turns((_USER, "Hello.")),
    "probe:system": _turns((_SYSTEM, "Be brief."), (_USER, "Which day is it?")),
    "probe:turns": _turns((_USER, "Two and two?"), (_ASSISTANT, "Four."), (_USER, "And three?")),
    "probe:blanks": _turns((_USER, "  a\n\n\tb   c \n"), (_ASSISTANT, " d \n"), (_USER, "\n")),
    "probe:scripts": _turns((_USER, "Grüße, naïve café, 你好, Привет, مرحبا, 👩‍🔬, 1234567")),
    "probe:code": _turns((_USER, 'def f(x):\n    return {"a": [x] * 2}  # <tag> & "quote"')),
}
"""Conversations on which templates and tokenizers are known to part: blanks, scripts, digits, an order of
roles."""


class Parity(msgspec.Struct, frozen=True):
    """How many conversations were compared, and which differ."""

    compared: int
    differing: tuple[str, ...]


class Reader:
    """The endpoint of an engine that tells how it reads: llama.cpp's server, without the `/v1`."""

    def __init__(self, address: str, api_key: str) -> None:
        self._address, self._headers = address, {"authorization": f"Bearer {api_key}"}

    async def prompts(self, conversations: Sequence[list[dict[str, Any]]]) -> list[list[int]]:
        """The ids that the engine makes of each. Raises IsthmusError (`parity_unknown`)."""
        import aiohttp

        try:
            async with aiohttp.ClientSession(
                headers=self._headers, timeout=aiohttp.ClientTimeout(60)
            ) as session:
                return [await self._prompt(session, messages) for messages in conversations]
        except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError, KeyError) as fault:
            raise IsthmusError(
                Fault.UNAVAILABLE,
                f"The engine does not tell how it reads a conversation ({type(fault).__name__}).",
                code="parity_unknown",
                hint="That the student is served as it was taught can be checked on llama.cpp only.",
            ) from None

    async def _prompt(self, session: Any, messages: list[dict[str, Any]]) -> list[int]:
        text = await self._post(session, "/apply-template", {"messages": messages})
        read = {"content": text["prompt"], "add_special": False, "parse_special": True}
        return msgspec.convert((await self._post(session, "/tokenize", read))["tokens"], list[int])

    async def _post(self, session: Any, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        async with session.post(self._address + path, data=json.dumps(body)) as answer:
            answer.raise_for_status()
            return msgspec.json.decode(await answer.read(), type=dict[str, Any])


async def probe(reader: Reader, imprints: Sequence[Imprint]) -> Parity:
    """What an engine reads of the probes, beside the imprints of them that a student's evidence keeps."""
    return compare(imprints, list(PROBES), await reader.prompts(list(PROBES.values())))


def compare(imprints: Sequence[Imprint], ids: Sequence[str], prompts: Sequence[Sequence[int]]) -> Parity:
    """What the training read beside what the engine reads: of each of `ids` its `prompts`."""
    ours = {it.id: it for it in imprints}
    theirs = (imprint_of(id, list(prompt)) for id, prompt in zip(ids, prompts, strict=True))
    return Parity(len(prompts), tuple(it.id for it in theirs if ours.get(it.id) != it))


def require(parity: Parity) -> None:
    """Pass where nothing differs. Raises IsthmusError (`tokens_differ`)."""
    if parity.differing:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"The engine reads {len(parity.differing)} of {parity.compared} conversations in other tokens "
            f"than the training does: {', '.join(_few(parity.differing))}.",
            code="tokens_differ",
            hint="The chat template or the tokenizer of the two differ: take weights that carry their own.",
        )


def _few(names: Sequence[str], most: int = 3) -> Iterator[str]:
    yield from names[:most]
    if len(names) > most:
        yield "…"
