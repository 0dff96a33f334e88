"""Keys: who may ask which routes, until when, and how sensitive it is at least.

A key's secret is 256 random bits, so only its SHA-256 is kept, without salt and without a slow hash: those
make guessing a *weak* secret dear, and a secret with 256 bits of entropy cannot be guessed at any price (NIST
SP 800-63B, section 5.1.2 on look-up secrets). It also lets a request be checked in microseconds.

Finding a digest in a dict takes a time that depends on the digest's bits, never on how many characters of a
secret were right: changing one character of a guess changes the whole digest in a way that nobody can steer.
So the time tells nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Hashable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol, TypeAlias

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection, RowMapping

from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.label import BOTTOM, Label
from isthmus.store import schema
from isthmus.store.schema import keys as table

_log = logging.getLogger("isthmus.keys")
_to_json = msgspec.json.Encoder(order="deterministic").encode
_to_names = msgspec.json.Decoder(tuple[str, ...]).decode
_to_label = msgspec.json.Decoder(Label).decode
_REVISION = f"SELECT coalesce(max(revision), 0) FROM {table.name}"

PREFIX = "isk_"
"""What every secret begins with, so that scanners for leaked secrets can find it."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a key; its secret is not.

    `routes` are names or glob patterns (`team-*`), none means every route. Times are wall-clock microseconds
    since the epoch; at `expires_us` the key is no longer valid. `rotated_from` is the id of the key that this
    one replaces. `floor` is the least label of what is sent with it, `team` whose budgets it spends from.
    """

    id: str
    name: str
    routes: tuple[str, ...]
    created_us: int
    expires_us: int | None = None
    revoked_us: int | None = None
    rotated_from: str | None = None
    floor: Label = BOTTOM
    team: str | None = None

    def allows(self, route: str) -> bool:
        """True where the key may ask this route."""
        return (
            not self.routes or route in self.routes or any(fnmatchcase(route, glob) for glob in self.routes)
        )

    def valid(self, at_us: int) -> bool:
        """True where the key is neither revoked nor expired at that time."""
        return self.revoked_us is None and (self.expires_us is None or at_us < self.expires_us)

    def revoked(self, at_us: int) -> Key:
        """This key, revoked at that time or earlier."""
        return self if self.revoked_us is not None else msgspec.structs.replace(self, revoked_us=at_us)


class NewKey(msgspec.Struct, frozen=True):
    """A key and, this one time, its secret."""

    key: Key
    secret: str

    def __repr__(self) -> str:
        return f"NewKey(key={self.key!r})"


Digests: TypeAlias = Mapping[bytes, Key]


class Keys(Protocol):
    """The keys that exist. Every method blocks: call it off the event loop.

    A key is named by its id, or by its name: that means the one in force, see `in_force`. Methods that name a
    key raise IsthmusError: `unknown_key` for none, `ambiguous_key` where several of one name are in force,
    which only those of an older Isthmus can be.
    """

    def create(
        self,
        name: str,
        routes: tuple[str, ...],
        at_us: int,
        expires_us: int | None = None,
        floor: Label = BOTTOM,
        team: str | None = None,
    ) -> NewKey:
        """Makes a key. Raises IsthmusError (`name_taken`) where one of that name is in force."""

    def list(self) -> tuple[Key, ...]:
        """All keys that were ever made, the oldest first."""

    def revoke(self, reference: str, at_us: int) -> tuple[Key, ...]:
        """Ends a key now and for ever; a key that was revoked before stays as it is.

        By a name, those end too that it replaces and that are still in their time of grace. All that ended
        are returned, the one in force first.
        """

    def rotate(self, reference: str, at_us: int, grace_s: float) -> NewKey:
        """Makes a key like the named one, which expires after `grace_s` seconds, or earlier if it was to.

        Raises IsthmusError: `dead_key` where the named one is revoked or expired, `replaced_key` where it was
        rotated before.
        """

    def revision(self) -> Hashable:
        """Something that is equal only as long as the keys are the same ones."""

    def digests(self) -> Digests:
        """All keys, by the SHA-256 of their secrets."""


class SqliteKeys:
    """The keys in the ledger's file, which is made if it is not there.

    Any process may change them while the gateway runs.

    Raises IsthmusError, here and in every method: `ledger_newer`, `ledger_unavailable`.
    """

    def __init__(self, path: Path) -> None:
        schema.prepare(path)
        self._database = schema.Database(path)

    def create(
        self,
        name: str,
        routes: tuple[str, ...],
        at_us: int,
        expires_us: int | None = None,
        floor: Label = BOTTOM,
        team: str | None = None,
    ) -> NewKey:
        """See `Keys.create`."""
        new = make_key(name, routes, at_us, expires_us, floor, team)
        with self._database.writing() as connection:
            require_free(name, _all(connection), at_us)
            _insert(connection, new)
        return new

    def list(self) -> tuple[Key, ...]:
        """See `Keys.list`."""
        with self._database.reading() as connection:
            return _all(connection)

    def revoke(self, reference: str, at_us: int) -> tuple[Key, ...]:
        """See `Keys.revoke`."""
        with self._database.writing() as connection:
            ended = tuple(key.revoked(at_us) for key in named(reference, _all(connection), at_us))
            for key in ended:
                _update(connection, key)
        return ended

    def rotate(self, reference: str, at_us: int, grace_s: float) -> NewKey:
        """See `Keys.rotate`."""
        with self._database.writing() as connection:
            new, old = successor(reference, _all(connection), at_us, grace_s)
            _insert(connection, new)
            _update(connection, old)
        return new

    def revision(self) -> schema.Mark:
        """See `Keys.revision`."""
        return self._database.mark(_REVISION)

    def close(self) -> None:
        """Hold nothing of the file any more."""
        self._database.close()

    def digests(self) -> Digests:
        """See `Keys.digests`."""
        with self._database.reading() as connection:
            return {row["digest"]: _key_of(row) for row in connection.execute(select(table)).mappings()}


class KeyRing:
    """The keys as they were at the last `refresh`, in memory, for the hot path.

    `verify`, `empty` and `stale` never wait. `keep_fresh` is to run as a task: a key that another process
    makes or revokes counts within a second then.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._revision: Hashable = None
        self._digests: Digests = {}
        self._stale = False
        self.refresh()

    @property
    def empty(self) -> bool:
        """True where no key was ever made; only loopback is to be served then.

        Revoking the last key leaves the ring not empty: it must not open the gateway to everybody.
        """
        return not self._digests

    @property
    def stale(self) -> bool:
        """True where the last refresh failed, so that the keys are those of an earlier time."""
        return self._stale

    def verify(self, secret: bytes, at_us: int) -> Key:
        """The key of this secret, valid at that time (microseconds since the epoch).

        Raises IsthmusError (unauthenticated): `invalid_key`, `revoked_key`, `expired_key`.
        """
        key = self._digests.get(_sha256(secret))
        if key is None:
            raise _refusal(
                "invalid_key", "This key is not known here.", "Make one with: isthmus keys create."
            )
        require_valid(key, at_us)
        return key

    def name_of(self, key_id: str) -> str | None:
        """The name of the key with that id, whether it is in force or has ended; None for none."""
        return next((key.name for key in self._digests.values() if key.id == key_id), None)

    def refresh(self) -> bool:
        """Reads the keys again where they were changed; True then. Blocks: call it off the event loop.

        Raises IsthmusError where they cannot be read; the last ones stay in force.
        """
        try:
            revision = self._keys.revision()
            changed = revision != self._revision
            if changed:
                # The number first: a change between the two readings is read twice rather than never.
                self._digests = self._keys.digests()
                self._revision = revision
        except BaseException:
            self._stale = True
            raise
        self._stale = False
        return changed

    async def keep_fresh(self, every_s: float = 0.5) -> None:
        """Refreshes for ever, in a thread.

        While the keys cannot be read, for whatever reason, the last ones stay in force, and the log says so
        once. It must never end: a revoked key would stay valid for ever.
        """
        while True:
            await asyncio.sleep(every_s)
            was_stale = self._stale
            try:
                await asyncio.to_thread(self.refresh)
            except Exception as error:
                if not was_stale:
                    why = error.text if isinstance(error, IsthmusError) else type(error).__name__
                    _log.error("the keys cannot be read, the last known ones stay in force: %s", why)
            else:
                if was_stale:
                    _log.warning("the keys can be read again")


