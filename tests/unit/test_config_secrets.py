"""Secrets: looked up by reference, and shown nowhere."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from isthmus.config.faults import Code
from isthmus.config.load import parse
from isthmus.config.report import as_data, render
from isthmus.config.secrets import resolve
from isthmus.core.errors import IsthmusError
from isthmus.core.portfolio import SecretRef

CANARY = "canary-4f1d9a77"


def test_a_file_loses_one_newline_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(" abc \n")
    assert resolve(SecretRef("file", str(file))) == " abc "


@pytest.mark.parametrize(
    ("content", "word"), [(None, "cannot be read"), ("\n", "empty"), ("a\nb\n", "one line")]
)
def test_a_file_that_is_no_secret_is_refused_without_its_content(
    tmp_path: Path, content: str | None, word: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    with pytest.raises(IsthmusError, match=word) as raised:
        resolve(SecretRef("file", str(file)))
    assert raised.value.code == "secret_unavailable"


@pytest.mark.parametrize("name", ["a\\0b", "x" * 5000])
def test_an_impossible_path_is_a_fault_like_any_other(name: str) -> None:
    text = f"""
providers: {{p: {{preset: mistral, key: "file:{name}", ca_file: "{name}"}}, e: {{engine: builtin}}}}
models: {{m: {{provider: p}}, w: {{provider: e, weights: "{name}.gguf"}}}}
routes: {{d: {{fallback: [m, w]}}}}
"""
    codes = {fault.code for fault in parse(text, "isthmus.yaml").faults}
    assert codes == {Code.SECRET_UNAVAILABLE, Code.FILE_NOT_FOUND}


def test_an_unset_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    text = """
providers: {p: {preset: mistral, key: env:NO_SUCH_KEY}}
models: {m: {provider: p}}
routes: {d: m}
"""
    config, (fault,) = parse(text, "isthmus.yaml")
    assert config is None
    assert (fault.code, fault.line, fault.path) == (Code.SECRET_UNAVAILABLE, 2, "providers.p.key")
    assert "NO_SUCH_KEY" in fault.message
    assert parse(text, "isthmus.yaml", check_secrets=False).config is not None


@pytest.mark.parametrize(
    "provider",
    [
        f"{{preset: mistral, key: {CANARY}}}",
        f"{{preset: mistrl, key: {CANARY}, zone: 5}}",
        f'{{preset: mistral, "key": "{CANARY}", key: {CANARY}}}',
        f"{{preset: mistral, key: [{CANARY}]}}",
        f"{{preset: mistral, key: {{value: {CANARY}}}}}",
        f"{{preset: mistral, api_key: {CANARY}}}",
        f"{{preset: mistral, headers: {{Authorization: Bearer {CANARY}}}}}",
        f"{{preset: mistral, query: {{access_token: {CANARY}}}}}",
        f"{{preset: mistral, base_url: 'https://me:{CANARY}@example.com/v1', key: env:HOME}}",
        f"{{preset: mistral, key: {CANARY}, zone: [}}",
        f"\n    preset: mistral\n    key: |\n      {CANARY}\n    zone: 5",
        f"{{preset: mistral, key: !secret {CANARY}}}",
    ],
)
def test_a_secret_in_clear_is_refused_and_never_shown(provider: str) -> None:
    text = f"providers:\n  p: {provider}\nmodels: {{m: {{provider: p}}}}\nroutes: {{d: m}}\n"
    config, faults = parse(text, "isthmus.yaml")
    assert config is None
    shown = render(faults, colour=True) + msgspec.json.encode(as_data(faults)).decode() + repr(faults)
    assert CANARY not in shown


def test_the_config_holds_references_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", CANARY)
    text = "providers: {p: {preset: mistral, key: env:SOME_KEY}}\nmodels: {m: {provider: p}}\nroutes: {d: m}"
    config, _ = parse(text, "isthmus.yaml")
    assert config is not None
    assert CANARY not in repr(config)
    monkeypatch.setenv("SOME_KEY", "another")
    again, _ = parse(text, "isthmus.yaml")
    assert again is not None
    assert again.hash == config.hash
