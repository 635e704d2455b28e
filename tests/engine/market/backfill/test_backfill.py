"""Backfills: exactly the range, sorted, each once, on every exchange."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

import support.simulator
from streammachine.errors import (
    DataInputError,
    EmitterError,
    ExchangeUnavailableError,
    SymbolError,
    TimeframeError,
    UnknownExchangeError,
)
from streammachine.market.backfill.backfill import (
    Backfilling,
    BinanceBackfilling,
    BybitBackfilling,
    KrakenBackfilling,
    OKXBackfilling,
    OkxBackfilling,
    backfill_for,
)
from streammachine.market.emitters.base import DataEmitter
from streammachine.market.emitters.csv import CSVEmitter
from streammachine.market.exchanges import EXCHANGES
from streammachine.market.network.rest_queries import check_symbols
from streammachine.market.simulator import Fault, Tape
from support.backfill import NOW, assert_golden, files, golden, market, rows_of, utc, write

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMMACHINE_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture
def tokyo() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


class Keeper:
    """A user's own emitter: no base class, plain methods."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.said: list[str] = []

    def connect(self) -> None:
        self.said.append("connect")

    def emit(self, row: Any) -> None:
        self.rows.append(row)

    def close(self) -> None:
        self.said.append("close")


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_a_range_of_date_times_is_exact(exchange: str, tmp_path: Path) -> None:
    async with market(exchange) as here:
        backfill = here.backfill("1m", "2024-02-02T17:30", "2024-02-03T04:10", file_path=tmp_path / "out.csv")
        await backfill.arun()
    assert_golden(rows_of(tmp_path / "out.csv"), here.tape, "1m", utc("2024-02-02T17:30"), utc("2024-02-03T04:10"))
    assert backfill.gaps == []


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_now_ends_with_the_last_closed_candle(exchange: str, tmp_path: Path) -> None:
    async with market(exchange) as here:
        await here.backfill("5m", "2024-02-03", "now", file_path=tmp_path / "out.csv").arun()
    assert_golden(rows_of(tmp_path / "out.csv"), here.tape, "5m", utc("2024-02-03"), utc("2024-02-03T05:00"))


@pytest.mark.parametrize(
    "fault",
    [Fault("skew", value=-1300, lasts=4), Fault("behind", seconds=5, lasts=7), None],
    ids=["skew", "behind", "none"],
)
@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_a_candle_that_has_just_ended_is_taken_when_it_is_final(exchange: str, fault: Fault | None) -> None:
    now = utc("2024-02-03T05:00:00.200")
    tape = Tape.generate(seed=4, symbols=("BTC/USDT",), start_ms=now - 3_600_000, trades_per_minute=600, quiet=0)
    async with market(exchange, now=now, tape=tape, faults=[fault] if fault else []) as here:
        await here.backfill("1m", "2024-02-03T04:00", "now", file_path="out.csv").arun()
        assert here.clock.monotonic() < 10
    assert_golden(rows_of(Path("out.csv")), here.tape, "1m", utc("2024-02-03T04:00"), utc("2024-02-03T05:00"))


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("timeframe", ["1h", "1d"])
async def test_a_to_date_includes_its_whole_day(exchange: str, timeframe: str, tmp_path: Path) -> None:
    async with market(exchange) as here:
        await here.backfill(timeframe, "2024-01-10", "2024-01-31", file_path=tmp_path / "out.csv").arun()
    assert_golden(rows_of(tmp_path / "out.csv"), here.tape, timeframe, utc("2024-01-10"), utc("2024-02-01"))


@pytest.mark.usefixtures("tokyo")
@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_the_machines_time_zone_changes_nothing(exchange: str, tmp_path: Path) -> None:
    async with market(exchange) as here:
        await here.backfill("15m", "2024-02-01", "2024-02-02", file_path=tmp_path / "out.csv").arun()
        dates = [date(2024, 2, 1), datetime(2024, 2, 3, tzinfo=UTC)]
        await here.backfill("15m", *dates, file_path=tmp_path / "dates.csv").arun()
    assert_golden(rows_of(tmp_path / "out.csv"), here.tape, "15m", utc("2024-02-01"), utc("2024-02-03"))
    assert rows_of(tmp_path / "dates.csv") == rows_of(tmp_path / "out.csv")


