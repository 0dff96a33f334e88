"""Further requests that a teacher makes of a given one: synthetic inputs, each with its origin. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from isthmus.core.evaluation import Answered, Sample
from isthmus.distill.provenance import Origin, provenance_of, sealed
from isthmus.evals.datasets.samples import made_id

VARIED_FROM = "varied_from"
"""Under which the metadata of a synthetic request names the one that it was made of."""

LEAST_TOKENS = 48
"""So many tokens may any variation have."""

_TASK = """Below is a request that somebody sends to an assistant. Write {count} further requests of the \
same kind, as other people would send them about other cases: with other facts, other words, another tone. \
Keep the language and the form of the answer that is asked for. Do not answer them.

Write a JSON array of {count} texts, and nothing else.

<request>
{text}
</request>"""
_ARRAY = re.compile(r"\[.*\]", re.DOTALL)


def asking_for(sample: Sample, count: int) -> Sample | None:
    """The sample that asks for so many variations of this one; None where its last turn is no text."""
    text = _last_text(sample)
    if text is None:
        return None
    asked = {"role": "user", "content": _TASK.format(count=count, text=text)}
    # A cap on money needs a bound: each about twice as long as the given one, at a token for three letters.
    request = {"messages": [asked], "max_tokens": count * (LEAST_TOKENS + 2 * len(text) // 3)}
    return Sample(id=f"vary-{count}-{sample.id}", request=request, label=sample.label)


def variations_of(sample: Sample, answered: Answered, by: Origin, count: int) -> list[Sample]:
    """The variations that such an answer holds, `count` of them at most, as sensitive as what they are of."""
    *before, last = sample.request["messages"]
    told = provenance_of(sample)
    origins = (by, *(it for it in (told.origins if told else ()) if it.part == "input"))
    made = []
    for text in list(dict.fromkeys(_texts(answered.text)))[:count]:
        if text == last["content"]:
            continue
        request = {**sample.request, "messages": [*before, {**last, "content": text}]}
        metadata = {**sample.metadata, VARIED_FROM: sample.id}
        varied = Sample(
            id=made_id(request, (), ()),
            request=request,
            label=sample.label.join(answered.label),
            metadata=metadata,
        )
        made.append(sealed(varied, origins, told.ancestors if told else ()))
    return made


def _last_text(sample: Sample) -> str | None:
    last = sample.request["messages"][-1]
    content = last.get("content")
    return content if last.get("role") == "user" and isinstance(content, str) and not sample.choices else None


def _texts(said: str) -> Sequence[str]:
    """The texts of the array in an answer; none where it holds no such array."""
    found = _ARRAY.search(said)
    try:
        texts = msgspec.json.decode(found[0], type=list[str]) if found else []
    except msgspec.DecodeError:
        return []
    return [text.strip() for text in texts if text.strip()]
