"""CSVEmitter: one header, whole lines, the same columns or a refusal, rows selected, no duplicates where asked."""

from __future__ import annotations

import contextlib
import csv
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from streammachine.errors import EmitterError
from streammachine.market.emitters.csv import CSVEmitter
from streammachine.market.emitters.outlet import Outlet
from streammachine.market.model.kline import Gap, Kline, Trade
from streammachine.market.model.rows import Lane
from support.rows import START, candle, candles, trade
from support.valkey import wait_until

pytestmark = pytest.mark.anyio
TESTS = Path(__file__).parents[3]
WAIT = 60.0


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


async def write(path: Path, rows: Any, **options: Any) -> Outlet:
    async with Outlet(CSVEmitter(file_path=path, **options)) as outlet:
        await outlet.put(rows)
    return outlet


async def test_rows_stand_under_one_header_and_read_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "candles.csv"
    rows = [candle(0), candle(1, vwap=0.1 + 0.2, volume=1e-9, source=None)]
    await write(path, rows)
    await write(path, [candle(2)])
    lines = path.read_text().splitlines()
    assert lines[0] == ",".join(Kline.model_fields)
    assert len(lines) == 4
    back = [Kline.model_validate({k: v for k, v in row.items() if v != ""}) for row in read(path)]
    assert back == [*rows, candle(2)]
    frame = pd.read_csv(path)
    assert frame["is_closed"].tolist() == [True, True, True]
    assert frame["vwap"][1] == 0.1 + 0.2


async def test_a_trade_file_has_the_columns_of_trades(tmp_path: Path) -> None:
    path = tmp_path / "trades.csv"
    await write(path, [trade(0), trade(1, side=None)])
    assert [Trade.model_validate({k: v or None for k, v in row.items()}) for row in read(path)] == [
        trade(0),
        trade(1, side=None),
    ]


async def test_source_symbol_and_timeframe_select_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    rows = [
        candle(0),
        candle(0, symbol="ETHUSDT"),
        candle(0, timeframe="5m"),
        candle(0, source="OKX"),
        trade(0),
        candle(1),
    ]
    outlet = await write(path, rows, source="binance", symbol="BTCUSDT", timeframe="1m")
    assert [row["open_ts"] for row in read(path)] == [str(candle(0).open_ts), str(candle(1).open_ts)]
    assert (outlet.stats.emitted, outlet.stats.skipped) == (2, 4)


async def test_the_documented_arguments_work_by_place_and_the_file_may_be_set_later(tmp_path: Path) -> None:
    emitter = CSVEmitter("Binance", "BTCUSDT", "1m", tmp_path / "a.csv", lambda row: {"close": row["close"]})
    assert emitter.set_file_path(tmp_path / "b.csv") is emitter
    async with Outlet(emitter) as outlet:
        await outlet.put(candles(2))
    assert (tmp_path / "b.csv").read_text() == "close\n100.0\n101.0\n"


async def test_several_emitters_write_their_own_files(tmp_path: Path) -> None:
    for timeframe in ("1m", "5m"):
        await write(tmp_path / f"{timeframe}.csv", [candle(), candle(timeframe="5m")], timeframe=timeframe)
    assert [row["timeframe"] for row in read(tmp_path / "1m.csv")] == ["1m"]
    assert [row["timeframe"] for row in read(tmp_path / "5m.csv")] == ["5m"]


async def test_a_transformer_makes_the_columns_and_its_none_drops_the_row(tmp_path: Path) -> None:
    path = tmp_path / "made.csv"
    emitter = CSVEmitter(file_path=path).set_transformer(
        lambda row: {"at": row["open_ts"], "range": row["high"] - row["low"]} if row["close"] != 101 else None
    )
    async with Outlet(emitter) as outlet:
        await outlet.put([*candles(3), Gap("Binance", "BTCUSDT", "1m", 0, 1, "no")][:3])
    assert list(read(path)[0]) == ["at", "range"]
    assert len(read(path)) == 2


async def test_a_row_may_be_emitted_without_an_outlet_a_dict_too(tmp_path: Path) -> None:
    emitter = CSVEmitter(file_path=tmp_path / "direct.csv")
    await emitter.connect()
    await emitter.emit({"a": 1, "b": None})
    await emitter.emit({"b": True, "a": "x,y"})
    await emitter.close()
    assert (tmp_path / "direct.csv").read_text() == 'a,b\n1,\n"x,y",true\n'


async def test_a_gap_is_no_row_of_a_candle_file(tmp_path: Path) -> None:
    outlet = await write(tmp_path / "c.csv", [candle(0), Gap("Binance", "BTCUSDT", "1m", 0, 1, "lost"), candle(2)])
    assert len(read(tmp_path / "c.csv")) == 2
    assert outlet.stats.skipped == 1


