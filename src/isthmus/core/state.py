"""What is known of something while it goes on."""

from __future__ import annotations

import msgspec


class State(msgspec.Struct, eq=False):
    """The state of a request, or of a part of it: made for each, and changed as things become known.

    It is a struct because those are made in C, and many are made. It equals nothing but itself, and says
    nothing of what it holds where it is printed: that may be a prompt.
    """

    def __repr__(self) -> str:
        return object.__repr__(self)
