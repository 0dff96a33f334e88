"""The sandbox under attack: each program tries what it should not, and the machine outside is looked at."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import isthmus
from isthmus.core.errors import IsthmusError
from isthmus.core.evaluation import Answered, Sample, Score
from isthmus.evals.sandbox.programs import Limits, Outcome, run
from isthmus.evals.scorers import scorer_of

SOURCE = str(Path(isthmus.__file__).parents[1])
BRIEF = Limits(wall_s=0.7)


def isolation_is_missing() -> str:
    try:
        run("", Limits())
    except IsthmusError as error:
        return error.message
    return ""


pytestmark = pytest.mark.skipif(bool(isolation_is_missing()), reason=isolation_is_missing())


def ran(program: str, limits: Limits | None = None) -> Outcome:
    return run(program, limits or Limits())


def printed(program: str) -> str:
    """What a program says of its own attempts, all of which it must outlive."""
    outcome = ran(TRY + program)
    assert outcome.finished, outcome.output
    return outcome.output


TRY = """
import ctypes, errno, os, socket, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, action):
    try:
        print(name, "->", action())
    except OSError as error:
        print(name, "->", errno.errorcode[error.errno])
def call(name, *arguments):
    def action():
        ctypes.set_errno(0)
        result = getattr(libc, name)(*arguments)
        if result < 0:
            raise OSError(ctypes.get_errno(), name)
        return result
    attempt(name, action)
"""


def wardens() -> set[int]:
    """The processes of any sandbox that this source has started, by what they were started with."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if b"isthmus.evals.sandbox" in arguments and SOURCE.encode() in arguments:
            found.add(int(process.name))
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    assert not wardens()


# Endings


def test_a_program_that_comes_to_its_end_has_finished() -> None:
    outcome = ran("import json, re, sqlite3, ssl, decimal\nassert json.loads('[1]') == [1]\nprint('done')")
    assert outcome == Outcome(finished=True, status=0, output="done\n", timed_out=False)


def test_a_program_that_fails_says_where() -> None:
    outcome = ran("x = 1\nassert x == 2, 'no'")
    assert (outcome.finished, outcome.status) == (False, 1)
    assert 'File "<answer>", line 2' in outcome.output
    assert outcome.output.endswith("AssertionError: no\n")
    assert "warden" not in outcome.output


@pytest.mark.parametrize(
    "program",
    [
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        "exit = SystemExit(); raise exit",
        "import os; os.execv('/lib/x', ['x'])",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import ctypes; ctypes.string_at(0)",
        "import os; os._exit(125)",
        "def f(:",
        "\0",
        "'\ud800",
        "import os; os.write(3, b'0' * 32)\nraise ValueError",
        "import os; os.close(3)",
    ],
)
def test_who_leaves_early_has_not_finished(program: str) -> None:
    assert not ran(program).finished


def test_the_classes_of_a_program_know_their_module() -> None:
    assert ran(
        "from __future__ import annotations\n"
        "import dataclasses, pickle, typing\n"
        "@dataclasses.dataclass\n"
        "class Point:\n    x: Other\n"
        "class Other: pass\n"
        "assert typing.get_type_hints(Point) == {'x': Other}\n"
        "assert pickle.loads(pickle.dumps(Other)) is Other\n"
        "if __name__ == '__main__': input()\n"
    ).finished


def test_threads_and_subprocesses_do_not_hold_it_up() -> None:
    assert ran(
        "import threading, time, os\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "if os.fork() == 0: time.sleep(60)\n"
    ).finished


# What it can reach


def test_it_reaches_no_network() -> None:
    with socket.socket() as listener, socket.socket(socket.AF_UNIX) as unix:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        unix.bind("\0isthmus-test-of-the-sandbox")
        unix.listen()
        told = printed(f"""
attempt("tcp", lambda: socket.create_connection(("127.0.0.1", {listener.getsockname()[1]}), 5))
attempt("udp", lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 53)))
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\\0isthmus-test-of-the-sandbox"))
for family in (16, 17, 38, 40):  # netlink, packet, alg, vsock
    attempt(f"family {{family}}", lambda: socket.socket(family))
attempt("raw", lambda: socket.socket(type=socket.SOCK_RAW, proto=1))
""")
        assert select.select([listener, unix], [], [], 0)[0] == []
    assert told.splitlines() == [
        "tcp -> ENETUNREACH",
        "udp -> ENETUNREACH",
        "abstract -> ECONNREFUSED",
        *(f"family {family} -> EPERM" for family in (16, 17, 38, 40)),
        "raw -> EPERM",
    ]


