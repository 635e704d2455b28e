"""The view of candles: which series there are, and the rows of one with its indicators, for a live chart."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from streammachine.dashboard.board import Dashboard, cut, matching
from streammachine.errors import StreamMachineError
from streammachine.redis import streams
from streammachine.runtime.alerts.rows import Row, row_of

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

SHOWN = 300  # candles of a chart
MOST_SERIES = 500  # names that are offered
MOST_INDICATORS = 5
PRICES = ("open", "high", "low", "close", "volume")


async def candles_view(board: Dashboard, query: dict[str, str]) -> dict[str, Any]:
    """The series that there are; of the chosen one the newest candles, oldest first, with indicators.

    Of a candle's states the last one counts; the newest may still be open.
    """
    names = await board.names.get()
    series = [name for name in names if "kline:" in name and ":archive:" not in name] or [
        name for name in names if "ohlc" in name.lower() or "candle" in name.lower()
    ]
    chosen = query.get("stream", "") or next(iter(series), "")
    kept = matching(series, query)
    found: dict[str, Any] = {
        "total": len(kept),
        "first": 0,
        "rows": kept[:MOST_SERIES],
        "stream": chosen,
        "candles": [],
    }
    if not chosen:
        return found
    connection = await board.connection()
    words = [word for word in query.get("indicators", "").replace(";", " ").split() if word]
    indicators, history, problem = await _indicators(words)
    rows = await _series(connection, chosen, SHOWN + min(history, 1000))
    shown = rows[-SHOWN:]
    found["candles"] = [[row[0], *(row[2].get(name) for name in PRICES), closed] for row, closed in shown]
    if indicators and rows:
        found["lines"] = await _lines(indicators, [row for row, _ in rows], len(shown))
    if problem:
        found["note"] = problem
    return found


async def _indicators(words: list[str]) -> tuple[list[Any], int, str]:
    """The indicators that are asked for, the candles before the first shown that they need, and what is wrong."""
    if not words:
        return [], 0, ""
    import anyio.to_thread

    from streammachine.indicators import parse_all, warmup_of

    try:  # TA-Lib is loaded at the first: away from the loop
        found = await anyio.to_thread.run_sync(functools.partial(parse_all, words[:20], most=MOST_INDICATORS))
    except StreamMachineError as error:
        return [], 0, cut(error)
    return found, warmup_of(found), ""


async def _lines(indicators: list[Any], rows: list[Row], shown: int) -> list[dict[str, Any]]:
    import anyio.to_thread

    from streammachine.indicators import compute

    prices: dict[str, list[float | None]] = {name: [row[2].get(name) for row in rows] for name in PRICES}
    columns = await anyio.to_thread.run_sync(functools.partial(compute, indicators, prices, shown=shown))
    return [
        {"name": name, "on_price": each.on_price, "style": style, "values": columns[name]}
        for each in indicators
        for name, style in zip(each.columns, each.styles, strict=True)
    ]


async def _series(connection: RedisConnection, stream: str, count: int) -> list[tuple[Row, bool]]:
    """The newest candles of a stream and, where those are too few, of its archive."""
    from streammachine.market.emitters.redis import archive_of

    rows: dict[int, tuple[Row, bool]] = {}
    await _read(connection, stream, count, rows)
    if len(rows) < count:
        for half in reversed(await archive_of(connection, stream)):
            await _read(connection, half, count, rows)
            if len(rows) >= count:
                break
    if not rows:
        await streams.require_stream(connection, stream)
    return [rows[begin] for begin in sorted(rows)[-count:]]


async def _read(connection: RedisConnection, stream: str, count: int, rows: dict[int, tuple[Row, bool]]) -> None:
    for entry in reversed(await streams.read_newest(connection, stream, count)):
        row = row_of(_named(entry.data), "running")
        if row is not None and row[0] not in rows:
            rows[row[0]] = (row, entry.data.get("is_closed", "true") == "true")


def _named(data: dict[str, str]) -> dict[str, str]:
    """A FastOHLCConsumer's candles say ``candle_start_ms`` where an exchange's say ``open_ts``."""
    if "open_ts" not in data and "candle_start_ms" in data:
        return {**data, "open_ts": data["candle_start_ms"]}
    return data