def make_key(
    name: str,
    routes: tuple[str, ...],
    at_us: int,
    expires_us: int | None,
    floor: Label,
    team: str | None,
    rotated_from: str | None = None,
) -> NewKey:
    """A key with a new secret; nothing is stored."""
    key = Key(
        id=f"key_{secrets.token_hex(8)}",
        name=name,
        routes=routes,
        created_us=at_us,
        expires_us=expires_us,
        rotated_from=rotated_from,
        floor=floor,
        team=team,
    )
    return NewKey(key, PREFIX + secrets.token_urlsafe(32))


def successor(reference: str, keys: Sequence[Key], at_us: int, grace_s: float) -> tuple[NewKey, Key]:
    """The key that replaces the named one, and that one as it is from now on.

    Raises IsthmusError: `dead_key`, `replaced_key`, and what `named` raises.
    """
    key = named(reference, keys, at_us)[0]
    if not key.valid(at_us):
        ended = "expired" if key.revoked_us is None else "revoked"
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"The key {key.id} is {ended} and cannot be rotated.",
            code="dead_key",
            hint="Create a new one.",
        )
    current = in_force(key.name, keys, at_us)
    if key not in current:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"The key {key.id} was rotated before and is in its time of grace.",
            code="replaced_key",
            hint=f"Rotate the one that replaced it: {_ids(current)}.",
        )
    new = make_key(key.name, key.routes, at_us, key.expires_us, key.floor, key.team, rotated_from=key.id)
    until = at_us + round(grace_s * 1_000_000)
    ends = until if key.expires_us is None else min(until, key.expires_us)
    return new, msgspec.structs.replace(key, expires_us=ends)