def test_it_sees_no_files_of_anybody(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    hidden = [str(tmp_path / "secret"), SOURCE, __file__, str(Path.home() / ".ssh"), "/etc/passwd", "/proc/1"]
    told = printed(f"""
import sysconfig
for path in {hidden!r}:
    attempt("open", lambda: os.stat(path))
packages = os.path.join(os.path.dirname(os.__file__), "site-packages")
print(os.listdir(packages) if os.path.exists(packages) else [])
print([name for name in os.listdir("/") if name not in {sys.base_prefix!r}])
print(os.listdir("/tmp"), os.listdir("/dev"))
""")
    *stats, packages, roots, folders = told.splitlines()
    assert set(stats) == {"open -> ENOENT"}
    assert packages == "[]"
    assert set(eval(roots)) <= {"tmp", "dev", "lib", "lib64", "usr"}
    assert folders == "[] ['urandom', 'null']" or folders == "[] ['null', 'urandom']"


def test_it_can_write_to_its_own_folder_alone_and_not_much() -> None:
    told = printed("""
for path in ("/x", os.__file__, os.path.dirname(os.__file__) + "/x", "/usr/lib/x", "/dev/x"):
    attempt("write", lambda: open(path, "w"))
attempt("own", lambda: open("own", "w").write("x"))
attempt("much", lambda: [open(f"much{n}", "wb").write(bytes(4 << 20)) for n in range(9)])
attempt("many", lambda: [open(f"many{n}", "w").close() for n in range(9999)])
attempt("link", lambda: os.symlink("/etc", "link") or os.listdir("link"))
""")
    assert "write -> EROFS\n" * 5 in told
    assert "own -> 1" in told
    assert "much -> ENOSPC" in told or "much -> EFBIG" in told
    assert "many -> ENOSPC" in told


def test_it_can_run_no_file_of_its_own() -> None:
    told = printed("""
with open("script", "w") as file:
    file.write("#!/lib/x")
os.chmod("script", 0o4755)
attempt("exec", lambda: os.execv("/tmp/script", ["script"]))
""")
    assert "exec -> EACCES" in told


def test_it_inherits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    with socket.socket() as open_here:
        os.set_inheritable(open_here.fileno(), True)
        told = printed("""
print(sorted(os.environ))
def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
print([fd for fd in range(4096) if is_open(fd)])
print(sys.stdin.read() == "", sys.argv)
""")
    assert told.splitlines() == ["['LC_CTYPE']", "[0, 1, 2, 3]", "True ['<answer>']"]


def test_it_has_no_rights_and_gets_none() -> None:
    told = printed("""
for name, arguments in {
    "unshare": (0x10000000,),
    "setuid": (0 if os.getuid() else 1,),
    "mount": (b"x", b"/tmp", b"tmpfs", 0, None),
    "umount2": (b"/tmp", 2),
    "chroot": (b"/tmp",),
    "ptrace": (16, 1, 0, 0),
    "sethostname": (b"x", 1),
}.items():
    call(name, *arguments)
if os.uname().machine == "x86_64":
    for number in (250, 321, 425, 438, 272, 0x40000000 | 39):
        call("syscall", ctypes.c_long(number), 0, 0, 0, 0, 0)
    call("syscall", ctypes.c_long(56), ctypes.c_long(0x10000000 | 17), 0, 0, 0, 0)
    call("syscall", ctypes.c_long(435), 0, 0)
attempt("nice", lambda: os.nice(-5))
call("setrlimit", 7, (ctypes.c_ulong * 2)(9999, 9999))
""").splitlines()
    refused, own = told[:-2], told[-2:]
    assert set(refused) - {"syscall -> ENOSYS"} == {
        f"{name} -> EPERM"
        for name in ("unshare", "setuid", "mount", "umount2", "chroot", "ptrace", "sethostname")
    } | {"syscall -> EPERM"}
    assert refused.count("syscall -> ENOSYS") == 1
    assert own in (["nice -> EPERM", "setrlimit -> EPERM"], ["nice -> EACCES", "setrlimit -> EPERM"])


# What it can use up


@pytest.mark.parametrize("program", ["while True: pass", "import time; time.sleep(60)"])
def test_it_ends_when_its_time_is_over(program: str) -> None:
    assert ran(program, BRIEF).timed_out


def test_it_cannot_ignore_the_end_of_its_time() -> None:
    outcome = ran(
        "import signal\n"
        "for one in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}:\n"
        "    signal.signal(one, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\n"
        "while True: pass\n",
        Limits(wall_s=3.0),
    )
    assert outcome.timed_out
    assert outcome.output == "deaf\n"


def test_many_processes_are_few() -> None:
    outcome = ran("import os\nwhile True:\n    try: os.fork()\n    except BlockingIOError: pass", BRIEF)
    assert outcome.timed_out


def test_threads_are_counted() -> None:
    outcome = ran(
        "import threading, time\n"
        "for _ in range(99):\n"
        "    threading.Thread(target=time.sleep, args=(9,)).start()\n"
    )
    assert not outcome.finished
    assert "can't start new thread" in outcome.output


def test_memory_is_bounded() -> None:
    outcome = ran("x = bytearray(1 << 40)")
    assert outcome.output.endswith("MemoryError\n")
    outcome = ran("x = []\nwhile True: x.append(bytearray(1 << 24))")
    assert outcome.output.endswith("MemoryError\n")


def test_a_flood_of_output_is_cut() -> None:
    outcome = ran("while True: print('x' * 65536)", Limits(wall_s=1.0, output=1000))
    assert outcome.timed_out
    assert outcome.output.strip("x\n") == ""
    assert len(outcome.output) <= 1000


# Whom it can harm


def test_it_cannot_kill_what_is_outside() -> None:
    with subprocess.Popen(["sleep", "60"]) as victim:
        told = printed(f"""
for process in ({victim.pid}, {os.getpid()}, os.getppid(), 1):
    attempt("kill", lambda: os.kill(process, 9))
os.kill(os.getpid(), 0)
attempt("all", lambda: os.kill(-1, 9))
""")
        assert victim.poll() is None
        victim.kill()
    assert told.count("kill -> ESRCH") == 2


def test_what_it_starts_dies_with_it() -> None:
    # The grandchild is in a session of its own, has closed nothing, and ignores every signal that it can.
    outcome = ran(
        "import os, signal, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "        signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "        time.sleep(600)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    assert outcome.finished


def test_it_dies_with_who_has_started_it() -> None:
    starter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from {run.__module__} import *\nrun('import time; time.sleep(600)', Limits(wall_s=600))",
        ]
    )
    try:
        # The warden, the first process inside, and the program.
        deadline = time.monotonic() + 60
        while len(processes := wardens()) < 3:
            assert time.monotonic() < deadline
            assert starter.poll() is None
        ends = [os.pidfd_open(process) for process in processes]
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.wait()
    for end in ends:
        assert select.select([end], [], [], 60)[0]
        os.close(end)


