"""``streammachine inspect``: streams, groups, lag, pending and consumers, as a live table."""

from __future__ import annotations

import time
from dataclasses import dataclass

import anyio
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from streammachine.cli.shown import fitting
from streammachine.errors import StreamMachineError, StreamNotFoundError
from streammachine.redis import streams
from streammachine.redis.connection import RedisConnection
from streammachine.runtime.companions import dead_letters
from streammachine.runtime.health import group_gauges
from streammachine.runtime.roster import roster

COLUMNS = ("stream", "length", "msg/s", "dead", "group", "lag", "pending", "oldest s", "consumers", "agents")
LEFT = {"stream", "group", "agents"}
FIRST_TO_GO = ("oldest s", "agents", "consumers", "msg/s", "length", "dead")  # where the terminal is narrow
MOST_STREAMS = 200


@dataclass(frozen=True)
class Row:
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

    async def rows(self) -> tuple[list[Row], bool]:
        """A row for each group of each stream, and whether streams were left out."""
        names, more = await streams.find_streams(self._connection, self._pattern, limit=MOST_STREAMS)
        agents: dict[tuple[str, str], list[str]] = {}
        for entry in await roster(self._connection):
            for stream, group in entry.streams.items():
                shown = entry.name.partition("@")[0]
                agents.setdefault((stream, group), []).append(
                    shown if entry.status == "running" else f"{shown} ({entry.status})"
                )
        rows: list[Row] = []
        for name in names:
            try:
                rows += await self._stream(name, agents)
            except StreamNotFoundError:  # it has just been deleted
                continue
        return rows, more

    async def _stream(self, name: str, agents: dict[tuple[str, str], list[str]]) -> list[Row]:
        info = await streams.describe(self._connection, name)
        dead = await streams.length(self._connection, dead_letters(name))
        rate = self._rate(name, info.entries_added)
        if not info.groups:
            return [Row(name, info.length, rate, dead)]
        rows = []
        for group in info.groups:
            gauges = await group_gauges(self._connection, name, group.name)
            rows.append(
                Row(
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


def run_inspect(pattern: str, *, once: bool, every: float) -> int:
    """Show the table until Ctrl-C, or once; where stdout is no terminal, once and as plain columns."""
    console = Console(highlight=False)
    if not console.is_terminal:
        # A pipe has no width: what is cut off cannot be found again.
        console = Console(highlight=False, width=10_000)
        once = True
    return anyio.run(_inspect, console, pattern, once, every)


async def _inspect(console: Console, pattern: str, once: bool, every: float) -> int:
    async with RedisConnection() as connection:
        inspector = Inspector(connection, pattern)
        if once:
            rows, more = await inspector.rows()
            console.print(_table(console, rows, more, connection.name))
            return 0
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while True:
                try:
                    rows, more = await inspector.rows()
                except StreamMachineError as error:
                    live.update(Text(str(error), style="red"), refresh=True)
                else:
                    live.update(_table(console, rows, more, connection.name), refresh=True)
                await anyio.sleep(every)


def _table(console: Console, rows: list[Row], more: bool, server: str) -> Group:
    right = [name for name in COLUMNS if name not in LEFT]
    cells = [row.cells() for row in rows]
    table, left_out = fitting(console, COLUMNS, cells, folding=LEFT, right=right, first_to_go=FIRST_TO_GO)
    streams_shown = len({row.stream for row in rows})
    note = f"{streams_shown} streams on {server}"
    if more:
        note += f"; only the first {MOST_STREAMS}: narrow the pattern"
    if left_out:
        note += f"; too narrow for: {', '.join(left_out)}"
    return Group(table, Text(note))
