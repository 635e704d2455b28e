"""Trades of Parquet files and frames: their columns as a block of CSV gives them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from streammachine.errors import TickError
from streammachine.ohlc.trade_rows import MICROSECONDS, MILLISECONDS, SECONDS, TradeRows
from streammachine.ohlc.values import EARLIEST_MS, LATEST_MS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from streammachine.trade_files.layouts import Layout

ROWS: Final = 1 << 18  # of a batch


def arrow_missing(error: ImportError) -> TickError:
    """The error where pyarrow is not there."""
    return TickError(f'{error.name} is not installed: pip install "streammachine-mcp[parquet]"')


def parquet_names(path: Path) -> list[str]:
    """The names of a Parquet file's columns."""
    import pyarrow.parquet

    return list(pyarrow.parquet.read_schema(path).names)


def parquet_batches(path: Path, layout: Layout, names: list[str]) -> Iterator[tuple[TradeRows, int]]:
    """The trades of a Parquet file, and how many bytes of it are read then."""
    import pyarrow.parquet

    wanted = [names[place] for place in layout.places.values()]
    size = path.stat().st_size
    with pyarrow.parquet.ParquetFile(path) as file:
        rows, seen = max(1, file.metadata.num_rows), 0
        for batch in file.iter_batches(batch_size=ROWS, columns=wanted):
            made = rows_of(batch, layout, names, seen)
            seen += batch.num_rows
            yield made, size * seen // rows


def frame_batches(frame: Any, layout: Layout, names: list[str]) -> Iterator[tuple[TradeRows, int]]:
    """The trades of a pandas or polars DataFrame or an Arrow table."""
    import pyarrow

    table = frame if isinstance(frame, pyarrow.Table) else pyarrow.table(frame)
    seen = 0
    for batch in table.to_batches(max_chunksize=ROWS):
        yield rows_of(batch, layout, names, seen), 0
        seen += batch.num_rows


def rows_of(batch: Any, layout: Layout, names: list[str], before: int) -> TradeRows:
    """A record batch's trades. ``before``: its first row's number, for messages."""
    import numpy as np

    columns = {role: batch.column(names[place]) for role, place in layout.places.items()}
    for role, column in columns.items():
        if column.null_count:
            row = before + int(np.flatnonzero(np.asarray(column.is_null()))[0])
            raise TickError(f"row {row}: it has no {role}")
    prices, volumes = _floats(columns["price"], "price"), _floats(columns["volume"], "volume")
    times = _milliseconds(columns["time"])
    good = {
        "price": (prices >= 0) & (prices < np.inf),
        "volume": (volumes >= 0) & (volumes < np.inf),
        "time": (times >= EARLIEST_MS) & (times <= LATEST_MS),
    }
    for role, rows in good.items():
        if not rows.all():
            row = int(np.flatnonzero(~rows)[0])
            raise TickError(f"row {before + row}: the {role} {columns[role][row]} is refused")
    ids = _whole(columns.get("id"))
    first, last = _whole(columns.get("first")), _whole(columns.get("last"))
    fills = None if first is None or last is None else np.where(last >= first, last - first + 1, 1)
    codes, symbols = None, []
    if "symbol" in columns:
        import pyarrow

        coded = columns["symbol"]
        if not pyarrow.types.is_dictionary(coded.type):
            coded = coded.dictionary_encode()
        codes = np.asarray(coded.indices).astype(np.int32)
        symbols = [str(each) for each in coded.dictionary.to_pylist()]
    return TradeRows(prices, volumes, times, ids, fills, codes, symbols)


def _floats(column: Any, role: str) -> NDArray[np.float64]:
    import numpy as np
    import pyarrow

    try:
        return np.asarray(column.cast(pyarrow.float64()))
    except (pyarrow.ArrowException, ValueError) as error:
        raise TickError(f"its {role} column is no column of numbers: {error}") from error


def _whole(column: Any) -> NDArray[np.int64] | None:
    import numpy as np
    import pyarrow

    return np.asarray(column) if column is not None and pyarrow.types.is_integer(column.type) else None


def _milliseconds(column: Any) -> NDArray[np.int64]:
    """Epoch milliseconds, cut; a number's unit by what it can only be. Out of range: -1."""
    import numpy as np
    import pyarrow

    kind = column.type
    if pyarrow.types.is_timestamp(kind):
        made: NDArray[np.int64] = np.asarray(column.cast(pyarrow.timestamp("ns"), safe=False).cast(pyarrow.int64()))
        return made // 1_000_000
    if not (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)):
        raise TickError(f"its time column is {kind}: give epoch times, or timestamps")
    values: NDArray[Any] = np.asarray(column)
    if pyarrow.types.is_floating(kind):  # a double holds microseconds of seconds, and no more
        values = np.where(np.abs(values) < SECONDS, values, np.floor(np.where(np.isfinite(values), values, -1)))
        seconds = np.round(np.where(np.abs(values) < SECONDS, values, 0) * 1e6) // 1000
        return np.where(np.abs(values) < SECONDS, seconds, _cut(values.astype(np.int64))).astype(np.int64)
    return np.where(values < SECONDS, values.astype(np.int64) * 1000, _cut(values))


def _cut(values: NDArray[Any]) -> NDArray[np.int64]:
    import numpy as np

    return np.where(
        values < MILLISECONDS, values, np.where(values < MICROSECONDS, values // 1000, values // 1_000_000)
    ).astype(np.int64)
