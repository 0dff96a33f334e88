"""Weights that nobody has to sign: what an engine loads when it starts again and the file is another one."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import pytest

from isthmus.artefacts.faults import ArtefactError
from isthmus.providers.engines.weights_file import WeightsFile

OLD, NEW = b"the old weights", b"the new weights"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "weights.gguf"
    found.write_bytes(OLD)
    return found


def loaded(file: WeightsFile) -> bytes:
    """What an engine that starts now would load."""
    name, inherited = file.opened()
    with inherited:
        return Path(name).read_bytes()


def written_into(path: Path, content: bytes) -> None:
    """The same file has other bytes, and says that nobody has written to it."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path, content: bytes) -> None:
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("pinned", [None, sha256(OLD)])
def test_another_file_in_its_place_changes_nothing_for_an_engine_that_was_ready(
    path: Path, pinned: str | None
) -> None:
    file = WeightsFile(path, pinned)
    assert loaded(file) == OLD
    file.keep()
    replaced(path, NEW)
    assert loaded(file) == OLD
    path.unlink()
    assert loaded(file) == OLD
    assert file.identity == pinned


def test_until_it_was_ready_it_may_be_put_right(path: Path) -> None:
    file = WeightsFile(path)
    assert loaded(file) == OLD
    replaced(path, NEW)
    assert loaded(file) == NEW
    assert file.identity is None


def test_weights_that_were_written_into_are_new_ones_where_nothing_is_pinned(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = WeightsFile(path)
    loaded(file)
    file.keep()
    os.link(path, path.with_suffix(".link"))
    assert loaded(file) == OLD
    assert file.identity is None, "a link changes the inode, and no weights"
    path.write_bytes(NEW + b", and longer")
    with caplog.at_level(logging.WARNING):
        assert loaded(file) == NEW + b", and longer"
    assert file.identity == sha256(NEW + b", and longer")
    assert file.identity in caplog.text
    caplog.clear()
    loaded(file)
    assert not caplog.records, "once for each change"


def test_pinned_weights_are_these_and_no_others(path: Path) -> None:
    path.write_bytes(NEW)
    file = WeightsFile(path, sha256(OLD))
    with pytest.raises(ArtefactError, match=sha256(NEW)):
        file.opened()
    path.write_bytes(OLD)
    assert loaded(file) == OLD
    file.keep()
    written_into(path, NEW)
    with pytest.raises(ArtefactError) as refused:
        file.opened()
    assert refused.value.code == "weights_changed"
    with pytest.raises(ArtefactError):
        file.opened()
    replaced(path, OLD)
    assert loaded(file) == OLD, "what is put right at the path is found"


def test_what_somebody_has_proven_is_read_again_only_when_it_was_changed(path: Path) -> None:
    file = WeightsFile(path, sha256(OLD), proven=True)
    assert loaded(file) == OLD
    assert file.identity is None
    file.keep()
    written_into(path, NEW)
    for _ in range(2):
        with pytest.raises(ArtefactError):
            file.opened()


def test_an_engine_that_is_stopped_lets_go_of_its_file(path: Path) -> None:
    file = WeightsFile(path)
    loaded(file)
    file.keep()
    replaced(path, NEW)
    file.close()
    assert loaded(file) == NEW


def test_the_first_of_several_files_is_loaded_by_the_name_that_leads_to_the_others(tmp_path: Path) -> None:
    part = tmp_path / "weights-00001-of-00002.gguf"
    part.write_bytes(OLD)
    file = WeightsFile(part, sha256(OLD))
    for _ in range(2):
        name, inherited = file.opened()
        inherited.close()
        assert name == str(part)
        file.keep()
    replaced(part, NEW)
    with pytest.raises(ArtefactError, match="is wanted"):
        file.opened()
