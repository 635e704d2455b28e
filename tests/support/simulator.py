"""A simulated exchange outside the test's own event loop: for servers and commands that tests start."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from streammachine.market.clock.clock import ScaledClock
from streammachine.market.simulator import Fault, Simulator, Tape

START = 1_753_000_020_000  # 2025-07-20 08:27 UTC, on the minute


@dataclass
class Exchange:
    """A simulator that runs in a thread, and the environment that points clients at it and its clock."""

    simulator: Simulator
    tape: Tape
    clock: ScaledClock
    env: dict[str, str]


@contextmanager
def exchange(
    *names: str,
    speed: float = 60.0,
    symbols: Sequence[str] = ("BTC/USDT", "ETH/USDT"),
    faults: Sequence[Fault] = (),
    start_ms: int = START,
) -> Iterator[Exchange]:
    """Run the simulator in a thread of its own, ``speed`` times as fast as the day, from ``start_ms`` on."""
    ready: threading.Event = threading.Event()
    found: list[Exchange] = []
    failed: list[BaseException] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        clock = ScaledClock(speed, start_ms)
        tape = Tape.generate(7, symbols=symbols, start_ms=start_ms)
        async with Simulator(tape, exchanges=names, clock=clock, faults=faults) as simulator:
            rest = simulator.urls(names[0]).rest
            env = {**simulator.environment(), "STREAMMACHINE_CLOCK_URL": f"{rest}/clock"}
            found.append(Exchange(simulator, tape, clock, env))
            ready.set()
            await stop.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=run, name="simulator", daemon=True)
    thread.start()
    ready.wait(30)
    if failed:
        raise failed[0]
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
    if failed:
        raise failed[0]
