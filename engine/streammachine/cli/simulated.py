"""``--simulated``: the simulator in the process of the command, on a clock of its own."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from streammachine.errors import SymbolError
from streammachine.market.clock.clock import VirtualClock
from streammachine.market.exchanges.base import Adapter, Urls
from streammachine.market.exchanges.spelling import is_common
from streammachine.market.model.pair import parse_pair

if TYPE_CHECKING:
    from streammachine.market.simulator import Fault, Tape

QUOTES = ("USDT", "USDC", "FDUSD", "USD", "EUR", "BTC", "ETH")


def canonical(adapter: Adapter, symbol: str) -> str:
    """The symbol as the tape writes it, "BTC/USDT".

    Raises:
        SymbolError: no base and quote can be told in it.
    """
    pair = parse_pair(symbol) if is_common(adapter, symbol) else None
    if pair is not None:
        return f"{pair.base}/{pair.quote}"
    checked = adapter.check_symbol(symbol)
    checked = checked.partition("_")[0]  # BTCUSD_PERP
    parts = re.split(r"[-/]", checked)
    if len(parts) >= 2:
        return f"{parts[0]}/{parts[1]}"
    for quote in QUOTES:
        if checked.endswith(quote) and len(checked) > len(quote):
            return f"{checked[: -len(quote)]}/{quote}"
    raise SymbolError(f"{symbol!r}: the simulator cannot tell base and quote; it knows the quotes {', '.join(QUOTES)}")


@asynccontextmanager
async def simulated(
    adapter: Adapter,
    symbols: Sequence[str],
    *,
    speed: float | None,
    seed: int = 1,
    tape: Tape | None = None,
    faults: Sequence[Fault] = (),
) -> AsyncIterator[tuple[VirtualClock, Urls]]:
    """Run a simulated exchange that has the symbols; gives the clock to use and its URLs.

    Args:
        speed: market seconds per real second; None: as fast as they are worked off.
        tape: what is traded, from its start on; by default it is generated from ``seed``, from now on.
        faults: what goes wrong.
    """
    from streammachine.market.simulator import Simulator, Tape

    if tape is None:
        now = int(time.time() * 1000) // 60_000 * 60_000
        tape = Tape.generate(seed, symbols=[canonical(adapter, symbol) for symbol in symbols], start_ms=now)
    clock = VirtualClock(tape.start_ms, speed)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.drive)
        try:
            async with Simulator(tape, (adapter.name,), clock, faults, seed) as simulator:
                yield clock, simulator.urls(adapter.name, adapter.market_type)
        finally:
            tasks.cancel_scope.cancel()
