"""What a config means: presets filled in, shorthands read, names joined, paths anchored."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path

import pytest

from isthmus.config.config import Config
from isthmus.config.faults import Code, ConfigError
from isthmus.config.load import DEFAULT_FILE, load, locate, parse, read
from isthmus.config.urls import what_is_wrong
from isthmus.core.portfolio import EngineSettings, SecretRef
from isthmus.strategies.plan import CallModel, Fallback, Node, Split
from isthmus.strategies.plan.split import Arm

BASE = """
providers:
  vpc: {preset: vllm, base_url: http://vllm.internal:8000/v1/, zone: eu, kind: open}
models:
  small: {provider: vpc}
  large: {provider: vpc, id: org/large, kind: local}
"""


def sound(text: str, file: str = "isthmus.yaml") -> Config:
    config, faults = parse(text, file, check_secrets=False)
    assert config is not None, [fault.message for fault in faults]
    return config


def plan(route: str) -> Node:
    return sound(f"{BASE}\nroutes:\n  r: {route}\n").routes["r"].plan


def test_without_a_file_the_built_in_models_serve() -> None:
    config = load(None)
    assert config.models["small"].weights == "qwen2.5-coder-0.5b-instruct"
    assert config.models["small"].capabilities == {"chat", "tools", "json_schema", "logprobs"}
    assert config.models["embed"].capabilities == {"embeddings"}
    assert config.models["embed"].context == 512
    assert config.providers["builtin"].engine == EngineSettings()
    assert config.routes["default"].plan == CallModel(model="small")


def test_the_built_in_config_is_a_file_that_can_be_copied(tmp_path: Path) -> None:
    copy = tmp_path / "isthmus.yaml"
    copy.write_bytes(DEFAULT_FILE.read_bytes())
    assert load(copy) == load(None)


def test_a_file_without_a_portfolio_keeps_the_built_in_one() -> None:
    config = sound("gateway: {port: 5000}")
    assert config.gateway.port == 5000
    assert config.models == load(None).models


def test_an_empty_file_is_the_built_in_config() -> None:
    assert sound("# nothing yet\n").hash == load(None).hash


def test_half_a_portfolio_is_refused() -> None:
    config, faults = parse("models: {small: {provider: vpc}}", "isthmus.yaml")
    assert config is None
    assert [fault.path for fault in faults if fault.code is Code.MISSING] == ["providers", "routes"]


def test_a_preset_fills_in_what_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
    providers: {a: {preset: anthropic, key: env:CLAUDE_KEY, headers: {X-Team: blue}, timeouts: {total: 9}}}
    models: {sonnet: {provider: a, id: claude-sonnet-5}}
    routes: {default: sonnet}
    """
    provider = sound(text).providers["a"]
    assert provider.base_url == "https://api.anthropic.com/v1"
    assert provider.wires == ("anthropic", "anthropic-count")
    assert (provider.auth, provider.key) == ("x-api-key", SecretRef("env", "CLAUDE_KEY"))
    assert provider.headers == {"anthropic-version": "2023-06-01", "x-team": "blue"}
    assert (provider.kind, provider.prices) == ("closed", "anthropic")
    assert (provider.timeouts.total, provider.timeouts.connect) == (9.0, 5.0)


def test_a_server_without_a_preset_is_known_by_its_dialect() -> None:
    text = """
    providers: {mine: {dialect: openai, base_url: https://llm.example.com/v1, kind: open, quirks: []}}
    models: {m: {provider: mine}}
    routes: {default: m}
    """
    provider = sound(text).providers["mine"]
    assert provider.wires == ("openai", "openai-embeddings")
    assert (provider.auth, provider.quirks) == ("bearer", frozenset())


def test_a_server_on_this_machine_is_local_and_needs_no_key() -> None:
    text = """
    providers: {sim: {preset: openai, base_url: "http://127.0.0.1:9999/v1"}, box: {preset: ollama}}
    models: {a: {provider: sim}, b: {provider: box}}
    routes: {default: {fallback: [a, b]}}
    """
    models = sound(text).models
    assert (models["a"].kind, models["b"].kind) == ("closed", "local")


def test_a_model_inherits_from_its_provider() -> None:
    config = sound(f"{BASE}\nroutes: {{default: {{fallback: [small, large]}}}}")
    small, large = config.models["small"], config.models["large"]
    assert (small.id, small.kind, small.zone) == ("small", "open", "eu")
    assert (large.id, large.kind, large.capabilities) == ("org/large", "local", None)
    assert config.providers["vpc"].base_url == "http://vllm.internal:8000/v1"


def test_an_engine_is_set_beside_its_name(tmp_path: Path) -> None:
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    text = """
    providers: {e: {engine: builtin, context: 2048, parallel: 2}}
    models: {mine: {provider: e, weights: mine.gguf}, small: {provider: e, context: 1024}}
    routes: {default: {fallback: [mine, small]}}
    """
    config = sound(text, str(tmp_path / "isthmus.yaml"))
    assert config.providers["e"].engine == EngineSettings(context=2048, parallel=2)
    assert config.models["mine"].weights == str(tmp_path / "mine.gguf")
    assert (config.models["mine"].id, config.models["mine"].capabilities) == ("mine", None)
    assert config.models["small"].context == 1024


def test_prices_are_exact_and_dated() -> None:
    text = BASE.replace(
        "small: {provider: vpc}",
        "small: {provider: vpc, price: [{input: 0.10, output: 3.00, valid_until: 2026-02-01},"
        " {input: 0.2, output: 30, valid_from: 2026-02-01}]}",
    )
    first, second = sound(f"{text}\nroutes: {{d: {{fallback: [small, large]}}}}").models["small"].price
    assert (first.input, first.output, first.valid_until) == (Decimal("0.1"), Decimal(3), dt.date(2026, 2, 1))
    assert str(second.output) == "30"


CALL = CallModel(model="small")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("small", CALL),
        ("{call: small}", CALL),
        ("{model: small}", CALL),
        ("{plan: small}", CALL),
        ("{call: {model: small}}", CALL),
        ("{call: small, retries: 3}", CallModel(model="small", retries=3)),
        ("{call: {model: small, retries: 3}}", CallModel(model="small", retries=3)),
        ("{call: {model: small}, retries: 3}", CallModel(model="small", retries=3)),
        ("{model: small, patience: 0}", CallModel(model="small", patience=0)),
        (
            "{fallback: [small, {call: large, retries: 0}]}",
            Fallback(plans=(CALL, CallModel(model="large", retries=0))),
        ),
        ("{fallback: {plans: [small]}}", Fallback(plans=(CALL,))),
        (
            "{split: {small: 90, large: 10}, sticky: user}",
            Split(
                arms=(Arm(plan=CallModel(model="large"), weight=10), Arm(plan=CALL, weight=90)),
                sticky="user",
            ),
        ),
        (
            "{split: {arms: [{model: small, weight: 2}, {fallback: [large], weight: 1}, large], salt: x}}",
            Split(
                arms=(
                    Arm(plan=CALL, weight=2),
                    Arm(plan=Fallback(plans=(CallModel(model="large"),))),
                    Arm(plan=CallModel(model="large")),
                ),
                salt="x",
            ),
        ),
    ],
)
def test_a_strategy_is_read_in_every_way_it_can_be_written(written: str, meant: Node) -> None:
    assert plan(written) == meant


