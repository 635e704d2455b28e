"""One spelling of markets for every exchange: learnt from what it lists, kept for a day, refused in one sentence."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import orjson
import pytest

import streammachine as sf
from streammachine.errors import ExchangeUnavailableError, SymbolError
from streammachine.market.clock.clock import SystemClock
from streammachine.market.exchanges import adapter_for
from streammachine.market.exchanges.base import Listing, Urls
from streammachine.market.exchanges.registry import ENTRIES
from streammachine.market.exchanges.spelling import SymbolTable, own_symbol, unknown_pair
from streammachine.market.model.pair import Pair, parse_pair
from streammachine.market.network import symbols
from streammachine.market.network.rest_client import RestClient
from streammachine.market.simulator import Tape
from support.market_runs import Collector, run_until, world

pytestmark = pytest.mark.anyio

KINDS = [(entry.name, kind) for entry in ENTRIES.values() for kind in entry.market_types]
COMMON = {"SPOT": "BTC/USDT", "LINEAR": "BTC/USDT:USDT", "INVERSE": "BTC/USD:BTC"}
COMMON |= {"USDM": COMMON["LINEAR"], "COINM": COMMON["INVERSE"]}
AWAY = Urls(ws="ws://127.0.0.1:9", rest="http://127.0.0.1:9")


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STREAMMACHINE_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def learnt(exchange: str, market_type: str, rows: list[dict[str, Any]]) -> SymbolTable:
    """The table that an answer of the exchange's with these rows makes."""
    told: dict[str, Any] = {
        "binance": {"symbols": rows},
        "okx": {"code": "0", "data": rows},
        "bybit": {"retCode": 0, "result": {"list": rows}},
        "kraken": {"error": [], "result": {str(number): row for number, row in enumerate(rows)}},
        "coinbase": {"products": rows},
    }[exchange]
    found = adapter_for(exchange, market_type).decode_instruments(orjson.dumps(told)).listings()
    return SymbolTable({one.symbol: one for one in found})


@pytest.mark.parametrize("text", ["BTC/USDT", "BTC/USDT:USDT", "BTC/USD:BTC", "BTC/USDT:USDT-261225", "币安人生/USDT"])
def test_a_pair_is_written_as_it_was_read(text: str) -> None:
    assert str(parse_pair(f" {text.lower()} ")) == text


@pytest.mark.parametrize("text", ["BTCUSDT", "BTC-USDT", "BTC/", "/USDT", "BTC/USDT:", "BTC/USDT-261225", "A/B/C", ""])
def test_what_is_no_pair_is_none(text: str) -> None:
    assert parse_pair(text) is None


def test_the_kind_of_a_pair() -> None:
    pairs = (Pair("BTC", "USDT"), Pair("BTC", "USDT", "USDT"), Pair("BTC", "USD", "BTC"))
    assert [pair.kind for pair in pairs] == ["SPOT", "LINEAR", "INVERSE"]


BINANCE = {"status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT"}
PERPETUAL = {"contractType": "PERPETUAL", "deliveryDate": 4_133_404_800_000, "marginAsset": "USDT"}


