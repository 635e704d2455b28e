"""``streammachine demo``: a simulated exchange's socket to candles, then trades into a stream and the stream into
candles through the real MCP server.

It runs on a private embedded Valkey in a temporary folder, never on the user's Redis, and leaves nothing behind but the
chart that it ends with.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from streammachine.cli.exchange_demo import show_socket_to_candles
from streammachine.cli.json_lines import print_json
from streammachine.cli.peer import call, call_for_picture, open_server, private_environment
from streammachine.cli.single_error import single_error
from streammachine.cli.terminal_picture import escape_sequence, protocol_of
from streammachine.cli.trades import DemoTrade, generated, recorded
from streammachine.errors import StreamMachineError
from streammachine.settings import Settings

if TYPE_CHECKING:
    from fastmcp import Client

BATCH = 1000
INTERVALS = {"1m": 60_000, "5m": 300_000}
AGGREGATOR = "demo"
ROWS = 10
Tell = Callable[[Mapping[str, Any]], None]  # is given what a program reads
CHARTED = 60  # the most candles of the picture


def run_demo(trades: Path | None, count: int | None, chart: Path, *, as_json: bool = False) -> int:
    """Run the demo; 0 when every trade that went in is in the candles.

    Args:
        trades: recorded trades to play; generated ones without.
        count: how many of them.
        chart: where the picture of the candles is written. as_json: print lines for programs instead.
    """
    console = Console(highlight=False, file=io.StringIO() if as_json else None)
    tell = print_json if as_json else _nobody
    if trades is None:
        source = list(generated(count or Settings().records))
        origin = f"{len(source):,} generated trades (a seeded random walk)"
    else:
        source = list(islice(recorded(trades), count))
        origin = f"{len(source):,} recorded trades"
    if not source:
        raise StreamMachineError(f"{trades} holds no trade.")
    console.print(f"[bold]StreamMachine demo[/]: {origin}")
    with _private_folder() as folder:
        with single_error():
            seen = anyio.run(show_socket_to_candles, console, trades, folder)
        tell({"type": "socket", **seen})
        complete = anyio.run(_demo, console, source, folder, chart, tell)
    return 0 if complete and seen["whole"] else 1


def _nobody(line: Mapping[str, Any]) -> None:
    """Where a person reads, lines for programs go nowhere."""


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A temporary folder; no Valkey on it outlives the block, even if the MCP server was killed."""
    from streammachine.redis.embedded.server import EmbeddedServer

    with tempfile.TemporaryDirectory(prefix="sm-demo-", ignore_cleanup_errors=True) as folder:
        try:
            yield Path(folder)
        finally:
            left = EmbeddedServer.running(Path(folder) / "data")
            if left is not None:
                left.release()


async def _demo(console: Console, source: list[DemoTrade], folder: Path, chart: Path, tell: Tell) -> bool:
    began = time.perf_counter()
    symbol = source[0].symbol
    async with open_server(private_environment(folder / "data"), folder / "server.log") as client:
        with console.status("Starting the MCP server"):
            health = await call(client, "health_check")
        console.print(
            f"MCP server started over stdio in {time.perf_counter() - began:.1f} s; "
            f"Redis: {health['redis']} ({health.get('origin', 'none')})"
        )
        created = await call(client, "ohlc_create", name=AGGREGATOR, intervals=list(INTERVALS.values()))
        played = time.perf_counter()
        ticks = await _play(console, client, f"trades:demo:{symbol}", source)
        seconds = time.perf_counter() - played
        complete = ticks == len(source)
        for label, interval in INTERVALS.items():
            candles = await _candles(client, symbol, interval)
            complete &= sum(candle["trade_count"] for candle in candles) == len(source)
            _show(console, f"{symbol} {label}", candles)
            tell({"type": "candles", "symbol": symbol, "timeframe": label, "candles": candles})
        stats = await call(client, "ohlc_stats", name=AGGREGATOR)
        console.print(
            f"\n{stats['tick_count']:,} ticks into the stream, out of it and into candles ({created['implementation']}"
            f" engine)\nthrough MCP tools in {seconds:.1f} s: [bold]{ticks / seconds:,.0f} ticks/s[/]"
        )
        health = await call(client, "health_check")
        console.print(
            f"Health: {health['status']}; Redis {health['redis']}, {health.get('latency_ms', '?')} ms; "
            f"embedded Valkey, fsync {health.get('embedded', {}).get('fsync', '?')}"
        )
        console.print("[green]Every trade is in the candles.[/]" if complete else "[red]Trades are missing.[/]")
        drawn, problem = await _draw(console, client, symbol, chart)
        tell(
            {
                "type": "summary", "trades": len(source), "ticks": ticks, "seconds": round(seconds, 3),
                "complete": complete, "implementation": created["implementation"], "health": health,
                "chart": drawn, "chart_problem": problem,
            }
        )  # fmt: skip
    return complete


