"""Labels requests off the event loop, within a time; what was not looked at in time is restricted."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from isthmus.core.label import Label
from isthmus.perimeter.policy import Policy
from isthmus.perimeter.pseudonyms import Hidden, Pseudonyms, hide, session_of
from isthmus.perimeter.scanner import Scanner, Sightings
from isthmus.routing.route import Route
from isthmus.store.keys import Key

log = logging.getLogger("isthmus.perimeter")

_TO_PRACTISE = b'{"messages": [{"role": "user", "content": "Ask Anna Lee at 5 Main Street."}]}'


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these members.

    Raises ValueError for a name that comes twice: only one of the two would be looked at, and bytes that pass
    through carry both.
    """
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name comes twice in an object")
    return value


def floors_of(route: Route, key: Key | None) -> tuple[Label, ...]:
    """What a request's label is at least, whatever is in it: as its route says, and its key."""
    return (route.floor,) if key is None else (route.floor, key.floor)


UNREAD = Sightings(blind=(".",))
"""What is seen of a request that could not be looked at as a whole."""


class Inspected(NamedTuple):
    """What is known of a request: its `label`, what was `seen` in it, and, where the policy permits that, the
    request with pseudonyms for what may not be seen."""

    label: Label
    seen: Sightings
    hidden: Hidden | None = None


def _all(seen: Sightings) -> Sightings:
    return seen


class Inspection:
    """The perimeter's eyes: `scanners` in rising order of cost, each with the kinds that it may find, or None
    where those cannot be told.

    A scanner is asked only where something that it may find would still raise the label. One thread looks:
    detectors hold the interpreter's lock, and more threads would only wait for it.
    """

    def __init__(
        self, policy: Policy, scanners: Sequence[tuple[frozenset[str] | None, Scanner]], key: bytes = b""
    ) -> None:
        self.policy = policy
        self._scanners = tuple(scanners)
        self._key = key
        self._unseen: dict[tuple[Label, ...], Label] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="isthmus-perimeter")

    def prepare(self) -> None:
        """Look at something, without waiting for it: what detectors read and compile at their first look
        takes longer than a request may wait."""
        if self._scanners:
            self._thread.submit(self.look, _TO_PRACTISE, ())

    @property
    def looks(self) -> bool:
        """True where anything looks into requests."""
        return bool(self._scanners)

    def unseen(self, floors: tuple[Label, ...]) -> Label | None:
        """The label of a request of which only its floors are known; None where it must be looked at."""
        if self._scanners:
            return None
        label = self._unseen.get(floors)
        if label is None:
            label = self._unseen[floors] = self.policy.label(Sightings(), floors)
        return label

    async def inspect(
        self,
        body: bytes,
        floors: Iterable[Label],
        caller: bytes,
        headers: Mapping[str, str],
        talks: bool = True,
        barred: Callable[[Label], bool] = lambda _: True,
    ) -> Inspected:
        """What is known of a request of this caller, within the policy's time; see `look`.

        Where nobody waits for it any longer, the thread stops looking.
        """
        floors = tuple(floors)
        if not self._scanners:
            return Inspected(self.policy.label(Sightings(), floors), Sightings())
        enough = threading.Event()
        looking = asyncio.get_running_loop().run_in_executor(
            self._thread, self.look, body, floors, caller, headers, talks, barred, enough.is_set
        )
        try:
            async with asyncio.timeout(self.policy.timeout):
                return await looking
        except TimeoutError:
            log.error("a request was not looked at within %g s, and is restricted", self.policy.timeout)
            return self.unread(floors)
        finally:
            enough.set()

    def look(
        self,
        body: bytes,
        floors: Sequence[Label],
        caller: bytes = b"",
        headers: Mapping[str, str] | None = None,
        talks: bool = True,
        barred: Callable[[Label], bool] = lambda _: True,
        enough: Callable[[], bool] = lambda: False,
    ) -> Inspected:
        """What is known of the body of a request, and of these of its headers that go on to a model. Blocks;
        never raises.

        What `talks` has a session for each conversation. Texts to embed have one for the caller alone, since
        they are compared with each other. Pseudonyms are made where some model is `barred` from what is so
        labelled. It ends early, and blind, once there is `enough`.
        """

        def see(value: Any, heed: Callable[[Sightings], Sightings] = _all) -> Sightings:
            return self._see(value, headers, floors, enough, heed)

        try:
            value = json.loads(body.decode(), object_pairs_hook=_once_each)
            seen = see(value)
            hidden = None
            if self.policy.pseudonymises and barred(self.policy.label(seen, floors)):
                pseudonyms = Pseudonyms(self._key, caller + b"\0" + (session_of(value) if talks else b""))
                hidden = hide(value, seen, see, self.policy, floors, pseudonyms)
        except (ValueError, RecursionError):
            return self.unread(floors)
        except (Exception, SystemExit) as fault:
            # A library that exits would take the gateway along. The text of an exception may quote the
            # prompt: only its kind is logged.
            log.error("a request could not be looked at: %s", type(fault).__name__)
            return self.unread(floors)
        return Inspected(self.policy.label(seen, floors), seen, hidden)

    def _see(
        self,
        value: Any,
        headers: Mapping[str, str] | None,
        floors: Sequence[Label],
        enough: Callable[[], bool],
        heed: Callable[[Sightings], Sightings],
    ) -> Sightings:
        seen = Sightings()
        for kinds, scanner in self._scanners:
            if kinds is None or self.policy.can_mean(kinds, self.policy.label(seen, floors)):
                seen = seen.join(heed(scanner.scan(value, enough)))
                if headers:
                    # Nobody hides anything in them: all that is seen there counts.
                    seen = seen.join(scanner.scan({"headers": headers}, enough))
            else:
                seen = seen.join(Sightings(unlooked=tuple(sorted(kinds))))
        return seen

    def unread(self, floors: Sequence[Label]) -> Inspected:
        """What is known of a request that was not looked at."""
        return Inspected(self.policy.label(UNREAD, floors), UNREAD)

    def close(self) -> None:
        """Look no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
