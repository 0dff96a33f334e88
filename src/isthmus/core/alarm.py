"""An alarm of drift: something about a route is not what it was in a time that was good."""

from __future__ import annotations

import msgspec


class Alarm(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What has drifted of a route, and when that was seen.

    `watch` is the identity of the watch that alarms: to one with another baseline it says nothing. `at_us` is
    the end of the traffic in which it was seen.
    """

    route: str
    quantity: str
    watch: str
    at_us: int
