"""`python -m isthmus.testing`: the simulator as a command."""

from __future__ import annotations

import argparse
import asyncio
import sys

import msgspec

from isthmus.testing.behaviours import BEHAVIOURS, table
from isthmus.testing.simulator import Simulator


def main(arguments: list[str] | None = None) -> int:
    """Runs the simulator until it is interrupted, or lists its models; the exit status is 0."""
    parser = argparse.ArgumentParser(prog="python -m isthmus.testing", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="the port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--key", help="accept this credential only")
    parser.add_argument("--lenient", action="store_true", help="accept undocumented parameters")
    parser.add_argument("--list", action="store_true", help="list the model ids and what they do")
    parser.add_argument("--json", action="store_true", help="list as JSON")
    options = parser.parse_args(arguments)
    if options.json:
        listed = [{"model": one.model, "summary": one.summary} for one in BEHAVIOURS]
        print(msgspec.json.encode(listed).decode())
    elif options.list:
        print(table())
    else:
        try:
            asyncio.run(_serve(options))
        except KeyboardInterrupt:
            print("The simulator has stopped.", file=sys.stderr)
    return 0


async def _serve(options: argparse.Namespace) -> None:
    async with Simulator(port=options.port, key=options.key, strict=not options.lenient) as simulator:
        print(simulator.url, flush=True)
        print("The simulator is running; stop it with Ctrl-C.", file=sys.stderr)
        await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
