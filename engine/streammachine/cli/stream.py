"""``streammachine stream``: an exchange's live candles into sinks, with a live table."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from streammachine.cli.arguments import StreamArguments
from streammachine.cli.ending import ended_by_sigterm
from streammachine.cli.json_lines import print_json
from streammachine.cli.shown import fitting
from streammachine.cli.single_error import single_error
from streammachine.errors import DataInputError, MarketError
from streammachine.market.emitters.sink_text import emitters_for
from streammachine.market.exchanges import adapter_for
from streammachine.market.exchanges.base import Adapter
from streammachine.market.live.runner import Runner, runner_for
from streammachine.market.model.data_input import DataInput
from streammachine.market.model.kline import Kline, Trade
from streammachine.market.model.quote import Quote

COLUMNS = ("symbol", "", "UTC", "open", "high", "low", "close", "volume", "trades", "seen")
TEXTS = 3  # columns that stand left
DISPENSABLE = ("trades", "volume", "open", "high", "low", "UTC")  # the first to go first
MOST_ROWS = 40  # of the table; the rest is counted
REFRESH = 0.25  # seconds between two pictures
SPEED = 60.0  # market seconds per second, where nothing else was asked for
LINE_PERIOD = 10.0  # seconds between two lines where stdout is no terminal


class Recording(NamedTuple):
    """The file into which all that comes is written, and whether to go on once it can take no more."""

    file: Path
    keep_going: bool = False


def run_stream(
    exchange: str,
    symbols: Sequence[str],
    wanted: StreamArguments,
    *,
    fresh: bool = False,
    record: Recording | None = None,
) -> int:
    """Stream until Ctrl-C or SIGTERM, or as long as was asked for; 0 when the sinks refused nothing.

    Args:
        fresh: do not go on where an earlier run stopped.
    """
    with ended_by_sigterm(), single_error():
        return anyio.run(_stream, Console(highlight=False), exchange, symbols, wanted, fresh, record)


async def _stream(
    console: Console,
    exchange: str,
    symbols: Sequence[str],
    wanted: StreamArguments,
    fresh: bool,
    record: Recording | None,
) -> int:
    adapter = adapter_for(exchange, wanted.market)
    data_input = DataInput(wanted.type, list(symbols), wanted.base, list(wanted.aggregate or ()), wanted.every)
    emitters = emitters_for(wanted.to or (), simulated=wanted.simulated)
    if wanted.speed is not None and not wanted.simulated:
        raise DataInputError("--speed is of the simulated market: give --simulated too")
    frames = record.file if record is not None else None
    async with _exchange(adapter, symbols, wanted) as extra:
        runner = runner_for(
            exchange,
            data_input,
            market_type=wanted.market,
            active_warmup=bool(wanted.aggregate),
            remember=not wanted.simulated and record is None,
            record=frames,
            keep_going=record is not None and record.keep_going,
            fresh=fresh,
            **extra,
        )
        for emitter in emitters:
            runner.register_emitter(emitter)
        title = adapter.source + (" (simulated)" if wanted.simulated else "")
        watch = (JsonWatch if wanted.json else Watch)(runner, title, wanted.candles, frames)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch.show, console)
                with anyio.move_on_after(wanted.seconds):
                    async for row in runner.stream():
                        watch.take(row)
                        if watch.done:
                            break
                await runner.close()
                tasks.cancel_scope.cancel()
        except anyio.get_cancelled_exc_class():  # Ctrl-C
            watch.end(console)
            raise
        watch.end(console)
    if (unrecorded := runner.stats().unrecorded) and record is not None and not record.keep_going:
        raise MarketError(unrecorded)
    return 1 if any(emitter["failed"] for emitter in runner.stats().emitters) else 0


@asynccontextmanager
async def _exchange(adapter: Adapter, symbols: Sequence[str], wanted: StreamArguments) -> AsyncIterator[dict[str, Any]]:
    """What the runner needs to reach the exchange: nothing, or the simulator's clock and URLs."""
    if not wanted.simulated:
        yield {}
        return
    from streammachine.cli.simulated import simulated

    async with simulated(adapter, symbols, speed=wanted.speed or SPEED) as (clock, urls):
        yield {
            "clock": clock,
            "ws_url": urls.ws,
            "ws_business_url": urls.ws_business,
            "rest_url": urls.rest,
            "bulk_url": urls.bulk,
        }


