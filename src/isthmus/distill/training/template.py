"""Conversations → token ids, by the chat template and the tokenizer of the weights that will be served.

Templates are rendered as transformers renders them
(https://huggingface.co/docs/transformers/chat_templating_writing): in jinja's sandbox, with its two settings
of blanks and its two functions.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isthmus.core.errors import Fault, IsthmusError
from isthmus.distill.training.job import Ask, Lesson

TEMPLATE = "chat_template.jinja"


class Speech:
    """How a model's weights are spoken to: its chat template and its tokenizer, from a folder of both."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        said = _settings(folder)
        self.template = _template(folder, said)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._special = {name: _token(said.get(name)) for name in ("bos_token", "eos_token", "pad_token")}
        self._specials = {id for id, it in self._tokenizer.get_added_tokens_decoder().items() if it.special}
        self._rendered = _compile(self.template)

    @property
    def template_sha256(self) -> str:
        """The SHA-256 of the chat template in UTF-8."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    @property
    def vocabulary_sha256(self) -> str:
        """The SHA-256 of all tokens with their ids: models of one can be compared token by token."""
        vocabulary = sorted(self._tokenizer.get_vocab(with_added_tokens=True).items())
        return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The ids of all up to where the assistant begins to speak."""
        return self._ids(self._text(messages, open=True))

    def lesson(self, ask: Ask) -> Lesson:
        """The sample in tokens; its answer ends with the token that ends the assistant's turn.

        Raises IsthmusError (`template_not_trainable`) for a template that writes an answer otherwise than
        behind the prompt.
        """
        asked = self._text(ask.messages, open=True)
        whole = self._text([*ask.messages, {"role": "assistant", "content": ask.answer}], open=False)
        said = whole.removeprefix(asked)
        if len(said) + len(asked) != len(whole) or not said.startswith(ask.answer):
            raise _not_trainable("writes an answer in another way than behind the prompt")
        # An engine reads the prompt and goes on from there: tokens never reach across that border.
        ending = self._ids(said[len(ask.answer) :])
        if not ending or ending[0] not in self._specials:
            raise _not_trainable("has no token of its own that ends an answer")
        return Lesson(ask.id, tuple(self._ids(asked)), (*self._ids(ask.answer), ending[0]))

    def _ids(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        assert isinstance(ids, list)
        return ids

    def _text(self, messages: Sequence[Mapping[str, Any]], *, open: bool) -> str:
        from jinja2.exceptions import TemplateError

        try:
            return str(self._rendered.render(messages=messages, add_generation_prompt=open, **self._special))
        except (TemplateError, TypeError) as fault:
            # Not the fault's own text: it may quote a message.
            raise _not_trainable(f"fails on a conversation of the dataset ({type(fault).__name__})") from None


def _compile(template: str) -> Any:
    from jinja2.exceptions import TemplateError, TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **options})

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: dt.datetime.now(dt.UTC).strftime(form)
    try:
        return environment.from_string(template)
    except TemplateSyntaxError as fault:
        raise _not_trainable(f"is not one ({fault.message})") from fault


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    value = json.loads(path.read_bytes()) if path.exists() else {}
    return value if isinstance(value, dict) else {}


def _template(folder: Path, said: Mapping[str, Any]) -> str:
    path = folder / TEMPLATE
    template = path.read_text(encoding="utf-8") if path.exists() else said.get("chat_template")
    if isinstance(template, str) and template.strip():
        return template
    raise IsthmusError(
        Fault.INVALID_REQUEST,
        "The student's weights have no chat template: they are of a base model, which cannot be asked.",
        code="no_chat_template",
        hint="Take the weights of the model that was tuned to instructions.",
    )


def _token(value: Any) -> str:
    """A special token, which is written as a text or as an object with its `content`."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else ""


def _not_trainable(how: str) -> IsthmusError:
    return IsthmusError(
        Fault.UNSUPPORTED,
        f"The chat template of the student's weights {how}.",
        code="template_not_trainable",
        hint="Training must see what is served, so that no other template is put in its place: "
        "take other weights.",
    )