@pytest.mark.parametrize(
    ("exchange", "market_type", "row", "pair"),
    [
        ("binance", "SPOT", BINANCE | {"symbol": "币安人生USDT", "baseAsset": "币安人生"}, "币安人生/USDT"),
        ("binance", "USDM", BINANCE | PERPETUAL | {"symbol": "BTCUSDT"}, "BTC/USDT:USDT"),
        (
            "binance",
            "USDM",
            BINANCE | PERPETUAL | {"symbol": "1000PEPEUSDT", "baseAsset": "1000PEPE"},
            "1000PEPE/USDT:USDT",
        ),
        (
            "binance",
            "USDM",
            BINANCE | PERPETUAL | {"symbol": "BTCUSDT_261225", "deliveryDate": 1_798_185_600_000},
            "BTC/USDT:USDT-261225",
        ),
        (
            "binance",
            "COINM",
            {
                "symbol": "BTCUSD_PERP",
                "contractStatus": "TRADING",
                "baseAsset": "BTC",
                "quoteAsset": "USD",
                "marginAsset": "BTC",
                "deliveryDate": 4_133_404_800_000,
                "contractSize": 100,
            },
            "BTC/USD:BTC",
        ),
        ("okx", "SPOT", {"instId": "BTC-USDT", "state": "live"}, "BTC/USDT"),
        (
            "okx",
            "LINEAR",
            {"instId": "BTC-USDT-SWAP", "state": "live", "settleCcy": "USDT", "ctVal": "0.01", "ctValCcy": "BTC"},
            "BTC/USDT:USDT",
        ),
        ("okx", "LINEAR", {"instId": "BTC-USDT-261225", "state": "live", "settleCcy": "USDT"}, "BTC/USDT:USDT-261225"),
        (
            "okx",
            "LINEAR",
            {"instId": "BTC-USD_UM_XPERP-310404", "state": "live", "settleCcy": "USD"},
            "BTC/USD:USD-310404",
        ),
        ("okx", "INVERSE", {"instId": "BTC-USD-261225", "state": "live", "settleCcy": "BTC"}, "BTC/USD:BTC-261225"),
        (
            "bybit",
            "LINEAR",
            {
                "symbol": "BTCPERP",
                "status": "Trading",
                "baseCoin": "BTC",
                "quoteCoin": "USDC",
                "settleCoin": "USDC",
                "deliveryTime": "0",
            },
            "BTC/USDC:USDC",
        ),
        (
            "bybit",
            "INVERSE",
            {
                "symbol": "BTCUSDZ26",
                "status": "Trading",
                "baseCoin": "BTC",
                "quoteCoin": "USD",
                "settleCoin": "BTC",
                "deliveryTime": "1798185600000",
            },
            "BTC/USD:BTC-261225",
        ),
        ("kraken", "SPOT", {"wsname": "XBT/USD", "status": "online"}, "BTC/USD"),
        ("kraken", "SPOT", {"wsname": "XDG/EUR", "status": "online"}, "DOGE/EUR"),
        ("kraken", "SPOT", {"wsname": "AAPLx/USD", "status": "online"}, "AAPLx/USD"),
        ("coinbase", "SPOT", {"product_id": "BTC-USD", "status": "online", "alias": ""}, "BTC/USD"),
    ],
)
def test_what_is_listed_has_our_spelling(exchange: str, market_type: str, row: dict[str, Any], pair: str) -> None:
    table = learnt(exchange, market_type, [row])
    (listing,) = table.listings.values()
    assert listing.pair == pair
    assert own_symbol(adapter_for(exchange, market_type), pair, table) == listing.symbol
    assert own_symbol(adapter_for(exchange, market_type), listing.symbol, table) == listing.symbol


def test_contract_sizes_are_told() -> None:
    row = {"instId": "BTC-USDT-SWAP", "state": "live", "settleCcy": "USDT", "ctVal": "0.01", "ctValCcy": "BTC"}
    assert learnt("okx", "LINEAR", [row]).listings["BTC-USDT-SWAP"].contract_size == 0.01


def test_krakens_old_names_are_taken_too() -> None:
    kraken = adapter_for("kraken")
    assert [own_symbol(kraken, text) for text in ("XBT/USD", "XDG/USD", "AAPLx/USD")] == [
        "BTC/USD",
        "DOGE/USD",
        "AAPLx/USD",
    ]


# -- what is refused, in one sentence ---------------------------------------------------------


@pytest.mark.parametrize(
    ("exchange", "market_type", "text", "said"),
    [
        ("binance", "SPOT", "BTC/USDT:USDT", "is a linear contract, and market_type is SPOT: give market_type='USDM'"),
        (
            "okx",
            "LINEAR",
            "BTC/USD:BTC",
            "is an inverse contract, and market_type is LINEAR: give market_type='INVERSE'",
        ),
        ("bybit", "INVERSE", "BTC/USDT", "is a spot market, and market_type is INVERSE: give market_type='SPOT'"),
        ("coinbase", "SPOT", "BTC/USD:BTC", "is an inverse contract, and Coinbase has none here: give e.g. BTC-USD"),
        ("kraken", "SPOT", "BTC/USDT:USDT", "is no Kraken symbol: Kraken writes BTC/USD"),
    ],
)
def test_a_symbol_of_another_kind_of_market_is_refused(exchange: str, market_type: str, text: str, said: str) -> None:
    with pytest.raises(SymbolError) as caught:
        own_symbol(adapter_for(exchange, market_type), text)
    assert str(caught.value) == f"{text!r} {said}"


def test_a_pair_of_two_markets_is_refused_and_both_are_named() -> None:
    rows = [Listing("BTCUSDZ26", "BTC/USD:BTC-261225"), Listing("BTC-25DEC26", "BTC/USD:BTC-261225")]
    table = SymbolTable({one.symbol: one for one in rows})
    with pytest.raises(SymbolError) as caught:
        own_symbol(adapter_for("bybit", "INVERSE"), "BTC/USD:BTC-261225", table)
    assert str(caught.value) == "BTC/USD:BTC-261225 is 2 markets of Bybit: give BTCUSDZ26 or BTC-25DEC26"


