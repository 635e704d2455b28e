"""Client and simulator were written apart: on every kind of market the adapters understand all that it says."""

from __future__ import annotations

from typing import Any

import pytest

from streammachine.market.exchanges import adapter_for
from streammachine.market.exchanges.base import Ack, Adapter, Alive, BadFrame, Notice, Refused, Request, Subscription
from streammachine.market.model.kline import Kline, Trade
from streammachine.market.model.timeframe import MINUTE
from support.exchange import START, Market, folded, simulated

pytestmark = pytest.mark.anyio

KINDS = [
    ("binance", "SPOT"),
    ("binance", "USDM"),
    ("binance", "COINM"),
    ("okx", "SPOT"),
    ("okx", "LINEAR"),
    ("okx", "INVERSE"),
    ("kraken", "SPOT"),
    ("bybit", "SPOT"),
    ("bybit", "LINEAR"),
    ("bybit", "INVERSE"),
]
EACH = pytest.mark.parametrize(("exchange", "market_type"), KINDS)
END = START + 4 * MINUTE


async def asked(market: Market, request: Request) -> bytes:
    answer = await market.get(request.path, **request.params)
    assert answer.status_code == 200, answer.text
    return answer.content


async def listened(market: Market, adapter: Adapter, kind: Any, timeframe: str | None) -> list[Any]:
    """The events of a socket for a symbol, four minutes long."""
    symbol = market.simulator.symbol(market.exchange, "BTC/USDT", adapter.market_type)
    urls = market.simulator.urls(market.exchange, adapter.market_type)
    path = adapter.endpoint(kind, urls).replace(urls.rest.replace("http", "ws", 1), "")
    line = await market.connect(path)
    (command,) = adapter.subscribe([Subscription(kind, symbol, timeframe)], 1)
    await line.say(command.frame)
    while market.clock.time_ms() < END + 5_000:
        await market.pass_time(10)
        ping = adapter.ping()
        if ping is not None:
            await line.say(ping)
    assert line.closed is None
    return [event for _, frame in line.heard for event in adapter.decode(frame)]


@EACH
async def test_pushed_candles(exchange: str, market_type: str) -> None:
    adapter = adapter_for(exchange, market_type)
    async with simulated(exchange) as market:
        await learn(market, adapter)
        events = await listened(market, adapter, "kline", "1m")
    assert {type(event) for event in events} <= {Kline, Ack, Alive, Notice}
    candles = [event for event in events if isinstance(event, Kline)]
    if adapter.closes == "flag":
        closed = {row.open_ts: row for row in candles if row.is_closed}
    else:
        closed = {row.open_ts: row for row in candles}
    for start, opened, high, low, close, volume, quote, count in folded(market.tape, MINUTE, START, END):
        row = closed[start]
        assert (row.open, row.high, row.low, row.close) == tuple(map(float, (opened, high, low, close)))
        assert row.volume == pytest.approx(float(volume), rel=1e-9)
        if market_type != "COINM":  # it tells the base currency and contracts
            assert row.quote_volume == pytest.approx(float(quote), rel=1e-9 if exchange != "kraken" else 1e-5)
        assert row.n_trades in (count, None)


@EACH
async def test_pushed_trades(exchange: str, market_type: str) -> None:
    adapter = adapter_for(exchange, market_type)
    async with simulated(exchange) as market:
        await learn(market, adapter)
        events = await listened(market, adapter, "trade", None)
    assert {type(event) for event in events} <= {Trade, Ack, Alive, Notice}
    trades = [event for event in events if isinstance(event, Trade)]
    want = market.tape.trades("BTC/USDT", START, END)
    assert sum(trade.volume for trade in trades if START <= trade.ts < END) == pytest.approx(
        sum(float(row.quantity) for row in want), rel=1e-9
    )
    if adapter.contiguous_ids:
        assert want[-1].id in {int(trade.trade_id) for trade in trades}


@EACH
async def test_asked_candles(exchange: str, market_type: str) -> None:
    adapter = adapter_for(exchange, market_type)
    async with simulated(exchange, start=END) as market:
        await learn(market, adapter)
        symbol = market.simulator.symbol(exchange, "BTC/USDT", market_type)
        body = await asked(market, adapter.klines(symbol, "1m", START - 30 * MINUTE, END))
        rows = {row.open_ts: row for row in adapter.decode_klines(body, symbol, "1m")}
    for start, opened, high, low, close, volume, *_ in folded(market.tape, MINUTE, START - 30 * MINUTE, END):
        row = rows[start]
        assert (row.open, row.high, row.low, row.close) == tuple(map(float, (opened, high, low, close)))
        assert row.volume == pytest.approx(float(volume), rel=1e-9)


@EACH
@pytest.mark.parametrize("timeframe", ["1h", "1d"])
async def test_longer_candles_begin_where_the_adapter_says(exchange: str, market_type: str, timeframe: str) -> None:
    adapter = adapter_for(exchange, market_type)
    length = {"1h": 60 * MINUTE, "1d": 1440 * MINUTE}[timeframe]
    first = START // length * length - 3 * length
    async with simulated(exchange) as market:
        symbol = market.simulator.symbol(exchange, "BTC/USDT", market_type)
        await learn(market, adapter)
        body = await asked(market, adapter.klines(symbol, timeframe, first, first + 3 * length))
        rows = [row.open_ts for row in adapter.decode_klines(body, symbol, timeframe)]
    assert {first, first + length, first + 2 * length} <= set(rows)


@EACH
async def test_every_refusal_is_understood(exchange: str, market_type: str) -> None:
    adapter = adapter_for(exchange, market_type)
    for value in (429, 503):
        async with simulated(exchange, [f"status:value={value}"]) as market:
            symbol = market.simulator.symbol(exchange, "BTC/USDT", market_type)
            request = adapter.klines(symbol, "1m", START - 30 * MINUTE, START)
            answer = await market.get(request.path, **request.params)
            refusal = adapter.refusal(answer.status_code, dict(answer.headers), answer.content)
            assert refusal is not None
            assert refusal.retry
            good = await market.get(request.path, **request.params)
            assert adapter.refusal(good.status_code, dict(good.headers), good.content) is None


@EACH
async def test_notices_errors_and_refused_subscriptions_are_understood(exchange: str, market_type: str) -> None:
    adapter = adapter_for(exchange, market_type)
    faults = ["ack_error", "notice@3", "error@5", "unknown:times=2", "malformed#20"]
    async with simulated(exchange, faults) as market:
        symbol = market.simulator.symbol(exchange, "BTC/USDT", market_type)
        urls = market.simulator.urls(exchange, market_type)
        path = adapter.endpoint("kline", urls).replace(urls.rest.replace("http", "ws", 1), "")
        line = await market.connect(path)
        for number in (1, 2):
            (command,) = adapter.subscribe([Subscription("kline", symbol, "1m")], number)
            await line.say(command.frame)
        await market.pass_time(12)
        events = [event for _, frame in line.heard for event in adapter.decode(frame)]
    assert any(isinstance(event, Refused) for event in events)
    if exchange in ("binance", "okx"):
        assert any(isinstance(event, Notice) and event.reconnect for event in events)
    assert not [event for event in events if isinstance(event, BadFrame) and "omething" not in event.excerpt]


async def learn(market: Market, adapter: Adapter) -> None:
    """Let the adapter see the instruments: contract sizes stand there."""
    symbol = market.simulator.symbol(market.exchange, "BTC/USDT", adapter.market_type)
    body = await asked(market, adapter.instruments([symbol])[0])
    assert symbol in adapter.decode_instruments(body).trading
