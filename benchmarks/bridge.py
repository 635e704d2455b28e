"""What our ledgers cost behind ccxt: frames through ccxt's own handler alone, and on to a sink.

    python -m benchmarks.bridge [--frames 20000] [--rounds 7] [--json]

"ccxt" gives each frame to the exchange object's ``handle_message``, awaits the future that ``watch_ohlcv`` awaits, and
takes what that returns: all but the socket. "bridged" gives that to the feed and the pipeline too, which hand on every
state of every candle. The two in turns, by the processor's time; quote the ratio. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

import orjson

from benchmarks.market import Core, RawConnection, binance, floor_binance
from benchmarks.measuring import Row, keep, median_ratio, table

ROUNDS = 7


def main(argv: list[str] | None = None) -> None:
    """Measure; print a table, or with ``--json`` the rows."""
    parser = argparse.ArgumentParser(description="Frames through ccxt, and through our ledgers behind it.")
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(argv)
    found = {"bridge": asyncio.run(bridge(options.frames, options.rounds))}
    keep(found)
    print(json.dumps(found, indent=2) if options.json else table(found["bridge"]))


async def bridge(count: int, rounds: int) -> list[Row]:
    """The cost of one frame on both roads, in turns."""
    own = RawConnection("Binance", "binance", lambda number: f"COIN{number}USDT", binance, floor_binance)
    stamped = list(own.frames(count))
    road = RawConnection("ccxt", "ccxt:binance", lambda number: f"COIN{number}/USDT", binance, floor_binance)
    exchange, client = _exchange([f"COIN{number}" for number in range(50)])
    cores = [Core(road) for _ in range(rounds + 1)]  # not a part of a frame's cost
    runs: dict[str, Callable[[], Awaitable[int]]] = {
        "ccxt": lambda: bare(exchange, client, stamped),
        "bridged": lambda: bridged(exchange, client, stamped, cores.pop()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            exchange.ohlcvs = {}
            began = time.process_time()
            rows = await run()
            took = time.process_time() - began
            if rows < count:
                raise RuntimeError(f"{count} frames, and {rows} rows came out of {name}")
            if number:  # the first round warms up
                seconds[name].append(took)
    await exchange.close()
    us = min(seconds["ccxt"]) / count * 1e6
    return [{"frames": "Binance", "ccxt us": us, "bridged x ccxt": median_ratio(seconds["bridged"], seconds["ccxt"])}]


async def bare(exchange: Any, client: Any, stamped: Sequence[tuple[int, bytes]]) -> int:
    """ccxt alone."""
    rows = 0
    for _, frame in stamped:
        rows += len((await _heard(exchange, client, frame))[1])
    return rows


async def bridged(exchange: Any, client: Any, stamped: Sequence[tuple[int, bytes]], core: Core) -> int:
    """ccxt, and our feed and pipeline behind it."""
    rows = now = 0
    for moment, frame in stamped:
        if moment != now:
            now = moment
            rows += len(core.tick(now))
        symbol, made = await _heard(exchange, client, frame)
        rows += len(core.process(core.take((symbol, "1m", made), now)))  # type: ignore[arg-type]
    return rows


async def _heard(exchange: Any, client: Any, frame: bytes) -> tuple[str, list[Any]]:
    """What ``watch_ohlcv`` returns for a frame: the candle that it changed."""
    message = orjson.loads(frame)  # ccxt takes orjson too, where it is there
    symbol = f"{message['s'].removesuffix('USDT')}/USDT"
    future = client.future(f"ohlcv::{symbol}::1m")
    exchange.handle_message(client, message)
    _, _, candles = await future
    return symbol, exchange.filter_by_since_limit(candles, None, candles.getLimit(symbol, None), 0, True)


def _exchange(coins: Sequence[str]) -> tuple[Any, Any]:
    """ccxt's Binance with the coins as markets, and a connection that resolves nothing."""
    import ccxt.pro

    exchange = ccxt.pro.binance()
    exchange.set_markets(
        [
            exchange.safe_market_structure(
                {"id": f"{coin}USDT", "symbol": f"{coin}/USDT", "base": coin, "quote": "USDT", "baseId": coin}
                | {"quoteId": "USDT", "type": "spot", "spot": True, "active": True}
                | {"precision": {"price": 0.01, "amount": 0.0001}, "limits": {}}
            )
            for coin in coins
        ]
    )

    return exchange, exchange.client("wss://stream.binance.com:9443/ws/stream")


if __name__ == "__main__":
    main()