async def _play(console: Console, client: Client[Any], stream: str, source: list[DemoTrade]) -> int:
    """Send the trades to the stream, batch by batch, and aggregate what the stream then holds; gives the ticks."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    cursor, ticks = "-", 0
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("trades -> stream -> candles", total=len(source))
        for start in range(0, len(source), BATCH):
            messages = [_message(trade) for trade in source[start : start + BATCH]]
            await call(client, "stream_send_batch", stream=stream, messages=messages)
            more = True
            while more:
                page = await call(client, "stream_read", stream=stream, start=cursor, count=BATCH)
                if page["messages"]:
                    await call(client, "ohlc_update", name=AGGREGATOR, ticks=_ticks(page["messages"]))
                    ticks += page["count"]
                    progress.update(bar, completed=ticks)
                cursor, more = page["next_cursor"], page["truncated"]
    return ticks


def _message(trade: DemoTrade) -> dict[str, Any]:
    """The fields of a market trade as they stand in a ``trades:`` stream."""
    return {"source": "demo", **trade._asdict()}


def _ticks(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "symbol": fields["symbol"],
            "price": float(fields["price"]),
            "volume": float(fields["volume"]),
            "timestamp_ms": int(fields["ts"]),
        }
        for fields in (message["data"] for message in messages)
    ]


async def _candles(client: Client[Any], symbol: str, interval: int) -> list[dict[str, Any]]:
    """All candles, oldest first; the tool gives them in pages, the newest first."""
    candles: list[dict[str, Any]] = []
    end = 0
    while True:
        page = await call(
            client,
            "ohlc_get_candles",
            name=AGGREGATOR,
            symbol=symbol,
            interval_ms=interval,
            limit=1000,
            end_ms=end,
            format="rows",
        )
        candles = page["candles"] + candles
        if not page["truncated"]:
            return candles
        end = candles[0]["candle_start_ms"]


async def _draw(console: Console, client: Client[Any], symbol: str, chart: Path) -> tuple[str | None, str | None]:
    """Write the picture that ``candles_chart`` gives to a chat, and show it where the terminal can.

    Returns:
        Where it is, and why there is none.
    """
    with console.status("Drawing the candles"):
        summary, png = await call_for_picture(
            client, "candles_chart", name=AGGREGATOR, symbol=symbol, interval=INTERVALS["1m"], limit=CHARTED
        )
    if png is None:
        problem = str(summary.get("picture_problem", "the tool gave no picture"))
        console.print(f"No chart: {problem}", soft_wrap=True)
        return None, problem
    return _keep(console, chart, png)


def _keep(console: Console, chart: Path, png: bytes) -> tuple[str | None, str | None]:
    """Write the picture; gives where it is, and why it is nowhere."""
    place: str | None = None
    problem: str | None = None
    try:
        chart.write_bytes(png)
    except OSError as error:
        console.print(f"The chart could not be written: {error}", soft_wrap=True, markup=False)
        problem = str(error)
    else:
        place = str(chart.absolute())
        console.print(f"The chart that a chat is given: {place}", soft_wrap=True, markup=False)
    protocol = protocol_of(os.environ) if console.is_terminal else None
    if protocol is not None:
        console.file.write(escape_sequence(png, protocol))
        console.file.flush()
    return place, problem


def _show(console: Console, title: str, candles: list[dict[str, Any]]) -> None:
    shown = candles[-ROWS:]
    which = f", the last {ROWS} of {len(candles):,} candles" if len(candles) > ROWS else f", {len(candles)} candles"
    # Narrow enough for 80 columns with prices up to 999,999.99.
    table = Table(title=f"{title}{which}", title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 0))
    table.add_column("start (UTC)", no_wrap=True)
    for name in ("open", "high", "low", "close", "volume", "trades"):
        table.add_column(name, justify="right", no_wrap=True)
    for candle in shown:
        start = datetime.fromtimestamp(candle["candle_start_ms"] / 1000, UTC)
        table.add_row(
            start.strftime("%m-%d %H:%M"),
            *(f"{candle[name]:,.2f}" for name in ("open", "high", "low", "close")),
            f"{candle['volume']:,.3f}",
            f"{candle['trade_count']:,}",
        )
    console.print()
    console.print(table)
