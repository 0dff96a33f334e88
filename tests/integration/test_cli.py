"""The command as a stranger uses it: in a process of its own, with a home of its own.

Every refusal is one clear line on stderr and a status that is not 0; stdout holds data alone.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from isthmus.testing import Simulator, SimulatorThread

from .gateway import config_text

COMMAND = (str(Path(sys.executable).with_name("isthmus")),)
PATIENCE_S = 60
HEAVY = (
    "sqlalchemy",
    "sqlite3",
    "aiohttp",
    "httptools",
    "uvloop",
    "genai_prices",
    "cryptography",
    "jinja2",
    "asyncio",
    "ruamel",
    "openai",
)


class Ran(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str


class Desk:
    """A folder to work in, and a home that nobody else uses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"

    def write(self, text: str, name: str = "isthmus.yaml") -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def run(self, *arguments: str, say: str = "", **environ: str) -> Ran:
        """Run the command to its end; its output is read by pipes, so nothing is a terminal."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=say.encode(),
            capture_output=True,
            cwd=self.folder,
            env=self.environ(environ),
            timeout=PATIENCE_S,
            check=False,
        )
        return Ran(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode())

    def raw(self, *arguments: str) -> bytes:
        """The standard output of a command that has to succeed."""
        return subprocess.run(
            [*COMMAND, *arguments],
            capture_output=True,
            cwd=self.folder,
            env=self.environ({}),
            timeout=PATIENCE_S,
            check=True,
        ).stdout

    def refuses(self, *arguments: str, say: str = "", **environ: str) -> str:
        """What is said on stderr by a command that has to fail, in words, and with nothing on stdout."""
        ran = self.run(*arguments, say=say, **environ)
        assert ran.status == 1, ran
        assert ran.out == ""
        assert "Traceback" not in ran.err
        return ran.err

    def at_a_terminal(self, *arguments: str, type_: str = "", **environ: str) -> tuple[int, str]:
        """The status, and all that stands on a terminal at the end, what was typed included."""
        screen, line = pty.openpty()
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=line,
            stdout=line,
            stderr=line,
            cwd=self.folder,
            env=self.environ({"TERM": "xterm", **environ}),
        )
        os.close(line)
        os.write(screen, type_.encode())
        shown = b""
        # Where the other end is closed, Linux says EIO and others say nothing more.
        with contextlib.suppress(OSError):
            while part := os.read(screen, 65536):
                shown += part
        os.close(screen)
        return process.wait(PATIENCE_S), shown.decode()

    def environ(self, more: Mapping[str, str]) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {**kept, "ISTHMUS_HOME": str(self.home), **more}

    @contextmanager
    def serving(self, *arguments: str) -> Iterator[Serving]:
        """`isthmus serve` on a free port, up; at the end it is asked to stop."""
        process = subprocess.Popen(
            [*COMMAND, "serve", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.folder,
            env=self.environ({}),
        )
        serving = Serving(process)
        try:
            serving.await_line("ledger  ")
            yield serving
        finally:
            serving.stop()


class Serving:
    """A gateway in a process of its own, and what it has said on stderr."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._lines: list[str] = []
        self._silent = False
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def url(self) -> str:
        found = re.search(r"Anthropic clients +base_url=(\S+)", self.told)
        assert found is not None, self.told
        return found[1]

    @property
    def told(self) -> str:
        return "".join(self._lines)

    def await_line(self, part: str) -> None:
        """Wait until a line with this in it has been said."""
        with self._said:
            done = self._said.wait_for(
                lambda: any(part in line for line in self._lines) or self._silent, PATIENCE_S
            )
        assert done, self.told
        assert part in self.told

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop; the status with which it ended."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        return status

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in io.TextIOWrapper(self.process.stderr, encoding="utf-8"):
            with self._said:
                self._lines.append(line)
                self._said.notify_all()
        with self._said:
            self._silent = True
            self._said.notify_all()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture(scope="module")
def sim() -> Iterator[SimulatorThread]:
    with Simulator.thread() as simulator:
        yield simulator


