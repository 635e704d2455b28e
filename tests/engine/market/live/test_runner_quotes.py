"""Quotes through a runner and the simulated exchanges: those of the tape, thinned on request, a Gap where it broke."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis as redis_client

from streammachine import FastOHLC
from streammachine.errors import DataInputError
from streammachine.market.clock.clock import VirtualClock
from streammachine.market.emitters.csv import CSVEmitter
from streammachine.market.emitters.kafka import _key_of
from streammachine.market.emitters.logger import Logger
from streammachine.market.emitters.outlet import Outlet
from streammachine.market.emitters.parquet import ParquetEmitter
from streammachine.market.emitters.redis import RedisEmitter
from streammachine.market.healing.quote_ledger import QuoteLedger
from streammachine.market.live.runner import Runner, runner_for
from streammachine.market.model.data_input import DataInput
from streammachine.market.model.kline import Gap
from streammachine.market.model.quote import Quote
from streammachine.market.simulator import Fault, Simulator, Tape
from streammachine.market.simulator.tape.book import book_behind

START = 1_753_000_020_000
SYMBOLS = {"binance": "BTCUSDT", "okx": "BTC-USDT", "kraken": "BTC/USDT", "bybit": "BTCUSDT", "coinbase": "BTC-USDT"}
pytestmark = pytest.mark.anyio
Streamed = Callable[..., Any]


@pytest.fixture
async def streamed(anyio_backend: str) -> AsyncIterator[Streamed]:
    """Streams quotes of a simulated exchange for so many seconds of it: the rows, the runner, the tape."""
    clock = VirtualClock(START)
    tape = Tape.generate(0, symbols=("BTC/USDT",), start_ms=START)

    async def run(
        name: str, seconds: float, *faults: str, every: str | None = None, symbol: str | None = None, **options: Any
    ) -> Any:
        async with Simulator(tape, (name,), clock, [Fault.parse(text) for text in faults]) as simulator:
            urls = simulator.urls(name)
            runner: Runner = runner_for(
                name, DataInput("quote", [symbol or SYMBOLS[name]], every=every), ws_url=urls.ws,
                ws_business_url=urls.ws_business, rest_url=urls.rest, clock=clock, **options,
            )  # fmt: skip
            rows: list[Quote] = []
            until = clock.time_ms() + seconds * 1000
            async for row in runner.stream():
                assert isinstance(row, Quote)
                rows.append(row)
                if row.ts >= until:
                    break
            await runner.close()
            return rows, runner, tape

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.drive)
        yield run
        tasks.cancel_scope.cancel()


def books(tape: Tape, start: int, end: int) -> list[tuple[float, float, float, float]]:
    """The tape's own, those that stay as they were left out."""
    found: list[tuple[float, float, float, float]] = []
    for trade in tape.rows("BTC/USDT", start, end):
        book = book_behind(trade)
        one = (float(book.bid), float(book.bid_size), float(book.ask), float(book.ask_size))
        if not found or found[-1] != one:
            found.append(one)
    return found


def values(quote: Quote) -> tuple[float | None, ...]:
    return quote.bid, quote.bid_size, quote.ask, quote.ask_size


@pytest.mark.parametrize("name", SYMBOLS)
async def test_they_are_those_of_the_tape(streamed: Streamed, name: str) -> None:
    rows, runner, tape = await streamed(name, 90)
    expected = books(tape, START, rows[-1].ts + 60_000)
    found = [values(row) for row in rows]
    at = next(place for place, one in enumerate(expected) if one == found[-1]) - len(found) + 1
    greeting = 1 if at < 0 else 0  # the book that stood there before the tape's first trade in this window
    assert found[greeting:] == expected[at + greeting : at + len(found)]
    assert len(rows) > 30
    assert not runner.gaps


@pytest.mark.parametrize("name", SYMBOLS)
async def test_after_an_interruption_a_gap_says_that_they_cannot_be_had(streamed: Streamed, name: str) -> None:
    rows, runner, tape = await streamed(
        name, 120, "reset@40", "refuse@40:times=3", "malformed@20", "duplicate@25:times=5"
    )
    [gap] = runner.gaps
    assert (gap.timeframe, gap.symbol) == ("quote", SYMBOLS[name])
    assert "cannot be had" in gap.reason
    assert not [row for row in rows if gap.start <= row.ts < gap.end]
    assert [row.ts for row in rows] == sorted(row.ts for row in rows)
    expected = set(books(tape, START - 60_000, rows[-1].ts + 1))
    assert {values(row) for row in rows} <= expected
    assert all(one != other for one, other in zip(map(values, rows), map(values, rows[1:]), strict=False))


