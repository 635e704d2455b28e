"""Trades for the demo: generated and recorded."""

from __future__ import annotations

import gzip
from itertools import pairwise
from pathlib import Path

import pytest

from streammachine.cli.trades import DemoTrade, generated, recorded
from streammachine.errors import TickError

HEADER = "trade_ms,trade_id,price,qty,buyer_is_maker\n"
ROW = "1723161000000,7,61837.63,0.5,1\n"


def test_the_same_seed_gives_the_same_trades() -> None:
    assert list(generated(500)) == list(generated(500))
    assert list(generated(500)) != list(generated(500, seed=1))


def test_generated_trades_look_like_trades() -> None:
    trades = list(generated(2000))
    assert all(earlier.ts <= later.ts for earlier, later in pairwise(trades))
    assert all(float(trade.price) > 0 and float(trade.volume) > 0 for trade in trades)
    assert {trade.side for trade in trades} == {"buy", "sell"}
    assert len({trade.trade_id for trade in trades}) == 2000


@pytest.mark.parametrize("zipped", [False, True])
def test_recorded_trades_are_read_as_they_stand(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / ("t.csv.gz" if zipped else "t.csv")
    text = "extra," + HEADER + "x," + ROW + "x,1723161000001,8,61837.60,0.25,0\n"
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    assert list(recorded(path)) == [
        DemoTrade("BTCUSDT", 1723161000000, "7", "61837.63", "0.5", "sell"),
        DemoTrade("BTCUSDT", 1723161000001, "8", "61837.60", "0.25", "buy"),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the column 'trade_ms' is missing"),
        ("trade_ms,trade_id,price,qty\n", "the column 'buyer_is_maker' is missing"),
        (HEADER + ROW + "1723161000000,8,abc,0.5,1\n", "line 3: could not convert"),
        (HEADER + "x,8,1,0.5,1\n", "line 2: invalid literal"),
        (HEADER + "1723161000000,8,nan,0.5,1\n", "line 2: the price 'nan' is not above 0"),
        (HEADER + "1723161000000,8,-1,0.5,1\n", "line 2: the price '-1' is not above 0"),
        (HEADER + "1723161000000,8,1,-0.5,1\n", "line 2: the quantity '-0.5' is below 0"),
        (HEADER + "1723161000000,8\n", "line 2: a column has no value"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(TickError, match=problem):
        list(recorded(path))


def damaged(whole: bytes) -> bytes:
    return whole[:40] + b"\xff" * 40 + whole[80:]


@pytest.mark.parametrize(
    "content",
    [
        b"no gzip at all",
        gzip.compress((HEADER + ROW * 500).encode())[:-20],
        damaged(gzip.compress((HEADER + "".join(f"{i},{i},{i}.5,1,1\n" for i in range(1, 999))).encode())),
        gzip.compress(b"\xff\xfe\xff"),
    ],
    ids=["not zipped", "cut off", "damaged", "not text"],
)
def test_a_file_that_cannot_be_read_is_one_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(content)
    with pytest.raises(TickError, match=r"t\.csv\.gz"):
        list(recorded(path))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(TickError, match=r"cannot be read: No such file or directory\.$"):
        list(recorded(tmp_path / "nothing.csv"))
    with pytest.raises(TickError, match=r"cannot be read: Is a directory\.$"):
        list(recorded(tmp_path))