@pytest.mark.parametrize("exchange", ["binance", "okx", "bybit"])
async def test_months_and_weeks_of_the_calendar(exchange: str, tmp_path: Path) -> None:
    async with market(exchange) as here:
        for timeframe, start, end in (("1M", "2023-12-01", "2024-02-01"), ("1w", "2024-01-01", "2024-01-29")):
            path = tmp_path / f"{timeframe}.csv"
            await here.backfill(timeframe, start, "2024-01-31T23:59", file_path=path).arun()
            assert_golden(rows_of(path), here.tape, timeframe, utc(start), utc(end))


async def test_kraken_folds_trades_where_its_candles_end(tmp_path: Path) -> None:
    async with market("kraken") as here:
        backfill = here.backfill("1m", "2024-02-01T22:00", "2024-02-03T04:00", file_path=tmp_path / "out.csv")
        await backfill.arun()
    rows = rows_of(tmp_path / "out.csv")
    assert_golden(rows, here.tape, "1m", utc("2024-02-01T22:00"), utc("2024-02-03T04:00"))
    assert [row["origin"] for row in rows[:3]] == ["trades"] * 3
    assert rows[-1]["origin"] == "rest"


async def test_pages_shorter_than_asked_for_lose_nothing(tmp_path: Path) -> None:
    for exchange, rules in (
        ("okx", {"page": 100, "history_page": 100}),
        ("bybit", {"page": 200}),
        ("binance", {"page": 500}),
    ):
        async with market(exchange, rules=rules) as here:
            path = tmp_path / f"{exchange}.csv"
            await here.backfill("1m", "2024-02-02T00:00", "2024-02-03T01:00", file_path=path).arun()
        assert_golden(rows_of(path), here.tape, "1m", utc("2024-02-02"), utc("2024-02-03T01:00"))


async def test_stream_gives_dicts_in_batches(tmp_path: Path) -> None:
    async with market("okx") as here:
        backfill = here.backfill("1m", "2024-02-02", "2024-02-02T10:00")
        batches = [batch async for batch in backfill.stream(batch_size=250)]
    assert [len(batch) for batch in batches] == [250, 250, 100]
    assert_golden(
        [row for batch in batches for row in batch], here.tape, "1m", utc("2024-02-02"), utc("2024-02-02T10:00")
    )
    assert files(tmp_path) == []
    assert backfill.stats()["state"] == "done"


async def test_a_stream_can_be_left_early() -> None:
    async with market("bybit") as here:
        async for batch in here.backfill("1m", "2024-01-01", "2024-01-31").stream(batch_size=10):
            assert len(batch) == 10
            break
        again = [batch async for batch in here.backfill("1h", "2024-01-31", "2024-01-31").stream()]
    assert len(again[0]) == 24


async def test_a_stream_raises_what_went_wrong() -> None:
    async with market("okx", faults=[Fault("status", value=500, after=6, times=-1)]) as here:
        got = 0
        with pytest.raises(ExchangeUnavailableError, match="500"):
            async for batch in here.backfill("1m", "2024-01-20", "2024-02-01").stream(batch_size=100):
                got += len(batch)
        assert got > 0
    async with market("okx", faults=[Fault("status", value=500, after=6, times=-1)]) as here:
        async for _ in here.backfill("1m", "2024-01-20", "2024-02-01").stream(batch_size=1):
            break  # it fails unseen


async def test_a_transformer_runs_once_for_each_row(tmp_path: Path) -> None:
    seen: list[int] = []

    def halves(row: dict[str, Any]) -> dict[str, Any] | None:
        seen.append(row["open_ts"])
        return {"time": row["open_ts"], "middle": (row["high"] + row["low"]) / 2} if row["n_trades"] else None

    async with market() as here:
        kept = Keeper()
        backfill = here.backfill("15m", "2024-02-01", "2024-02-01", transformer=halves)
        backfill.register_emitter(CSVEmitter(file_path=tmp_path / "own.csv"))
        await backfill.arun()
        assert len(seen) == len(set(seen)) == 96
        assert list(rows_of(tmp_path / "own.csv")[0]) == ["time", "middle"]
        assert here.backfill("15m", "2024-02-01", "2024-02-01").set_transformer(halves) is not None
        streamed = [row async for batch in backfill.stream() for row in batch]
        assert [row["time"] for row in streamed] == [int(row["time"]) for row in rows_of(tmp_path / "own.csv")]
        other = here.backfill("15m", "2024-02-01", "2024-02-01").register_emitter(kept)
        assert other.set_transformer(halves, inplace=True) is None
        await other.arun()
        assert kept.rows == streamed


