"""A parent to be killed: it supervises a fake engine, prints the engine's process id, and waits."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from isthmus.providers.engines.supervisor import Launch, Supervisor


async def main(engine: str, log: str) -> None:
    """Supervise until killed."""
    launch = Launch(argv=(sys.executable, engine), stdin=b"{}", environ=dict(os.environ))
    supervisor = Supervisor("fake", lambda _: launch, log=Path(log))
    await supervisor.start()
    print(supervisor.pid, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
