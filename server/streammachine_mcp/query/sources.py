"""The tables of a query, read from Redis: streams, series of candles, aggregators, dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streammachine.errors import StreamMachineError
from streammachine.redis import streams
from streammachine_mcp.argument_types import interval_ms, time_ms, timeframe
from streammachine_mcp.query.plan import OWN_FUNCTIONS, QueryError, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from streammachine.redis.connection import RedisConnection

MOST_ROWS = 5_000_000  # of all tables of one query together
LOOKED_AT = 100  # entries at either end of a range, whose fields' names are looked at
OWN_COLUMNS = ("timestamp_ms", "id", "stream")
SENT_FIELD = "sm-sent"
CANDLE_COLUMNS = ("open_ts", "open", "high", "low", "close", "volume", "quote_volume", "n_trades", "is_closed")


async def read(connection: RedisConnection, table: Table, most: int) -> pd.DataFrame:
    """The rows of one table; numbers of a stream's fields are still text.

    Args:
        most: rows that may be read.

    Raises:
        QueryError: there are more, or an argument is wrong. StreamNotFoundError, AggregatorNotFoundError and others:
            there is no such thing; they name the nearest.
    """
    try:
        if table.kind == "candles":
            return await _candles(connection, table, most)
        if table.kind == "aggregator":
            return await _aggregator(connection, *table.arguments)
        if table.kind == "dead_letters":
            return await _dead_letters(connection, table, most)
        return await _stream(connection, table.arguments[0], table.arguments[1:], table.columns, most)
    except StreamMachineError:
        raise
    except ValueError as error:
        if "more entries" in str(error):
            form = OWN_FUNCTIONS["stream" if table.kind == "stream" else table.kind]
            raise QueryError(
                f"{table.arguments[0]!r} has more entries than a query reads ({MOST_ROWS:,} in all its tables). "
                f"Give a time range: FROM {form}."
            ) from None
        raise


async def _stream(
    connection: RedisConnection, name: str, when: tuple[str, ...], columns: tuple[str, ...] | None, most: int
) -> pd.DataFrame:
    from streammachine.frames.read import read_frame

    start, end = (*when, "-", "+")[:2] if len(when) != 1 else (when[0], "+")
    wanted = None
    if columns is not None:
        known = [*OWN_COLUMNS, *await _some_fields(connection, name, start, end)]
        wanted = list(dict.fromkeys(("timestamp_ms", *_in_any_case(columns, known), *columns)))
    frame = await read_frame(name, start, end, wanted, connection, most=most)
    if wanted is None:
        return frame.drop(columns=[SENT_FIELD], errors="ignore")
    # A name that no entry has is no column: DuckDB must say so.
    missing = [each for each in frame.columns if each not in OWN_COLUMNS and not _is_there(frame, each)]
    return frame.drop(columns=missing)


async def _some_fields(connection: RedisConnection, name: str, start: str, end: str) -> list[str]:
    """The fields of the first and the newest entries, as the entries write them."""
    first, last = streams.parse_position(start), streams.parse_position(end)
    begin = await streams.read_from(connection, name, first, last, count=LOOKED_AT)
    newest = await streams.read_newest(connection, name, LOOKED_AT, end=last)
    return list(dict.fromkeys(field for entry in (*begin, *newest) for field in entry.data))


def _in_any_case(wanted: Sequence[str], known: Sequence[str]) -> list[str]:
    """Those that SQL means by the names: it does not tell ``Price`` from ``price``."""
    names = {each.lower() for each in wanted}
    return [each for each in known if each.lower() in names]


def _is_there(frame: pd.DataFrame, column: str) -> bool:
    return len(frame) == 0 or bool(frame[column].notna().any())


async def _candles(connection: RedisConnection, table: Table, most: int) -> pd.DataFrame:
    """A series: the stream and its archive, each candle once, a closed one before another."""
    import pandas as pd

    from streammachine.errors import StreamNotFoundError
    from streammachine.frames.read import read_frame
    from streammachine.market.emitters.redis import archive_of
    from streammachine.market.exchanges import adapter_for

    exchange, symbol, unit, *when = table.arguments
    adapter = adapter_for(exchange.lower(), "SPOT")
    stream = f"kline:{adapter.name}:{adapter.check_symbol(symbol)}:{timeframe(unit)}"
    first = time_ms(when[0]) if when else None
    end = time_ms(when[1]) if len(when) > 1 else None
    span = ("-" if first is None else str(first), "+" if end is None else str(end - 1))
    frames: list[pd.DataFrame] = []
    for half in (*await archive_of(connection, stream), stream):
        try:
            found = await read_frame(half, *span, CANDLE_COLUMNS, connection, most=most)
        except StreamNotFoundError:
            continue
        most -= len(found)
        frames.append(found)
    if not frames:
        known, _ = await streams.find_streams(connection, "kline:*")
        raise StreamNotFoundError(
            f"There are no candles in {stream!r}.{streams.nearest(stream, known)} runner_start or backfill_start "
            "writes some."
        )
    rows = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    rows = rows.assign(open_ts=pd.to_numeric(rows["open_ts"], errors="coerce")).dropna(subset=["open_ts"])
    rows = rows.assign(open_ts=rows["open_ts"].astype("int64"), _closed=rows["is_closed"].eq("true"))
    rows = rows.sort_values("_closed", kind="stable").drop_duplicates("open_ts", keep="last")
    if first is not None:
        rows = rows[rows["open_ts"] >= first]
    if end is not None:
        rows = rows[rows["open_ts"] < end]
    return rows.drop(columns="_closed").sort_values("open_ts", ignore_index=True)


async def _aggregator(connection: RedisConnection, name: str, symbol: str, interval: str) -> pd.DataFrame:
    import pandas as pd

    from streammachine.ohlc.durable import DurableAggregators

    aggregator = await DurableAggregators(connection).get(name)
    length = interval_ms(interval)
    rows = [_candle_row(candle, symbol, length) for candle in await aggregator.candles(symbol, length)]
    names = (
        "symbol",
        "interval_ms",
        "open_ts",
        "open",
        "high",
        "low",
        "close",
        "volume",
        "trade_count",
        "last_tick_ms",
    )
    return pd.DataFrame(rows, columns=list(names)).astype({"symbol": "object"})


def _candle_row(candle: Any, symbol: str, length: int) -> tuple[Any, ...]:
    prices = (candle.open, candle.high, candle.low, candle.close, candle.volume)
    return (symbol, length, candle.candle_start_ms, *prices, candle.trade_count, candle.timestamp_ms)


async def _dead_letters(connection: RedisConnection, table: Table, most: int) -> pd.DataFrame:
    """The dead letters of a stream: the messages' fields, and ``sm-error`` and the others as ``error``."""
    from streammachine.runtime.admin.dead_letters import DeadLetters

    letters = await DeadLetters.open(connection, table.arguments[0])
    if not await letters.count(connection):
        raise QueryError(f"There are no dead letters of {letters.stream!r}.")
    frame = await _stream(connection, letters.key, table.arguments[1:], None, most)
    own = {
        str(name): str(name).removeprefix("sm-").replace("-", "_") for name in frame.columns if str(name)[:3] == "sm-"
    }
    taken = set(map(str, frame.columns))
    return frame.rename(columns={name: short for name, short in own.items() if short not in taken})
