"""Symbols, timeframes and addresses: what each exchange takes, and what it says to another's."""

from __future__ import annotations

import pytest

from streammachine.errors import DataInputError, SymbolError, TimeframeError, UnknownExchangeError
from streammachine.market.exchanges import EXCHANGES, adapter_for
from streammachine.market.model import timeframe as timeframes


@pytest.mark.parametrize(
    ("exchange", "market_type", "given", "made"),
    [
        ("binance", "SPOT", "BTCUSDT", "BTCUSDT"),
        ("binance", "SPOT", " btcusdt ", "BTCUSDT"),
        ("binance", "SPOT", "1000SATSUSDT", "1000SATSUSDT"),
        ("binance", "SPOT", "币安人生usdt", "币安人生USDT"),
        ("binance", "USDM", "牛来USDT", "牛来USDT"),
        ("binance", "USDM", "BTCUSDT_260925", "BTCUSDT_260925"),
        ("binance", "COINM", "btcusd_perp", "BTCUSD_PERP"),
        ("binance", "COINM", "ETHUSD_260925", "ETHUSD_260925"),
        ("okx", "SPOT", "btc-usdt", "BTC-USDT"),
        ("okx", "LINEAR", "BTC-USDT-SWAP", "BTC-USDT-SWAP"),
        ("okx", "LINEAR", "BTC-USDC-260925", "BTC-USDC-260925"),
        ("okx", "LINEAR", "btc-usd_um_xperp-310404", "BTC-USD_UM_XPERP-310404"),
        ("okx", "INVERSE", "BTC-USD-SWAP", "BTC-USD-SWAP"),
        ("kraken", "SPOT", "BTC/USD", "BTC/USD"),
        ("kraken", "SPOT", "xbt/usd", "BTC/USD"),
        ("kraken", "SPOT", "XDG/EUR", "DOGE/EUR"),
        ("kraken", "SPOT", "ETH/XBT", "ETH/BTC"),
        ("kraken", "SPOT", "AAPLx/USD", "AAPLx/USD"),
        ("kraken", "SPOT", "AAPLx/usd", "AAPLx/USD"),
        ("bybit", "SPOT", "btcusdt", "BTCUSDT"),
        ("bybit", "LINEAR", "BTC-26SEP25", "BTC-26SEP25"),
        ("bybit", "INVERSE", "BTCUSD", "BTCUSD"),
        ("bybit", "INVERSE", "BTCUSDZ26", "BTCUSDZ26"),
    ],
)
def test_a_symbol_in_the_right_form_is_taken(exchange: str, market_type: str, given: str, made: str) -> None:
    assert adapter_for(exchange, market_type).check_symbol(given) == made