ROUTES = {
    "default": "openai/sim-echo",
    "broken": "openai/sim-error-mid-stream",
    "failing": {"model": "openai/sim-500", "retries": 0},
}


class Office(NamedTuple):
    """A desk at which a gateway is running, with a few requests behind it."""

    desk: Desk
    serving: Serving


@pytest.fixture(scope="module")
def office(sim: SimulatorThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    desk = Desk(tmp_path_factory.mktemp("office"))
    desk.write(config_text(sim.url, ROUTES))
    with desk.serving() as serving:
        yield Office(desk, serving)
        assert serving.stop() == 0


# -- the first moment


def test_help_is_instant_for_nothing_heavy_is_imported(desk: Desk) -> None:
    code = (
        "import sys; from isthmus.cli import main; main(['--help'], standalone_mode=False);"
        f"print(*(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=desk.environ({}), check=True
    )
    assert done.stderr.split() == []
    for verb in (
        "serve",
        "chat",
        "explain",
        "label",
        "fingerprint",
        "topic",
        "models",
        "keys",
        "records",
        "check",
    ):
        assert f"  {verb} " in done.stdout


@pytest.mark.parametrize(
    "verb",
    ["serve", "chat", "explain", "label", "fingerprint", "topic", "models", "keys", "records", "check"],
)
def test_every_verb_explains_itself(desk: Desk, verb: str) -> None:
    ran = desk.run(verb, "--help")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("Usage: ")
    assert "..." not in re.sub(r"[A-Z]+\]?\.\.\.", "", ran.out), "no sentence is cut short"


def test_a_slip_of_the_pen_is_a_usage_error(desk: Desk) -> None:
    for arguments in (
        ("serv",),
        ("chat", "--url", "nowhere"),
        ("chat", "--url", "http://127.0.0.1:99999"),
        ("keys", "create"),
        ("keys", "create", "--name", " "),
        ("keys", "create", "--name", "a", "--expires", "soon"),
        ("records", "list", "--outcome", "fine"),
        ("serve", "--port", "99999"),
    ):
        ran = desk.run(*arguments)
        assert (ran.status, ran.out) == (2, ""), arguments
        assert "Error: " in ran.err
        assert "Traceback" not in ran.err
    assert not desk.home.exists(), "and leaves nothing behind"


# -- check, models, explain


def test_check_shows_what_a_good_config_says(desk: Desk) -> None:
    ran = desk.run("check")
    assert (ran.status, ran.err) == (0, "")
    assert "qwen2.5-coder-0.5b-instruct" in ran.out
    assert "\x1b" not in ran.out
    as_data = desk.run("check", "--json")
    assert (as_data.status, json.loads(as_data.out)) == (0, [])


def test_check_reports_every_fault_with_its_place_and_a_hint(desk: Desk) -> None:
    desk.write("providers:\n  a: {presett: openai}\nmodels:\n  m: {provider: b}\nroutes:\n  default: n\n")
    ran = desk.run("check", NO_COLOR="1")
    assert ran.status == 1
    assert "isthmus.yaml:2:7: fault C003" in ran.out
    assert "Did you mean `preset`?" in ran.out
    faults = json.loads(desk.run("check", "--json").out)
    assert len(faults) >= 3
    assert {"code", "line", "column", "message", "hint", "file", "path", "severity"} <= faults[0].keys()
    for verb in (
        ("serve",),
        ("models", "list"),
        ("keys", "list"),
        ("records", "list"),
        ("explain", "default"),
    ):
        said = desk.refuses(*verb)
        assert "isthmus.yaml:2:7: fault C003" in said
        assert said.endswith("faults.\n")


def test_colours_are_for_terminals_that_want_them(desk: Desk) -> None:
    desk.write("routes: {default: 7}")
    status, shown = desk.at_a_terminal("check")
    assert status == 1
    assert "\x1b[31m" in shown
    assert "\x1b" not in desk.at_a_terminal("check", NO_COLOR="1")[1]


def test_a_config_that_is_not_there_or_is_no_yaml(desk: Desk) -> None:
    assert "cannot be read" in desk.run("check", "--config", "nowhere.yaml").out
    assert "nowhere.yaml" in desk.refuses("serve", "--config", "nowhere.yaml")
    assert "nowhere.yaml" in desk.refuses("models", "list", ISTHMUS_CONFIG="nowhere.yaml")
    desk.write("providers: [", "broken.yaml")
    assert "broken.yaml:" in desk.refuses("serve", "-c", "broken.yaml")


def test_a_secret_that_is_missing_is_found_before_it_is_needed(desk: Desk) -> None:
    desk.write(
        "providers: {a: {preset: openai, key: 'env:NO_SUCH_KEY'}}\n"
        "models: {m: {provider: a}}\nroutes: {default: m}\n"
    )
    ran = desk.run("check")
    assert ran.status == 1
    assert "NO_SUCH_KEY" in ran.out
    assert desk.run("check", "--no-secrets").status == 0
    assert desk.run("check", NO_SUCH_KEY="s3cr3t").status == 0
    assert "s3cr3t" not in desk.run("check", NO_SUCH_KEY="s3cr3t").out


def test_models_are_listed_with_their_routes(desk: Desk) -> None:
    ran = desk.run("models", "list")
    assert (ran.status, ran.err) == (0, "")
    assert re.search(r"^small +local .* default, ", ran.out, re.MULTILINE)
    rows = json.loads(desk.run("models", "list", "--json").out)
    assert [(row["name"], row["kind"]) for row in rows] == [("small", "local"), ("embed", "local")]
    assert "default" in rows[0]["routes"]


PRICED = """
providers:
  azure: {preset: azure-openai, base_url: "https://r.openai.azure.com/openai/v1", key: env:KEY}
  openai: {preset: openai, key: env:KEY}
models:
  prod-chat: {provider: azure}
  gpt-4o: {provider: openai}
  said: {provider: azure, price: {input: 1, output: 2}}
  ended: {provider: azure, price: {input: 1, output: 2, valid_until: 2020-01-01}}
routes:
  default: {fallback: [prod-chat, gpt-4o, said]}
  side: ended
budgets:
  - {usd: 5, per: day, route: default}
"""


def test_a_price_is_listed_as_what_a_charge_would_be_based_on(desk: Desk) -> None:
    desk.write(PRICED)
    bases = {"prod-chat": None, "gpt-4o": "genai-prices", "said": "config", "ended": None}
    rows = json.loads(desk.run("models", "list", "--json", KEY="k").out)
    assert {row["name"]: row["priced_by"] for row in rows} == bases
    shown = desk.run("models", "list", KEY="k").out
    for name, basis in bases.items():
        assert re.search(rf"^{name} .* {basis or 'unknown'} +(default|side)$", shown, re.MULTILINE)


def test_a_budget_of_money_about_a_model_without_a_price_is_warned_of(desk: Desk) -> None:
    desk.write(PRICED)
    ran = desk.run("check", KEY="k")
    assert ran.status == 0
    (warning,) = [line for line in ran.out.splitlines() if "C105" in line]
    assert warning.startswith("isthmus.yaml:6:")
    assert "`prod-chat`" in warning
    assert "cost_unbounded" in warning
    (told,) = json.loads(desk.run("check", "--json", KEY="k").out)
    assert (told["code"], told["path"]) == ("C105", "models.prod-chat")


def test_checking_loads_no_prices_where_no_money_is_bounded(desk: Desk) -> None:
    code = (
        "import sys; from isthmus.cli import main; main(['check'], standalone_mode=False);"
        "print('genai_prices' in sys.modules, file=sys.stderr)"
    )
    for budget, loaded in (("usd: 5", "True"), ("tokens: 5", "False")):
        desk.write(PRICED.replace("usd: 5", budget))
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=desk.folder,
            env=desk.environ({"KEY": "k"}),
            check=True,
        )
        assert done.stderr.split() == [loaded]