def in_force(name: str, keys: Sequence[Key], at_us: int) -> tuple[Key, ...]:
    """The keys of that name which are valid, without those that another of them replaces: one at most, unless
    an older Isthmus made more."""
    valid = [key for key in keys if key.name == name and key.valid(at_us)]
    origin = {key.id: key.rotated_from for key in keys}
    replaced: set[str] = set()
    for key in valid:
        earlier = key.rotated_from
        while earlier is not None:
            replaced.add(earlier)
            earlier = origin.get(earlier)
    return tuple(key for key in valid if key.id not in replaced)


def named(reference: str, keys: Sequence[Key], at_us: int) -> tuple[Key, ...]:
    """The key of that id; or by a name the one in force, and after it those that it replaces and that are
    valid yet. Where all of a name have ended, the last one that was made.

    Raises IsthmusError: `unknown_key`, `ambiguous_key`.
    """
    for key in keys:
        if key.id == reference:
            return (key,)
    alike = [key for key in keys if key.name == reference]
    if not alike:
        raise IsthmusError(
            Fault.NOT_FOUND,
            f"There is no key with the id or the name {reference!r}.",
            code="unknown_key",
            hint="List the keys to see their ids.",
        )
    current = in_force(reference, alike, at_us)
    if len(current) > 1:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"Several keys are named {reference!r}: {_ids(current)}.",
            code="ambiguous_key",
            hint="Give the key's id.",
        )
    if not current:
        return (alike[-1],)
    return (*current, *(key for key in alike if key.valid(at_us) and key not in current))


def require_valid(key: Key, at_us: int) -> None:
    """Raises IsthmusError (unauthenticated) where the key has ended: `revoked_key`, `expired_key`."""
    if key.valid(at_us):
        return
    if key.revoked_us is not None:
        raise _refusal("revoked_key", f"The key {key.id} was revoked.", "Ask for a new one.")
    raise _refusal("expired_key", f"The key {key.id} has expired.", "Ask for a new one.")


def require_free(name: str, keys: Sequence[Key], at_us: int) -> None:
    """Raises IsthmusError (`name_taken`) where a key of that name is in force: no two could be told apart."""
    current = in_force(name, keys, at_us)
    if current:
        raise IsthmusError(
            Fault.INVALID_REQUEST,
            f"There is a key named {name!r} already: {_ids(current)}.",
            code="name_taken",
            hint="Rotate it, revoke it before, or choose another name.",
        )


def _ids(keys: Sequence[Key]) -> str:
    return ", ".join(key.id for key in keys)


def digest_of(secret: str) -> bytes:
    """The SHA-256 of a secret: all that is ever stored of it."""
    return _sha256(secret.encode())


_nothing_hashed = hashlib.sha256()


def _sha256(secret: bytes) -> bytes:
    # Made anew, each hash would have OpenSSL look its algorithm up again.
    hashing = _nothing_hashed.copy()
    hashing.update(secret)
    return hashing.digest()


def _refusal(code: str, message: str, hint: str) -> IsthmusError:
    return IsthmusError(Fault.UNAUTHENTICATED, message, code=code, hint=hint)


def _all(connection: Connection) -> tuple[Key, ...]:
    query = select(table).order_by(table.c.created_us, table.c.id)
    return tuple(_key_of(row) for row in connection.execute(query).mappings())


def _revision(connection: Connection) -> int:
    return int(connection.exec_driver_sql(_REVISION).scalar_one())


def _insert(connection: Connection, new: NewKey) -> None:
    values = {**_values(new.key), "digest": digest_of(new.secret), "revision": _revision(connection) + 1}
    connection.execute(insert(table).values(values))


def _update(connection: Connection, key: Key) -> None:
    values = {**_values(key), "revision": _revision(connection) + 1}
    connection.execute(update(table).where(table.c.id == key.id).values(values))


def _values(key: Key) -> dict[str, object]:
    return {
        **msgspec.structs.asdict(key),
        "routes": _to_json(key.routes).decode(),
        "floor": None if key.floor == BOTTOM else _to_json(key.floor).decode(),
    }


def _key_of(row: RowMapping) -> Key:
    values = {name: row[name] for name in Key.__struct_fields__}
    floor = BOTTOM if row["floor"] is None else _to_label(row["floor"])
    return Key(**{**values, "routes": _to_names(row["routes"]), "floor": floor})
