"""The targets of the benchmark: how each is got, configured and started. bench/README.md says why so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.gateway.processes import Cores, Server, free_port

HERE = Path(__file__).resolve().parent
BENCH = HERE.parent
ROOT = BENCH.parent
#: The interpreter of what is written in Python, where it is not the one of `make install`.
PYTHON = os.environ.get("BENCH_PYTHON", "")
VENVS = BENCH / (".venvs-of-bench-python" if PYTHON else ".venvs")
BUILD = BENCH / ".build"

#: What the upstream is asked to be; mock.c says what each name means.
UPSTREAM_MODELS = ("mock", "mock-250ms", "mock-burst-100", "mock-paced-10-5ms")

LITELLM_PINS = (
    "litellm[proxy]==1.109.1",
    "litellm[proxy]==1.106.2",
)  # the first that the package index can satisfy
TENSORZERO_PINS = ("tensorzero==2026.6.0",)


class UnavailableError(Exception):
    """The target cannot be had on this machine. The text says why and what to do."""


@dataclass(frozen=True)
class Launch:
    """One way to start a gateway in front of the mock."""

    command: list[str]
    port: int | None  # None: the program picks its own, and prints its base URL as its first line
    env: dict[str, str] = field(default_factory=dict)
    path: str = "/v1/chat/completions"
    key: str = "none"
    model_prefix: str = ""


@dataclass(frozen=True)
class Target:
    """A gateway: its version, once `prepare` made sure that it is there, and how it is launched.

    `prepare` raises UnavailableError. `launch` gets an empty folder for its files and the upstream's port.
    """

    name: str
    prepare: Callable[[], str]
    launch: Callable[[Path, int], Launch]


# ---------------------------------------------------------------- nginx


NGINX_CONF = """\
worker_processes 1;
daemon off;
pid {room}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {room}/body;
    proxy_temp_path {room}/proxy;
    fastcgi_temp_path {room}/fastcgi;
    uwsgi_temp_path {room}/uwsgi;
    scgi_temp_path {room}/scgi;
    client_body_buffer_size 64k;
    keepalive_requests 100000000;
    upstream mock {{
        server 127.0.0.1:{mock_port};
        keepalive 1024;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://mock;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 300s;
        }}
    }}
}}
"""


def _nginx() -> Path | None:
    for found in (shutil.which("nginx"), "/usr/sbin/nginx", BUILD / "nginx/usr/sbin/nginx"):
        if found and Path(found).exists():
            return Path(found)
    return None


def prepare_nginx() -> str:
    """nginx's version. Where it is not installed, Debian's package is unpacked into the build folder."""
    if _nginx() is None:
        _unpack_debian_nginx()
    binary = _nginx()
    if binary is None:
        raise UnavailableError("nginx is not installed: apt-get install nginx-light")
    said = subprocess.run([str(binary), "-v"], capture_output=True, text=True)
    if said.returncode:
        raise UnavailableError(
            f"nginx does not run here ({said.stderr.strip()[:200]}): apt-get install nginx-light"
        )
    return said.stderr.strip().removeprefix("nginx version: nginx/")


def _unpack_debian_nginx() -> None:
    folder = BUILD / "nginx"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", "-q", "nginx"], cwd=folder, check=True, capture_output=True)
        package = next(folder.glob("nginx_*.deb"))
        subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True, capture_output=True)
    except FileNotFoundError as fault:
        raise UnavailableError("nginx is not installed, and this is not a Debian: install nginx") from fault
    except subprocess.CalledProcessError as fault:
        hint = "apt-get update && apt-get install nginx-light"
        raise UnavailableError(f"nginx is not installed and could not be downloaded: {hint}") from fault


def launch_nginx(room: Path, mock_port: int) -> Launch:
    port = free_port()
    config = room / "nginx.conf"
    config.write_text(NGINX_CONF.format(room=room, port=port, mock_port=mock_port))
    return Launch([str(_nginx()), "-p", str(room), "-e", "stderr", "-c", str(config)], port)


# ---------------------------------------------------------------- Isthmus


ISTHMUS_KEY = "MOCK_KEY"


def _isthmus() -> list[str]:
    """The command, from the project's own environment or from one with the interpreter that was asked for."""
    python = VENVS / "isthmus/bin/python" if PYTHON else ROOT / ".venv/bin/python"
    return [str(python), "-m", "isthmus"]


