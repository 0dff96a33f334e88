"""Secrets by example. Every one is made up, and put together here so that no scanner takes it for real."""

from __future__ import annotations

from pathlib import Path

import pytest

from isthmus.perimeter.detectors.secrets import credentials, entropy, load_gitleaks

GITLEAKS = Path(__file__).parents[3] / "shared" / "data" / "secrets" / "gitleaks.toml"

MIXED = "q7Rz2Xv9Kp4Lm8Wt3Yb6Nc1Hd5Gf0JsAeUiOxBnMw" * 4
HEX = "3f9a1c7e5b2d8064" * 10


def _letters(size: int) -> str:
    return MIXED[:size]


@pytest.mark.parametrize(
    ("rule", "secret"),
    [
        ("aws-access-key-id", "AK" + "IAQ4ZR7TXW2MNPK5VB"),
        ("aws-access-key-id", "AK" + "IAIOSFODNN7EXAMPLE"),
        ("github-token", "gh" + "p_" + _letters(36)),
        ("github-fine-grained-token", "github" + "_pat_" + _letters(22) + "_" + _letters(59)),
        ("gitlab-token", "gl" + "pat-" + _letters(20)),
        ("slack-token", "xo" + "xb-1234567890-" + _letters(24)),
        ("stripe-key", "sk" + "_live_" + _letters(24)),
        ("google-api-key", "AI" + "za" + _letters(35)),
        ("openai-key", "sk" + "-proj-" + _letters(80)),
        ("anthropic-key", "sk" + "-ant-api03-" + _letters(95)),
        ("huggingface-token", "hf" + "_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH"),
        ("npm-token", "np" + "m_" + _letters(36)),
        ("pypi-token", "py" + "pi-AgEIcHlwaS5vcmc" + _letters(70)),
        ("sendgrid-key", "S" + "G." + _letters(22) + "." + _letters(43)),
        ("twilio-key", "S" + "K" + HEX[:32]),
        ("vault-token", "hv" + "s." + _letters(24)),
        ("databricks-token", "da" + "pi" + HEX[:32]),
        ("shopify-token", "sh" + "pat_" + HEX[:32]),
        ("jwt", "ey" + "JhbGciOiJIUzI1NiJ9.ey" + "JzdWIiOiIxMjM0NTYifQ." + _letters(43)),
        ("telegram-bot-token", "1234567890:A" + "A" + _letters(33)),
        ("digitalocean-token", "do" + "p_v1_" + HEX[:64]),
        ("grafana-token", "gl" + "sa_" + _letters(32) + "_" + HEX[:8]),
        (
            "private-key",
            f"-----BEGIN RSA PRIVATE {'KEY'}-----\n{_letters(64)}\n-----END RSA PRIVATE {'KEY'}-----",
        ),
        ("private-key-part", f"-----BEGIN PRIVATE {'KEY'}-----\n{_letters(64)}"),
    ],
)
def test_a_secret_is_found_where_it_stands(rule: str, secret: str) -> None:
    text = f"Here it is: {secret}, keep it."
    kinds = {
        (finding.kind, text[finding.start : finding.end].rstrip()) for finding in credentials().find(text)
    }
    assert (f"secret.{rule}", secret) in kinds


@pytest.mark.parametrize(
    ("rule", "before", "secret", "after"),
    [
        ("aws-secret-access-key", 'aws_secret_access_key = "', _letters(40), '"'),
        ("url-password", "postgresql://app:", "s3cr3t-Pa55", "@db.internal:5432/app"),
        ("url-password", "redis://:", "hunter2!x", "@cache:6379/0"),
        ("basic-authorization", "Authorization: Basic ", "YWxhZGRpbjpvcGVuc2VzYW1l", ""),
        ("bearer-token", "curl -H 'Authorization: Bearer ", _letters(40), "'"),
        ("generic-key", 'API_KEY="', _letters(32), '"'),
        ("generic-key", "client-secret: ", _letters(32), "\n"),
        ("generic-key", '{"access_token": "', _letters(40), '"}'),
        ("password", "password: ", "Tr0ub4dor&3", "\n"),
        ("password", "Das Passwort ist ", "Ky7-mondsee", ""),
        ("password", "DB_PASSWORD=", "vX9kq2Lm", ""),
        ("azure-storage-key", "AccountKey=", _letters(86) + "==", ";EndpointSuffix=core"),
        ("curl-password", "curl -s -u admin:", "Zw8vQ2", " https://api.internal/"),
    ],
)
def test_a_secret_is_found_beside_what_names_it(rule: str, before: str, secret: str, after: str) -> None:
    text = before + secret + after
    (finding,) = credentials().find(text)
    assert (finding.kind, text[finding.start : finding.end]) == (f"secret.{rule}", secret)
    assert secret not in repr(finding)