async def test_an_emitters_own_transformer_gets_what_the_backfills_made(tmp_path: Path) -> None:
    emitter = CSVEmitter(file_path=tmp_path / "own.csv").set_transformer(lambda row: {"b": row["a"] + 1})
    async with market() as here:
        backfill = here.backfill("1h", "2024-02-01", "2024-02-01", transformer=lambda row: {"a": row["n_trades"]})
        await backfill.register_emitter(emitter).arun()
    trades = [candle[5] for candle, _ in golden(here.tape, "1h", utc("2024-02-01"), utc("2024-02-02"))]
    assert [int(row["b"]) for row in rows_of(tmp_path / "own.csv")] == [count + 1 for count in trades]
    assert emitter.transformer is not None
    assert emitter.transformer({"a": 1}) == {"b": 2}


async def test_a_row_that_a_transformer_fails_on_does_not_stop_the_others(tmp_path: Path) -> None:
    def picky(row: dict[str, Any]) -> dict[str, Any]:
        return {"hour": 24 // (row["open_ts"] // 3_600_000 % 24)}

    async with market() as here:
        backfill = here.backfill("1h", "2024-02-01", "2024-02-01", transformer=picky, file_path="out.csv")
        await backfill.arun()
        assert backfill.stats()["sinks"][0]["failed"] == 1
        assert len([row async for batch in backfill.stream() for row in batch]) == 23
    assert len(rows_of(Path("out.csv"))) == 23


async def test_a_users_own_emitters_get_klines() -> None:
    class Own(DataEmitter):
        def __init__(self) -> None:
            self.rows: list[Any] = []

        async def emit(self, row: Any) -> None:
            self.rows.append(row)

    plain, own = Keeper(), Own()
    async with market("okx") as here:
        backfill = here.backfill("1h", "2024-02-01", "2024-02-01").register_emitter(plain)
        backfill.register_emitter(own)
        await backfill.arun()
        await backfill.arun()  # nobody knows where the rows of such an emitter are, so they come again
    assert plain.said == ["connect", "close"] * 2
    assert len(plain.rows) == 48
    assert plain.rows == own.rows
    assert plain.rows[0].source == "OKX"
    assert plain.rows[0].is_closed is True


async def test_without_an_emitter_each_request_has_a_file_of_its_own(tmp_path: Path) -> None:
    names = {
        "binance": "Binance-BTCUSDT-SPOT-1h-2024-02-01_2024-02-02.csv",
        "okx": "Okx-BTC-USDT-1h-2024-02-01_2024-02-02.csv",
        "bybit": "Bybit-BTCUSDT-SPOT-1h-2024-02-01_2024-02-02.csv",
        "kraken": "Kraken-BTCUSDT-1h-2024-02-01_2024-02-02.csv",
    }
    for exchange, name in names.items():
        async with market(exchange) as here:
            await here.backfill("1h", "2024-02-01", "2024-02-02").arun()
        assert_golden(rows_of(tmp_path / name), here.tape, "1h", utc("2024-02-01"), utc("2024-02-03"))
    assert [name for name in files(tmp_path) if name.endswith(".csv")] == sorted(names.values())
    async with market() as here:
        assert str(here.backfill("1h", "2024-02-01", "now").file_path) == names["binance"].replace("02-02", "02-03")
        within_days = here.backfill("1m", "2024-02-01T10:30", "2024-02-01T12:00:30")
        assert str(within_days.file_path) == "Binance-BTCUSDT-SPOT-1m-2024-02-01T103000_2024-02-01T120030.csv"


async def test_a_registered_csv_emitter_keeps_its_path(tmp_path: Path) -> None:
    async with market() as here:
        backfill = here.backfill("1h", "2024-02-01", "2024-02-01", file_path="not-this.csv")
        await backfill.register_emitter(CSVEmitter(file_path=tmp_path / "this.csv")).arun()
        nameless = here.backfill("1h", "2024-02-01", "2024-02-01").register_emitter(CSVEmitter())
        await nameless.arun()
    assert len(rows_of(tmp_path / "this.csv")) == 24
    assert "not-this.csv" not in files(tmp_path)
    assert len(rows_of(nameless.file_path)) == 24


async def test_candles_that_cannot_be_had_are_gaps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lost = [utc("2024-02-02T12:00"), utc("2024-02-02T12:01"), utc("2024-02-02T15:30")]
    faults = [Fault("missing", value=ts, times=-1) for ts in lost]
    async with market("okx", faults=faults) as here:
        backfill = here.backfill("1m", "2024-02-02", "2024-02-02", file_path=tmp_path / "out.csv")
        await backfill.arun()
    rows = rows_of(tmp_path / "out.csv")
    everything = [candle[0] for candle, _ in golden(here.tape, "1m", utc("2024-02-02"), utc("2024-02-03"))]
    assert [int(row["open_ts"]) for row in rows] == [ts for ts in everything if ts not in lost]
    assert [(gap.start, gap.end) for gap in backfill.gaps] == [(lost[0], lost[1] + 60_000), (lost[2], lost[2] + 60_000)]
    assert "gap: BTC-USDT 1m" in caplog.text
    async with market("okx", faults=faults) as there:
        again = there.backfill("1m", "2024-02-02", "2024-02-02", file_path=tmp_path / "out.csv")
        await again.arun()
        assert again.gaps == backfill.gaps  # from the journal: nothing was asked
        await again.arun()
        assert again.gaps == backfill.gaps
        assert there.asked() == []


async def test_the_time_before_a_symbol_was_traded_is_one_gap_and_not_asked_for(tmp_path: Path) -> None:
    async with market("bybit") as here:
        listed = here.tape.listed("BTC/USDT")
        start = listed - 400 * 86_400_000
        backfill = here.backfill("1h", start, listed + 20 * 86_400_000, file_path=tmp_path / "out.csv")
        await backfill.arun()
        assert len(here.asked()) < 10
    assert_golden(rows_of(tmp_path / "out.csv"), here.tape, "1h", listed, listed + 20 * 86_400_000)
    assert [(gap.start, gap.end) for gap in backfill.gaps] == [(start, listed)]
    assert "was not traded yet" in backfill.gaps[0].reason


@pytest.mark.parametrize("exchange", ["binance", "okx", "bybit", "kraken"])
async def test_a_symbol_that_is_no_longer_traded_has_a_past(exchange: str) -> None:
    async with market(exchange, faults=[Fault("delist")]) as here, here.rest() as rest:
        with pytest.raises(SymbolError, match="does not trade"):
            await check_symbols(rest, [here.symbol])
        await here.backfill("1h", "2024-02-01", "2024-02-01", file_path="out.csv").arun()
    assert_golden(rows_of(Path("out.csv")), here.tape, "1h", utc("2024-02-01"), utc("2024-02-02"))


# -- what is refused, before anything starts --


@pytest.mark.parametrize(
    ("timeframe", "start", "end", "said"),
    [
        ("1m", "2024-02-02", "2024-02-01", "not before"),
        ("1m", "2024-02-01T10:00", "2024-02-01T10:00", "not before"),
        ("1m", "2024-02-09", "now", "future"),
        ("1m", "2024-02-01", "2024-02-04", "future"),
        ("1m", "2024-02-01", "2024-02-03T23:00", "future"),
        ("1m", "yesterday", "now", "2024-01-31"),
        ("1m", "2024-13-01", "now", "2024-01-31"),
        ("1m", "01/02/2024", "now", "2024-01-31"),
        ("1m", "2024-01-01", "tomorrow", "to_date"),
        ("1m", 1704067200, "now", "milliseconds"),
        ("1m", True, "now", "from_date"),
        ("1m", None, "now", "from_date"),
        ("1h", "2024-02-03T04:30", "now", "no 1h candle"),
    ],
)
async def test_dates_that_make_no_range_are_refused(timeframe: str, start: Any, end: Any, said: str) -> None:
    async with market() as here:
        with pytest.raises(DataInputError, match=said):
            here.backfill(timeframe, start, end)
        assert here.asked() == []


async def test_today_as_the_end_is_as_far_as_it_has_come(tmp_path: Path) -> None:
    async with market() as here:
        await here.backfill("1h", "2024-02-02", "2024-02-03", file_path="out.csv").arun()
    assert_golden(rows_of(Path("out.csv")), here.tape, "1h", utc("2024-02-02"), utc("2024-02-03T05:00"))


async def test_what_the_exchange_does_not_have_is_refused() -> None:
    async with market() as here:
        with pytest.raises(TimeframeError, match="7m"):
            here.backfill("7m", "2024-02-01")
        with pytest.raises(TimeframeError, match="did you mean '1d'"):
            here.backfill("1D", "2024-02-01")
        with pytest.raises(SymbolError, match="BTCUSDT"):
            here.backfill("1m", "2024-02-01", symbol="BTC-USDT")
        with pytest.raises(DataInputError, match="klines"):
            here.backfill("1m", "2024-02-01", data_type="trades")
        with pytest.raises(DataInputError, match="market type"):
            here.backfill("1m", "2024-02-01", market_type="LINEAR")
    with pytest.raises(UnknownExchangeError, match="binance"):
        backfill_for("binnance", "BTCUSDT", "1m", "2024-02-01")
    with pytest.raises(TimeframeError, match="8h"):
        BybitBackfilling("BTCUSDT", "8h", "2024-01-01")


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_an_unknown_symbol_is_refused_before_a_file_is_made(exchange: str, tmp_path: Path) -> None:
    async with market(exchange) as here:
        unknown = here.symbol.replace("USDT", "USDX")
        with pytest.raises(SymbolError, match="did you mean BTC"):
            await here.backfill("1m", "2024-02-01", "2024-02-02", symbol=unknown, file_path="out.csv").arun()
        with pytest.raises(SymbolError, match="did you mean BTC"):
            await anext(here.backfill("1m", "2024-02-01", symbol=unknown).stream())
    assert files(tmp_path) == []


async def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    async with market() as here:
        with pytest.raises(EmitterError, match="does not exist"):
            await here.backfill("1h", "2024-02-01", file_path="no/such/folder/out.csv").arun()
        with pytest.raises(EmitterError, match="cannot be written"):
            await here.backfill("1h", "2024-02-01", file_path=tmp_path).arun()
        write(tmp_path / "other.csv", "a,b\n1,2\n")
        with pytest.raises(EmitterError, match="columns"):
            emitter = CSVEmitter(file_path="other.csv")
            await here.backfill("1h", "2024-02-01").register_emitter(emitter).arun()
    assert rows_of(tmp_path / "other.csv") == [{"a": "1", "b": "2"}]


async def test_an_object_that_is_no_emitter_is_refused() -> None:
    async with market() as here:
        with pytest.raises(EmitterError, match="emit"):
            here.backfill("1h", "2024-02-01").register_emitter(object())
        with pytest.raises(EmitterError, match="set_model"):
            here.backfill("1h", "2024-02-01").register_emitter(Keeper(), model=object)


async def test_run_in_a_running_loop_says_what_to_use() -> None:
    async with market() as here:
        with pytest.raises(DataInputError, match=r"await backfill\.arun"):
            here.backfill("1h", "2024-02-01").run()


def test_run_needs_no_loop() -> None:
    with support.simulator.exchange("okx", speed=60) as here:
        os.environ.update(here.env)
        try:
            backfill = OkxBackfilling("BTC-USDT", "1h", "2025-07-17", "2025-07-18", parallel=1)
            assert backfill.run() is None  # type: ignore[func-returns-value]
        finally:
            for name in here.env:
                del os.environ[name]
    assert_golden(rows_of(backfill.file_path), here.tape, "1h", utc("2025-07-17"), utc("2025-07-19"))


def test_the_classes_by_their_names() -> None:
    assert OkxBackfilling is OKXBackfilling
    assert KrakenBackfilling("XBT/USD", "1m", "2024-02-01").symbol == "BTC/USD"
    assert isinstance(backfill_for("Bybit", "BTCUSDT", "1m", "2024-02-01"), BybitBackfilling)


async def test_an_exchange_that_cannot_be_reached_is_said(unused_tcp_port: int) -> None:
    async with market() as here:
        backfill = here.backfill("1h", "2024-02-01", rest_url=f"http://127.0.0.1:{unused_tcp_port}")
        with pytest.raises(ExchangeUnavailableError, match="did not answer"):
            await backfill.arun()
        assert backfill.stats()["state"] == "failed"


async def test_a_backfill_can_be_ended_and_goes_on_later(tmp_path: Path) -> None:
    class Stopper:
        backfill: Backfilling | None = None
        rows = 0

        async def emit(self, row: Any) -> None:
            self.rows += 1
            if self.rows == 2000 and self.backfill is not None:
                ended.set()

    async with market("okx", faults=[Fault("timeout", seconds=3600, after=12, times=-1)]) as here:
        ended, stopper = anyio.Event(), Stopper()
        backfill = here.backfill("1m", "2024-01-25", "2024-01-31").register_emitter(stopper)
        stopper.backfill = backfill.register_emitter(CSVEmitter(file_path="out.csv"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(backfill.arun)
            await ended.wait()
            assert backfill.stats()["state"] == "running"
            await backfill.aclose()
        assert backfill.stats()["state"] == "stopped"
        assert 0 < backfill.stats()["fraction"] < 1
        await backfill.aclose()
    async with market("okx") as here:
        await here.backfill("1m", "2024-01-25", "2024-01-31", file_path="out.csv").arun()
    assert_golden(rows_of(tmp_path / "out.csv"), here.tape, "1m", utc("2024-01-25"), utc("2024-02-01"))


async def test_stats_say_how_far_it_is_and_how_long_it_will_take() -> None:
    seen: list[dict[str, Any]] = []

    class Watcher:
        async def emit(self, row: Any) -> None:
            if row.open_ts % 3_600_000 == 0:
                seen.append(backfill.stats())

    async with market("kraken") as here:
        backfill = here.backfill("1m", "2024-02-02", "2024-02-03").register_emitter(Watcher())
        assert backfill.stats()["state"] == "waiting"
        await backfill.arun()
    done = backfill.stats()
    assert (done["state"], done["fraction"], done["eta_s"], done["rows"]) == ("done", 1.0, 0.0, done["total"])
    assert done["total"] == 29 * 60
    assert done["sinks"][0]["emitted"] == done["rows"]
    fractions = [stats["fraction"] for stats in seen]
    assert fractions == sorted(fractions)
    assert all(stats["eta_s"] is None or stats["eta_s"] >= 0 for stats in seen)


async def test_a_simulators_clock_is_asked_for_when_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMMACHINE_CLOCK_URL", "http://127.0.0.1:9/clock")
    backfill = BinanceBackfilling("BTCUSDT", "1m", "2031-01-01", "2031-01-02")
    with pytest.raises(DataInputError, match="not before"):
        BinanceBackfilling("BTCUSDT", "1m", "2031-01-03", "2031-01-02")
    with pytest.raises(ExchangeUnavailableError, match="STREAMMACHINE_CLOCK_URL"):
        await backfill.arun()


async def test_several_backfills_at_once() -> None:
    async with market("okx") as here:
        made = [here.backfill(timeframe, "2024-02-01", "2024-02-02") for timeframe in ("5m", "15m", "1h")]
        async with anyio.create_task_group() as tasks:
            for backfill in made:
                tasks.start_soon(backfill.arun)
        for backfill in made:
            assert_golden(
                rows_of(backfill.file_path), here.tape, backfill.timeframe, utc("2024-02-01"), utc("2024-02-03")
            )


@pytest.fixture
def unused_tcp_port() -> int:
    import socket

    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def test_now_is_between_two_minutes() -> None:
    assert NOW % 60_000 == 12_000