# -- what cannot be written -------------------------------------------------------------------


@pytest.mark.parametrize("place", ["missing/folder/x.csv", "."])
async def test_a_file_that_cannot_be_written_is_an_error_before_anything_starts(tmp_path: Path, place: str) -> None:
    with pytest.raises(EmitterError, match="cannot be written"):
        async with Outlet(CSVEmitter(file_path=tmp_path / place)):
            raise AssertionError("it was entered")


async def test_no_file_path_is_an_error_that_says_so() -> None:
    with pytest.raises(EmitterError, match="needs file_path"):
        await CSVEmitter(symbol="BTCUSDT").connect()


def test_a_compressed_file_is_refused() -> None:
    with pytest.raises(EmitterError, match="compressed"):
        CSVEmitter(file_path="candles.csv.gz")


async def test_a_file_with_other_columns_is_refused_at_the_start_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("when,price\n1,2\n")
    with pytest.raises(EmitterError, match="has the columns when, price"):
        async with Outlet(CSVEmitter(file_path=path)):
            raise AssertionError("it was entered")
    assert path.read_text() == "when,price\n1,2\n"


async def test_the_same_columns_in_another_order_are_kept_in_that_order(tmp_path: Path) -> None:
    path = tmp_path / "turned.csv"
    columns = list(reversed(Kline.model_fields))
    path.write_text(",".join(columns) + "\n")
    await write(path, [candle()])
    assert list(read(path)[0]) == columns
    assert read(path)[0]["close"] == "100.0"


async def test_rows_with_other_columns_than_the_file_are_refused_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "mixed.csv"
    refused: list[Any] = []
    emitter = CSVEmitter(file_path=path)
    emitter.set_transformer(lambda row: {"a": 1} if row["close"] != 101 else {"b": 1})
    async with Outlet(emitter, on_error=lambda row, why: refused.append((row.close, str(why)))) as outlet:
        await outlet.put(candles(3))
    assert path.read_text() == "a\n1\n1\n"
    assert [close for close, _ in refused] == [101]
    assert "has the columns a" in refused[0][1]
    assert (outlet.stats.emitted, outlet.stats.failed) == (2, 1)


async def test_candles_and_trades_in_one_file_are_not_mixed(tmp_path: Path) -> None:
    outlet = await write(tmp_path / "c.csv", [candle(0), trade(0), candle(1)])
    assert len(read(tmp_path / "c.csv")) == 2
    assert outlet.stats.failed == 1


@pytest.mark.parametrize(
    ("written", "kinds", "said"),
    [
        ([candle(0)], [None], "a trade has"),
        ([trade(0)], ["1m", "5m"], "a candle has"),
        ([], ["1m", None], "candles and trades"),
        ([candle(0)], ["1m"], None),
        ([trade(0)], [None], None),
    ],
)
async def test_what_is_going_to_come_must_fit_the_file(
    tmp_path: Path, written: list[Any], kinds: list[str | None], said: str | None
) -> None:
    path = tmp_path / "rows.csv"
    async with Outlet(CSVEmitter(file_path=path)) as outlet:
        await outlet.put(written)
    expected = [Lane("Binance", "BTCUSDT", kind) for kind in kinds]
    with pytest.raises(EmitterError, match=said) if said else contextlib.nullcontext():
        async with Outlet(CSVEmitter(file_path=path), expected=expected):
            pass
    for able in (CSVEmitter(source="OKX", file_path=path), CSVEmitter(file_path=path).set_transformer(dict)):
        async with Outlet(able, expected=expected):
            pass


# -- killed, full, shared ---------------------------------------------------------------------