def test_of_two_markets_of_a_pair_the_one_that_is_traded_is_meant() -> None:
    rows = [Listing("OLDUSDT", "NEW/USDT", halted="BREAK"), Listing("NEWUSDT", "NEW/USDT")]
    assert SymbolTable({one.symbol: one for one in rows}).symbols("NEW/USDT") == ["NEWUSDT"]


def test_an_unknown_pair_names_the_contract_of_a_thousand() -> None:
    table = SymbolTable({"1000PEPEUSDT": Listing("1000PEPEUSDT", "1000PEPE/USDT:USDT")})
    error = unknown_pair(adapter_for("binance", "USDM"), "PEPE/USDT:USDT", table)
    assert str(error) == "Binance does not trade PEPE/USDT:USDT: did you mean 1000PEPE/USDT:USDT?"


async def test_without_a_network_and_a_table_only_well_known_coins_are_known() -> None:
    adapter = adapter_for("binance")
    assert symbols.spelled(adapter, AWAY, ["BTC/USDT"]) == ["BTCUSDT"]
    assert symbols.spelled(adapter, AWAY, ["PEPE/USDT"]) == ["PEPE/USDT"]
    async with RestClient(adapter, AWAY, clock=SystemClock(), attempts=1) as rest:
        with pytest.raises(
            ExchangeUnavailableError, match="no table of them is kept yet: give it as Binance writes it"
        ):
            await symbols.settled(rest, ["PEPE/USDT"])
        assert await symbols.settled(rest, ["BTC/USDT"]) == ["BTCUSDT"]


@pytest.mark.parametrize(("exchange", "market_type"), KINDS)
def test_well_known_coins_have_their_symbols_without_a_table(exchange: str, market_type: str) -> None:
    adapter = adapter_for(exchange, market_type)
    own = own_symbol(adapter, COMMON[market_type])
    assert own is not None
    assert adapter.check_symbol(own) == own


# -- the table --------------------------------------------------------------------------------


async def test_a_table_is_kept_for_a_day_for_its_owner_alone_and_asked_again_on_a_miss(data_dir: Path) -> None:
    async with world("binance", symbols=("PEPE/USDT",)) as there:
        adapter, urls = adapter_for("binance"), there.simulator.urls("binance")
        async with RestClient(adapter, urls, clock=there.clock) as rest:
            assert await symbols.settled(rest, ["PEPE/USDT"]) == ["PEPEUSDT"]
            asked = len(there.simulator.log.of("rest"))
            assert await symbols.settled(rest, ["pepe/usdt"]) == ["PEPEUSDT"]
            assert len(there.simulator.log.of("rest")) == asked
            await there.clock.sleep(120)
            with pytest.raises(SymbolError, match="Binance does not trade PEPE/USDC: did you mean PEPE/USDT"):
                await symbols.settled(rest, ["PEPE/USDC"])
            assert len(there.simulator.log.of("rest")) == asked + 1
            await there.clock.sleep(86_400)
            await symbols.settled(rest, ["PEPE/USDT"])
            assert len(there.simulator.log.of("rest")) == asked + 2
    (file,) = (data_dir / "symbols").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "broken", [b"", b"{", b"[]", b'{"version":99}', b'{"version":1,"learned_ms":1,"rows":[[1,2]]}']
)
def test_a_broken_table_is_set_aside(broken: bytes) -> None:
    adapter = adapter_for("binance")
    symbols.store(adapter, AWAY, SymbolTable({"AUSDT": Listing("AUSDT", "A/USDT")}, 5))
    kept = symbols.stored(adapter, AWAY)
    assert kept is not None
    assert kept.learned_ms == 5
    path = symbols._path(adapter, AWAY)
    path.write_bytes(broken)
    assert symbols.stored(adapter, AWAY) is None
    assert path.with_suffix(".broken").read_bytes() == broken
    assert symbols.stored(adapter, AWAY) is None


def test_the_folder_keeps_the_newest_tables_only() -> None:
    adapter = adapter_for("binance")
    for number in range(symbols.MOST_FILES + 6):
        urls = Urls(ws="", rest=f"http://127.0.0.1:{number}")
        symbols.store(adapter, urls, SymbolTable({}, 1))
        os.utime(symbols._path(adapter, urls), (number, number))
    symbols.store(adapter, AWAY, SymbolTable({}, 1))
    folder = symbols._path(adapter, AWAY).parent
    assert len(list(folder.iterdir())) == symbols.MOST_FILES
    assert symbols._path(adapter, AWAY).exists()


