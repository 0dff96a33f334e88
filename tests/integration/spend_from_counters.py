"""A process that spends a budget to its end: `python spend_from_counters.py LEDGER BILL AMOUNT`.

BILL gets a line for each call with what it costs, written while it is held.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from functools import partial
from pathlib import Path

from isthmus.accounting.bounds import Bound
from isthmus.accounting.budgets import Budget, Caller
from isthmus.core.errors import Fault, IsthmusError
from isthmus.core.usage import Charge, Usage
from isthmus.gateway.treasury import Treasury
from isthmus.store.counters import SqliteCounters

AT_US = 1_700_000_000_000_000
CALLERS = 8


async def main(ledger: Path, bill: int, amount: int) -> None:
    """Call until the budget refuses, and end as a gateway does."""
    treasury = Treasury(SqliteCounters(ledger))
    draws = random.Random(os.getpid())

    async def call() -> None:
        while True:
            most = draws.randint(1, 40)
            purse = treasury.purse([Budget(amount=amount, unit="usd", per="ever")], Caller(route="r"), AT_US)
            held = await purse.hold("m", partial(Bound, most, most))
            cost = draws.randint(0, most)
            os.write(bill, b"%d\n" % cost)
            await asyncio.sleep(0)
            held.settle(Usage(input=1), Charge(nanousd=cost, basis="", snapshot=""))

    ends = await asyncio.gather(*(call() for _ in range(CALLERS)), return_exceptions=True)
    await treasury.close()
    if not all(isinstance(end, IsthmusError) and end.fault is Fault.BUDGET_SPENT for end in ends):
        raise SystemExit(f"the callers ended otherwise: {ends}")


if __name__ == "__main__":
    into = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    asyncio.run(main(Path(sys.argv[1]), into, int(sys.argv[3])))