@pytest.mark.parametrize("rest", ["Binance,BTCUSDT,1m,17000", "Binance", '"'])
async def test_a_piece_of_a_line_at_the_end_is_cut_off_and_logged(
    tmp_path: Path, rest: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cut.csv"
    await write(path, candles(2))
    with path.open("a") as file:
        file.write(rest)
    emitter = CSVEmitter(file_path=path)
    assert emitter.last_row() == read(path)[1]
    async with Outlet(emitter) as outlet:
        await outlet.put([candle(2)])
    assert [row["close"] for row in read(path)] == ["100.0", "101.0", "102.0"]
    assert "cut off" in caplog.text
    assert rest.strip('"') in caplog.text


async def test_a_piece_of_a_header_is_cut_off_and_a_header_by_hand_is_completed(tmp_path: Path) -> None:
    piece, whole = tmp_path / "piece.csv", tmp_path / "whole.csv"
    piece.write_text("source,symb")
    whole.write_text(",".join(Kline.model_fields))
    for path in (piece, whole):
        await write(path, [candle()])
        assert path.read_text().count("\n") == 2
        assert read(path)[0]["close"] == "100.0"


FOREIGN = {
    "one line": b"when,price",
    "a torn row": b"when,price\n1,2\n3",
    "one value": b"notes",
    "a torn line of text": b"Dear Sir or Madam,\nplease find",
    "semicolons": b"source;symbol;timeframe\nBinance;BTCUSDT;1m",
    "UTF-16": "source,symbol\n".encode("utf-16"),
    "no text": bytes(range(256)) * 10,
    "a long line": b"x" * 2_000_000,
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("transformed", [False, True])
async def test_a_file_that_is_not_ours_is_refused_and_not_touched(
    tmp_path: Path, content: bytes, transformed: bool
) -> None:
    path = tmp_path / "foreign.csv"
    path.write_bytes(content)
    emitter = CSVEmitter(file_path=path)
    if transformed:  # its columns are known at the first row only
        emitter.set_transformer(lambda row: {"at": row["open_ts"]})
    with contextlib.suppress(EmitterError):
        async with Outlet(emitter) as outlet:
            assert transformed
            await outlet.put(candles(2))
            await outlet.drain(WAIT)
            assert (outlet.stats.emitted, outlet.stats.failed) == (0, 2)
    assert path.read_bytes() == content


async def test_a_file_that_is_refused_for_what_is_going_to_come_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "candles.csv"
    await write(path, candles(2))
    content = path.read_bytes() + b"Binance,BTC"
    path.write_bytes(content)
    with pytest.raises(EmitterError, match="trade"):
        async with Outlet(CSVEmitter(file_path=path), expected=[Lane("Binance", "BTCUSDT", None)]):
            raise AssertionError("it was entered")
    assert path.read_bytes() == content


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("cut", [1, 2])
async def test_a_whole_last_row_without_a_line_end_is_kept(tmp_path: Path, line_end: str, cut: int) -> None:
    path = tmp_path / "candles.csv"
    await write(path, candles(2))
    path.write_bytes(path.read_bytes().replace(b"\n", line_end.encode())[: -min(cut, len(line_end))])
    emitter = CSVEmitter(file_path=path)
    assert (emitter.last_row() or {})["close"] == "101.0"
    await write(path, [candle(2)])
    assert [row["close"] for row in read(path)] == ["100.0", "101.0", "102.0"]
    assert path.read_bytes().count(line_end.encode()) == path.read_bytes().count(b"\n") == 4


async def test_a_whole_last_row_of_a_transformers_columns_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "made.csv"
    path.write_text("open_ts,close\n1,5.0\n2,6.0")
    emitter = CSVEmitter(file_path=path).set_transformer(lambda row: {n: row[n] for n in ("open_ts", "close")})
    async with Outlet(emitter) as outlet:
        await outlet.put([candle(0)])
    assert [row["close"] for row in read(path)] == ["5.0", "6.0", "100.0"]


@pytest.mark.parametrize("at", ["everywhere", "behind the header"])
async def test_line_ends_of_a_carriage_return_only_are_an_error_that_names_them(tmp_path: Path, at: str) -> None:
    path = tmp_path / "old.csv"
    await write(path, candles(2))
    content = path.read_bytes()
    header, _, rows = content.partition(b"\n")
    content = content.replace(b"\n", b"\r") if at == "everywhere" else header + b"\n" + rows.replace(b"\n", b"\r")
    path.write_bytes(content)
    with pytest.raises(EmitterError, match=r"carriage return only \(CR\)"):
        async with Outlet(CSVEmitter(file_path=path)):
            raise AssertionError("it was entered")
    assert path.read_bytes() == content


async def test_a_file_that_is_moved_away_or_deleted_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "candles.csv"
    async with Outlet(CSVEmitter(file_path=path)) as outlet:
        for first, gone in ((0, lambda: path.rename(tmp_path / "old.csv")), (2, path.unlink), (4, lambda: None)):
            await outlet.put(candles(2, first=first))
            await outlet.drain(WAIT)
            gone()
    assert [row["close"] for row in read(tmp_path / "old.csv")] == ["100.0", "101.0"]
    assert [row["close"] for row in read(path)] == ["104.0", "105.0"]


async def test_the_last_row_is_found_in_a_big_file_and_is_none_in_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "big.csv"
    emitter = CSVEmitter(file_path=path)
    assert emitter.last_row() is None
    path.touch()
    assert emitter.last_row() is None
    await write(path, candles(3000))
    last = emitter.last_row()
    assert last is not None
    assert int(last["open_ts"]) == candle(2999).open_ts


def test_a_killed_process_leaves_whole_lines_in_order(tmp_path: Path) -> None:
    path = tmp_path / "killed.csv"
    script = f"""
import asyncio, sys
sys.path.insert(0, {str(TESTS)!r})
from streammachine.market.emitters.csv import CSVEmitter
from streammachine.market.emitters.outlet import Outlet
from support.rows import candles
async def main():
    async with Outlet(CSVEmitter(file_path={str(path)!r}), batch=37) as outlet:
        for first in range(0, 10**9, 100):
            await outlet.put(candles(100, first))
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        wait_until(lambda: path.exists() and path.stat().st_size > 200_000, WAIT)
    finally:
        process.kill()
        process.wait(30)
    text = path.read_text()
    assert text.endswith("\n")
    assert [int(row["open_ts"]) for row in read(path)] == [
        START + number * 60_000 for number in range(text.count("\n") - 1)
    ]


def test_a_full_disk_loses_and_doubles_nothing_once_there_is_room(tmp_path: Path) -> None:
    """The limit on a file's size stands for the full disk: a write is cut short, the next one fails."""
    path = tmp_path / "full.csv"
    script = f"""
import asyncio, json, resource, signal, sys
sys.path.insert(0, {str(TESTS)!r})
from streammachine.market.emitters.csv import CSVEmitter
from streammachine.market.emitters.outlet import Outlet
from support.rows import candles
from support.valkey import until
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
async def main():
    async with Outlet(CSVEmitter(file_path={str(path)!r}), batch=50) as outlet:
        await outlet.put(candles(500))
        await until(lambda: outlet.stats.retried > 2, {WAIT})
        whole = open({str(path)!r}).read().endswith("\\n")
        state = outlet.stats.state
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await outlet.drain()
        print(json.dumps([whole, state, outlet.stats.failed]))
asyncio.run(main())
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY, "the limit cannot be lifted again"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == [True, "away", 0]
    assert [float(row["close"]) for row in read(path)] == [100.0 + number for number in range(500)]


def test_two_processes_append_to_one_file_under_one_header(tmp_path: Path) -> None:
    path = tmp_path / "shared.csv"
    script = f"""
import asyncio, sys
sys.path.insert(0, {str(TESTS)!r})
from streammachine.market.emitters.csv import CSVEmitter
from streammachine.market.emitters.outlet import Outlet
from support.rows import candles
async def main():
    async with Outlet(CSVEmitter(file_path={str(path)!r}), batch=7) as outlet:
        print(flush=True)
        sys.stdin.readline()
        await outlet.put(candles(500, symbol=sys.argv[1]))
asyncio.run(main())
"""
    command = [sys.executable, "-c", script]
    processes = [
        subprocess.Popen([*command, symbol], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for symbol in ("A", "B")
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        process.communicate("\n", timeout=60)
    rows = read(path)
    for symbol in ("A", "B"):
        assert [float(row["close"]) for row in rows if row["symbol"] == symbol] == [100.0 + n for n in range(500)]


# -- once ------------------------------------------------------------------------------------


async def test_dedupe_leaves_out_what_the_file_holds_whatever_the_order(tmp_path: Path) -> None:
    path = tmp_path / "once.csv"
    await write(path, candles(5, first=5), dedupe=True)
    emitter = CSVEmitter(file_path=path, dedupe=True)
    async with Outlet(emitter) as outlet:
        await outlet.put([*candles(10), candle(3), candle(3, symbol="ETHUSDT")])
    assert emitter.duplicates == 6
    assert sorted(row["open_ts"] for row in read(path) if row["symbol"] == "BTCUSDT") == [
        str(candle(number).open_ts) for number in range(10)
    ]
    assert [row["symbol"] for row in read(path)].count("ETHUSDT") == 1


async def test_dedupe_lets_the_open_states_of_a_candle_through(tmp_path: Path) -> None:
    path = tmp_path / "states.csv"
    for _ in range(2):
        await write(path, [candle(is_closed=False), candle(is_closed=False, volume=3.0), candle()], dedupe=True)
    assert [row["is_closed"] for row in read(path)] == ["false", "false", "true", "false", "false"]


async def test_dedupe_knows_trades_by_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "trades.csv"
    for _ in range(2):
        await write(path, [trade(0), trade(1), trade(1)], dedupe=True)
    assert [row["trade_id"] for row in read(path)] == ["1000", "1001"]


async def test_dedupe_in_a_file_without_those_columns_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "made.csv"
    path.write_text("price\n1\n")
    with pytest.raises(EmitterError, match="no columns to tell duplicates by"):
        async with Outlet(CSVEmitter(file_path=path, transformer_function=lambda row: {"price": 1}, dedupe=True)):
            raise AssertionError("it was entered")