@pytest.mark.parametrize("name", SYMBOLS)
async def test_the_pair_is_there_whichever_spelling_was_asked_for(
    streamed: Streamed, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMMACHINE_DATA_DIR", str(tmp_path))
    rows, _, _ = await streamed(name, 5, symbol="BTC/USDT")
    assert {(row.symbol, row.pair) for row in rows} == {(SYMBOLS[name], "BTC/USDT")}
    assert rows[0].model_dump()["pair"] == "BTC/USDT"  # a column of sinks, as it is not of candles


async def test_thinned_to_one_in_a_while_the_newest(streamed: Streamed) -> None:
    rows, _, tape = await streamed("bybit", 90, every="5s")
    assert 10 <= len(rows) <= 20
    everything = books(tape, START - 60_000, rows[-1].ts + 10_000)
    assert {values(row) for row in rows} <= set(everything)


def quote(number: int, ts: int = 0, **changed: Any) -> Quote:
    fields = {"source": "Binance", "symbol": "BTCUSDT", "bid": 100.0 + number, "bid_size": 1.0, "ask": 101.0 + number,
              "ask_size": 2.0, "ts": ts or START + number}  # fmt: skip
    return Quote(**(fields | changed))


def test_the_ledger_thins_and_keeps_the_last_state() -> None:
    ledger, rows = QuoteLedger("Binance", "BTCUSDT", every=100, pair="BTC/USDT"), []
    ledger.subscribed(0)
    for moment in (1000, 1010, 1020, 1099):
        ledger.take(quote(moment), moment, rows)
    assert [row.bid for row in rows] == [1100.0]
    assert ledger.due == 1100
    ledger.tick(1100, rows)
    assert [row.bid for row in rows] == [1100.0, 1199.0]
    ledger.take(quote(1150), 1150, rows)
    assert ledger.due == 1200
    ledger.interrupted()
    ledger.subscribed(1500)
    ledger.take(quote(1600), 1600, rows)
    assert [type(row) for row in rows[2:]] == [Quote, Gap, Quote]
    assert rows[-1].pair == "BTC/USDT"
    ledger.take(quote(1500), 1700, rows)
    assert ledger.late == 1


def test_a_quote_without_a_time_gets_that_of_its_receipt() -> None:
    ledger, rows = QuoteLedger("Binance", "BTCUSDT"), []
    ledger.subscribed(0)
    ledger.take(Quote(symbol="BTCUSDT", bid=1, bid_size=1, ask=2, ask_size=1, ts=0), 1234, rows)
    assert rows[0].ts == 1234


@pytest.mark.parametrize("every", [0, 100])
def test_a_clock_that_is_set_back_silences_no_quotes(every: int) -> None:
    ledger, rows = QuoteLedger("Binance", "BTCUSDT", every=every), []
    ledger.subscribed(0)
    for bid, moment in ((1, 9_000_000), (2, 1_000_000), (3, 1_000_200)):
        ledger.take(Quote(symbol="BTCUSDT", bid=bid, bid_size=1, ask=9, ask_size=1, ts=0), moment, rows)
    assert [(row.bid, row.ts) for row in rows] == [(1, 9_000_000), (2, 9_000_000), (3, 9_000_000)]
    assert ledger.late == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"timeframe": "1m"}, "FastOHLC"),
        ({"aggregate_list": ["5m"]}, "FastOHLC"),
        ({"every": "1 year"}, "100ms"),
        ({"every": "0s"}, "100ms"),
        ({"every": 5}, "100ms"),
    ],
)
def test_what_quotes_do_not_have_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(DataInputError, match=said):
        DataInput("quote", ["BTCUSDT"], **arguments)
    with pytest.raises(DataInputError, match="every thins out quotes"):
        DataInput("trade", ["BTCUSDT"], every="1s")


# -- sinks ------------------------------------------------------------------------------------


async def test_files_and_the_log_take_them(tmp_path: Path) -> None:
    import pandas as pd

    rows = [quote(number) for number in range(5)] + [quote(9, bid=None, bid_size=None)]
    path = tmp_path / "quotes.csv"
    for emitter in (CSVEmitter(file_path=path), ParquetEmitter(tmp_path / "rows")):
        async with Outlet(emitter) as outlet:
            await outlet.put(rows)
            assert await outlet.drain(10) == []
            assert outlet.stats.failed == 0
    with path.open() as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == list(Quote.model_fields)
    assert [row["bid"] for row in found] == ["100.0", "101.0", "102.0", "103.0", "104.0", ""]
    assert len(pd.read_parquet(tmp_path / "rows")) == 6
    assert (tmp_path / "rows" / "source=Binance" / "symbol=BTCUSDT" / "timeframe=quote").is_dir()
    assert "quote 2025-07-20 08:27:00.001Z bid 1 at 101 ask 2 at 102" in Logger().line(rows[1])
    assert _key_of(rows[0]) == "Binance|BTCUSDT|quote"


async def test_a_redis_stream_takes_each_once(shared_server: Any) -> None:
    rows = [quote(number, ts=START + number // 2) for number in range(6)]
    with redis_client.Redis.from_url(shared_server.url) as client:
        client.delete("q:quotes:binance:BTCUSDT")
        for _ in range(2):
            async with Outlet(RedisEmitter(url=shared_server.url, prefix="q:")) as outlet:
                await outlet.put(rows)
                assert await outlet.drain(10) == []
                assert outlet.stats.failed == 0
        found: Any = client.xrange("q:quotes:binance:BTCUSDT")
        client.delete("q:quotes:binance:BTCUSDT")
    assert [float(fields[b"bid"]) for _, fields in found] == [row.bid for row in rows]


# -- candles of the mid-price -----------------------------------------------------------------


async def test_candles_of_the_mid_price(streamed: Streamed) -> None:
    rows, _, _ = await streamed("okx", 150)
    candles = FastOHLC([60_000])
    for row in rows:
        candles.update_tick(row.symbol, row.mid, 0.0, row.ts)
    minute = START // 60_000 * 60_000 + 60_000
    mids = [row.mid for row in rows if minute <= row.ts < minute + 60_000]
    [candle] = [one for one in candles.get_candles("BTC-USDT", 60_000) if one.candle_start_ms == minute]
    assert (candle.open, candle.high, candle.low, candle.close) == (mids[0], max(mids), min(mids), mids[-1])