def test_explain_tells_the_decision_and_calls_nobody(desk: Desk, sim: SimulatorThread) -> None:
    desk.write(config_text(sim.url, {**ROUTES, "half": {"split": {"a": 1, "b": 1}}} | _split()))
    before = len(sim.requests)
    ran = desk.run("explain", "default", "Is this private?")
    assert (ran.status, ran.err) == (0, "")
    assert "openai/sim-echo" in ran.out
    assert "because " in ran.out
    decisions = [json.loads(desk.run("explain", "half", "--user", user, "--json").out) for user in "aab"]
    assert decisions[0] == decisions[1]
    assert {"route", "allowed", "plan", "reasons", "propensity", "config_hash"} <= decisions[0].keys()
    assert len(sim.requests) == before
    assert not desk.home.exists()


def _split() -> dict[str, Any]:
    arms = [{"model": "openai/sim-echo", "weight": 1}, {"model": "openai/sim-length", "weight": 1}]
    return {"half": {"split": arms, "sticky": "user"}}


def test_explain_refuses_in_words(desk: Desk) -> None:
    said = desk.refuses("explain", "defualt")
    assert said.count("\n") == 1
    assert "default" in said
    ran = desk.run("explain", "embeddings", "hello")
    assert ran.status == 1
    assert "refused   embed" in ran.out
    assert desk.run("explain", "embeddings", "hello", "--embeddings").status == 0


