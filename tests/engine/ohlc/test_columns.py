"""Columns of ticks: lists, NumPy arrays, pandas."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from streammachine.errors import SettingsError, TickError

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


class Coded:
    """A categorical column of somebody else's."""

    def __init__(self, codes: Any, categories: list[str]) -> None:
        self.codes = codes
        self.dtype = SimpleNamespace(categories=categories)


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
    "pandas str": pd.Series(SYMBOLS, dtype="str"),
    "pandas string of Python": pd.Series(SYMBOLS, dtype=pd.StringDtype("python")),
    "pandas Arrow string": pd.Series(SYMBOLS, dtype=pd.ArrowDtype(pa.string())),
    "strided object array": np.repeat(np.array(SYMBOLS, dtype=object), 2)[::2],
    "unsigned codes": Coded(np.array([2, 1, 2, 0, 2], dtype="u1"), ["C", "B", "A"]),
    "Arrow string": pa.array(SYMBOLS),
    "Arrow large_string": pa.array(SYMBOLS, pa.large_string()),
    "Arrow string_view": pa.array(SYMBOLS, pa.string_view()),
    "Arrow binary": pa.array([symbol.encode() for symbol in SYMBOLS]),
    "Arrow slice": pa.array(["x", *SYMBOLS, "y"])[1:-1],
    "Arrow chunks": pa.chunked_array([SYMBOLS[:2], [], SYMBOLS[2:]]),
    "Arrow dictionary": pa.array(SYMBOLS).dictionary_encode(),
    "Arrow dictionary of int8": pa.array(SYMBOLS).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string())),
    "Arrow dictionaries": pa.chunked_array(
        [pa.array(SYMBOLS[:2]).dictionary_encode(), pa.array(SYMBOLS[2:]).dictionary_encode()]
    ),
    "polars String": pl.Series(SYMBOLS),
    "polars slice": pl.Series(["x", *SYMBOLS, "y"])[1:-1],
    "polars chunks": pl.concat([pl.Series(SYMBOLS[:2]), pl.Series(SYMBOLS[2:])], rechunk=False),
    "polars Categorical": pl.Series(SYMBOLS, dtype=pl.Categorical),
    "polars Categorical in chunks": pl.concat(
        [pl.Series(part, dtype=pl.Categorical) for part in (SYMBOLS[:2], SYMBOLS[2:])], rechunk=False
    ),
    "polars Enum of more categories": pl.Series(SYMBOLS, dtype=pl.Enum([*map(str, range(200)), "C", "B", "A"])),
    "polars Enum": pl.Series(SYMBOLS, dtype=pl.Enum(["C", "B", "A"])),
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
    "Arrow": pa.array,
    "Arrow slice": lambda values: pa.array([*values, values[0]])[:-1],
    "Arrow chunks": lambda values: pa.chunked_array([values[:2], values[2:]]),
    "polars": pl.Series,
    "polars chunks": lambda values: pl.concat([pl.Series(values[:2]), pl.Series(values[2:])], rechunk=False),
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


FRAMES = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "polars, categorical": lambda columns: pl.DataFrame(columns).with_columns(pl.col("symbol").cast(pl.Categorical)),
    "Arrow table": pa.table,
    "Arrow batch": pa.RecordBatch.from_pydict,
    "Arrow table of two batches": lambda columns: pa.concat_tables([pa.table(columns)[:2], pa.table(columns)[2:]]),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_of_every_library(engine: ModuleType, kind: str) -> None:
    columns = {"x": [0] * 5, "timestamp_ms": TIMES, "symbol": SYMBOLS, "price": PRICES, "volume": VOLUMES}
    agg = engine.FastOHLC([MINUTE, 5 * MINUTE])
    assert agg.update_batch(FRAMES[kind](columns)) == 5
    assert agg.dump() == expected(engine)
    assert agg.update_batch(FRAMES[kind](columns)[:0]) == 0
    columns.pop("price")
    with pytest.raises(TickError, match="no column 'price'"):
        agg.update_batch(FRAMES[kind](columns))


def test_candles_as_a_frame_of_every_library(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE, 5 * MINUTE])
    agg.update_batch(SYMBOLS, PRICES, VOLUMES, TIMES)
    rows = agg.get_candles_as_dicts("A", MINUTE)
    assert agg.candles_frame("A", MINUTE).to_dict("records") == rows
    assert agg.candles_frame("A", MINUTE, "polars").to_dicts() == rows
    assert agg.candles_frame("A", MINUTE, kind="arrow").to_pylist() == rows
    for kind in ("polars", "arrow"):
        empty = agg.candles_frame("nobody", MINUTE, kind)
        assert len(empty) == 0 and [*rows[0]] == (empty.column_names if kind == "arrow" else empty.columns)
    with pytest.raises(SettingsError, match="kind 'csv' is refused: it must be one of pandas, polars, arrow"):
        agg.candles_frame("A", MINUTE, "csv")


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
    ("symbols", pa.array(["NEW", None]), "row 1: symbol None"),
    ("symbols", pa.array(["NEW", ""]), "row 1: symbol ''"),
    ("symbols", pa.array(["NEW", None]).dictionary_encode(), "row 1: symbol None"),
    ("symbols", pa.array([1, 2]), "its dtype is int64, and must be text"),
    ("symbols", pl.Series(["NEW", None]), "row 1: symbol None"),
    ("symbols", pl.Series(["NEW"]), "symbols has 1 rows"),
    ("prices", pa.array([1.0, None]), "row 1: price None"),
    ("volumes", pl.Series([1.0, None]), "row 1: volume None"),
    ("timestamps", pl.Series([1, None]), "row 1: timestamp None"),
    ("timestamps", pa.array([1, 2], pa.timestamp("ms")), "dtype is datetime64"),
]


@pytest.mark.parametrize(("name", "column", "words"), BAD, ids=[f"{k}-{bad[0]}" for k, bad in enumerate(BAD)])
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
