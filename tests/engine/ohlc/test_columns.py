"""Columns of ticks: lists, NumPy arrays, pandas."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from streammachine.errors import TickError

MINUTE = 60_000
T0 = 1_700_000_040_000
SYMBOLS = ["A", "B", "A", "C", "A"]
PRICES = [1.0, 2.0, 3.0, 4.0, 5.0]
VOLUMES = [0.5, 0.25, 1.0, 0.0, 2.0]
TIMES = [T0, T0 + 1, T0 + MINUTE, T0, T0 + 2]


def expected(engine: ModuleType) -> bytes:
    agg = engine.FastOHLC([MINUTE, 5 * MINUTE])
    for tick in zip(SYMBOLS, PRICES, VOLUMES, TIMES, strict=True):
        agg.update_tick(*tick)
    return agg.dump()


SYMBOL_COLUMNS: dict[str, Any] = {
    "list": SYMBOLS,
    "tuple": tuple(SYMBOLS),
    "list of bytes": [symbol.encode() for symbol in SYMBOLS],
    "object array": np.array(SYMBOLS, dtype=object),
    "unicode array": np.array(SYMBOLS),
    "bytes array": np.array(SYMBOLS, dtype="S"),
    "StringDType array": np.array(SYMBOLS, dtype=np.dtypes.StringDType()),
    "Series": pd.Series(SYMBOLS),
    "object Series": pd.Series(SYMBOLS, dtype=object),
    "category Series": pd.Series(SYMBOLS, dtype="category"),
    "Categorical": pd.Categorical(SYMBOLS, categories=["unused", "C", "B", "A"]),
    "CategoricalIndex": pd.CategoricalIndex(SYMBOLS),
}


@pytest.mark.parametrize("kind", SYMBOL_COLUMNS)
def test_symbols_of_every_kind(engine: ModuleType, kind: str) -> None:
    agg = engine.FastOHLC([MINUTE, 5 * MINUTE])
    assert agg.update_batch(SYMBOL_COLUMNS[kind], np.array(PRICES), np.array(VOLUMES), np.array(TIMES)) == 5
    assert agg.dump() == expected(engine)


NUMBER_COLUMNS: dict[str, Any] = {
    "list": lambda values: values,
    "tuple": tuple,
    "array": np.array,
    "strided array": lambda values: np.repeat(np.array(values), 3)[::3],
    "big-endian array": lambda values: np.array(values).astype(np.array(values).dtype.newbyteorder(">")),
    "read-only array": lambda values: read_only(np.array(values)),
    "misaligned array": lambda values: np.frombuffer(
        b"x" + np.array(values).tobytes(), np.array(values).dtype, offset=1
    ),
    "object array": lambda values: np.array(values, dtype=object),
    "Series": pd.Series,
    "nullable Series": lambda values: pd.Series(values).convert_dtypes(),
    "list of NumPy scalars": lambda values: list(np.array(values)),
}


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("kind", NUMBER_COLUMNS)
def test_numbers_of_every_kind(engine: ModuleType, kind: str) -> None:
    make = NUMBER_COLUMNS[kind]
    agg = engine.FastOHLC([MINUTE, 5 * MINUTE])
    assert agg.update_batch(SYMBOLS, make(PRICES), make(VOLUMES), make(TIMES)) == 5
    assert agg.dump() == expected(engine)


@pytest.mark.parametrize("dtype", ["f4", "f2", "i8", "i4", "u1", "?"])
def test_numbers_of_every_width(engine: ModuleType, dtype: str) -> None:
    agg = engine.FastOHLC([MINUTE])
    agg.update_batch("A", np.array([1, 0], dtype), np.array([1, 0], dtype), np.array([0, 1], "u8"))
    (candle,) = agg.get_candles("A", MINUTE)
    assert (candle.open, candle.close, candle.volume) == (1.0, 0.0, 1.0)


def test_one_symbol_for_all_rows(engine: ModuleType) -> None:
    for symbol in ("A", b"A"):
        agg = engine.FastOHLC([MINUTE])
        assert agg.update_batch(symbol, PRICES, VOLUMES, TIMES) == 5
        assert agg.symbols == ["A"]
        assert agg.update_batch("NEW", [], [], []) == 0
        assert agg.symbols == ["A"]


@pytest.mark.parametrize("dtype", [None, "category"])
def test_a_data_frame(engine: ModuleType, dtype: Any) -> None:
    frame = pd.DataFrame(
        {"timestamp_ms": TIMES, "symbol": pd.Series(SYMBOLS, dtype=dtype), "price": PRICES, "volume": VOLUMES, "x": 0}
    )
    agg = engine.FastOHLC([MINUTE, 5 * MINUTE])
    assert agg.update_batch(frame) == 5
    assert agg.dump() == expected(engine)
    assert agg.update_batch(frame[:0]) == 0
    with pytest.raises(TickError, match="no column 'price'"):
        agg.update_batch(frame.drop(columns="price"))


BAD: list[tuple[str, Any, str]] = [
    ("prices", [1.0, float("nan")], "row 1: price nan"),
    ("prices", np.array([1.0, np.inf]), "row 1: price inf"),
    ("prices", np.array([-np.inf, 1.0]), "row 0: price -inf"),
    ("prices", [1.0, "2"], "row 1: price '2'"),
    ("prices", np.array(["1", "2"]), "dtype"),
    ("prices", np.array([1j, 2j]), "dtype"),
    ("prices", np.array([1.0, None], dtype=object), "row 1: price None"),
    ("prices", np.ones((2, 1)), "2 dimensions"),
    ("prices", np.float64(1), "0 dimensions"),
    ("prices", [1.0], "volumes has 2 rows, prices has 1"),
    ("prices", None, "prices None"),
    ("prices", "text", "prices 'text'"),
    ("volumes", [1.0, -1.0], "row 1: volume -1.0"),
    ("volumes", np.array([1.0, -1.0]), "row 1: volume -1.0"),
    ("volumes", np.array([np.nan, 1.0]), "row 0: volume nan"),
    ("timestamps", [1, -1], "row 1: timestamp -1"),
    ("timestamps", np.array([1, -1]), "row 1: timestamp -1"),
    ("timestamps", np.array([1, 2**64 - 1], dtype="u8"), "row 1: timestamp 18446744073709551615"),
    ("timestamps", np.array([1.0, 2.0]), "dtype is float64"),
    ("timestamps", np.array([1, 2], dtype="M8[ms]"), "dtype is datetime64"),
    ("timestamps", [1, 2.0], "row 1: timestamp 2.0"),
    ("timestamps", [1], "timestamps has 1 rows"),
    ("symbols", ["A"], "symbols has 1 rows"),
    ("symbols", ["NEW", ""], "row 1: symbol ''"),
    ("symbols", ["NEW", None], "row 1: symbol None"),
    ("symbols", "", "symbol ''"),
    ("symbols", None, "symbols None"),
    ("symbols", np.array([1, 2]), "dtype"),
    ("symbols", pd.Categorical(["NEW", None]), "row 1: symbol None"),
    ("symbols", pd.Categorical([1, 2]), "row 0: symbol 1"),
]


@pytest.mark.parametrize(("name", "column", "words"), BAD, ids=lambda value: repr(value)[:40])
def test_a_bad_row_is_named_and_nothing_of_the_batch_is_taken(
    engine: ModuleType, name: str, column: Any, words: str
) -> None:
    agg = engine.FastOHLC([MINUTE])
    agg.update_tick("A", 1.0, 1.0, 1)
    state = agg.dump()
    columns: dict[str, Any] = {
        "symbols": ["NEW", "A"],
        "prices": [1.0, 2.0],
        "volumes": [1.0, 2.0],
        "timestamps": [1, 2],
    }
    with pytest.raises(TickError, match=words):
        agg.update_batch(**{**columns, name: column})
    assert agg.dump() == state


def test_the_columns_are_not_changed(engine: ModuleType) -> None:
    prices, volumes, times = np.array(PRICES), np.array(VOLUMES), np.array(TIMES)
    engine.FastOHLC([MINUTE]).update_batch("A", prices, volumes, times)
    assert (prices.tolist(), volumes.tolist(), times.tolist()) == (PRICES, VOLUMES, TIMES)