class Watch:
    """What has come so far, as a table. ``done``: as many closed candles as were asked for have.

    Args:
        candles: how many are asked for. record: the file into which all that comes is written.
    """

    def __init__(self, runner: Runner, title: str, candles: int | None, record: Path | None = None) -> None:
        self._record = record
        self._runner = runner
        self._title = title
        self._most = candles
        self._last: dict[tuple[str, str], Kline | Trade | Quote] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._closed = 0
        self._what = "candles"
        self._began = time.monotonic()

    @property
    def done(self) -> bool:
        """Whether the run is over."""
        return self._most is not None and self._closed >= self._most

    def take(self, row: Kline | Trade | Quote) -> None:
        """Note one row."""
        key = (row.symbol, row.timeframe if isinstance(row, Kline) else "quote" if isinstance(row, Quote) else "trade")
        self._last[key] = row
        if not isinstance(row, Kline):
            self._what = "trades" if isinstance(row, Trade) else "quotes"
        if not isinstance(row, Kline) or row.is_closed:
            self._counts[key] = self._counts.get(key, 0) + 1
            self._closed += 1

    async def show(self, console: Console) -> None:
        """Show it until cancelled: a live table, or a line now and then where there is no terminal."""
        if not console.is_terminal:
            while True:
                await anyio.sleep(LINE_PERIOD)
                console.print(self.summary())
        with Live(console=console, auto_refresh=False) as live:
            try:
                while True:
                    live.update(self.table(console), refresh=True)
                    await anyio.sleep(REFRESH)
            finally:
                live.update(self.table(console), refresh=True)

    def end(self, console: Console) -> None:
        """Show how it ended; in a terminal the live table still stands."""
        if not console.is_terminal:
            console.print(self.table(console))

    def table(self, console: Console) -> Group:
        """The last candle of each symbol and timeframe, and how the runner is."""
        rows = [_cells(key, row, self._counts.get(key, 0)) for key, row in list(self._last.items())[:MOST_ROWS]]
        table, _ = fitting(
            console, COLUMNS, rows, right=COLUMNS[TEXTS:], first_to_go=DISPENSABLE, title=self._title, tight=True
        )
        return Group(table, self.summary())

    def summary(self) -> Text:
        """One line: state, rows, rates, reconnects, gaps, and what the sinks say."""
        stats = self._runner.stats()
        feed = stats.feed
        frames = feed.get("frames", 0)
        seconds = max(time.monotonic() - self._began, 1e-3)
        parts = [
            stats.state,
            f"{self._closed:,} {self._what}",
            f"{frames:,} frames ({frames / seconds:,.0f}/s)",
            f"{feed.get('reconnects', 0)} reconnects",
            f"{feed.get('healed', 0)} healed",
            f"{stats.gap_count} gaps",
        ]
        if feed.get("bad_frames"):
            parts.append(f"{feed['bad_frames']} bad frames")
        text = Text(" · ".join(parts))
        if stats.unrecorded:
            text.append(f"\n{stats.unrecorded}", style="red")
        for emitter in stats.emitters:
            problem = emitter["last_error"] if emitter["state"] == "away" else None
            said = f"\n{emitter['name']}: {emitter['emitted']:,} written, {emitter['queued']:,} waiting"
            if emitter.get("failed"):
                said += f", {emitter['failed']:,} not written"
            text.append(said, style="red" if problem else "")
            if problem:
                text.append(f" ({problem})", style="red")
        return text


class JsonWatch(Watch):
    """A JSON object a line on stdout: each closed row as it comes, then how it ended."""

    def take(self, row: Kline | Trade | Quote) -> None:
        """Note one row, and print it unless it is a candle that is still open."""
        super().take(row)
        if not isinstance(row, Kline) or row.is_closed:
            print_json({"type": type(row).__name__.lower(), **row.model_dump()})

    async def show(self, console: Console) -> None:
        """Nothing until the end."""
        await anyio.sleep_forever()

    def end(self, console: Console) -> None:
        """The summary's figures."""
        stats = self._runner.stats()
        print_json(
            {
                "type": "summary",
                "state": stats.state,
                "rows": self._closed,
                "gaps": stats.gap_count,
                "reconnects": stats.feed.get("reconnects", 0),
                "healed": stats.feed.get("healed", 0),
                "sinks": stats.emitters,
                **({"unrecorded": stats.unrecorded} if stats.unrecorded else {}),
                **({"frames": str(self._record)} if self._record is not None else {}),
            }
        )


def _cells(key: tuple[str, str], row: Kline | Trade | Quote, count: int) -> list[str]:
    """A row of the table; narrow enough for 80 columns with prices up to 999,999.99."""
    if isinstance(row, Quote):
        moment = datetime.fromtimestamp(row.ts / 1000, UTC)
        bid, ask = ("" if price is None else f"{price:,.8g}" for price in (row.bid, row.ask))
        return [key[0], key[1], f"{moment:%H:%M:%S}", "", f"ask {ask}", f"bid {bid}", "", "", "", f"{count:,}"]
    if isinstance(row, Trade):
        moment = datetime.fromtimestamp(row.ts / 1000, UTC)
        price, volume = f"{row.price:,.8g}", f"{row.volume:,.5g}"
        return [key[0], key[1], f"{moment:%H:%M:%S}", "", "", "", price, volume, "1", f"{count:,}"]
    moment = datetime.fromtimestamp(row.open_ts / 1000, UTC)
    start = (
        f"{moment:%y-%m-%d}" if key[1][-1] in "dwM" else f"{moment:%H:%M:%S}" if key[1] == "1s" else f"{moment:%H:%M}"
    )
    prices = [f"{value:,.8g}" for value in (row.open, row.high, row.low, row.close)]
    trades = "" if row.n_trades is None else f"{row.n_trades:,}"
    mark = "" if row.is_closed else "…"
    return [key[0], key[1] + mark, start, *prices, f"{row.volume:,.5g}", trades, f"{count:,}"]