def test_a_route_keeps_bodies_only_where_it_says_so() -> None:
    config = sound(f"{BASE}\nroutes: {{a: {{fallback: [small, large], record_bodies: true}}, b: small}}")
    assert config.routes["a"].record_bodies
    assert not config.routes["b"].record_bodies


def test_a_bare_word_is_the_ledgers_mode() -> None:
    assert sound("ledger: strict").ledger.mode == "strict"
    assert sound("ledger: {mode: strict}").hash == sound("ledger: strict").hash


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("x")
    text = f"""
    providers:
      p: {{preset: vllm, kind: open, base_url: https://h/v1, key: "file:key", ca_file: ca.pem}}
      q: {{preset: ollama, client: aiohttp, proxy: http://q, proxy_key: "file:q"}}
    models: {{m: {{provider: p}}}}
    routes: {{d: m}}
    ledger: {{path: {tmp_path.name}.db}}
    """
    config = sound(text, str(tmp_path / "isthmus.yaml"))
    assert config.providers["p"].key == SecretRef("file", str(tmp_path / "key"))
    assert config.providers["q"].proxy_key == SecretRef("file", str(tmp_path / "q"))
    assert config.providers["p"].ca_file == str(tmp_path / "ca.pem")
    assert config.ledger.path == str(tmp_path / f"{tmp_path.name}.db")


