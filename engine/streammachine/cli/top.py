"""``streammachine top``: runners, backfills and agents together, as a live table.

What has a problem stands first, then what is furthest behind.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import anyio
from rich.console import Console, Group
from rich.text import Text

from streammachine.cli.live import Picture, console_for_tables, hidden, show_live
from streammachine.cli.shown import fitting
from streammachine.redis.connection import RedisConnection
from streammachine.runtime.admin.agents import AgentEntry, gauges, list_agents
from streammachine.runtime.admin.remembered import BACKFILLS, RUNNERS, SILENT, BackfillSpec, RememberedJobs, RunnerSpec

COLUMNS = ("kind", "name", "state", "rate/s", "done", "behind", "age s", "errors", "procs", "what is wrong")
LEFT = {"kind", "name", "state", "what is wrong"}
FIRST_TO_GO = ("procs", "age s", "errors", "done", "kind")  # where the terminal is narrow
WRONG = {"lost", "failed", "failing"}


@dataclass(frozen=True)
class TopRow:
    """A runner, a backfill or an agent.

    Attributes:
        rate: rows or messages a second. done: rows written, messages acknowledged. behind: messages to come and under
            way; of a runner the gaps. age: seconds since the last closed candle began, or of the oldest message under
            way. errors: messages that failed; of a runner reconnects. processes: that run it.
    """

    kind: str
    name: str
    state: str
    rate: float | None = None
    done: float | None = None
    behind: float | None = None
    age: float | None = None
    errors: float | None = None
    processes: int | None = None
    problem: str = ""

    @property
    def place(self) -> tuple[bool, float, str, str]:
        """Where the row stands."""
        return (self.state not in WRONG and not self.problem, -(self.behind or 0), self.kind, self.name)

    def cells(self) -> list[str]:
        """The row as text."""
        numbers = (self.done, self.behind, self.age, self.errors, self.processes)
        return [
            self.kind, self.name, self.state, "" if self.rate is None else f"{self.rate:,.1f}",
            *("" if number is None else f"{number:,.0f}" for number in numbers), self.problem,
        ]  # fmt: skip


async def top_rows(connection: RedisConnection) -> list[TopRow]:
    """A row each, what needs a look first.

    Raises:
        RedisUnavailableError: Redis does not answer.
    """
    rows = [await _agent(connection, entry) for entry in await list_agents(connection)]
    rows += await _hosted(connection, RUNNERS, "runner")
    rows += await _hosted(connection, BACKFILLS, "backfill")
    return sorted(rows, key=lambda row: row.place)


async def _agent(connection: RedisConnection, entry: AgentEntry) -> TopRow:
    behind, age = 0.0, 0.0
    for stream, group in entry.streams.items():
        found = await gauges(connection, stream, group)
        behind += found.get("lag", 0) + found.get("pending", 0) + found.get("delayed", 0)
        age = max(age, found.get("oldest_pending_seconds", 0))
    counted = entry.counted()
    kind = "candles" if entry.kind == "candles" else "agent"
    return TopRow(
        kind, entry.name, entry.status, counted["rate"], counted.get("consumed"), behind, age or None,
        counted.get("failed"), entry.processes, entry.problem,
    )  # fmt: skip


async def _hosted(
    connection: RedisConnection, remembered: RememberedJobs[RunnerSpec] | RememberedJobs[BackfillSpec], kind: str
) -> list[TopRow]:
    statuses = await remembered.statuses(connection)
    rows = []
    for name in await remembered.all(connection):
        status = statuses.get(name, {"state": "waiting"})
        state, problem = str(status.get("state")), str(status.get("problem", ""))
        silent = status.get("silent_s", 0.0)
        if silent > SILENT and state not in ("done", "failed"):
            state, problem = "lost", f"no word from its host for {silent:.0f} s"
        fraction = _number(status, "fraction")
        if fraction is not None and state == "running":
            state = f"running {fraction:.0%}"
        rows.append(
            TopRow(
                kind, name, state, _number(status, "rate"), _number(status, "rows"),
                _number(status, "gaps"), _age(status), _number(status, "reconnects"), None, problem,
            )
        )  # fmt: skip
    return rows


def _age(status: dict[str, Any]) -> float | None:
    """Seconds since the newest of the last candles began."""
    last = status.get("last")
    times = (
        [each["open_ts"] for each in last if isinstance(each, dict) and "open_ts" in each]
        if isinstance(last, list)
        else []
    )
    return max(0.0, time.time() - max(times) / 1000) if times else None


def _number(status: dict[str, Any], name: str) -> float | None:
    value = status.get(name)
    if isinstance(value, list):
        return len(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def run_top(*, once: bool, every: float, as_json: bool) -> int:
    """Show the table until Ctrl-C, or once; where stdout is no terminal, once and as plain columns."""
    console = console_for_tables()
    return anyio.run(_top, console, once or not console.is_terminal, every, as_json)


async def _top(console: Console, once: bool, every: float, as_json: bool) -> int:
    async with RedisConnection() as connection:
        if as_json:
            for row in await top_rows(connection):
                print(json.dumps(asdict(row), ensure_ascii=False))  # noqa: T201
            return 0
        if once:
            console.print(_table(console, await top_rows(connection), connection.name, None))
            return 0

        async def look() -> tuple[int, Picture]:
            rows = await top_rows(connection)
            return len(rows), lambda count: _table(console, rows, connection.name, count)

        await show_live(console, look, every)
    return 0


def _table(console: Console, rows: list[TopRow], server: str, count: int | None) -> Group:
    if not rows:
        hint = "Start one: streammachine run app.py:app, or ask the MCP tools for a runner (runner_start)."
        return Group(Text(f"No runner, backfill or agent on {server}."), Text(hint))
    cells = [row.cells() for row in rows[:count]]
    right = [name for name in COLUMNS if name not in LEFT]
    table, left_out = fitting(console, COLUMNS, cells, folding=LEFT, right=right, first_to_go=FIRST_TO_GO)
    note = f"{len(rows)} on {server}; what has a problem first, then what is furthest behind"
    if left_out:
        note += f"; too narrow for: {', '.join(left_out)}"
    cut = len(rows) - len(cells)
    return Group(table, *([hidden(cut)] if cut else []), Text(note))
