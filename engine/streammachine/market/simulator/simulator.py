"""The simulator: exchanges that listen on this machine, over one tape, by one clock."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import anyio

from streammachine.errors import UnknownExchangeError
from streammachine.market.clock.clock import Clock, SystemClock
from streammachine.market.exchanges.base import Urls
from streammachine.market.exchanges.registry import ENTRIES, ExchangeEntry
from streammachine.market.simulator.faults.board import Board, Log
from streammachine.market.simulator.faults.fault import Fault
from streammachine.market.simulator.tape.tape import Tape
from streammachine.market.simulator.venue.exchange import Exchange
from streammachine.market.simulator.venue.transport import Connection


class Simulator:
    """Listens as some exchanges; use it as an async context manager.

    Args:
        tape: the trades that all of them saw.
        exchanges: some of the registry's, by their names.
        clock: the one source of time; for tests the client's ``VirtualClock``.
        faults: what goes wrong (``Fault`` objects, or a ``Script``); ``Fault.at`` counts from entering.
        seed: of what is drawn by chance, such as how long after its end a candle's closing frame comes.
        ports: port by exchange; by default any that is free.
        rules: fields of ``Rules`` to change, by exchange, e.g. ``{"okx": {"idle": 5.0}}``.

    Attributes:
        log: what happened, oldest first: ``LogEntry(time_ms, exchange, what, connection, detail)``.

    Raises:
        UnknownExchangeError: there is no such exchange here.
        OSError: a port is taken.
        Exception: whatever failed inside the simulator is raised when the context is left (and cancels it).
    """

    def __init__(
        self,
        tape: Tape,
        exchanges: Sequence[str] = ("binance",),
        clock: Clock | None = None,
        faults: Iterable[Fault] = (),
        seed: int = 0,
        host: str = "127.0.0.1",
        *,
        ports: Mapping[str, int] | None = None,
        rules: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        for name in exchanges:
            if name not in ENTRIES:
                raise UnknownExchangeError(
                    f"there is no exchange {name!r} to simulate: give some of {', '.join(ENTRIES)}"
                )
        self.tape = tape
        self.clock = clock if clock is not None else SystemClock()
        self.log = Log(self.clock)
        self._names = tuple(dict.fromkeys(exchanges))
        self._faults = tuple(faults)
        self._seed = seed
        self._host = host
        self._ports = dict(ports or {})
        self._classes = {name: exchange_class(ENTRIES[name]) for name in self._names}
        self._rules = {
            name: dataclasses.replace(made.usual_rules, **(rules or {}).get(name, {}))
            for name, made in self._classes.items()
        }
        self._exchanges: dict[str, Exchange] = {}
        self._servers: list[asyncio.Server] = []
        self._stack = AsyncExitStack()
        self._failure: Exception | None = None

    async def __aenter__(self) -> Self:
        try:
            for name in self._names:
                await self._listen(name)
        except BaseException:
            await self._close()
            raise
        self._failed = anyio.Event()
        tasks = await self._stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(self._watch)
        self._tasks = tasks
        for exchange in self._exchanges.values():
            exchange.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        with anyio.CancelScope(shield=True):
            await self._close()
        self._tasks.cancel_scope.cancel()
        if self._failure is None:  # the body's own error passes as it is, not in a group
            await self._stack.__aexit__(None, None, None)
            return None
        try:
            await self._stack.__aexit__(kind, error, trace)
        except BaseExceptionGroup:
            raise self._failure from None
        return None

    async def _listen(self, name: str) -> None:
        board = Board(self._faults, name, self.clock, self.log)
        exchange = self._classes[name](
            self.tape, self.clock, board, self.log, self._rules[name], self._seed, self._fail
        )
        loop = asyncio.get_running_loop()
        port = self._ports.get(name, 0)
        server = await loop.create_server(lambda: Connection(exchange), self._host, port)
        self._servers.append(server)
        self._exchanges[name] = exchange
        self._ports[name] = server.sockets[0].getsockname()[1]
        self.log.add(name, "listen", f"{self._host}:{self._ports[name]}")

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for exchange in self._exchanges.values():
            exchange.stop()
        while connections := [one for exchange in self._exchanges.values() for one in exchange.connections]:
            for connection in connections:  # one may have been on its way when the server was closed
                connection.end()
            await anyio.lowlevel.checkpoint()  # the loop calls connection_lost in its next turns
        for server in self._servers:
            await server.wait_closed()

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
            self._failed.set()

    async def _watch(self) -> None:
        await self._failed.wait()
        if self._failure is not None:
            raise self._failure

    # -- for clients --

    def urls(self, exchange: str, market_type: str = "SPOT") -> Urls:
        """The base URLs, as an adapter of this exchange takes them; the same for every kind of market."""
        place = f"{self._host}:{self._ports[exchange]}"
        made = self._classes[exchange]
        socket, second = made.paths
        bulk = f"http://{place}" if made.has_bulk_files else ""
        return Urls(f"ws://{place}{socket}", f"http://{place}", f"ws://{place}{second}", bulk)

    def environment(self) -> dict[str, str]:
        """The variables that point every client of this package at the simulator, and at its time."""
        found = {"STREAMMACHINE_CLOCK_URL": f"{self.urls(self._names[0]).rest}/clock"}
        for name in self._names:
            urls = self.urls(name)
            variables = ENTRIES[name].url_variables
            found[variables["ws"]] = urls.ws
            if urls.ws_business != urls.ws:
                found[variables["ws_business"]] = urls.ws_business
            found[variables["rest"]] = urls.rest
            if urls.bulk:
                found[variables["bulk"]] = urls.bulk
        return found

    def symbol(self, exchange: str, symbol: str, market_type: str = "SPOT") -> str:
        """A tape symbol ("BTC/USDT") as the exchange writes it."""
        return self._exchanges[exchange].native(symbol, market_type)

    def sockets(self, exchange: str) -> int:
        """How many sockets are open."""
        return len(self._exchanges[exchange].sessions)

    def inject(self, fault: Fault) -> None:
        """Let a fault happen that was not in the script; one that comes at a moment comes now."""
        for exchange in self._exchanges.values():
            if fault.exchange in (None, exchange.name):
                moved = dataclasses.replace(fault, at=exchange.board.elapsed())
                exchange.board.add(moved)
                exchange.trigger(moved)


def exchange_class(entry: ExchangeEntry) -> type[Exchange]:
    """The class of an exchange's simulator half; its module is loaded now."""
    module = importlib.import_module(f"streammachine.market.simulator.protocols.{entry.name}")
    made: type[Exchange] = getattr(module, entry.simulator)
    return made
