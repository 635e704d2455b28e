"""Candles of exchanges that stand in Redis, as rows: a series is the stream of a runner and its archive."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from streammachine.errors import StreamNotFoundError
from streammachine.redis import streams

if TYPE_CHECKING:  # the market room and the connection are loaded by the first call that needs them
    from streammachine.redis.connection import RedisConnection

NUMBERS = ("open_ts", "open", "high", "low", "close", "volume", "quote_volume", "n_trades")
COLUMNS = (*NUMBERS, "is_closed", "is_complete")
_CLOSED = COLUMNS.index("is_closed")
_NUMBER = re.compile(r"[+-]?(\d{1,400}\.?\d{0,400}|\.\d{1,400})([eE][+-]?\d{1,4})?", re.ASCII)


async def read_series(
    connection: RedisConnection, stream: str, start: int | None, end: int | None, limit: int
) -> tuple[list[list[Any]], bool, int]:
    """The candles of a series that are asked for, from the stream and its archive, oldest first, each once.

    Args:
        stream: ``kline:{exchange}:{symbol}:{timeframe}``.
        start, end: epoch ms of the first candle's beginning, and of the first not wanted. With no start the newest
            before the end are given.
        limit: most rows.

    Returns:
        Rows of ``COLUMNS``; of a candle's states the closed one, else the last. Whether there are more. How many
        entries were no candles.

    Raises:
        StreamNotFoundError: there is no such stream; it names the nearest.
    """
    from streammachine.market.emitters.redis import archive_of

    archive = await archive_of(connection, stream)
    if not archive:
        return await _candles(connection, stream, start, end, limit)
    rows: dict[int, list[Any]] = {}
    more, left_out = False, 0
    for half in (*archive, stream):
        try:
            found, cut, invalid = await _candles(connection, half, start, end, limit)
        except StreamNotFoundError:
            continue  # one half may have been deleted
        more, left_out = more or cut, left_out + invalid
        for row in found:
            if row[0] not in rows or row[_CLOSED]:
                rows[row[0]] = row
    if not rows and not await exists(connection, stream, *archive):
        return await _candles(connection, stream, start, end, limit)  # which says that there is none
    ordered = [rows[open_ts] for open_ts in sorted(rows)]
    kept = ordered[:limit] if start is not None else ordered[-limit:]
    return kept, more or len(kept) < len(ordered), left_out


async def history(
    connection: RedisConnection, stream: str, rows: Sequence[Sequence[Any]], count: int
) -> list[list[Any]]:
    """The candles before ``rows``, at most ``count``, oldest first: what indicators need of the past."""
    if not rows or not count:
        return []
    return (await read_series(connection, stream, None, int(rows[0][0]), count))[0]


async def exists(connection: RedisConnection, *keys: str) -> bool:
    """Whether there is any of the keys; one by one, since a Cluster has them in different places."""
    for key in keys:
        if await connection.command("EXISTS", key, repeatable=True):
            return True
    return False


async def _candles(
    connection: RedisConnection, stream: str, start: int | None, end: int | None, limit: int
) -> tuple[list[list[Any]], bool, int]:
    """The rows of one stream's candles asked for, each open_ts once (its last state); whether there are more; and how
    many entries were no candles."""
    first = str(start) if start is not None else "-"
    last = str(end - 1) if end is not None else "+"
    rows: dict[int, list[Any]] = {}
    left_out = 0
    page = min(limit + 1, 1000)
    while len(rows) <= limit:
        if start is None:
            entries = (await streams.read_newest(connection, stream, page, start=first, end=last))[::-1]
        else:
            entries = await streams.read_from(connection, stream, first, last, page)
        for entry in entries:
            row = _row(entry.data)
            if row is None:
                left_out += 1
            elif start is not None or row[0] not in rows:  # the last state of a candle counts
                rows[row[0]] = row
        if len(entries) < page:
            break
        first, last = (first, f"({entries[-1].id}") if start is None else (f"({entries[-1].id}", last)
    if not rows and not await connection.command("EXISTS", stream, repeatable=True):
        known, _ = await streams.find_streams(connection, "kline:*")
        raise StreamNotFoundError(
            f"There are no candles in {stream!r}.{streams.nearest(stream, known)} runner_start or backfill_start "
            "writes some."
        )
    found = list(rows.values())
    more = len(found) > limit
    found = found[:limit]
    return (found[::-1] if start is None else found), more, left_out


def _row(data: Mapping[str, str]) -> list[Any] | None:
    """A stream entry as a row of ``COLUMNS``; None where it is no candle.

    A candle has a whole open_ts and finite prices, its high not below its low; a field that is no number spoils it.
    """
    try:
        start, *values = [_number(data.get(column, "")) for column in NUMBERS]
    except ValueError:
        return None
    opened, high, low, closed = values[:4]
    if start is None or start < 0 or start != int(start) or start >= 2**53:
        return None
    if opened is None or high is None or low is None or closed is None or high < low:
        return None
    return [int(start), *values, data.get("is_closed") == "true", data.get("is_complete") != "false"]


def _number(text: str) -> float | int | None:
    """A candle's number; None where there is none.

    Raises:
        ValueError: it is no finite number as ``float`` writes it.
    """
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise ValueError("no number")
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return int(text) if text.lstrip("+-").isdigit() else number
