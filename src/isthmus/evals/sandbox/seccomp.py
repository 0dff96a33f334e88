"""Which system calls a program in the sandbox may not make.

It has no network, no files and no rights anyway; this makes less of the kernel reachable. And namespaces do
not hold everything: keys of the session, sockets of a family that speaks to the hypervisor (AF_VSOCK).
Numbers are of the kernel's tables: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

EPERM = 1
ENOSYS = 38

NAMESPACES = 0x7E02_0000
"""Every CLONE_NEW flag of clone(2)."""

FAMILIES = (1, 2, 10)
"""AF_UNIX, AF_INET and AF_INET6: all others are refused."""

AUDIT = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
"""AUDIT_ARCH of each machine for which there are numbers here, by what uname(2) calls it."""


class Numbers(NamedTuple):
    """The numbers of one system call; None where that machine has none of the name."""

    x86_64: int | None
    aarch64: int | None


CLONE = Numbers(56, 220)
CLONE3 = Numbers(435, 435)
SOCKET = Numbers(41, 198)

REFUSED = {
    # Other processes
    "ptrace": Numbers(101, 117),
    "process_vm_readv": Numbers(310, 270),
    "process_vm_writev": Numbers(311, 271),
    "process_madvise": Numbers(440, 440),
    "pidfd_getfd": Numbers(438, 438),
    "kcmp": Numbers(312, 272),
    # Namespaces and mounts
    "unshare": Numbers(272, 97),
    "setns": Numbers(308, 268),
    "chroot": Numbers(161, 51),
    "pivot_root": Numbers(155, 41),
    "mount": Numbers(165, 40),
    "umount2": Numbers(166, 39),
    "mount_setattr": Numbers(442, 442),
    "open_tree": Numbers(428, 428),
    "move_mount": Numbers(429, 429),
    "fsopen": Numbers(430, 430),
    "fsconfig": Numbers(431, 431),
    "fsmount": Numbers(432, 432),
    "fspick": Numbers(433, 433),
    "name_to_handle_at": Numbers(303, 264),
    "open_by_handle_at": Numbers(304, 265),
    # Keys of the user's session
    "add_key": Numbers(248, 217),
    "request_key": Numbers(249, 218),
    "keyctl": Numbers(250, 219),
    # Memory that no limit of a process counts
    "memfd_create": Numbers(319, 279),
    "shmget": Numbers(29, 194),
    "semget": Numbers(64, 190),
    "msgget": Numbers(68, 186),
    # Large parts of the kernel that no answer needs; io_uring would also get around this filter
    "io_uring_setup": Numbers(425, 425),
    "io_uring_enter": Numbers(426, 426),
    "io_uring_register": Numbers(427, 427),
    "bpf": Numbers(321, 280),
    "perf_event_open": Numbers(298, 241),
    "userfaultfd": Numbers(323, 282),
    "fanotify_init": Numbers(300, 262),
    "memfd_secret": Numbers(447, 447),
    "vmsplice": Numbers(278, 75),
    "modify_ldt": Numbers(154, None),
    "personality": Numbers(135, 92),
    "mbind": Numbers(237, 235),
    "set_mempolicy": Numbers(238, 237),
    "migrate_pages": Numbers(256, 238),
    "move_pages": Numbers(279, 239),
    # The machine as a whole
    "init_module": Numbers(175, 105),
    "finit_module": Numbers(313, 273),
    "delete_module": Numbers(176, 106),
    "kexec_load": Numbers(246, 104),
    "kexec_file_load": Numbers(320, 294),
    "reboot": Numbers(169, 142),
    "acct": Numbers(163, 89),
    "swapon": Numbers(167, 224),
    "swapoff": Numbers(168, 225),
    "quotactl": Numbers(179, 60),
    "syslog": Numbers(103, 116),
    "settimeofday": Numbers(164, 170),
    "clock_settime": Numbers(227, 112),
    "clock_adjtime": Numbers(305, 266),
    "adjtimex": Numbers(159, 171),
    "sethostname": Numbers(170, 161),
    "setdomainname": Numbers(171, 162),
    "iopl": Numbers(172, None),
    "ioperm": Numbers(173, None),
}

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_KILL, _ERRNO, _ALLOW = 0x8000_0000, 0x0005_0000, 0x7FFF_0000
_X32 = 0x4000_0000


def program_for(machine: str) -> bytes:
    """The filter for a machine of `AUDIT`, as classic BPF over struct seccomp_data; else raises KeyError."""
    return b"".join(_instructions(machine, AUDIT[machine]))


def _instructions(machine: str, audit: int) -> Iterator[bytes]:
    yield _step(_LOAD, _ARCHITECTURE)
    yield _step(_EQUAL, audit, then=1)
    yield _step(_RETURN, _KILL)
    yield _step(_LOAD, _NUMBER)
    # The x32 interface has numbers of its own for the same calls.
    yield from _refuse(_AT_LEAST, _X32, EPERM)
    for call in REFUSED.values():
        if (number := getattr(call, machine)) is not None:
            yield from _refuse(_EQUAL, number, EPERM)
    # The flags of clone3 lie in memory, where no filter can look: libraries go back to clone.
    yield from _refuse(_EQUAL, getattr(CLONE3, machine), ENOSYS)
    yield _step(_EQUAL, getattr(CLONE, machine), otherwise=3)
    yield _step(_LOAD, _FIRST_ARGUMENT)
    yield from _refuse(_ANY_BIT, NAMESPACES, EPERM)
    yield _step(_LOAD, _NUMBER)
    yield _step(_EQUAL, getattr(SOCKET, machine), otherwise=len(FAMILIES) + 2)
    yield _step(_LOAD, _FIRST_ARGUMENT)
    for left, family in zip(range(len(FAMILIES), 0, -1), FAMILIES, strict=True):
        yield _step(_EQUAL, family, then=left)
    yield _step(_RETURN, _ERRNO | EPERM)
    yield _step(_RETURN, _ALLOW)


def _refuse(test: int, value: int, errno: int) -> Iterator[bytes]:
    yield _step(test, value, otherwise=1)
    yield _step(_RETURN, _ERRNO | errno)


def _step(operation: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """One struct sock_filter; `then` and `otherwise` are how many steps a test skips."""
    return struct.pack("=HBBI", operation, then, otherwise, value)
