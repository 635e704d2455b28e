"""Lines of trade files into columns: both readers give the same, exactly what ``float()`` reads, and name bad lines."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streammachine.errors import TickError
from streammachine.ohlc.reference.trade_csv import trade_lines as plain_lines

PLACES = {"time": 0, "price": 1, "volume": 2}
MS = 1_704_067_200_123


def lines_of(engine: ModuleType) -> Any:
    return engine.trade_lines if engine.__name__.endswith("fast") else plain_lines


def as_lists(rows: Any) -> list[Any]:
    return [rows.lines, *(None if column is None else [*map(repr, column)] for column in rows[:-1])]


def test_times_of_every_unit(engine: ModuleType) -> None:
    times = [str(MS), f"{MS}000", f"{MS}000999", "1704067200.123", "1704067200.12399", "1704067200.1", "1704067200",
             "2024-01-01T00:00:00.123Z", "2024-01-01 01:00:00.123+01:00", f"{MS}.9"]  # fmt: skip
    rows = lines_of(engine)("".join(f"{time},1,2\n" for time in times).encode(), PLACES)
    assert rows.times.tolist() == [MS] * 5 + [MS - 23, MS - 123, MS, MS, MS]


def test_every_column_that_there_can_be(engine: ModuleType) -> None:
    places = {"id": 0, "price": 1, "volume": 2, "first": 3, "last": 4, "time": 5, "symbol": 6}
    block = f'7,1.50,2e-3,10,12,{MS},"B,X",tail\r\n\r\nx-1,2,0,5,4,{MS},A\n8,3,1,,,{MS},"B,X"'.encode()
    rows = lines_of(engine)(block, places)
    assert rows.prices.tolist() == [1.5, 2.0, 3.0] and rows.volumes.tolist() == [0.002, 0.0, 1.0]
    assert rows.ids.tolist() == [7, -1, 8] and rows.fills.tolist() == [3, 1, 1]
    assert rows.codes.tolist() == [0, 1, 0] and rows.symbols == ["B,X", "A"]


BAD = {
    f"{MS},x,1": "line 4: the price 'x' is refused: not a finite number",
    f"{MS},nan,1": "line 4: the price 'nan'",
    f"{MS},1_0,1": "line 4: the price '1_0'",
    f"{MS},-0.5,1": "line 4: the price '-0.5' is refused: not a finite number, 0 or more",
    f"{MS},-1e-3,0": "line 4: the price '-1e-3' is refused",
    f"{MS},1,-1": "line 4: the volume '-1' is refused: not a finite number, 0 or more",
    "170406720,1,1": "line 4: the time '170406720' is refused: not an epoch time from 2000 to 2100",
    "now,1,1": "line 4: the time 'now'",
    f"{MS},1": "line 4: it has 2 columns, and none for the volume",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_line_is_named(engine: ModuleType, line: str) -> None:
    with pytest.raises(TickError, match=BAD[line]):
        lines_of(engine)(f"{MS},1,1\n\n{line}\n{MS},1,1\n".encode(), PLACES, 2)


field = st.one_of(
    st.decimals(-1000, 100_000, places=8).map(str), st.floats().map(repr), st.integers(0, 10**20).map(str),
    st.sampled_from([str(MS), f"{MS}123", "1704067200.5", "", " 1", '"2"', '"', "1e5", "-", "+1", ".5", "5.", "0x1"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=4),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(st.lists(field, min_size=1, max_size=7), max_size=6),
    good=st.booleans(),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_both_readers_agree_on_odd_lines(rows: list[list[str]], good: bool, end: str) -> None:
    fast = pytest.importorskip("streammachine.ohlc.fast")
    if good:
        rows = [[str(MS), "1.25", *row] if i % 2 else [f"{MS}.5", row[0], "1"] for i, row in enumerate(rows)]
    block = end.join(",".join(row) for row in rows).encode()
    found = []
    for read in (fast.trade_lines, plain_lines):
        for places in (PLACES, {**PLACES, "symbol": 3}, {**PLACES, "id": 3, "first": 4, "last": 5}):
            try:
                found.append(as_lists(read(block, places, 7)))
            except TickError as error:
                found.append([str(error)])
    assert found[:3] == found[3:]


def test_the_door_gives_one_of_them() -> None:
    assert importlib.import_module("streammachine.ohlc.trade_csv").trade_lines is not None
