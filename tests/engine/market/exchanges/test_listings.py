"""Which symbols there are: shares, names of any script, lists in pages, and symbols that are not traded just now."""

from __future__ import annotations

from pathlib import Path

import pytest

from streammachine import DataInput
from streammachine.errors import SymbolError
from streammachine.market.exchanges import adapter_for
from streammachine.market.live.runner import runner_for
from streammachine.market.network.rest_client import RestClient
from streammachine.market.network.rest_queries import check_symbols
from streammachine.market.simulator import Fault, Tape
from support.backfill import NOW, Market, assert_golden, market, rows_of, utc
from support.market_runs import START, Collector, run_until, same, short, world

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMMACHINE_DATA_DIR", str(tmp_path / "data"))


def tape_of(*symbols: str) -> Tape:
    return Tape.generate(seed=11, symbols=symbols, start_ms=NOW - 3_600_000)


def rest_of(here: Market, market_type: str) -> RestClient:
    return RestClient(adapter_for(here.exchange, market_type), here.urls, clock=here.clock)


@pytest.mark.parametrize(
    ("exchange", "listed", "symbol", "market_type"),
    [
        ("kraken", "AAPLx/USD", "AAPLx/USD", "SPOT"),
        ("binance", "币安人生/USDT", "币安人生USDT", "SPOT"),
        ("binance", "牛来/USDT", "牛来USDT", "USDM"),
        ("okx", "BTC/USDT", "BTC-USD_UM_XPERP-310404", "LINEAR"),
    ],
)
async def test_names_out_of_the_ordinary_are_streamed_and_backfilled(
    exchange: str, listed: str, symbol: str, market_type: str
) -> None:
    async with market(exchange, tape=tape_of(listed)) as here:
        # Long enough for bulk files, and for candles that are folded from trades.
        backfill = here.backfill(
            "1m", "2024-01-31", "2024-02-02", file_path="out.csv", symbol=symbol, market_type=market_type
        )
        await backfill.arun()
    assert backfill.gaps == []
    assert_golden(rows_of(Path("out.csv")), here.tape, "1m", utc("2024-01-31"), utc("2024-02-03"), symbol=listed)
    async with world(exchange, symbols=(listed,)) as there:
        wanted = DataInput("kline", [symbol], "1m")
        runner = runner_for(exchange, wanted, market_type=market_type, **there.options(exchange))
        found = Collector(3)
        await run_until(runner, found)
        rows = found.klines(symbol)
        same(short(rows), there.truth(listed, "1m", rows[0].open_ts, rows[-1].open_ts + 60_000))
        assert rows[0].open_ts >= START - 60_000


async def test_a_binance_file_is_asked_for_by_its_percent_encoded_name() -> None:
    async with market("binance", tape=tape_of("牛来/USDT")) as here:
        await here.backfill("1m", "2024-02-01", "2024-02-01", file_path="out.csv", symbol="牛来USDT").arun()
        targets = [entry for entry in here.asked() if "/data/" in entry]
    assert targets
    assert all("%E7%89%9B%E6%9D%A5USDT" in target or "牛来USDT" in target for target in targets), targets
    assert not any("%25" in target for target in targets)


async def test_okx_swaps_and_dated_futures_may_be_asked_for_together() -> None:
    async with market("okx") as here, rest_of(here, "LINEAR") as rest:
        await check_symbols(rest, ["BTC-USDT-SWAP", "BTC-USD_UM_XPERP-310404"])
        with pytest.raises(SymbolError, match="OKX does not trade BTC-USD_UM_XPERP-310405: did you mean BTC-USD_UM_X"):
            await check_symbols(rest, ["BTC-USDT-SWAP", "BTC-USD_UM_XPERP-310405"])


async def test_a_share_written_like_a_coin_is_answered_with_its_name() -> None:
    async with market("kraken", tape=tape_of("BTC/USD", "AAPLx/USD")) as here, here.rest() as rest:
        await check_symbols(rest, ["BTC/USD", "AAPLx/USD"])
        with pytest.raises(SymbolError, match="does not trade AAPLX/USD: did you mean AAPLx/USD"):
            await check_symbols(rest, ["AAPLX/USD"])


async def test_every_page_of_bybits_contracts_is_read_and_those_before_their_launch() -> None:
    tape = tape_of("BTC/USDT", "ETH/USDT", "SOL/USDT", "DOGE/USDT")
    faults = [Fault("listing", symbol="DOGE/USDT", value="PreLaunch")]
    rules = {"instruments_page": 1}
    async with market("bybit", tape=tape, faults=faults, rules=rules) as here, rest_of(here, "LINEAR") as rest:
        await check_symbols(rest, ["SOLUSDT"])
        assert len(here.asked()) == 3
        await check_symbols(rest, ["DOGEUSDT", "BTCUSDT"])
        with pytest.raises(SymbolError, match="does not trade SOLUSD: did you mean SOLUSDT"):
            await check_symbols(rest, ["SOLUSD"])


@pytest.mark.parametrize(
    ("exchange", "market_type", "status"),
    [
        ("binance", "SPOT", "CANCEL_ONLY"),
        ("binance", "SPOT", "HALT"),
        ("binance", "USDM", "SETTLING"),
        ("okx", "SPOT", "suspend"),
        ("okx", "LINEAR", "preopen"),
        ("kraken", "SPOT", "cancel_only"),
        ("bybit", "SPOT", "Closed"),
        ("bybit", "LINEAR", "Delivering"),
    ],
)
async def test_a_symbol_that_is_listed_and_not_traded_is_refused_with_its_status(
    exchange: str, market_type: str, status: str
) -> None:
    async with market(exchange, faults=[Fault("listing", value=status)]) as here, rest_of(here, market_type) as rest:
        names = {"LINEAR": {"okx": "BTC-USDT-SWAP"}}.get(market_type, {})
        symbol = names.get(exchange, here.symbol)
        with pytest.raises(SymbolError) as caught:
            await check_symbols(rest, [symbol])
        assert f"lists {symbol} with the status {status} and does not trade it now" in str(caught.value)
        assert str(caught.value).count(symbol) == 1
        backfill = here.backfill("1h", "2024-02-01", "2024-02-01", symbol=symbol, market_type=market_type)
        await backfill.arun()
        assert (backfill.stats()["rows"], backfill.gaps) == (24, [])


@pytest.mark.parametrize(("exchange", "status"), [("kraken", "post_only"), ("kraken", "reduce_only")])
async def test_a_status_in_which_trades_may_come_is_no_reason_to_refuse(exchange: str, status: str) -> None:
    async with market(exchange, faults=[Fault("listing", value=status)]) as here, here.rest() as rest:
        await check_symbols(rest, [here.symbol])


@pytest.mark.parametrize(
    ("exchange", "symbol"),
    [("binance", "BTCUSDT"), ("okx", "BTC-USDT"), ("kraken", "BTC/USD"), ("bybit", "BTCUSDT")],
)
async def test_an_unknown_symbol_is_not_suggested_as_the_example(exchange: str, symbol: str) -> None:
    async with market(exchange, tape=tape_of("XYZ/EUR")) as here, here.rest() as rest:
        with pytest.raises(SymbolError, match="does not trade") as caught:
            await check_symbols(rest, [symbol])
        assert str(caught.value).count(symbol) == 1
