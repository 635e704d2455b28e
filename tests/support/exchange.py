"""A simulated exchange on a virtual clock, and bare clients of it: real sockets, no adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import duckdb
import httpx2
import orjson
import websockets
from websockets.asyncio.client import ClientConnection, connect

from streammachine.market.clock.clock import VirtualClock
from streammachine.market.simulator import Fault, Simulator, Tape

START = 1_723_161_240_000  # 2024-08-08 23:54 UTC, on the minute


@dataclass
class Line:
    """A socket whose frames are collected: ``heard`` holds (moment by the virtual clock, bytes)."""

    socket: ClientConnection
    clock: VirtualClock
    heard: list[tuple[int, bytes]] = field(default_factory=list)
    closed: int | None = None  # the code, 1006 where there was none
    dropped: bool = False

    async def listen(self) -> None:
        """Collect until it is closed."""
        try:
            while True:
                data = await self.socket.recv(decode=False)
                self.heard.append((self.clock.time_ms(), data))
        except websockets.ConnectionClosed as error:
            self.closed = 1006 if error.rcvd is None else error.rcvd.code

    async def say(self, message: Any) -> None:
        """Send a text as it is, anything else as JSON; then let it arrive."""
        text = message if isinstance(message, str) else orjson.dumps(message).decode()
        await self.socket.send(text)
        await self.clock.sleep(0.001)

    @property
    def messages(self) -> list[Any]:
        """Every frame that is JSON, decoded."""
        found = []
        for _, data in self.heard:
            try:
                found.append(orjson.loads(data))
            except orjson.JSONDecodeError:
                continue
        return found


@dataclass
class Market:
    """One simulated exchange."""

    exchange: str
    clock: VirtualClock
    tape: Tape
    simulator: Simulator
    _tasks: Any
    _web: httpx2.AsyncClient
    lines: list[Line] = field(default_factory=list)

    async def connect(self, path: str = "", **options: Any) -> Line:
        """Open a socket at a path of the exchange."""
        base = self.simulator.urls(self.exchange).rest.replace("http", "ws", 1)
        given = {"ping_interval": None, "compression": None, "open_timeout": None, "max_queue": None, **options}
        line = Line(await connect(base + path, **given), self.clock)
        self.lines.append(line)
        self._tasks.start_soon(line.listen)
        await self.clock.sleep(0.001)
        return line

    async def get(self, path: str, **query: Any) -> httpx2.Response:
        """Ask REST."""
        return await self._web.get(self.simulator.urls(self.exchange).rest + path, params=query or None)

    async def pass_time(self, seconds: float) -> None:
        """Let so much of the market's time go by."""
        await self.clock.sleep(seconds)


@asynccontextmanager
async def simulated(
    exchange: str,
    faults: Sequence[Fault | str] = (),
    *,
    tape: Tape | None = None,
    rules: dict[str, Any] | None = None,
    seed: int = 3,
    start: int = START,
) -> AsyncIterator[Market]:
    """Run an exchange, from the tape's start on."""
    tape = tape or Tape.generate(seed, start_ms=START)
    clock = VirtualClock(start)
    scripted = [Fault.parse(fault) if isinstance(fault, str) else fault for fault in faults]
    async with anyio.create_task_group() as tasks, httpx2.AsyncClient(timeout=None) as web:
        tasks.start_soon(clock.drive)
        async with Simulator(tape, (exchange,), clock, scripted, seed, rules={exchange: rules or {}}) as simulator:
            market = Market(exchange, clock, tape, simulator, tasks, web)
            yield market
            for line in market.lines:
                line.socket.transport.abort()
        tasks.cancel_scope.cancel()


Candle = tuple[int, str, str, str, str, str, str, int]  # start, o, h, l, c, volume, quote volume, trades: exact texts


def folded(tape: Tape, step: int, start: int, end: int, symbol: str = "BTC/USDT", offset: int = 0) -> list[Candle]:
    """The candles of [start, end) by DuckDB, exact; those without a trade are left out."""
    rows = tape.trades(symbol, start, end)
    with duckdb.connect() as database:
        database.execute("CREATE TABLE trades (id BIGINT, ts BIGINT, price DECIMAL(18, 8), size DECIMAL(18, 8))")
        columns = [
            list(column) for column in zip(*((row.id, row.ts, row.price, row.quantity) for row in rows), strict=True)
        ]
        database.execute(
            "INSERT INTO trades SELECT unnest($1::BIGINT[]), unnest($2::BIGINT[]), "
            "unnest($3::VARCHAR[])::DECIMAL(18, 8), unnest($4::VARCHAR[])::DECIMAL(18, 8)",
            columns or [[], [], [], []],
        )
        found = database.execute(
            "SELECT (ts - $2) // $1 * $1 + $2 AS start, "
            "arg_min(price, id), max(price), min(price), arg_max(price, id), "
            "sum(size), sum(price::DECIMAL(19, 8) * size::DECIMAL(19, 8)), count(*) "
            "FROM trades GROUP BY 1 ORDER BY 1",
            [step, offset],
        ).fetchall()
    return [(row[0], *(exact(value) for value in row[1:7]), row[7]) for row in found]


def exact(value: Any) -> str:
    """A number or its text, without zeros at the end."""
    text = f"{value:f}" if not isinstance(value, str) else value
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"