# -- keys


def test_the_life_of_a_key(desk: Desk) -> None:
    none = desk.run("keys", "list")
    assert (none.status, none.out.split()[:2]) == (0, ["ID", "NAME"])
    assert "none yet" in none.err
    made = desk.run("keys", "create", "--name", "team-a", "--route", "default", "--expires", "90d")
    assert made.status == 0
    assert re.fullmatch(r"isk_[A-Za-z0-9_-]{43}\n", made.out)
    assert "not shown again" in made.err
    secret = made.out.strip()
    assert secret.encode() not in b"".join(path.read_bytes() for path in desk.home.iterdir())
    (key,) = json.loads(desk.run("keys", "list", "--json").out)
    assert (key["name"], key["routes"]) == ("team-a", ["default"])
    assert "secret" not in key
    newer = json.loads(desk.run("keys", "rotate", key["id"], "--grace", "30m", "--json").out)
    assert newer["key"] != secret
    assert newer["id"] != key["id"]
    assert newer["id"] in desk.refuses("keys", "create", "--name", "team-a")
    assert newer["id"] in desk.refuses("keys", "rotate", key["id"])
    revoked = desk.run("keys", "revoke", "team-a")
    assert (revoked.status, revoked.out) == (0, "")
    assert [line.split()[0] for line in revoked.err.splitlines()] == [newer["id"], key["id"]]
    states = [line.split()[-1] for line in desk.run("keys", "list").out.splitlines()[1:]]
    assert states == ["revoked", "revoked"]
    assert desk.refuses("keys", "revoke", "nobody").count("\n") == 1
    assert desk.run("keys", "create", "--name", "b", "--route", "nowhere").err.count("nowhere") == 1


def test_a_key_has_a_floor_that_is_listed_and_explained(desk: Desk) -> None:
    (desk.folder / "isthmus.yaml").write_text(
        "providers: {out: {dialect: openai, base_url: 'http://127.0.0.1:9/v1', kind: closed, zone: us}}\n"
        "models: {far: {provider: out}}\nroutes: {r: far, s: far}\n",
        encoding="utf-8",
    )
    made = desk.run(
        "keys", "create", "--name", "a", "--route", "r", "--floor", "confidential", "--zone", "eu"
    )
    assert made.status == 0
    assert "no model of the config runs in the zone 'eu'" in made.err
    (key,) = json.loads(desk.run("keys", "list", "--json").out)
    assert (key["floor"]["level"], key["floor"]["zones"]) == ("confidential", ["eu"])
    assert json.loads(desk.run("keys", "rotate", "a", "--json").out)["floor"] == key["floor"]
    desk.run("keys", "create", "--name", "b", "--zone", "us")
    listed = desk.run("keys", "list").out
    assert listed.count("confidential, only in eu") == 2
    assert "public, only in us" in listed

    refused = desk.run("explain", "r", "hello", "--key", "a")
    assert refused.status == 1
    assert "label     confidential, only in eu\n" in refused.out
    assert "refused   far by clearance" in refused.out
    assert desk.run("explain", "r", "hello", "--key", "b").status == 0
    assert "may not use the route 's'" in desk.refuses("explain", "s", "hello", "--key", "a")
    assert "nobody" in desk.refuses("explain", "r", "hello", "--key", "nobody")
    desk.run("keys", "revoke", "b")
    assert "was revoked" in desk.refuses("explain", "r", "hello", "--key", "b")