def prepare_isthmus() -> str:
    """Isthmus's version, and the interpreter's where it is another one than the project's."""
    python = Path(_isthmus()[0])
    if PYTHON and not python.exists():
        _install_isthmus(python)
    if not python.exists():
        raise UnavailableError("Isthmus is not installed: make install")
    said = subprocess.run([*_isthmus(), "--version"], capture_output=True, text=True)
    if said.returncode:
        raise UnavailableError(f"isthmus --version fails: {said.stderr.strip().splitlines()[-1:]}")
    version = said.stdout.strip().split()[-1]
    return f"{version} on {_version_of(PYTHON)}" if PYTHON else version


def _install_isthmus(python: Path) -> None:
    """What the gateway needs, of the same locked versions, and the code as it stands here."""
    subprocess.run([PYTHON, "-m", "venv", str(python.parent.parent)], check=True)
    lock = str(ROOT / "requirements/runtime.lock")
    print(
        "bench: installing Isthmus's requirements for another interpreter (once)", file=sys.stderr, flush=True
    )
    subprocess.run(
        [python, "-m", "pip", "install", "-qq", "--require-hashes", "--no-deps", "-r", lock], check=True
    )
    say = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", say], check=True, capture_output=True, text=True).stdout.strip()
    Path(packages, "isthmus.pth").write_text(f"{ROOT / 'src'}\n")


def _version_of(python: str) -> str:
    said = subprocess.run([python, "--version"], check=True, capture_output=True, text=True)
    return said.stdout.strip()


def write_isthmus_config(room: Path, mock_port: int, *sections: str) -> Path:
    """A config with one route per upstream model and the batched ledger; metrics are always on."""
    lines = [
        "providers:",
        f'  mock: {{dialect: openai, base_url: "http://127.0.0.1:{mock_port}/v1", key: env:{ISTHMUS_KEY}}}',
        "models:",
        *(
            f"  {model}: {{provider: mock, id: {model}, kind: open, max_output: 4096}}"
            for model in UPSTREAM_MODELS
        ),
        "routes:",
        *(f"  bench-{model}: {{call: {model}}}" for model in UPSTREAM_MODELS),
        f"ledger: {{mode: batched, path: {room / 'ledger.db'}}}",
        *sections,
    ]
    config = room / "isthmus.yaml"
    config.write_text("\n".join(lines) + "\n")
    return config


def launch_isthmus(room: Path, mock_port: int, *sections: str) -> Launch:
    config = write_isthmus_config(room, mock_port, *sections)
    env = {ISTHMUS_KEY: "upstream-key", "HOME": str(room)}
    key = _create_isthmus_key(config, env)
    port = free_port()
    command = [*_isthmus(), "serve", "--config", str(config), "--port", str(port)]
    return Launch(command, port, env=env, key=key, model_prefix="bench-")


def launch_isthmus_perimeter(room: Path, mock_port: int) -> Launch:
    """Every request is looked into by all detectors."""
    return launch_isthmus(room, mock_port, "perimeter: {}")


def launch_isthmus_budgets(room: Path, mock_port: int) -> Launch:
    """Every request is held against a budget of each unit."""
    limits = "{requests: 1000000000, per: month}, {tokens: 1000000000000, per: month}"
    return launch_isthmus(
        room, mock_port, f"budgets: [{limits}, {{each: key, requests: 1000000000, per: day}}]"
    )


def _create_isthmus_key(config: Path, env: dict[str, str]) -> str:
    said = subprocess.run(
        [*_isthmus(), "keys", "create", "--config", str(config), "--name", "bench", "--json"],
        env=clean_environment(env),
        cwd=config.parent,
        capture_output=True,
        text=True,
    )
    if said.returncode:
        raise UnavailableError(f"isthmus keys create fails: {said.stderr.strip()[-200:]}")
    key: str = json.loads(said.stdout)["key"]
    return key


# ---------------------------------------------------------------- LiteLLM


def prepare_litellm() -> str:
    return _prepare_venv("litellm", LITELLM_PINS)


