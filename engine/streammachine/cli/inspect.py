"""``streammachine inspect``: streams, groups, lag, pending and consumers, as a live table.

The largest lag stands first; rows that the window has no room for are counted below the others.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Literal

import anyio
from rich.console import Console, Group
from rich.text import Text

from streammachine.cli.live import Picture, console_for_tables, hidden, show_live
from streammachine.cli.shown import fitting
from streammachine.errors import StreamNotFoundError
from streammachine.redis import streams
from streammachine.redis.connection import RedisConnection
from streammachine.runtime.admin.agents import list_agents
from streammachine.runtime.delivery.gauges import group_gauges
from streammachine.runtime.delivery.keys import dead_letters

COLUMNS = ("stream", "length", "msg/s", "dead", "group", "lag", "pending", "oldest s", "consumers", "agents")
LEFT = {"stream", "group", "agents"}
FIRST_TO_GO = ("oldest s", "agents", "consumers", "msg/s", "length", "dead")  # where the terminal is narrow
MOST_STREAMS = 200

Order = Literal["lag", "pending", "oldest", "rate", "length", "dead", "name"]


@dataclass(frozen=True)
class StreamRow:
    """One group of a stream, or a stream that has none."""

    stream: str
    length: int
    rate: float | None
    dead: int
    group: str = ""
    lag: float | None = None
    pending: float | None = None
    oldest: float | None = None
    consumers: int | None = None
    agents: str = ""

    def place(self, order: Order) -> tuple[float, str, str]:
        """Where the row stands: the largest first, what has no such number last, equal ones by name."""
        number = None if order == "name" else getattr(self, order)
        return (1.0 if number is None else -number, self.stream, self.group)

    def cells(self) -> list[str]:
        """The row as text."""
        numbers = [self.lag, self.pending, self.oldest, self.consumers]
        rate = "" if self.rate is None else f"{self.rate:,.1f}"
        return [
            self.stream, f"{self.length:,}", rate, f"{self.dead:,}", self.group,
            *("" if number is None else f"{number:,.0f}" for number in numbers), self.agents,
        ]  # fmt: skip


class Inspector:
    """Looks at Redis again and again; the rate is what came between two looks."""

    def __init__(self, connection: RedisConnection, pattern: str) -> None:
        self._connection = connection
        self._pattern = pattern
        self._before: dict[str, tuple[float, int]] = {}

    async def rows(self) -> tuple[list[StreamRow], bool]:
        """A row for each group of each stream, in order of their names, and whether streams were left out."""
        names, more = await streams.find_streams(self._connection, self._pattern, limit=MOST_STREAMS)
        agents: dict[tuple[str, str], list[str]] = {}
        for entry in await list_agents(self._connection):
            for stream, group in entry.streams.items():
                shown = entry.name.partition("@")[0]
                agents.setdefault((stream, group), []).append(
                    shown if entry.status == "running" else f"{shown} ({entry.status})"
                )
        rows: list[StreamRow] = []
        for name in names:
            try:
                rows += await self._stream(name, agents)
            except StreamNotFoundError:  # it has just been deleted
                continue
        return rows, more

    async def _stream(self, name: str, agents: dict[tuple[str, str], list[str]]) -> list[StreamRow]:
        info = await streams.describe(self._connection, name)
        dead = await streams.length(self._connection, dead_letters(name))
        rate = self._rate(name, info.entries_added)
        if not info.groups:
            return [StreamRow(name, info.length, rate, dead)]
        rows = []
        for group in info.groups:
            gauges = await group_gauges(self._connection, name, group.name)
            rows.append(
                StreamRow(
                    name, info.length, rate, dead, group.name,
                    gauges.get("lag"), gauges.get("pending"), gauges.get("oldest_pending_seconds"),
                    group.consumers, ", ".join(agents.get((name, group.name), ())),
                )
            )  # fmt: skip
        return rows

    def _rate(self, name: str, added: int | None) -> float | None:
        if added is None:
            return None
        now = time.monotonic()
        before = self._before.get(name)
        self._before[name] = (now, added)
        if before is None or now - before[0] < 0.1:
            return None
        return max(0, added - before[1]) / (now - before[0])


def run_inspect(pattern: str, *, once: bool, every: float, sort: Order = "lag", as_json: bool = False) -> int:
    """Show the table until Ctrl-C, or once; where stdout is no terminal, once and as plain columns."""
    console = console_for_tables()
    return anyio.run(_inspect, console, pattern, once or not console.is_terminal, every, sort, as_json)


async def _inspect(console: Console, pattern: str, once: bool, every: float, sort: Order, as_json: bool) -> int:
    async with RedisConnection() as connection:
        inspector = Inspector(connection, pattern)
        if as_json:
            rows, _ = await inspector.rows()
            for row in sorted(rows, key=lambda row: row.place(sort)):
                print(json.dumps(asdict(row), ensure_ascii=False))  # noqa: T201
            return 0
        if once:
            rows, more = await inspector.rows()
            console.print(_table(console, rows, more, connection.name, sort))
            return 0

        async def look() -> tuple[int, Picture]:
            rows, more = await inspector.rows()
            return len(rows), lambda count: _table(console, rows, more, connection.name, sort, count)

        await show_live(console, look, every)
    return 0


def _table(
    console: Console, rows: list[StreamRow], more: bool, server: str, sort: Order = "lag", count: int | None = None
) -> Group:
    """The first ``count`` rows, or all, and what is said of the others."""
    ordered = sorted(rows, key=lambda row: row.place(sort))
    right = [name for name in COLUMNS if name not in LEFT]
    cells = [row.cells() for row in ordered[:count]]
    table, left_out = fitting(console, COLUMNS, cells, folding=LEFT, right=right, first_to_go=FIRST_TO_GO)
    note = f"{len({row.stream for row in rows})} streams on {server}, by {sort}"
    if more:
        note += f"; only the first {MOST_STREAMS} by name: narrow the pattern"
    if left_out:
        note += f"; too narrow for: {', '.join(left_out)}"
    cut = len(rows) - len(cells)
    if not cut:
        return Group(table, Text(note))
    return Group(table, hidden(cut, ", or narrow the pattern"), Text(note))