@pytest.mark.parametrize(
    ("exchange", "market_type", "given", "hint"),
    [
        ("binance", "SPOT", "BTC-USDT", "Binance writes BTCUSDT"),
        ("binance", "SPOT", "btc/usdt", "Binance writes BTCUSDT"),
        ("binance", "SPOT", "BTC-USDT-SWAP", "Binance writes BTCUSDT"),
        ("binance", "SPOT", "BTCUSDT_260925", "Binance writes BTCUSDT"),
        ("binance", "SPOT", "币安人生/USDT", "Binance writes 币安人生USDT"),
        ("binance", "SPOT", "?", "Binance writes BTCUSDT"),
        ("binance", "USDM", "BTC/USDT", "Binance writes BTCUSDT"),
        ("binance", "COINM", "BTCUSDT", "Binance writes BTCUSD_PERP"),
        ("binance", "COINM", "ETHUSD", "Binance writes ETHUSD_PERP"),
        ("binance", "COINM", "ETH/USD", "Binance writes ETHUSD_PERP"),
        ("okx", "SPOT", "BTCUSDT", "OKX writes BTC-USDT"),
        ("okx", "SPOT", "BTC/USDT", "OKX writes BTC-USDT"),
        ("okx", "SPOT", "BTC_USDT", "OKX writes BTC-USDT"),
        ("okx", "SPOT", "BTC-USDT-SWAP", "market_type='LINEAR'"),
        ("okx", "LINEAR", "BTC-USDT", "market_type='SPOT'"),
        ("okx", "LINEAR", "BTCUSDT", "OKX writes BTC-USDT-SWAP"),
        ("okx", "INVERSE", "BTCUSD", "OKX writes BTC-USD-SWAP"),
        ("okx", "SPOT", "!", "OKX writes BTC-USDT"),
        ("kraken", "SPOT", "BTCUSD", "Kraken writes BTC/USD"),
        ("kraken", "SPOT", "BTC-USDT", "Kraken writes BTC/USDT"),
        ("kraken", "SPOT", "XBTUSD", "Kraken writes BTC/USD"),
        ("kraken", "SPOT", "XXBTZEUR", "Kraken writes BTC/EUR"),
        ("kraken", "SPOT", "XDGUSD", "Kraken writes DOGE/USD"),
        ("kraken", "SPOT", "", "Kraken writes BTC/USD"),
        ("bybit", "SPOT", "BTC-USDT", "Bybit writes BTCUSDT"),
        ("bybit", "LINEAR", "BTC/USDT", "Bybit writes BTCUSDT"),
        ("bybit", "INVERSE", "BTCUSDT", "Bybit writes BTCUSD"),
        ("bybit", "INVERSE", "BTC-USD", "Bybit writes BTCUSD"),
    ],
)
def test_another_exchanges_form_is_answered_with_the_right_one(
    exchange: str, market_type: str, given: str, hint: str
) -> None:
    with pytest.raises(SymbolError) as caught:
        adapter_for(exchange, market_type).check_symbol(given)
    assert repr(given) in str(caught.value)
    assert str(caught.value).endswith(hint)


@pytest.mark.parametrize(
    ("exchange", "market_type", "given", "hint"),
    [
        ("kraken", "SPOT", "BTC/U", "BTC/USD"),
        ("kraken", "SPOT", "btc/?", "BTC/USD"),
        ("okx", "SPOT", "A-B", "BTC-USDT"),
        ("okx", "LINEAR", "A-B-SWAP", "BTC-USDT-SWAP"),
        ("okx", "LINEAR", "BTC-USDT-SWAP-1", "BTC-USDT-SWAP"),
        ("binance", "SPOT", "BTC", "BTCUSDT"),
        ("binance", "COINM", "_PERP", "BTCUSD_PERP"),
        ("bybit", "INVERSE", "XYZ", "BTCUSD"),
        ("bybit", "LINEAR", "B", "BTCUSDT"),
    ],
)
def test_a_hint_is_never_the_refused_name(exchange: str, market_type: str, given: str, hint: str) -> None:
    with pytest.raises(SymbolError, match=f"writes {hint}$"):
        adapter_for(exchange, market_type).check_symbol(given)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_every_adapter_takes_its_own_example_in_every_market(exchange: str) -> None:
    adapter = adapter_for(exchange)
    assert adapter.check_symbol(adapter.symbol_example) == adapter.symbol_example


@pytest.mark.parametrize(
    ("exchange", "market_type", "missing"),
    [
        ("binance", "SPOT", set()),
        ("binance", "USDM", {"1s"}),
        ("binance", "COINM", {"1s"}),
        ("okx", "SPOT", {"8h"}),
        ("kraken", "SPOT", {"1s", "3m", "2h", "6h", "8h", "12h", "3d", "1w", "1M"}),
        ("bybit", "SPOT", {"1s", "8h", "3d"}),
    ],
)
def test_an_exchange_has_its_timeframes_and_names_them_when_asked_for_another(
    exchange: str, market_type: str, missing: set[str]
) -> None:
    adapter = adapter_for(exchange, market_type)
    for timeframe in timeframes.TIMEFRAMES:
        if timeframe not in missing:
            assert adapter.check_timeframe(timeframe) == timeframe
            continue
        with pytest.raises(TimeframeError, match=f"{adapter.source} has no {timeframe} candles") as caught:
            adapter.check_timeframe(timeframe)
        assert "5m" in str(caught.value)
        assert "aggregate_list" in str(caught.value)


