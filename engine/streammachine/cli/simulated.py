"""``--simulated``: the simulator in the process of the command, on a clock of its own."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio

from streammachine.errors import SymbolError
from streammachine.market.clock import VirtualClock
from streammachine.market.exchanges.base import Adapter, Urls

QUOTES = ("USDT", "USDC", "FDUSD", "USD", "EUR", "BTC", "ETH")
MINUTES_BEFORE = 24 * 60  # of the tape before now: for warm-up


def canonical(adapter: Adapter, symbol: str) -> str:
    """The symbol as the tape writes it, "BTC/USDT".

    Raises:
        SymbolError: no base and quote can be told in it.
    """
    checked = adapter.check_symbol(symbol)
    parts = re.split(r"[-/_]", checked)
    if len(parts) >= 2:
        return f"{parts[0]}/{parts[1]}"
    for quote in QUOTES:
        if checked.endswith(quote) and len(checked) > len(quote):
            return f"{checked[: -len(quote)]}/{quote}"
    raise SymbolError(f"{symbol!r}: the simulator cannot tell base and quote; it knows the quotes {', '.join(QUOTES)}")


@asynccontextmanager
async def simulated(
    adapter: Adapter, symbols: Sequence[str], *, speed: float | None, seed: int = 1, start_ms: int | None = None
) -> AsyncIterator[tuple[VirtualClock, Urls]]:
    """Run a simulated exchange that has the symbols; gives the clock to use and its URLs.

    Args:
        speed: market seconds per real second; None: as fast as they are worked off. start_ms: by default now.
    """
    from streammachine.market.simulator import Simulator, Tape

    now = int(time.time() * 1000) // 60_000 * 60_000 if start_ms is None else start_ms
    clock = VirtualClock(now, speed)
    tape = Tape.generate(seed, symbols=[canonical(adapter, symbol) for symbol in symbols], start_ms=now)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.drive)
        try:
            async with Simulator(tape, exchanges=(adapter.name,), clock=clock, seed=seed) as simulator:
                yield clock, simulator.urls(adapter.name, adapter.market_type)
        finally:
            tasks.cancel_scope.cancel()
