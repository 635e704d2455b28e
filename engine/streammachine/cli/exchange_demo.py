"""The demo's first picture: a simulated exchange's socket to candles in a file, a broken connection included."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console

from streammachine.cli.simulated import simulated
from streammachine.cli.stream import Watch
from streammachine.market.emitters.csv import CSVEmitter
from streammachine.market.exchanges import adapter_for
from streammachine.market.live.runner import runner_for
from streammachine.market.model.data_input import DataInput
from streammachine.market.model.kline import Kline
from streammachine.market.simulator import Fault, Tape

SPEED = 120.0  # market seconds per second
MINUTES = 10  # of market
RESET_AT = 225.0  # market seconds after the start at which the exchange breaks the connection
AWAY = 40.0  # seconds for which it then takes no other, so that the end of a minute goes unseen
LONGEST = 15.0  # seconds


async def show_socket_to_candles(console: Console, trades: Path | None, folder: Path) -> dict[str, Any]:
    """Stream ``MINUTES`` of a simulated Binance at ``SPEED`` through real sockets.

    Args:
        trades: recorded trades to play; generated ones of two symbols without.

    Returns:
        ``whole``: whether no candle is missing; ``rows`` of the file, ``reconnects``, candles ``healed``.
    """
    logging.getLogger("streammachine.market").setLevel(logging.ERROR)  # that the line breaks is part of the picture
    adapter = adapter_for("binance")
    tape = None if trades is None else Tape.from_trades(trades)
    symbols = ["BTCUSDT"] if tape is not None else ["BTCUSDT", "ETHUSDT"]
    target = folder / "candles.csv"
    console.print(
        f"\n[bold]Socket to candle[/]: a simulated Binance on this machine, {SPEED:g} times as fast as the day; "
        f"it breaks the connection and takes no other for {AWAY:g} s"
    )
    starts: dict[str, list[int]] = {symbol: [] for symbol in symbols}
    faults = [Fault("reset", at=RESET_AT), Fault("refuse", at=RESET_AT, times=-1, lasts=AWAY)]
    async with simulated(adapter, symbols, speed=SPEED, seed=8, tape=tape, faults=faults) as (
        clock,
        urls,
    ):
        runner = runner_for(
            "binance",
            DataInput("kline", symbols, "1m", aggregate_list=["5m"]),
            active_warmup=True,
            ws_url=urls.ws,
            rest_url=urls.rest,
            clock=clock,
        )
        runner.register_emitter(CSVEmitter(file_path=str(target)))
        watch = Watch(runner, "binance (simulated)", None)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch.show, console)
            with anyio.move_on_after(LONGEST):
                async for row in runner.stream():
                    watch.take(row)
                    if isinstance(row, Kline) and row.timeframe == "1m":
                        starts[row.symbol].append(row.open_ts)
                    if all(len(seen) >= MINUTES for seen in starts.values()):
                        break
            await runner.close()
            tasks.cancel_scope.cancel()
        if not console.is_terminal:  # the live table was not shown
            console.print(watch.table(console))
        rows = len(target.read_text().splitlines()) - 1
    whole = all(
        len(seen) >= MINUTES and seen == list(range(seen[0], seen[0] + len(seen) * 60_000, 60_000))
        for seen in starts.values()
    )
    feed = runner.stats().feed
    if whole:
        healed = f"{feed['healed']} candle{'' if feed['healed'] == 1 else 's'}"
        console.print(
            f"[green]Every minute has its candle[/], {rows} rows in candles.csv; {feed['reconnects']} reconnects, "
            f"{healed} fetched over REST.\n"
        )
    else:
        console.print("[red]Candles are missing.[/]\n")
    return {"whole": whole, "rows": rows, "reconnects": feed.get("reconnects", 0), "healed": feed.get("healed", 0)}