def test_a_path_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert (
        sound("ledger: {path: ~/isthmus.db}", "/etc/isthmus.yaml").ledger.path == "/home/someone/isthmus.db"
    )


@pytest.mark.parametrize("host", ["a..b", ".a", f"{'a' * 70}.example"])
def test_a_host_that_no_resolver_can_be_asked_for_is_refused(host: str) -> None:
    text = f"providers: {{p: {{dialect: openai, kind: open, base_url: 'http://{host}/v1'}}}}"
    config, faults = parse(text, "isthmus.yaml")
    assert config is None
    assert Code.BAD_URL in [fault.code for fault in faults]


@pytest.mark.parametrize("host", ["a.example", "a.example.", "[::1]", "[fe80::1%25eth0]", "a" * 63, "a_b"])
def test_a_host_that_resolvers_take_is_accepted(host: str) -> None:
    assert what_is_wrong(f"http://{host}:8000/v1") is None


def test_the_hash_is_of_the_meaning(tmp_path: Path) -> None:
    text = f"{BASE}\nroutes: {{d: {{fallback: [small, large]}}}}"
    here = sound(text).hash
    assert sound(f"# a comment\n{text}\ngateway: {{port: 4141}}").hash == here
    assert sound(text, str(tmp_path / "elsewhere.yaml")).hash == here
    assert sound(text.replace("eu", "us")).hash != here


def test_unused_models_are_a_warning() -> None:
    config, faults = parse(f"{BASE}\nroutes: {{d: small}}", "isthmus.yaml")
    assert config is not None
    assert [(fault.code, fault.path, fault.warns) for fault in faults] == [
        (Code.UNUSED, "models.large", True)
    ]


def test_a_key_over_http_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPC_KEY", "abc")
    text = BASE.replace("zone: eu", "key: env:VPC_KEY") + "routes: {d: {fallback: [small, large]}}"
    config, faults = parse(text, "isthmus.yaml")
    assert config is not None
    assert [fault.code for fault in faults] == [Code.KEY_IN_THE_OPEN]


def test_load_raises_all_faults_at_once(tmp_path: Path) -> None:
    file = tmp_path / "isthmus.yaml"
    file.write_text("gateway: {port: high}\nledger: lazy\n")
    with pytest.raises(ConfigError) as raised:
        load(file)
    assert [fault.code for fault in raised.value.faults] == [Code.WRONG_TYPE, Code.OUT_OF_RANGE]
    assert raised.value.code == "invalid_config"
    assert f"{file}:1:17" in raised.value.message


@pytest.mark.parametrize("content", [None, b"gateway: \xff"])
def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "isthmus.yaml"
    if content is not None:
        file.write_bytes(content)
    config, (fault,) = read(file)
    assert config is None
    assert fault.code is Code.UNREADABLE


def test_where_the_config_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ISTHMUS_CONFIG", raising=False)
    assert locate() is None
    Path("isthmus.yaml").touch()
    assert locate() == Path("isthmus.yaml")
    monkeypatch.setenv("ISTHMUS_CONFIG", "/etc/isthmus.yaml")
    assert locate() == Path("/etc/isthmus.yaml")
    assert locate(Path("mine.yaml")) == Path("mine.yaml")


@pytest.mark.parametrize("header", ["X-Auth-Token", "ocp-apim-subscription-key", "cf-access-client-secret"])
def test_a_secret_in_a_header_is_refused_whatever_its_name(header: str) -> None:
    text = (
        f"providers: {{p: {{dialect: openai, base_url: 'http://localhost:1', headers: {{{header}: abc}}}}}}"
    )
    _, faults = parse(text, "isthmus.yaml")
    assert Code.SECRET_IN_CLEAR in {fault.code for fault in faults}
    assert "abc" not in repr(faults)


@pytest.mark.parametrize("where", ["headers: {Host: a}", "forward_headers: [Content-Length]"])
def test_headers_that_the_client_writes_itself_are_refused(where: str) -> None:
    text = f"providers: {{p: {{dialect: openai, base_url: 'http://localhost:1', {where}}}}}"
    _, faults = parse(text, "isthmus.yaml")
    assert Code.CONFLICT in {fault.code for fault in faults}
