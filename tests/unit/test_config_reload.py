"""Hot reload: a valid change is taken, a wrong one is reported, and nothing else happens."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from isthmus.config import reload
from isthmus.config.config import Config
from isthmus.config.faults import Code, ConfigFault
from isthmus.config.load import Parsed, load
from isthmus.config.reload import Sighting, Watcher, worth_reading

ONE = "gateway: {port: 5001}\n"
TWO = "gateway: {port: 5002}\n"


class Heard:
    """What a watcher said."""

    def __init__(self, path: Path) -> None:
        self.configs: list[Config] = []
        self.faults: list[tuple[ConfigFault, ...]] = []
        self.watcher = Watcher(
            path,
            current=load(path),
            on_config=self.configs.append,
            on_faults=self.faults.append,
            interval_s=0.001,
        )

    @property
    def ports(self) -> list[int]:
        return [config.gateway.port for config in self.configs]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "isthmus.yaml"
    file.write_text(ONE)
    return file


@pytest.fixture
def heard(path: Path) -> Heard:
    return Heard(path)


def replace(path: Path, text: str) -> None:
    """As editors and deployments do it: a new file is moved over the old one."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def remove(path: Path) -> None:
    path.unlink()


def spoil(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")


def test_what_is_worth_reading() -> None:
    file, here = Path("isthmus.yaml"), Sighting(1, 2, 3, 4, 5)
    assert worth_reading({}, {file: here})
    assert worth_reading({file: Sighting(1, 9, 3, 4, 5)}, {file: here})
    assert not worth_reading({file: here}, {file: here})
    assert not worth_reading({file: here}, {})


async def test_an_unchanged_file_says_nothing(heard: Heard) -> None:
    for _ in range(3):
        await heard.watcher.check()
    assert not heard.configs
    assert not heard.faults


async def test_a_new_file_in_its_place_is_taken(path: Path, heard: Heard) -> None:
    replace(path, TWO)
    await heard.watcher.check()
    await heard.watcher.check()
    assert heard.ports == [5002]


async def test_a_change_made_before_watching_began_is_noticed(path: Path) -> None:
    heard = Heard(path)
    replace(path, TWO)
    await heard.watcher.check()
    assert heard.ports == [5002]


async def test_comments_alone_change_nothing(path: Path, heard: Heard) -> None:
    await heard.watcher.check()
    replace(path, f"# new\n{ONE}")
    await heard.watcher.check()
    assert not heard.configs


async def test_a_half_written_file_is_a_fault_now_and_right_later(path: Path, heard: Heard) -> None:
    await heard.watcher.check()
    replace(path, "gateway: {port: 50")
    await heard.watcher.check()
    await heard.watcher.check()
    assert [[fault.code for fault in faults] for faults in heard.faults] == [[Code.SYNTAX]]
    replace(path, TWO)
    await heard.watcher.check()
    assert heard.ports == [5002]


async def test_a_way_back_from_a_fault_is_told_of_even_to_the_same_config(path: Path, heard: Heard) -> None:
    await heard.watcher.check()
    replace(path, "gateway: {prt: 1}")
    await heard.watcher.check()
    replace(path, ONE)
    await heard.watcher.check()
    assert len(heard.faults) == 1
    assert heard.ports == [5001]


async def test_a_vanished_file_keeps_the_last_config(path: Path, heard: Heard) -> None:
    await heard.watcher.check()
    remove(path)
    await heard.watcher.check()
    assert not heard.configs
    assert not heard.faults
    replace(path, TWO)
    await heard.watcher.check()
    assert heard.ports == [5002]


async def test_the_swap_of_a_kubernetes_config_map_is_seen(tmp_path: Path) -> None:
    for name, text in (("..1", ONE), ("..2", TWO)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "isthmus.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("..1")
    path = tmp_path / "isthmus.yaml"
    path.symlink_to("..data/isthmus.yaml")
    heard = Heard(path)
    await heard.watcher.check()
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    await heard.watcher.check()
    assert heard.ports == [5002]


async def test_waking_hands_the_config_out_again(heard: Heard) -> None:
    heard.watcher.wake()
    await heard.watcher.check()
    await heard.watcher.check()
    assert heard.ports == [5001]


async def test_waking_without_a_file_is_a_fault(path: Path, heard: Heard) -> None:
    remove(path)
    heard.watcher.wake()
    await heard.watcher.check()
    assert [fault.code for fault in heard.faults[0]] == [Code.UNREADABLE]


async def test_run_notices_by_itself(path: Path) -> None:
    seen: asyncio.Queue[Config] = asyncio.Queue()
    watcher = Watcher(
        path, current=load(path), on_config=seen.put_nowait, on_faults=lambda _: None, interval_s=0.001
    )
    watching = asyncio.create_task(watcher.run())
    replace(path, TWO)
    config = await asyncio.wait_for(seen.get(), 10)
    watching.cancel()
    assert config.gateway.port == 5002


async def test_a_config_that_cannot_be_taken_is_told_of_once_and_ends_nothing(path: Path) -> None:
    taken: list[int] = []
    errors: list[Exception] = []

    def take(config: Config) -> None:
        if config.gateway.port == 5002:
            raise UnicodeError("hush")
        taken.append(config.gateway.port)

    watcher = Watcher(
        path, current=load(path), on_config=take, on_faults=lambda _: None, on_error=errors.append
    )
    replace(path, TWO)
    for _ in range(3):
        await watcher.check()
    assert [type(error) for error in errors] == [UnicodeError]
    replace(path, ONE)
    await watcher.check()
    assert taken == [5001]


async def test_a_look_that_fails_is_told_of_by_its_kind_alone(
    path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Path) -> None:
        raise RecursionError("hush")

    with monkeypatch.context() as broken:
        broken.setattr(reload, "read", fail)
        replace(path, TWO)
        for _ in range(3):
            await heard.watcher.check()
    assert [record.getMessage().endswith("RecursionError") for record in caplog.records] == [True]
    replace(path, f"# mended\n{TWO}")
    await heard.watcher.check()
    assert heard.ports == [5002]


async def test_a_file_that_is_written_while_it_is_read_is_read_again(
    path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_slowly(of: Path) -> Parsed:
        parsed = reload_read(of)
        replace(path, TWO)
        return parsed

    reload_read = reload.read
    with monkeypatch.context() as slow:
        slow.setattr(reload, "read", read_slowly)
        await heard.watcher.check()
    assert not heard.configs
    await heard.watcher.check()
    assert heard.ports == [5002]


WITH_TERMS = (
    "perimeter: {terms: {projects: projects.txt}, labels: [{when: term.projects, level: restricted}]}\n"
)


@pytest.fixture
def terms(path: Path) -> Path:
    path.write_text(WITH_TERMS)
    file = path.with_name("projects.txt")
    file.write_text("Blue Heron\n")
    return file


async def test_a_change_of_a_file_that_the_config_names_is_a_change_of_the_config(
    path: Path, terms: Path
) -> None:
    heard = Heard(path)
    for _ in range(3):
        await heard.watcher.check()
    assert not heard.configs
    replace(terms, "Blue Heron\nGrey Seal\n")
    for _ in range(3):
        await heard.watcher.check()
    (changed,) = heard.configs
    assert changed.perimeter.hash != load_hash(WITH_TERMS, terms, "Blue Heron\n")


def load_hash(text: str, terms: Path, listed: str) -> str:
    """The hash of the rules where the file of terms says so, in another folder."""
    elsewhere = terms.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "isthmus.yaml").write_text(text)
    (elsewhere / terms.name).write_text(listed)
    return load(elsewhere / "isthmus.yaml").perimeter.hash


async def test_a_file_that_cannot_be_used_keeps_the_last_config_until_it_is_mended(
    path: Path, terms: Path
) -> None:
    heard = Heard(path)
    await heard.watcher.check()
    spoil(terms)
    for _ in range(3):
        await heard.watcher.check()
    assert [[fault.code for fault in faults] for faults in heard.faults] == [[Code.UNUSABLE_FILE]]
    assert not heard.configs
    replace(terms, "Grey Seal\n")
    for _ in range(3):
        await heard.watcher.check()
    assert len(heard.configs) == 1
    assert len(heard.faults) == 1


async def test_a_fault_is_mended_by_a_file_that_no_valid_config_has_named(path: Path, heard: Heard) -> None:
    await heard.watcher.check()
    replace(path, WITH_TERMS)
    for _ in range(3):
        await heard.watcher.check()
    assert [[fault.code for fault in faults] for faults in heard.faults] == [[Code.FILE_NOT_FOUND]]
    replace(path.with_name("projects.txt"), "Blue Heron\n")
    await heard.watcher.check()
    assert len(heard.configs) == 1


async def test_a_vanished_file_of_terms_is_waited_for(path: Path, terms: Path) -> None:
    heard = Heard(path)
    await heard.watcher.check()
    remove(terms)
    await heard.watcher.check()
    assert not heard.faults


def test_the_hash_of_the_rules_is_of_what_their_files_say_wherever_they_are(path: Path, terms: Path) -> None:
    assert load(path).perimeter.hash == load_hash(WITH_TERMS, terms, "Blue Heron\n")
    assert load(path).hash == load(terms.parent / "elsewhere" / "isthmus.yaml").hash


async def test_what_takes_long_is_done_in_a_thread_before_a_config_is_told_of(path: Path) -> None:
    done: list[tuple[bool, int]] = []

    def prepare(config: Config) -> None:
        done.append((threading.current_thread() is threading.main_thread(), len(told)))
        if config.gateway.port == 5002:
            raise ValueError("not ready")

    told: list[Config] = []
    failed: list[Exception] = []
    watcher = Watcher(
        path,
        current=load(path),
        on_config=told.append,
        on_faults=lambda _: None,
        on_error=failed.append,
        prepare=prepare,
    )
    for text in (TWO, ONE + "# again\n", "gateway: {port: 5003}\n"):
        replace(path, text)
        await watcher.check()
    assert [config.gateway.port for config in told] == [5001, 5003]
    assert [str(error) for error in failed] == ["not ready"]
    assert done == [(False, 0), (False, 0), (False, 1)]