# -- serve and chat


def test_chat_is_a_filter_that_tells_its_costs_aside(office: Office) -> None:
    desk, url = office.desk, office.serving.url
    ran = desk.run("chat", "--url", url, "--system", "Be brief.", say="hello there\nand again\n")
    assert (ran.status, ran.out) == (0, "hello there\nand again\n")
    footers = [line for line in ran.err.splitlines() if line.strip()]
    assert len(footers) == 2
    for footer in footers:
        assert re.search(
            r"openai/sim-echo · \d+ in, \d+ out · [\d.]+ USD · overhead [\d.]+ ms of \d+ ms", footer
        )
    assert desk.run("chat", "--url", f"{url}/v1/", say="hi\n").out == "hi\n", "an OpenAI client's URL will do"
    assert desk.run("chat", "--url", url, say="/exit\nhi\n").out == ""


def test_chat_without_an_answer_says_why(office: Office) -> None:
    desk, url = office.desk, office.serving.url
    nobody = desk.refuses("chat", "--url", "http://127.0.0.1:9", say="hi\n")
    assert "isthmus serve" in nobody
    assert "defualt" in desk.refuses("chat", "defualt", "--url", url, say="hi\n")
    assert "provider failed" in desk.refuses("chat", "failing", "--url", url, say="hi\n")
    broken = desk.run("chat", "broken", "--url", url, say="one two three\n")
    assert broken.status == 1
    assert "Traceback" not in broken.err
    with _talker(b"SSH-2.0-OpenSSH_9.6\r\n") as port:
        assert "does not speak" in desk.refuses("chat", "--url", f"http://127.0.0.1:{port}", say="hi\n")
    with _talker(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi") as port:
        assert "does not speak" in desk.refuses("chat", "--url", f"http://127.0.0.1:{port}", say="hi\n")


def test_chat_at_a_terminal_goes_on_after_a_failure(office: Office) -> None:
    status, shown = office.desk.at_a_terminal(
        "chat", "failing", "--url", office.serving.url, type_="hello\nhello again\n/exit\n", NO_COLOR="1"
    )
    assert status == 0
    assert shown.count("The provider failed") == 2
    assert "/exit ends" in shown


@contextmanager
def _talker(answer: bytes) -> Iterator[int]:
    """A server that gives everybody the same answer, whatever they say."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(PATIENCE_S)


def test_serve_says_where_it_is_and_whom_it_serves(office: Office) -> None:
    told = office.serving.told
    assert re.search(r"OpenAI clients +base_url=http://127\.0\.0\.1:\d+/v1\n", told)
    assert re.search(r"routes +default, broken, failing\n", told)
    assert "only programs on this machine" in told
    assert str(office.desk.home / "ledger.db") in told


def test_records_are_listed_shown_and_exported(office: Office, tmp_path: Path) -> None:
    desk, url = office.desk, office.serving.url
    desk.run("chat", "--url", url, say="for the record\n")
    desk.run("chat", "failing", "--url", url, say="hi\n")
    listed = desk.run("records", "list", "--since", "1h")
    assert listed.status == 0
    assert listed.out.startswith("TIME (UTC)")
    rows = [json.loads(line) for line in desk.run("records", "list", "--json").out.splitlines()]
    assert [row["at_us"] for row in rows] == sorted((row["at_us"] for row in rows), reverse=True)
    good = next(row for row in rows if row["outcome"] == "ok")
    shown = desk.run("records", "show", good["id"])
    assert "label      internal\n" in shown.out
    assert (shown.status, shown.err) == (0, "")
    for part in (good["id"], "because ", "attempt 1", "charge ", "config "):
        assert part in shown.out
    assert json.loads(desk.run("records", "show", good["id"][:-3], "--json").out)["id"] == good["id"]
    failed = desk.run(
        "records", "list", "--outcome", "error", "--route", "failing", "--json"
    ).out.splitlines()
    assert failed
    assert {json.loads(line)["code"] for line in failed} == {"upstream_error"}

    page = desk.run("records", "list", "--limit", "1", "--json")
    cursor = page.err.rpartition("--after ")[2].strip()
    following = desk.run("records", "list", "--limit", "1", "--json", "--after", cursor)
    assert json.loads(page.out)["at_us"] > json.loads(following.out)["at_us"]

    lines = desk.raw("records", "export").splitlines()
    assert len(lines) == len(rows)
    target = tmp_path / "records.parquet"
    assert (
        desk.run("records", "export", "--format", "parquet", "-o", str(target)).err
        == f"{len(rows)} records\n"
    )
    assert pq.read_table(target).num_rows == len(rows)
    assert pq.read_table(io.BytesIO(desk.raw("records", "export", "--format", "parquet"))).num_rows == len(
        rows
    )


def test_records_that_are_not_there(office: Office, tmp_path: Path) -> None:
    desk = office.desk
    for arguments in (
        ("records", "show", "req_ffffffff"),
        ("records", "show", "' OR 1=1 --"),
        ("records", "list", "--after", "yesterday"),
        ("records", "export", "-o", str(tmp_path / "no" / "such" / "folder.jsonl")),
    ):
        assert desk.refuses(*arguments).count("\n") == 1, arguments
    assert "several" in desk.refuses("records", "show", "req_").lower()
    assert "no ledger" in Desk(tmp_path).refuses("records", "list")


def test_who_reads_only_the_beginning_is_not_shown_a_stack(office: Office) -> None:
    process = subprocess.Popen(
        [*COMMAND, "records", "list", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=office.desk.folder,
        env=office.desk.environ({}),
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait(PATIENCE_S)


def test_a_second_gateway_is_kept_from_the_ledger_of_the_first(office: Office) -> None:
    said = office.desk.refuses("serve", "--port", "0")
    assert said.count("\n") == 1
    assert "Another gateway" in said


def test_a_port_that_is_taken(office: Office, tmp_path: Path) -> None:
    port = office.serving.url.rpartition(":")[2]
    said = Desk(tmp_path).refuses("serve", "--port", port, "-c", str(office.desk.folder / "isthmus.yaml"))
    assert f"127.0.0.1:{port}" in said
    assert "--port 0" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("state", ["file", "below a file", "no database"])
def test_a_state_folder_that_cannot_be_used(desk: Desk, sim: SimulatorThread, state: str) -> None:
    desk.write(config_text(sim.url, {"default": "openai/sim-echo"}))
    if state == "no database":
        desk.home.mkdir()
        (desk.home / "ledger.db").write_text("These are my notes, and they are not a database at all.")
    else:
        desk.home.write_text("")
    home = str(desk.home / "deeper") if state == "below a file" else str(desk.home)
    for arguments in (("serve", "--port", "0"), ("keys", "create", "--name", "a")):
        said = desk.refuses(*arguments, ISTHMUS_HOME=home)
        assert said.count("\n") == 1
        assert said.startswith("isthmus: The ledger cannot be used")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_gracefully(desk: Desk, sim: SimulatorThread, number: signal.Signals) -> None:
    desk.write(config_text(sim.url, {"default": "openai/sim-echo"}))
    with desk.serving() as serving:
        assert desk.run("chat", "--url", serving.url, say="last words\n").status == 0
        assert serving.stop(number) == 0
    assert "Stopped." in serving.told
    assert "Traceback" not in serving.told
    assert len(desk.raw("records", "export").splitlines()) == 1


def test_hangups_at_the_very_start_are_survived(desk: Desk, sim: SimulatorThread) -> None:
    config = desk.write(config_text(sim.url, {"default": "openai/sim-echo"}))
    with desk.serving("--config", str(config)) as serving:
        for _ in range(3):
            serving.process.send_signal(signal.SIGHUP)
        assert desk.run("chat", "--url", serving.url, say="still here\n").out == "still here\n"
        assert serving.stop() == 0


def test_a_hangup_reads_the_config_again(desk: Desk, sim: SimulatorThread) -> None:
    desk.write(config_text(sim.url, {"default": "openai/sim-echo"}))
    with desk.serving() as serving:
        desk.write("routes: {default: 7}")
        serving.process.send_signal(signal.SIGHUP)
        serving.await_line("the last good one stays")
        assert desk.run("chat", "--url", serving.url, say="still here\n").out == "still here\n"
        desk.write(config_text(sim.url, {"other": "openai/sim-echo"}))
        serving.process.send_signal(signal.SIGHUP)
        serving.await_line("config reloaded")
        assert desk.run("chat", "other", "--url", serving.url, say="and here\n").out == "and here\n"
        assert "Traceback" not in serving.told


# -- label


def test_label_says_how_sensitive_files_are_and_never_what_was_found(desk: Desk) -> None:
    (desk.folder / "letter.txt").write_text("Write to anna.of.the.strait@example.org", encoding="utf-8")
    (desk.folder / "code.py").write_text("def add(a, b):\n    return a + b\n", encoding="utf-8")
    (desk.folder / "archive.bin").write_bytes(b"\xff\x00\xfe")
    turns = ["Hello", "My card is 4111 1111 1111 1111"]
    lines = [json.dumps({"messages": [{"role": "user", "content": turn}]}) for turn in turns]
    (desk.folder / "log.jsonl").write_text("\n".join([*lines, "{broken"]), encoding="utf-8")
    names = ("letter.txt", "code.py", "archive.bin", "log.jsonl")

    ran = desk.run("label", *names)
    assert ran.status == 0
    told = [line.split(maxsplit=2) for line in ran.out.split("\n\n")[0].splitlines()[1:]]
    assert told == [
        ["confidential", "letter.txt", "pii.email"],
        ["restricted", "archive.bin", "not looked into"],
        ["confidential", "log.jsonl:2", "pii.card"],
        ["restricted", "log.jsonl:3", "not looked into"],
    ]
    assert "anna" not in ran.out + ran.err
    as_data = [json.loads(line) for line in desk.run("label", "--json", *names).out.splitlines()]
    assert [one["label"]["level"] for one in as_data] == [
        "confidential", "internal", "restricted", "internal", "confidential", "restricted"
    ]  # fmt: skip
    assert as_data[0]["seen"]["found"][0]["finding"]["start"] == len("Write to ")


def test_explain_shows_the_label_each_finding_and_each_refusal(desk: Desk) -> None:
    (desk.folder / "isthmus.yaml").write_text(
        "providers: {out: {dialect: openai, base_url: 'http://127.0.0.1:9/v1', kind: closed}}\n"
        "models: {far: {provider: out}}\nroutes: {r: far}\n"
        "perimeter:\n  labels:\n    - {when: secret, level: restricted}\n"
        "    - when: pii\n      level: confidential\n",
        encoding="utf-8",
    )
    ran = desk.run("explain", "r", "Write to anna.of.the.strait@example.org")
    assert ran.status == 1
    assert "label     confidential\n" in ran.out
    assert "found     pii.email in messages[0].content, characters 9 to 39 (patterns, 1.00)\n" in ran.out
    assert (
        "refused   far by clearance: far is cleared for internal, and the request is confidential" in ran.out
    )
    because = "          confidential, for pii.email (perimeter.labels[1] at isthmus.yaml:7)\n"
    assert (
        f"label     confidential\n          internal, where nobody vouches (by default)\n{because}" in ran.out
    )
    assert f"          far is closed, and is cleared for internal (by default)\n{because}" in ran.out
    assert "anna" not in ran.out
    assert desk.run("explain", "r", "Hello").status == 0
    assert desk.run("explain", "r", "Hello", "--label", "confidential").status == 1
    assert "unknown" not in desk.run("explain", "r", "Hello", "--label", "top").out