def test_krakens_weeks_are_refused_with_the_reason() -> None:
    with pytest.raises(TimeframeError, match="Thursday"):
        adapter_for("kraken").check_timeframe("1w")


def test_okx_days_weeks_and_months_are_those_of_utc() -> None:
    names = adapter_for("okx").timeframes
    assert [names[name] for name in ("1h", "4h", "6h", "12h", "1d", "3d", "1w", "1M")] == [
        *("1H", "4H", "6Hutc", "12Hutc", "1Dutc", "3Dutc", "1Wutc", "1Mutc")
    ]


@pytest.mark.parametrize(
    ("exchange", "market_type", "kline", "trade"),
    [
        ("binance", "SPOT", "wss://stream.binance.com:9443/ws", "wss://stream.binance.com:9443/ws"),
        ("binance", "USDM", "wss://fstream.binance.com/market/ws", "wss://fstream.binance.com/market/ws"),
        ("binance", "COINM", "wss://dstream.binance.com/ws", "wss://dstream.binance.com/ws"),
        ("okx", "SPOT", "wss://ws.okx.com:8443/ws/v5/business", "wss://ws.okx.com:8443/ws/v5/public"),
        ("kraken", "SPOT", "wss://ws.kraken.com/v2", "wss://ws.kraken.com/v2"),
        ("bybit", "SPOT", "wss://stream.bybit.com/v5/public/spot", "wss://stream.bybit.com/v5/public/spot"),
        ("bybit", "LINEAR", "wss://stream.bybit.com/v5/public/linear", "wss://stream.bybit.com/v5/public/linear"),
        ("bybit", "INVERSE", "wss://stream.bybit.com/v5/public/inverse", "wss://stream.bybit.com/v5/public/inverse"),
    ],
)
def test_candles_and_trades_have_their_socket(exchange: str, market_type: str, kline: str, trade: str) -> None:
    adapter = adapter_for(exchange, market_type)
    urls = adapter.urls()
    assert adapter.endpoint("kline", urls) == kline
    assert adapter.endpoint("trade", urls) == trade


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_an_argument_wins_over_the_environment_and_that_over_the_exchanges_own(
    exchange: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = adapter_for(exchange)
    monkeypatch.setenv(f"STREAMMACHINE_{exchange.upper()}_WS", "ws://environment:1/")
    monkeypatch.setenv(f"STREAMMACHINE_{exchange.upper()}_REST", "http://environment:2")
    found = adapter.urls(rest_url="http://argument:3/")
    assert (found.ws, found.rest) == ("ws://environment:1", "http://argument:3")
    assert adapter.endpoint("trade", found).startswith("ws://environment:1")


def test_okx_candles_follow_an_overridden_socket_only_where_it_is_the_business_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter = adapter_for("okx")
    monkeypatch.setenv("STREAMMACHINE_OKX_WS_BUSINESS", "ws://business")
    found = adapter.urls(ws_url="ws://public")
    assert (adapter.endpoint("kline", found), adapter.endpoint("trade", found)) == ("ws://business", "ws://public")


def test_an_unknown_exchange_or_market_is_named() -> None:
    with pytest.raises(UnknownExchangeError, match="did you mean binance"):
        adapter_for("binanse")
    with pytest.raises(DataInputError, match="Kraken has no market type 'USDM' here: give SPOT"):
        adapter_for("kraken", "USDM")
    assert adapter_for("BINANCE", "usd-m").market_type == "USDM"
    assert adapter_for("bybit", "DEFAULT").market_type == "SPOT"
