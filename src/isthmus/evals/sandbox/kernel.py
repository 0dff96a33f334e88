"""What Linux is asked for that Python 3.11 has no words for: namespaces, mounts, capabilities.

Each function raises OSError with the call's name where the kernel says no.
"""

from __future__ import annotations

import ctypes
import errno
import os

CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x4_0000

ATTR_RDONLY = 1
ATTR_NOSUID = 2
ATTR_NODEV = 4
ATTR_NOEXEC = 8

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38

_SYS_MOUNT_SETATTR = 442  # The same number on every architecture, as of all calls since 2019.
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_MNT_DETACH = 2
_CAPABILITY_VERSION_3 = 0x2008_0522
_CAPABILITIES = 64

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Moves this process into new namespaces; a new PID namespace begins with its next child."""
    _done("unshare", _libc.unshare(flags))


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mounts a file system, or with MS_BIND a path; see mount(2)."""
    arguments = source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags)
    _done(f"mount {target}", _libc.mount(*arguments, options.encode()))


def restrict_mount(path: str, attributes: int, *, below: bool) -> None:
    """Adds attributes to a mount, and with `below` to all that are mounted in it. Needs Linux 5.12."""
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    flags = _AT_RECURSIVE if below else 0
    number = ctypes.c_long(_SYS_MOUNT_SETATTR)
    result = _libc.syscall(
        number, ctypes.c_int(_AT_FDCWD), path.encode(), ctypes.c_uint(flags), wanted, ctypes.c_size_t(32)
    )
    _done(f"mount_setattr {path}", result)


def change_root(path: str) -> None:
    """Makes a mount the root of this mount namespace, without the old one; see pivot_root(2)."""
    os.chdir(path)
    _done("pivot_root", _libc.pivot_root(b".", b"."))
    _done("umount the old root", _libc.umount2(b".", _MNT_DETACH))
    os.chdir("/")


def set_filter(program: bytes) -> None:
    """Filters this process's system calls by a program of classic BPF; see seccomp(2)."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    mode_filter = ctypes.c_ulong(2)
    pointer = ctypes.byref(Program(len(program) // 8, program))
    _done("seccomp", _libc.prctl(PR_SET_SECCOMP, mode_filter, pointer))


def forgo_capabilities() -> None:
    """Leaves this process and its children no capability that executing a file could give them."""
    for capability in range(_CAPABILITIES):
        try:
            set_attribute(PR_CAPBSET_DROP, capability)
        except OSError as error:
            # So the kernel says of numbers beyond its last capability.
            if error.errno != errno.EINVAL or capability == 0:
                raise


def set_attribute(option: int, value: int) -> None:
    """Sets an attribute of this process; see prctl(2)."""
    first, zero = ctypes.c_ulong(value), ctypes.c_ulong(0)
    _done(f"prctl {option}", _libc.prctl(option, first, zero, zero, zero))


def drop_capabilities() -> None:
    """Takes from this process the capabilities that it has."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _done("capset", _libc.capset(header, nothing))


def _done(call: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
