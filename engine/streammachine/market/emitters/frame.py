"""FrameEmitter: candles kept in memory, as a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from streammachine.errors import EmitterError
from streammachine.market.emitters.base import DataEmitter, Transformer, values_of
from streammachine.market.model.kline import Kline
from streammachine.market.model.rows import Row

if TYPE_CHECKING:
    import pandas as pd

    from streammachine.market.model.kline_columns import KlineColumns

_FLOATS: Final = ("quote_volume", "vwap")  # of a candle's fields, those that may be none


class FrameEmitter(DataEmitter):
    """Keeps what it is given, and makes a DataFrame of it.

    Without a transformer it takes candles only, so that all rows have the same columns. What it holds goes with the
    object: a backfill into it begins at the beginning each time. It may be read while it is written to.

    Args:
        most: rows that it keeps at most; None: all.

    Raises:
        EmitterError: ``most`` is below 1; from ``emit_batch``: it is full.
    """

    batch_size = 5_000

    def __init__(self, *, most: int | None = None, transformer: Transformer | None = None, name: str = "frame") -> None:
        if most is not None and most < 1:
            raise EmitterError(f"most={most} is not accepted: give 1 or more, or None for all")
        self.name = name
        self.most = most
        self.transformer = transformer
        self._pieces: list[list[Mapping[str, Any]] | KlineColumns] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def wants(self, row: Row) -> bool:
        """Candles; others for a transformer only."""
        return self.transformer is not None or isinstance(row, Kline)

    async def emit(self, row: Any) -> None:
        """Keep one row."""
        await self.emit_batch([row])

    async def emit_batch(self, rows: Sequence[Row]) -> None:
        """Keep the rows."""
        made = [row if isinstance(row, Mapping) else self.transformed(row) for row in rows]
        values = [values_of(row) for row in made if row is not None]
        self._take(values, len(values))

    async def emit_columns(self, columns: KlineColumns) -> None:
        """Keep candles in columns."""
        self._take(columns, len(columns))

    def frame(self) -> pd.DataFrame:
        """What it holds, in the order in which it came: a column a field, numbers as int64 and float64, None as NaN
        (of ``n_trades``: as pandas' NA, in an Int64). Without rows it has a candle's columns."""
        import pandas as pd

        frames = [_candles(piece) if not isinstance(piece, list) else pd.DataFrame(piece) for piece in self._pieces]
        if not frames:
            return pd.DataFrame(columns=list(Kline.model_fields))
        return pd.concat(map(_typed, frames), ignore_index=True) if frames[1:] else _typed(frames[0])

    def clear(self) -> None:
        """Keep nothing of it."""
        self._pieces.clear()
        self._count = 0

    def _take(self, piece: list[Mapping[str, Any]] | KlineColumns, count: int) -> None:
        if self.most is not None and self._count + count > self.most:
            raise EmitterError(
                f"{self.name} holds {self._count} rows, and {self.most} at most: clear() it, or give more"
            )
        last = self._pieces[-1] if self._pieces else None
        if isinstance(piece, list) and isinstance(last, list):
            last += piece
        elif count:
            self._pieces.append(piece)
        self._count += count


def _candles(columns: KlineColumns) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns.columns(), index=range(len(columns)))


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of candles in the types that they always have."""
    found = frame.astype({name: "float64" for name in _FLOATS if name in frame})
    if "n_trades" in found and found["n_trades"].dtype != "int64":
        found = found.astype({"n_trades": "Int64"})
    return found
