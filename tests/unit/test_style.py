"""A style card, in the words of each dialect and in the config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.config.faults import Code
from isthmus.config.load import parse
from isthmus.core.call import Text
from isthmus.core.errors import IsthmusError
from isthmus.dialects import CLIENT_WIRES
from isthmus.dialects.style import body_of, styled

CARD = "Speak plainly."
USER = {"role": "user", "content": "a"}


def _said(wire: str, body: dict[str, Any]) -> dict[str, Any]:
    envelope = CLIENT_WIRES[wire].peek(msgspec.json.encode({"model": "r", **body}))
    said = msgspec.json.decode(body_of(styled(envelope, CARD)))
    assert isinstance(said, dict)
    return said


@pytest.mark.parametrize(
    ("wire", "body", "field", "becomes"),
    [
        ("openai", {"messages": [USER]}, "messages", [{"role": "system", "content": CARD}, USER]),
        (
            "openai",
            {"messages": [{"role": "developer", "content": "Be kind.", "name": "x"}, USER]},
            "messages",
            [{"role": "developer", "content": f"{CARD}\n\nBe kind.", "name": "x"}, USER],
        ),
        (
            "openai",
            {"messages": [{"role": "system", "content": [{"type": "text", "text": "b"}]}]},
            "messages",
            [
                {
                    "role": "system",
                    "content": [{"type": "text", "text": CARD}, {"type": "text", "text": "b"}],
                }
            ],
        ),
        ("openai", {"messages": []}, "messages", [{"role": "system", "content": CARD}]),
        ("anthropic", {"messages": [USER]}, "system", CARD),
        ("anthropic", {"messages": [USER], "system": "Be kind."}, "system", f"{CARD}\n\nBe kind."),
        (
            "anthropic-count",
            {"messages": [USER], "system": [{"type": "text", "text": "b", "cache_control": {}}]},
            "system",
            [{"type": "text", "text": CARD}, {"type": "text", "text": "b", "cache_control": {}}],
        ),
        ("responses", {"input": "a"}, "instructions", CARD),
        ("responses", {"input": "a", "instructions": None}, "instructions", CARD),
        ("responses", {"input": "a", "instructions": "Be kind."}, "instructions", f"{CARD}\n\nBe kind."),
    ],
)
def test_the_card_stands_before_what_the_client_tells_the_model(
    wire: str, body: dict[str, Any], field: str, becomes: Any
) -> None:
    said = _said(wire, {**body, "unknown": {"kept": 1.0}})
    assert said == {"model": "r", **body, "unknown": {"kept": 1.0}, field: becomes}


@pytest.mark.parametrize("wire", ["openai", "anthropic", "responses"])
def test_every_dialect_decodes_it_as_the_systems_first_words(wire: str) -> None:
    asked = {"input": "a"} if wire == "responses" else {"messages": [USER], "max_tokens": 5}
    envelope = CLIENT_WIRES[wire].peek(msgspec.json.encode({"model": "r", **asked}))
    call = CLIENT_WIRES[wire].decode_call(styled(envelope, CARD))
    assert (call.messages[0].role, call.messages[0].parts) == ("system", (Text(CARD),))
    assert call.messages[1:] == CLIENT_WIRES[wire].decode_call(envelope).messages


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        ("openai", {"messages": "a"}),
        ("openai", {}),
        ("openai", {"messages": [{"role": "system", "content": 7}]}),
        ("anthropic", {"system": 7}),
        ("responses", {"instructions": {}}),
    ],
)
def test_what_has_no_place_for_the_card_is_refused(wire: str, body: dict[str, Any]) -> None:
    with pytest.raises(IsthmusError, match="must be"):
        _said(wire, body)


CONFIG = """
providers: {here: {dialect: openai, base_url: "http://127.0.0.1:9/v1", kind: open}}
models: {small: {provider: here}}
routes: {r: {call: small, style: %s}}
"""


def test_a_card_of_a_file_is_read_and_is_a_part_of_what_the_config_means(tmp_path: Path) -> None:
    hashes = set()
    path = str(tmp_path / "isthmus.yaml")
    for text in ("Speak plainly.\n", "Speak well.\n"):
        (tmp_path / "voice.md").write_text(text)
        config = parse(CONFIG % "{file: voice.md}", path).config
        assert config is not None
        style = config.routes["r"].style
        assert style is not None
        assert (style.card, style.file) == (text.strip(), str(tmp_path / "voice.md"))
        assert config.files == (tmp_path / "voice.md",)
        hashes.add(config.hash)
    assert len(hashes) == 2
    (tmp_path / "voice.md").write_text("Speak well.\n")
    for said, card in (
        ("{file: voice.md, format: No lists.}", "Speak well.\n\nNo lists."),
        ("{system: Speak well., format: No lists.}", "Speak well.\n\nNo lists."),
        ("{format: No lists.}", "No lists."),
    ):
        formed = parse(CONFIG % said, path).config
        assert formed is not None
        assert formed.routes["r"].style is not None
        assert formed.routes["r"].style.card == card
        hashes.add(formed.hash)
    assert len(hashes) == 5
    bare = parse(CONFIG % "Speak plainly.", path).config
    assert bare is not None
    assert bare.routes["r"].style is not None
    assert bare.routes["r"].style.card == CARD


@pytest.mark.parametrize(
    ("style", "code"),
    [
        ("{}", Code.MISSING),
        ("{format: ''}", Code.WRONG_TYPE),
        ("{system: ' ', format: a}", Code.WRONG_TYPE),
        ("{format: 7}", Code.WRONG_TYPE),
        ("{system: a, file: voice.md}", Code.CONFLICT),
        ("{file: nowhere.md}", Code.FILE_NOT_FOUND),
        ("{file: empty.md}", Code.UNUSABLE_FILE),
        ("{file: binary.md}", Code.UNUSABLE_FILE),
        ("{file: long.md}", Code.UNUSABLE_FILE),
        ("{file: folder.md}", Code.UNUSABLE_FILE),
        ("{system: a, tone: warm}", Code.UNKNOWN_KEY),
    ],
)
def test_a_card_that_cannot_be_used_is_refused_at_its_place(tmp_path: Path, style: str, code: Code) -> None:
    (tmp_path / "empty.md").write_text(" \n")
    (tmp_path / "binary.md").write_bytes(b"\xff\xfe")
    (tmp_path / "long.md").write_text("a" * 100_001)
    (tmp_path / "folder.md").mkdir()
    parsed = parse(CONFIG % style, str(tmp_path / "isthmus.yaml"))
    assert parsed.config is None
    assert [(fault.code, fault.line) for fault in parsed.faults] == [(code, 4)]