def launch_litellm(room: Path, mock_port: int) -> Launch:
    """What its production page asks for, less the stores: one worker, errors logged only, a master key."""
    models = [
        {
            "model_name": model,
            "litellm_params": {
                "model": f"openai/{model}",
                "api_base": f"http://127.0.0.1:{mock_port}/v1",
                "api_key": "upstream-key",
            },
        }
        for model in UPSTREAM_MODELS
    ]
    config = room / "litellm.yaml"  # JSON is YAML
    settings = {"set_verbose": False, "request_timeout": 600, "telemetry": False}
    general = {"master_key": "sk-bench-0123456789"}
    document = {"model_list": models, "litellm_settings": settings, "general_settings": general}
    config.write_text(json.dumps(document))
    port = free_port()
    env = {
        "HOME": str(room),
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    command = [str(VENVS / "litellm/bin/litellm"), "--config", str(config), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    return Launch(command, port, env=env, key="sk-bench-0123456789")


# ---------------------------------------------------------------- TensorZero


def prepare_tensorzero() -> str:
    return _prepare_venv("tensorzero", TENSORZERO_PINS)


def launch_tensorzero(room: Path, mock_port: int) -> Launch:
    """Observability and analytics off, models called directly, without function or template."""
    lines = ["[gateway]", "observability.enabled = false", "disable_pseudonymous_usage_analytics = true"]
    for model in UPSTREAM_MODELS:
        lines += [
            f"[models.{model}]",
            'routing = ["mock"]',
            f"[models.{model}.providers.mock]",
            'type = "openai"',
            f'model_name = "{model}"',
            f'api_base = "http://127.0.0.1:{mock_port}/v1"',
            'api_key_location = "env::MOCK_KEY"',
        ]
    config = room / "tensorzero.toml"
    config.write_text("\n".join(lines) + "\n")
    return Launch(
        [str(VENVS / "tensorzero/bin/python"), str(HERE / "tensorzero_host.py"), str(config)],
        port=None,
        env={"MOCK_KEY": "upstream-key", "HOME": str(room), "RUST_LOG": "error"},
        path="/openai/v1/chat/completions",
        model_prefix="tensorzero::model_name::",
    )


# ---------------------------------------------------------------- what they share


def clean_environment(more: dict[str, str]) -> dict[str, str]:
    """A small environment, the same for every target, and what the target asks for."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8"} | more


def start_mock(cores: Cores, room: Path) -> Server:
    """The upstream, on the load's core. Its first line is the port that it got."""
    return Server(
        [str(BUILD / "mock"), "0"], core=cores.load, env=clean_environment({}), log=room / "mock.log"
    )


def _prepare_venv(name: str, pins: tuple[str, ...]) -> str:
    """The installed version of a packaged peer, in an environment of its own that is kept between runs."""
    python = VENVS / name / "bin/python"
    package = pins[0].partition("==")[0].partition("[")[0]
    if not python.exists():
        subprocess.run([PYTHON or sys.executable, "-m", "venv", str(VENVS / name)], check=True)
    if (version := _installed(python, package)) is not None:
        return version
    complaint = ""
    for pin in pins:
        print(f"bench: installing {pin} into an environment of its own (once)", file=sys.stderr, flush=True)
        said = subprocess.run(
            [str(python), "-m", "pip", "install", "-q", pin], capture_output=True, text=True
        )
        if said.returncode == 0 and (version := _installed(python, package)) is not None:
            return version
        errors = [line for line in said.stderr.splitlines() if line.startswith("ERROR")]
        complaint = errors[0] if errors else said.stderr[-200:]
    raise UnavailableError(f"{' or '.join(pins)} cannot be installed: {complaint[:300]}")


def _installed(python: Path, package: str) -> str | None:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    said = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    return said.stdout.strip() if said.returncode == 0 else None


TARGETS = (
    Target("nginx", prepare_nginx, launch_nginx),
    Target("isthmus", prepare_isthmus, launch_isthmus),
    Target("tensorzero", prepare_tensorzero, launch_tensorzero),
    Target("litellm", prepare_litellm, launch_litellm),
)
"""Who is measured unless others are named."""

VARIANTS = (
    Target("isthmus-perimeter", prepare_isthmus, launch_isthmus_perimeter),
    Target("isthmus-budgets", prepare_isthmus, launch_isthmus_budgets),
)
"""The gateway with more to do, measured where it is named: what does a section cost?"""
