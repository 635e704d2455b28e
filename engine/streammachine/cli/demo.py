"""``streammachine demo``: trades into a stream, the stream into candles, all through the real MCP server.

It runs on a private embedded Valkey in a temporary folder, never on the user's Redis, and leaves nothing behind.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from streammachine.cli.peer import call, private_environment, server_client
from streammachine.cli.trades import DemoTrade, generated, recorded

if TYPE_CHECKING:
    from fastmcp import Client

GENERATED = 20_000
BATCH = 1000
INTERVALS = {"1m": 60_000, "5m": 300_000}
AGGREGATOR = "demo"
ROWS = 10


def run_demo(trades: Path | None, count: int | None) -> int:
    """Run the demo; 0 when every trade that went in is in the candles."""
    console = Console()
    if trades is None:
        source = list(generated(count or GENERATED))
        origin = f"{len(source):,} generated trades (seeded random walk, not market data)"
    else:
        source = list(recorded(trades))[:count]
        origin = f"{len(source):,} recorded trades of {trades.name}"
    console.print(f"[bold]StreamMachine demo[/]: {origin}")
    with tempfile.TemporaryDirectory(prefix="sm-demo-", ignore_cleanup_errors=True) as folder:
        return anyio.run(_demo, console, source, Path(folder))


async def _demo(console: Console, source: list[DemoTrade], folder: Path) -> int:
    if not source:
        console.print("There is no trade to play.")
        return 1
    began = time.perf_counter()
    symbol = source[0].symbol
    stream = f"trades:demo:{symbol}"
    async with server_client(private_environment(folder / "data"), folder / "server.log") as client:
        health = await call(client, "health_check")
        console.print(
            f"MCP server started over stdio in {time.perf_counter() - began:.2f} s; "
            f"Redis: {health['redis']} ({health.get('origin', 'none')})"
        )
        created = await call(client, "ohlc_create", name=AGGREGATOR, intervals=list(INTERVALS.values()))
        played = time.perf_counter()
        ticks = await _play(console, client, stream, source)
        seconds = time.perf_counter() - played
        for label, interval in INTERVALS.items():
            await _show(console, client, symbol, label, interval)
        stats = await call(client, "ohlc_stats", name=AGGREGATOR)
        console.print(
            f"{ticks:,} ticks: sent to the stream, read back and aggregated ({created['implementation']} engine) through "
            f"MCP tools in {seconds:.2f} s = [bold]{ticks / seconds:,.0f} ticks/s[/]"
        )
        health = await call(client, "health_check")
        embedded = health.get("embedded", {})
        console.print(
            f"Health: {health['status']}, Redis {health['redis']} in {health.get('latency_ms', '?')} ms, "
            f"embedded Valkey with fsync {embedded.get('fsync', '?')}; late ticks: {stats['late_count']}"
        )
    complete = stats["tick_count"] == len(source) == ticks
    console.print("[green]Every trade is in the candles.[/]" if complete else "[red]Trades are missing.[/]")
    return 0 if complete else 1


async def _play(console: Console, client: Client[Any], stream: str, source: list[DemoTrade]) -> int:
    """Send the trades to the stream, batch by batch, and aggregate what the stream then holds."""
    cursor, ticks = "-", 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("trades -> stream -> candles", total=len(source))
        for start in range(0, len(source), BATCH):
            batch = source[start : start + BATCH]
            await call(client, "stream_send_batch", stream=stream, messages=[_message(trade) for trade in batch])
            while True:
                page = await call(client, "stream_read", stream=stream, start=cursor, count=BATCH)
                if page["messages"]:
                    await call(client, "ohlc_update", name=AGGREGATOR, ticks=_ticks(page["messages"]))
                    ticks += page["count"]
                    progress.update(bar, completed=ticks)
                cursor = page["next_cursor"]
                if not page["truncated"]:
                    break
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


async def _show(console: Console, client: Client[Any], symbol: str, label: str, interval: int) -> None:
    page = await call(client, "ohlc_get_candles", name=AGGREGATOR, symbol=symbol, interval_ms=interval, limit=ROWS)
    title = f"{symbol} {label}" + (f", the newest {ROWS}" if page["truncated"] else "") + " (times are UTC)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("start", no_wrap=True)
    for name in ("open", "high", "low", "close", "volume", "trades"):
        table.add_column(name, justify="right", no_wrap=True)
    for candle in page["candles"]:
        start = datetime.fromtimestamp(candle["candle_start_ms"] / 1000, UTC)
        table.add_row(
            start.strftime("%m-%d %H:%M"),
            *(f"{candle[name]:,.2f}" for name in ("open", "high", "low", "close")),
            f"{candle['volume']:,.4f}",
            f"{candle['trade_count']:,}",
        )
    console.print(table)
