"""The process that runs one untrusted program: it walls itself in, and the program dies with it.

It is started afresh for each program, without environment and without site-packages, and imports nothing but
the standard library and the two modules beside it. There are three processes. The warden moves into new
namespaces and keeps the time. Its child is the first process of the new PID namespace: it builds the root of
the files, and when it ends the kernel kills all that the program may have started. The program is the child
of that one.

Standard input is an `Order` in JSON, standard output is what the program writes, and standard error is empty
unless the walls could not be built. Where the program comes to its end it writes the order's token to the
descriptor `PROOF`: an exit status of 0 could be had by leaving early. The warden's own exit status is the
program's, as a shell tells it, or `TIMED_OUT`, or `REFUSED`.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypedDict, TypeVar

from isthmus.evals.sandbox import kernel, seccomp

T = TypeVar("T")

PROOF = 3
TIMED_OUT = 124
REFUSED = 125

_ROOT = "/proc"
"""Where the new root is built: every system has the folder, and nobody needs what it hides."""

_NOBODY = 65534
"""The user that the program is where the warden is root: one that owns nothing."""

_FILES = 64

_NAMESPACES = (
    kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
)


class Order(TypedDict):
    """What to run, with how much of everything; seconds and bytes."""

    program: str
    token: str
    visible: list[str]
    hidden: list[str]
    wall_s: float
    cpu_s: int
    memory: int
    disk: int
    processes: int


def main(proof: int) -> NoReturn:
    """Run the order on standard input, and leave with its status; `proof` is where the token goes."""
    order: Order = json.load(sys.stdin)
    os.dup2(proof, PROOF)
    filter_ = _or_refuse("system calls", lambda: seccomp.program_for(os.uname().machine))
    as_root = os.geteuid() == 0
    _or_refuse("namespaces", lambda: _enter_namespaces(as_root))
    kernel.set_attribute(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    first = os.fork()
    if first == 0:
        _be_first(order, filter_, as_root)
    ended = signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, order["wall_s"])
    if ended is None or ended.si_signo == signal.SIGTERM:
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
        os._exit(TIMED_OUT)
    os._exit(_status(os.waitpid(first, 0)[1]))


# The walls


def _enter_namespaces(as_root: bool) -> None:
    """Move into new namespaces, where this user is root; one that was root outside is not alone there."""
    if as_root:
        os.setgroups([])
    warden = os.getpid()
    waiting, go_on = os.pipe()
    mapper = os.fork()
    if mapper == 0:
        # Only who stays outside may say who the users inside are.
        os.close(go_on)
        if os.read(waiting, 1):
            _or_refuse("users", lambda: _map_users(warden, as_root))
        os._exit(0)
    os.close(waiting)
    kernel.unshare(_NAMESPACES)
    os.write(go_on, b"!")
    os.close(go_on)
    if os.waitpid(mapper, 0)[1] != 0:
        os._exit(REFUSED)


def _map_users(process: int, as_root: bool) -> None:
    more = f"\n{_NOBODY} {_NOBODY} 1" if as_root else ""
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {os.geteuid()} 1{more}"),
        ("gid_map", f"0 {os.getegid()} 1{more}"),
    ):
        Path(f"/proc/{process}/{name}").write_text(content)


def _be_first(order: Order, filter_: bytes, as_root: bool) -> NoReturn:
    """Be the first process of the PID namespace: build the root, start the program, see it end."""
    kernel.set_attribute(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    # What has a handler could be sent to this process from within.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _or_refuse("file system", lambda: _build_root(order))
    program = os.fork()
    if program == 0:
        _be_program(order, filter_, as_root)
    # The warden keeps the time, unless it was killed before this process was bound to it.
    signal.signal(signal.SIGALRM, lambda *_: os._exit(TIMED_OUT))
    signal.alarm(round(order["wall_s"]) + 2)
    _or_refuse("capabilities", kernel.drop_capabilities)
    kernel.set_attribute(kernel.PR_SET_DUMPABLE, 0)
    while True:
        process, status = os.wait()
        if process == program:
            os._exit(_status(status))


def _build_root(order: Order) -> None:
    """Leave nothing to be seen but the interpreter, its libraries, two devices and an empty /tmp."""
    sealed = kernel.ATTR_RDONLY | kernel.ATTR_NOSUID
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    tmpfs = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", _ROOT, "tmpfs", tmpfs, "size=1m,nr_inodes=4k,mode=755")
    for path in order["visible"]:
        _show(path, sealed | kernel.ATTR_NODEV)
    for device in ("/dev/null", "/dev/urandom"):
        _show(device, sealed | kernel.ATTR_NOEXEC)
    for path in order["hidden"]:
        kernel.mount("tmpfs", _ROOT + path, "tmpfs", tmpfs | kernel.MS_RDONLY, "size=4k,nr_inodes=1,mode=755")
    Path(f"{_ROOT}/tmp").mkdir()
    options = f"size={order['disk']},nr_inodes=1k,mode=1777"
    kernel.mount("tmpfs", f"{_ROOT}/tmp", "tmpfs", tmpfs | kernel.MS_NOEXEC, options)
    kernel.change_root(_ROOT)
    kernel.restrict_mount("/", sealed | kernel.ATTR_NODEV, below=False)


def _show(path: str, attributes: int) -> None:
    """Make a file or folder of the old root visible in the new one, at the same place."""
    place = Path(_ROOT + path)
    if Path(path).is_dir():
        place.mkdir(parents=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    kernel.mount(path, str(place), None, kernel.MS_BIND | kernel.MS_REC)
    kernel.restrict_mount(str(place), attributes, below=True)


# The program


def _be_program(order: Order, filter_: bytes, as_root: bool) -> NoReturn:
    _or_refuse("limits", lambda: _give_up_everything(order, filter_, as_root))
    status = 1
    try:
        _execute(order["program"])
        os.write(PROOF, order["token"].encode())
        status = 0
    except SystemExit:
        print("The program left before its tests had ended.", file=sys.stderr)
    except BaseException as error:
        # Not shown: this frame, and that of _execute.
        trace = error.__traceback__ and error.__traceback__.tb_next and error.__traceback__.tb_next.tb_next
        traceback.print_exception(error.with_traceback(trace))
    finally:
        # Nothing that the program has started in threads, or registered for the end, is waited for.
        sys.stderr.flush()
        os._exit(status)


def _execute(program: str) -> None:
    sys.argv = ["<answer>"]
    # It is imported rather than run as the main program: what an answer shows off under `if __name__ ==
    # "__main__"` is no part of it.
    module = sys.modules["answer"] = types.ModuleType("answer")
    try:
        exec(compile(program, "<answer>", "exec"), module.__dict__)
    finally:
        # A program may have put anything in their place.
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    print(end="", flush=True)


def _give_up_everything(order: Order, filter_: bytes, as_root: bool) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    os.setsid()
    os.chdir("/tmp")
    for limit, value in (
        (resource.RLIMIT_AS, order["memory"]),
        (resource.RLIMIT_FSIZE, order["disk"]),
        (resource.RLIMIT_NPROC, order["processes"]),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    # A program may handle the signal at the first limit; at the second one it is killed.
    resource.setrlimit(resource.RLIMIT_CPU, (order["cpu_s"], order["cpu_s"] + 1))
    nothing = os.open("/dev/null", os.O_RDWR)
    os.dup2(nothing, 0)
    os.closerange(PROOF + 1, os.sysconf("SC_OPEN_MAX"))
    kernel.forgo_capabilities()
    if as_root:
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    kernel.drop_capabilities()
    kernel.set_attribute(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.set_filter(filter_)
    os.dup2(1, 2)


# Endings


def _or_refuse(what: str, wall: Callable[[], T]) -> T:
    """What comes of building a part of the walls; without it nothing is run."""
    try:
        return wall()
    except (OSError, KeyError, ValueError) as error:
        os.write(2, f"{what}: {error}".encode())
        os._exit(REFUSED)


def _status(status: int) -> int:
    """An exit status as a shell tells it, from what wait(2) says."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
