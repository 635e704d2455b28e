"""Closed candles of one series as columns: what a bulk file or a page of REST gives, and what a sink may take in the
place of rows.

A batch holds what a Kline holds. ``rows()`` gives the same Klines that the plain way makes of the same lines, so
whoever takes no columns is given these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import orjson
from numpy.typing import NDArray

from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Kline, Origin

try:
    from streammachine.market.model.fast_columns import joined
except ImportError:  # it was not compiled
    HAS_NATIVE = False
else:
    HAS_NATIVE = True

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Text = bytes | tuple[bytes]  # the cells of a column with commas between them, or the one that all rows have

_FIELDS: Final = frozenset(Kline.model_fields)
_LEAST, _MOST = 1e-4, 1e16  # between them ``repr`` writes no exponent


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class KlineColumns:
    """Candles of one source, symbol and timeframe, all closed and complete, their starts on the timeframe's grid.

    Attributes:
        step: the timeframe's length, milliseconds. open_ts: starts, epoch milliseconds.
        quote_volume, n_trades, vwap: None where the exchange does not say. The others are as in ``Kline``.
    """

    source: str
    symbol: str
    timeframe: str
    step: int
    open_ts: Integers
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    quote_volume: Floats | None
    n_trades: Integers | None
    origin: Origin | None
    vwap: Floats | None = None
    estimated: bool = False

    @classmethod
    def of(cls, klines: Sequence[Kline]) -> Self | None:
        """The candles as columns; None where these cannot hold them: some are open or incomplete, of another series or
        origin than the first or off its grid, the length of their timeframe varies, or only some have a value."""
        rows = [kline.__dict__ for kline in klines]
        step = timeframes.MILLISECONDS.get(rows[0]["timeframe"]) if rows else None
        if step is None:
            return None
        same = {name: rows[0][name] for name in (*_OF_ALL, *_SAME)}
        if not _SAME.items() <= same.items() or any(row[name] != same[name] for row in rows for name in same):
            return None
        try:
            found: dict[str, Any] = {name: _array([row[name] for row in rows], kind) for name, kind in _KINDS.items()}
        except (TypeError, OverflowError):
            return None
        ends = found.pop("end_ts")
        starts = found["open_ts"]
        if (ends != starts + (step - 1)).any() or ((starts - starts[0]) % step).any():
            return None
        return cls(step=step, **{name: same[name] for name in _OF_ALL}, **found)

    def __len__(self) -> int:
        return len(self.open_ts)

    def __getitem__(self, part: slice | NDArray[np.bool_]) -> KlineColumns:
        """Some of the candles: a slice (views of the same arrays), or those where an array is true."""
        values = {name: getattr(self, name) for name in self.__slots__}
        taken: dict[str, Any] = {
            name: value[part] if isinstance(value, np.ndarray) else value for name, value in values.items()
        }
        return KlineColumns(**taken)

    @property
    def end(self) -> int:
        """The end, not included, of the last candle."""
        return int(self.open_ts[-1]) + self.step

    def column(self, name: str) -> Any:
        """A field: an array where it differs from row to row, else the one value of all rows.

        Raises:
            KeyError: a Kline has no such field.
        """
        if name not in _FIELDS:
            raise KeyError(name)
        if name == "end_ts":
            return self.open_ts + (self.step - 1)
        return getattr(self, name) if name in self.__slots__ else _SAME[name]

    def columns(self) -> dict[str, Any]:
        """All fields of a Kline, in its order: see ``column``."""
        return {name: self.column(name) for name in Kline.model_fields}

    def arrow(self, names: Sequence[str]) -> dict[str, Any]:
        """Fields as Arrow arrays, without a copy where they are arrays already; those that are None in all rows as
        nulls of their type. Needs pyarrow."""
        import pyarrow

        made = {}
        for name in names:
            value = self.column(name)
            if isinstance(value, np.ndarray):
                made[name] = pyarrow.array(value)
            else:
                kind = (pyarrow.int64() if name == "n_trades" else pyarrow.float64()) if value is None else None
                made[name] = pyarrow.repeat(pyarrow.scalar(value, kind), len(self))
        return made

    def rows(self) -> list[Kline]:
        """The candles as Klines."""
        same = self.columns()
        varying = [name for name, value in same.items() if isinstance(value, np.ndarray)]
        lists = [same[name].tolist() for name in varying]
        put = object.__setattr__
        found = []
        fields_set = set(_FIELDS)
        for values in zip(*lists, strict=True):
            fields = same.copy()
            fields.update(zip(varying, values, strict=True))
            kline = object.__new__(Kline)
            put(kline, "__dict__", fields)
            put(kline, "__pydantic_fields_set__", fields_set)
            put(kline, "__pydantic_extra__", None)
            put(kline, "__pydantic_private__", None)
            found.append(kline)
        return found


def _array(values: list[Any], kind: type[np.generic]) -> NDArray[Any] | None:
    """None where all are None; raises TypeError where only some are."""
    missing = values.count(None)
    if missing and missing < len(values):
        raise TypeError("only some have a value")  # which NumPy would make NaN
    return None if missing else np.array(values, kind)


_SAME: Final[dict[str, Any]] = {"is_closed": True, "is_complete": True}
_OF_ALL: Final = ("source", "symbol", "timeframe", "origin", "estimated")
_KINDS: Final[dict[str, type[np.generic]]] = {
    "open_ts": np.int64,
    "end_ts": np.int64,
    **dict.fromkeys(("open", "high", "low", "close", "volume", "quote_volume", "vwap"), np.float64),
    "n_trades": np.int64,
}


def number_texts(values: Floats | Integers, *, shortest: bool) -> bytes:
    """The numbers as text with commas between them, each such that ``float`` of it is the number.

    Args:
        shortest: as ``repr`` writes them; else with fewer or more zeros and other exponents where that is quicker.
    """
    text = orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    if not shortest or values.dtype.kind == "i":
        return text
    size = np.abs(values)
    unlike = np.flatnonzero(~((size >= _LEAST) & (size < _MOST)) & ((size != 0) | np.signbit(values)))
    if not len(unlike):
        return text
    cells = text.split(b",")
    for at in unlike.tolist():
        cells[at] = repr(float(values[at])).encode()
    return b",".join(cells)


def lines(columns: Sequence[Text], count: int, separator: bytes, end: bytes) -> bytes:
    """The lines that columns of ``count`` cells make."""
    if HAS_NATIVE:
        return joined(list(columns), count, separator, end)
    cells = [[text[0]] * count if isinstance(text, tuple) else text.split(b",") for text in columns]
    return b"".join(separator.join(row) + end for row in zip(*cells, strict=True)) if count else b""