def test_a_search_finds_names_in_either_spelling_the_traded_first() -> None:
    rows = [
        Listing("ETHBTC", "ETH/BTC"),
        Listing("BTCUSDT", "BTC/USDT"),
        Listing("BTCBUSD", "BTC/BUSD", halted="BREAK"),
        Listing("WBTCUSDT", "WBTC/USDT"),
    ]
    table = SymbolTable({one.symbol: one for one in rows})
    assert [one.symbol for one in table.search("btc/usdt")] == ["BTCUSDT", "WBTCUSDT"]
    found = [one.symbol for one in table.search("btc")]
    assert (found[0], found[-1]) == ("BTCUSDT", "BTCBUSD")
    assert len(table.search("")) == 4


# -- the whole road ---------------------------------------------------------------------------


@pytest.mark.parametrize(("exchange", "market_type"), KINDS)
async def test_a_runner_takes_our_spelling_and_its_rows_bear_both(exchange: str, market_type: str) -> None:
    async with world(exchange, symbols=("QQ/USDT",)) as there:
        pair = COMMON[market_type].replace("BTC", "QQ")
        own = there.simulator.symbol(exchange, "QQ/USDT", market_type)
        urls = there.simulator.urls(exchange, market_type)
        options = {"clock": there.clock, "ws_url": urls.ws, "ws_business_url": urls.ws_business, "rest_url": urls.rest}
        runner = _runner(exchange, pair, market_type, options)
        collector = Collector(2)
        await run_until(runner, collector)
        assert {row.symbol for row in collector.klines()} == {own}
        assert {row.pair for row in collector.klines()} == {pair}
        assert "pair" not in collector.klines()[0].model_dump()


def _runner(exchange: str, pair: str, market_type: str, options: dict[str, Any]) -> Any:
    from streammachine.market.live.runner import runner_for

    return runner_for(exchange, sf.DataInput("kline", [pair], "1m"), market_type=market_type, **options)


async def test_500_symbols_by_our_spelling_run_on_one_runner() -> None:
    pairs = tuple(f"C{number}/USDT" for number in range(500))
    async with world("binance", symbols=pairs, trades_per_minute=1) as there:
        runner = _runner("binance", "C0/USDT", "SPOT", there.options("binance"))
        runner.set_stream_input(sf.DataInput("kline", list(pairs), "1m"))
        collector = Collector(1000)
        await run_until(runner, collector)
        rows = collector.klines()
        assert {row.pair for row in rows} == set(pairs)
        assert all(row.symbol == str(row.pair).replace("/", "") for row in rows)


@pytest.mark.parametrize("exchange", ["okx", "coinbase"])
async def test_a_backfill_takes_our_spelling(exchange: str, tmp_path: Path) -> None:
    from support.backfill import market as past_market
    from support.backfill import rows_of

    tape = Tape.generate(seed=11, symbols=("QQ/USDT",), start_ms=1_706_936_412_000 - 3_600_000)
    async with past_market(exchange, tape=tape) as market:
        path = tmp_path / "rows.csv"
        backfill = market.backfill("1m", "2024-02-03T02:00", "2024-02-03T02:10", symbol="qq/usdt", file_path=path)
        await backfill.arun()
        assert backfill.symbol == market.simulator.symbol(exchange, "QQ/USDT")
        assert {row["symbol"] for row in rows_of(path)} == {backfill.symbol}


async def test_symbols_can_be_listed_in_a_running_loop_too() -> None:
    async with world("okx", symbols=("QQ/USDT", "RR/USDC")) as there:
        urls = there.simulator.urls("okx")
        found = await _found("okx", urls)
        assert [(one.symbol, one.pair) for one in found] == [("RR-USDC", "RR/USDC")]


async def _found(exchange: str, urls: Urls) -> list[Listing]:
    from streammachine.market.network.listing import find_symbols

    return await find_symbols(exchange, "SPOT", "rr", rest_url=urls.rest)


async def test_a_sinks_columns_are_those_that_they_were(tmp_path: Path) -> None:
    async with world("binance", symbols=("BTC/USDT",)) as there:
        runner = _runner("binance", "BTC/USDT", "SPOT", there.options("binance"))
        runner.register_emitter(sf.CSVEmitter(file_path=tmp_path / "rows.csv"))
        await run_until(runner, Collector(2))
    header = (tmp_path / "rows.csv").read_text().splitlines()[0]
    assert "pair" not in header
    assert header.startswith("source,symbol,timeframe,open_ts")