@pytest.mark.parametrize(
    "text",
    [
        "The password is correct, and the token is invalid.",
        "password = os.environ['DB_PASSWORD']",
        'password = "<your password>"',
        "API_KEY=${API_KEY}",
        'token: "{{ secrets.TOKEN }}"',
        "secret_key = config.secret_key_from_environment",
        "API_KEY=xxxxxxxxxxxxxxxxxxxxxxxx",
        "api_key: your_api_key_goes_here_123456",
        "def get_token_from_request_headers(request_headers): ...",
        "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
        "https://example.com/a:b@c",
        "id: 550e8400-e29b-41d4-a716-446655440000",
        "sk-learn and task-force are no keys",
    ],
)
def test_what_looks_like_a_secret_is_left_alone(text: str) -> None:
    assert credentials().find(text) == []


def test_a_text_in_any_script_may_hold_a_secret() -> None:
    token = "gh" + "p_" + _letters(36)
    (finding,) = credentials().find(f"Ключ: 「{token}」 İ \ud800")
    assert (finding.start, finding.end) == (7, 7 + len(token))


GIVEN = rb"""
title = "an operator's rules"
[allowlist]
paths = ['''\.lock$''']
regexes = ['''^acme-test''']
[[rules]]
id = "acme-token"
description = "read over"
regex = '''token=(acme-([a-z0-9]+))'''
secretGroup = 2
entropy = 2.0
keywords = ["ACME-"]
[[rules.allowlists]]
stopwords = ["sample"]
[[rules.allowlists]]
regexTarget = "line"
regexes = ['''# no secret''']
[[rules.allowlists]]
condition = "AND"
paths = ['''tests/''']
regexes = ['''q7rz2xv9''']
[[rules]]
id = "a-path"
path = '''\.p12$'''
"""


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        ("token=acme-q7rz2xv9", ["q7rz2xv9"]),
        ("token=acme-aaaaaaaa", []),
        ("token=acme-q7sample9", []),
        ("x\ntoken=acme-q7rz2xv9 # no secret\ny", []),
        ("token=acme-q7rz2xv9\n# no secret", ["q7rz2xv9"]),
    ],
)
def test_the_rules_of_a_file_are_followed(text: str, secrets: list[str]) -> None:
    found = load_gitleaks(GIVEN).find(text)
    assert [text[finding.start : finding.end] for finding in found] == secrets
    assert {finding.kind for finding in found} <= {"secret.acme-token"}


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"[[rules]\n", "no file of gitleaks rules"),
        (b"[[rules]]\nregex = 'a'\n", "id"),
        (b"[[rules]]\nid = 'broken'\nregex = '(a'\n", "broken"),
        (b"[[rules]]\nid = 'looks'\nregex = '(?<=a)b'\n", "looks"),
        (b"\xff", "no file of gitleaks rules"),
    ],
)
def test_a_file_that_is_none_is_refused(data: bytes, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        load_gitleaks(data)


@pytest.mark.skipif(not GITLEAKS.exists(), reason="the rules of gitleaks are not part of the project")
def test_every_rule_of_gitleaks_compiles_and_finds() -> None:
    gitleaks = load_gitleaks(GITLEAKS.read_bytes())
    token = "gh" + "p_" + _letters(36)
    assert [finding.kind for finding in gitleaks.find(f"token {token}")] == ["secret.github-pat"]


def test_entropy_is_in_bits_a_character() -> None:
    assert entropy("") == 0
    assert entropy("aaaa") == 0
    assert entropy("abcd") == 2
