"""What every store of keys promises, and the ring on top of it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.label import BOTTOM, Label
from isthmus.store.keys import PREFIX, KeyRing, Keys, SqliteKeys
from isthmus.store.memory import MemoryKeys

NOW_US = 1_760_000_000_000_000
SECOND_US = 1_000_000


@pytest.fixture(params=["memory", "sqlite"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> Keys:
    return MemoryKeys() if request.param == "memory" else SqliteKeys(tmp_path / "new" / "ledger.db")


def refusal(ring: KeyRing, secret: str, at_us: int = NOW_US) -> str:
    with pytest.raises(IsthmusError) as refused:
        ring.verify(secret.encode(), at_us)
    assert refused.value.fault is Fault.UNAUTHENTICATED
    assert secret not in refused.value.text or secret == ""
    return refused.value.code


def test_a_new_key_is_listed_and_opens(keys: Keys) -> None:
    new = keys.create("team a", ("support", "team-*"), NOW_US, NOW_US + SECOND_US)
    assert keys.list() == (new.key,)
    assert KeyRing(keys).verify(new.secret.encode(), NOW_US) == new.key
    assert new.key.id.startswith("key_")
    assert (new.key.name, new.key.created_us, new.key.expires_us) == ("team a", NOW_US, NOW_US + SECOND_US)


def test_a_secret_is_long_random_and_recognisable(keys: Keys) -> None:
    secrets = {keys.create(f"k{number}", (), NOW_US).secret for number in range(50)}
    assert len(secrets) == 50
    # 256 bits in base64 without padding.
    assert {len(secret) for secret in secrets} == {len(PREFIX) + 43}
    assert all(secret.startswith("isk_") for secret in secrets)


def test_a_secret_is_never_shown_by_accident(keys: Keys) -> None:
    new = keys.create("team a", (), NOW_US)
    assert new.secret not in repr(new)
    assert new.secret not in repr(keys.list())


def test_keys_are_listed_in_the_order_of_their_making(keys: Keys) -> None:
    made = [keys.create(f"k{number}", (), NOW_US + number).key for number in range(5)]
    assert list(keys.list()) == made


def test_whatever_is_no_key_is_refused(keys: Keys) -> None:
    secret = keys.create("team a", (), NOW_US).secret
    ring = KeyRing(keys)
    for wrong in ("", PREFIX, secret[:-1], secret + "x", secret.upper(), " " + secret):
        assert refusal(ring, wrong) == "invalid_key"


def test_a_key_ends_at_its_expiry(keys: Keys) -> None:
    new = keys.create("team a", (), NOW_US, NOW_US + SECOND_US)
    ring = KeyRing(keys)
    assert ring.verify(new.secret.encode(), NOW_US + SECOND_US - 1) == new.key
    assert refusal(ring, new.secret, NOW_US + SECOND_US) == "expired_key"


def test_a_revoked_key_stays_revoked(keys: Keys) -> None:
    new = keys.create("team a", (), NOW_US)
    (revoked,) = keys.revoke(new.key.id, NOW_US + 5)
    assert revoked.revoked_us == NOW_US + 5
    assert keys.revoke(new.key.id, NOW_US + 9) == (revoked,)
    assert refusal(KeyRing(keys), new.secret) == "revoked_key"


def test_revoking_the_last_key_does_not_open_the_door(keys: Keys) -> None:
    ring = KeyRing(keys)
    assert ring.empty
    new = keys.create("team a", (), NOW_US)
    assert ring.refresh()
    assert not ring.empty
    keys.revoke(new.key.id, NOW_US)
    assert ring.refresh()
    assert not ring.empty


def test_rotation_gives_a_successor_and_a_time_of_grace(keys: Keys) -> None:
    old = keys.create("team a", ("support",), NOW_US)
    new = keys.rotate("team a", NOW_US + 5, grace_s=60.0)
    assert (new.key.name, new.key.routes, new.key.rotated_from) == ("team a", ("support",), old.key.id)
    assert new.key.id != old.key.id
    ring = KeyRing(keys)
    ends_us = NOW_US + 5 + 60 * SECOND_US
    assert ring.verify(old.secret.encode(), ends_us - 1).expires_us == ends_us
    assert refusal(ring, old.secret, ends_us) == "expired_key"
    assert ring.verify(new.secret.encode(), ends_us) == new.key


def test_rotation_never_prolongs_a_key(keys: Keys) -> None:
    old = keys.create("team a", (), NOW_US, NOW_US + SECOND_US)
    new = keys.rotate(old.key.id, NOW_US, grace_s=3600.0)
    assert {key.expires_us for key in keys.list()} == {NOW_US + SECOND_US}
    assert new.key.expires_us == NOW_US + SECOND_US


@pytest.mark.parametrize(
    "floor", [BOTTOM, Label("confidential"), Label(zones=frozenset({"eu", "on-prem"})), Label("restricted")]
)
def test_a_floor_stays_with_the_key_and_its_successors(keys: Keys, floor: Label) -> None:
    old = keys.create("team a", (), NOW_US, floor=floor, team="a")
    new = keys.rotate("team a", NOW_US + 5, grace_s=60.0)
    assert [key.floor for key in keys.list()] == [floor, floor]
    keys.revoke(old.key.id, NOW_US + 6)
    ring = KeyRing(keys)
    assert ring.verify(new.secret.encode(), NOW_US + 6).floor == floor
    assert [key.team for key in keys.list()] == ["a", "a"]


def test_a_dead_key_is_not_rotated(keys: Keys) -> None:
    revoked = keys.create("a", (), NOW_US).key
    keys.revoke(revoked.id, NOW_US)
    expired = keys.create("b", (), NOW_US, NOW_US + 1).key
    for key in (revoked, expired):
        with pytest.raises(IsthmusError) as refused:
            keys.rotate(key.id, NOW_US + 2, grace_s=0.0)
        assert refused.value.code == "dead_key"
    assert len(keys.list()) == 2


def refused_code(call: Callable[[], object]) -> str:
    with pytest.raises(IsthmusError) as refused:
        call()
    return refused.value.code


def test_no_two_keys_of_one_name_are_made(keys: Keys) -> None:
    first = keys.create("twin", (), NOW_US, NOW_US + SECOND_US).key
    with pytest.raises(IsthmusError) as refused:
        keys.create("twin", ("support",), NOW_US)
    assert refused.value.code == "name_taken"
    assert first.id in refused.value.message
    assert keys.list() == (first,)
    second = keys.create("twin", (), NOW_US + SECOND_US).key
    keys.revoke(second.id, NOW_US + SECOND_US)
    keys.create("twin", (), NOW_US + SECOND_US)


def test_a_name_means_the_key_in_force(keys: Keys) -> None:
    first = keys.create("team a", (), NOW_US).key
    second = keys.rotate("team a", NOW_US + 1, grace_s=60.0).key
    third = keys.rotate("team a", NOW_US + 2, grace_s=60.0).key
    assert (second.rotated_from, third.rotated_from) == (first.id, second.id)
    assert refused_code(lambda: keys.create("team a", (), NOW_US + 3)) == "name_taken"
    assert refused_code(lambda: keys.rotate(first.id, NOW_US + 3, grace_s=0.0)) == "replaced_key"
    keys.revoke(second.id, NOW_US + 3)
    assert refused_code(lambda: keys.rotate(first.id, NOW_US + 3, grace_s=0.0)) == "replaced_key"
    assert refused_code(lambda: keys.rotate("nobody", NOW_US, grace_s=0.0)) == "unknown_key"


def test_revoking_a_name_leaves_none_of_that_name(keys: Keys) -> None:
    old = keys.create("team a", (), NOW_US)
    new = keys.rotate("team a", NOW_US + 1, grace_s=60.0)
    other = keys.create("team b", (), NOW_US)
    ended = keys.revoke("team a", NOW_US + 2)
    assert [key.id for key in ended] == [new.key.id, old.key.id]
    ring = KeyRing(keys)
    assert {refusal(ring, secret.secret, NOW_US + 2) for secret in (old, new)} == {"revoked_key"}
    assert ring.verify(other.secret.encode(), NOW_US + 2) == other.key
    assert refused_code(lambda: keys.rotate("team a", NOW_US + 3, grace_s=0.0)) == "dead_key"
    assert keys.revoke("team a", NOW_US + 9)[0].revoked_us == NOW_US + 2
    assert refused_code(lambda: keys.revoke("nobody", NOW_US)) == "unknown_key"


def test_revoking_an_id_ends_that_key_alone(keys: Keys) -> None:
    old = keys.create("team a", (), NOW_US)
    new = keys.rotate("team a", NOW_US + 1, grace_s=60.0)
    assert [key.id for key in keys.revoke(new.key.id, NOW_US + 2)] == [new.key.id]
    assert KeyRing(keys).verify(old.secret.encode(), NOW_US + 3).id == old.key.id
    assert keys.rotate("team a", NOW_US + 3, grace_s=60.0).key.rotated_from == old.key.id


def test_every_change_changes_the_revision(keys: Keys) -> None:
    revisions = [keys.revision()]
    assert keys.revision() == revisions[0]
    first = keys.create("a", (), NOW_US).key
    revisions.append(keys.revision())
    keys.rotate("a", NOW_US, 1.0)
    revisions.append(keys.revision())
    keys.revoke(first.id, NOW_US)
    revisions.append(keys.revision())
    assert len(set(revisions)) == len(revisions)


def test_the_ring_reads_again_only_after_a_change(keys: Keys) -> None:
    ring = KeyRing(keys)
    assert not ring.refresh()
    keys.create("a", (), NOW_US)
    assert ring.refresh()
    assert not ring.refresh()


@pytest.mark.parametrize(
    ("routes", "route", "allowed"),
    [
        ((), "anything", True),
        (("support",), "support", True),
        (("support",), "support2", False),
        (("support",), "Support", False),
        (("team-*", "review"), "team-a", True),
        (("team-*", "review"), "review", True),
        (("team-*",), "a-team-b", False),
        (("[ab]?",), "b7", True),
    ],
)
def test_routes_are_names_or_globs(keys: Keys, routes: tuple[str, ...], route: str, allowed: bool) -> None:
    keys.create("a", routes, NOW_US)
    assert keys.list()[0].allows(route) is allowed


# From here on: what only a file can do.


def test_only_a_digest_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    new = SqliteKeys(path).create("team a", (), NOW_US)
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert new.secret.encode() not in content
    assert new.secret[len(PREFIX) :].encode() not in content
    assert hashlib.sha256(new.secret.encode()).digest() in content


async def test_another_processs_key_counts_soon(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ring = KeyRing(SqliteKeys(path))
    watching = asyncio.create_task(ring.keep_fresh(every_s=0.01))
    new = SqliteKeys(path).create("team a", (), NOW_US)
    await until(lambda: not ring.empty)
    assert ring.verify(new.secret.encode(), NOW_US) == new.key
    SqliteKeys(path).revoke("team a", NOW_US)
    await until(lambda: revoked(ring, new.secret))
    watching.cancel()


async def test_while_the_file_cannot_be_read_the_last_keys_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "data" / "ledger.db"
    keys = SqliteKeys(path)
    new = keys.create("team a", (), NOW_US)
    ring = KeyRing(keys)
    path.parent.rename(tmp_path / "away")
    watching = asyncio.create_task(ring.keep_fresh(every_s=0.005))
    await until(lambda: ring.stale)
    assert ring.verify(new.secret.encode(), NOW_US) == new.key
    (tmp_path / "away").rename(path.parent)
    await until(lambda: not ring.stale)
    watching.cancel()
    assert [entry.levelno for entry in caplog.records] == [logging.ERROR, logging.WARNING]


async def test_no_fault_whatever_ends_the_watch_over_the_keys(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(MemoryKeys):
        broken = False

        def revision(self) -> int:
            if self.broken:
                raise RuntimeError("hush")
            return super().revision()

    keys = Faulty()
    new = keys.create("team a", (), NOW_US)
    ring = KeyRing(keys)
    watching = asyncio.create_task(ring.keep_fresh(every_s=0.001))
    keys.broken = True
    await until(lambda: ring.stale)
    keys.revoke(new.key.id, NOW_US)
    keys.broken = False
    await until(lambda: revoked(ring, new.secret))
    watching.cancel()
    assert [entry.levelno for entry in caplog.records] == [logging.ERROR, logging.WARNING]
    assert "RuntimeError" in caplog.text
    assert "hush" not in caplog.text


def test_twins_of_an_older_isthmus_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    keys = SqliteKeys(path)
    first, second = (keys.create(name, (), NOW_US).key for name in ("twin", "other"))
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE keys SET name = 'twin'")
    connection.close()
    for use in (lambda: keys.revoke("twin", NOW_US), lambda: keys.rotate("twin", NOW_US, 0.0)):
        with pytest.raises(IsthmusError) as refused:
            use()
        assert refused.value.code == "ambiguous_key"
        assert first.id in refused.value.message
        assert second.id in refused.value.message
    assert len(keys.revoke(first.id, NOW_US)) == 1
    assert keys.rotate("twin", NOW_US, 0.0).key.rotated_from == second.id


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    keys = SqliteKeys(path)
    old = keys.create("team a", (), NOW_US).key
    connection = sqlite3.connect(path)
    connection.execute("CREATE TRIGGER no BEFORE UPDATE ON keys BEGIN SELECT raise(ABORT, 'broken'); END")
    connection.close()
    with pytest.raises(IsthmusError) as refused:
        keys.rotate(old.id, NOW_US, 1.0)
    assert (refused.value.code, "broken" in refused.value.message) == ("ledger_unavailable", True)
    assert "INSERT" not in refused.value.text
    assert keys.list() == (old,)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        # What happens in a thread sets no event of ours.
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def revoked(ring: KeyRing, secret: str) -> bool:
    try:
        ring.verify(secret.encode(), NOW_US)
    except IsthmusError as error:
        return error.code == "revoked_key"
    return False