# Where the walls cannot be built


def test_without_namespaces_nothing_is_run() -> None:
    # In a process that may not make namespaces: the filter of the sandbox itself sees to that.
    inside = f"""
import os
from isthmus.evals.sandbox import kernel, seccomp
from {run.__module__} import *
kernel.set_attribute(kernel.PR_SET_NO_NEW_PRIVS, 1)
kernel.set_filter(seccomp.program_for(os.uname().machine))
try:
    run("print('it ran')", Limits())
except IsthmusError as error:
    print(error.code, error.message)
"""
    told = subprocess.run([sys.executable, "-c", inside], capture_output=True, text=True, check=True)
    assert told.stdout.startswith(
        "sandbox_unavailable Programs cannot be run in isolation here, so none is run"
    )
    assert "unshare: Operation not permitted" in told.stdout
    assert "it ran" not in told.stdout


# The scorer

ADD = """Here it is:

```python
def add(a, b):
    return a + b
```

For example:

```python
input(add(1, 2))
```
"""
HUMANEVAL = {"entry_point": "add", "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n"}


async def score(text: str, *target: str, spec: str = "code", metadata: dict[str, Any] | None = None) -> Score:
    sample = Sample(id="1", request={}, target=target, metadata=metadata or {})
    return await scorer_of(spec).score(sample, Answered(model="small", text=text))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (ADD, 1),
        ("def add(a, b):\n    return a + b", 1),
        ("```\ndef add(a, b): return b + a\n```", 1),
        ("```python\nsum(1, 2)\n```\nand better:\n```python\ndef add(a, b): return a + b\n```", 1),
        (ADD.replace("+", "-"), 0),
        ("I cannot do that.", 0),
        ("", 0),
    ],
)
async def test_code_passes_its_tests_or_does_not(text: str, value: float) -> None:
    assert (await score(text, metadata=HUMANEVAL)).value == value


async def test_tests_may_be_assertions() -> None:
    assert (await score(ADD, "assert add(1, 2) == 3", "assert add(0, 0) == 0")).value == 1
    told = await score(ADD, "assert add(1, 2) == 3", "assert add(0, 0) == 1, 'no'")
    assert (told.value, told.why) == (0, "AssertionError: no")
    assert (await score(ADD, metadata={"test": ["assert add(1, 2) == 3"]})).value == 1


async def test_without_tests_nobody_can_say_whether_code_is_right() -> None:
    assert (await score(ADD)).value is None


async def test_code_that_takes_too_long_is_wrong_and_said_to_be() -> None:
    told = await score("def f():\n    while True: pass", "assert f()", spec="code:timeout=0.5")
    assert (told.value, told.why) == (0, "it took longer than 0.5 s")
