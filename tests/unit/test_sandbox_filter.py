"""The sandbox's filter of system calls, run by an interpreter of our own, also for machines we lack."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from isthmus.evals.sandbox import seccomp

ALLOWED, KILLED = "allowed", "killed"
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def verdict(program: bytes, audit: int, number: int, argument: int = 0) -> str | int:
    """What classic BPF says of a call: the error number, or that it is allowed, or the process killed.

    https://www.kernel.org/doc/html/latest/networking/filter.html
    """
    data = struct.pack("=IIQ6Q", number, audit, 0, argument, 0, 0, 0, 0, 0)
    steps = list(struct.iter_unpack("=HBBI", program))
    at, held = 0, 0
    while True:
        operation, then, otherwise, value = steps[at]
        at += 1
        match operation:
            case 0x20:
                (held,) = struct.unpack_from("=I", data, value)
            case 0x15:
                at += then if held == value else otherwise
            case 0x35:
                at += then if held >= value else otherwise
            case 0x45:
                at += then if held & value else otherwise
            case 0x06:
                return {0x7FFF0000: ALLOWED, 0x80000000: KILLED}.get(value) or value & 0xFFFF
            case _:
                raise AssertionError(operation)


@pytest.fixture(params=list(seccomp.AUDIT))
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_what_is_refused_is_refused_and_all_else_allowed(machine: str) -> None:
    program, audit = seccomp.program_for(machine), seccomp.AUDIT[machine]
    refused = {getattr(numbers, machine) for numbers in seccomp.REFUSED.values()} - {None}
    special = {getattr(numbers, machine) for numbers in (seccomp.CLONE, seccomp.CLONE3, seccomp.SOCKET)}
    assert not refused & special
    for number in range(600):
        if number not in special:
            assert verdict(program, audit, number) == (1 if number in refused else ALLOWED)
    assert verdict(program, audit, getattr(seccomp.CLONE3, machine)) == 38


def test_a_process_may_be_cloned_but_into_no_namespace(machine: str) -> None:
    program, audit = seccomp.program_for(machine), seccomp.AUDIT[machine]
    clone = getattr(seccomp.CLONE, machine)
    thread = 0x3D0F00
    assert verdict(program, audit, clone, 17) == ALLOWED
    assert verdict(program, audit, clone, thread) == ALLOWED
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(program, audit, clone, flag | 17) == 1


def test_sockets_are_of_three_families(machine: str) -> None:
    program, audit = seccomp.program_for(machine), seccomp.AUDIT[machine]
    allowed = [
        n for n in range(64) if verdict(program, audit, getattr(seccomp.SOCKET, machine), n) == ALLOWED
    ]
    assert allowed == [1, 2, 10]


def test_no_other_way_to_call_the_kernel_is_left(machine: str) -> None:
    program, audit = seccomp.program_for(machine), seccomp.AUDIT[machine]
    others = {0x40000003, *seccomp.AUDIT.values()} - {audit}
    assert {verdict(program, other, 0) for other in others} == {KILLED}
    assert verdict(program, audit, 0x40000000 | 272) == 1


def test_a_machine_without_numbers_has_no_filter() -> None:
    with pytest.raises(KeyError):
        seccomp.program_for("riscv64")


def test_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip("the kernel's headers are not installed here")
    table = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
    known = {name: int(number) for name, number in table}
    for name, numbers in {**seccomp.REFUSED, "clone": seccomp.CLONE, "socket": seccomp.SOCKET}.items():
        assert known.get(name) == getattr(numbers, machine), name
