"""What sockets push and what REST answers are the same candles: those that DuckDB folds from the tape."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from streammachine.market.model.timeframe import MINUTE
from streammachine.market.simulator import Tape
from support.exchange import START, Candle, Line, Market, exact, folded, simulated

pytestmark = pytest.mark.anyio

MINUTES = 8
PATHS = {"binance": "/ws", "okx": "/ws/v5/business", "kraken": "/v2", "bybit": "/v5/public/spot"}
SUBSCRIBE: dict[str, Any] = {
    "binance": {"method": "SUBSCRIBE", "params": ["btcusdt@kline_1m"], "id": 1},
    "okx": {"op": "subscribe", "args": [{"channel": "candle1m", "instId": "BTC-USDT"}]},
    "kraken": {"method": "subscribe", "params": {"channel": "ohlc", "symbol": ["BTC/USDT"], "interval": 1}},
    "bybit": {"op": "subscribe", "args": ["kline.1.BTCUSDT"]},
}


def pushed(exchange: str, line: Line) -> list[tuple[bool | None, Candle]]:
    """(closed, candle) of every push; Kraken's quote volume is left empty."""
    found: list[tuple[bool | None, Candle]] = []
    for message in line.messages:
        if exchange == "binance" and message.get("e") == "kline":
            row = message["k"]
            numbers = [row[name] for name in "ohlcvq"]
            found.append((row["x"], (row["t"], *map(exact, numbers), row["n"])))  # type: ignore[arg-type]
        elif exchange == "okx" and "data" in message:
            for row in message["data"]:
                numbers = [*row[1:6], row[7]]
                found.append((row[8] == "1", (int(row[0]), *map(exact, numbers), -1)))  # type: ignore[arg-type]
        elif exchange == "bybit" and "topic" in message:
            for row in message["data"]:
                numbers = [row[name] for name in ("open", "high", "low", "close", "volume", "turnover")]
                found.append((row["confirm"], (row["start"], *map(exact, numbers), -1)))  # type: ignore[arg-type]
        elif exchange == "kraken" and message.get("channel") == "ohlc" and message["type"] == "update":
            for row in message["data"]:
                numbers = [str(row[name]) for name in ("open", "high", "low", "close", "volume")]
                start = int(datetime.fromisoformat(row["interval_begin"]).timestamp()) * 1000
                found.append((None, (start, *map(exact, numbers), "", row["trades"])))  # type: ignore[arg-type]
    return found


def comparable(exchange: str, candles: list[Candle]) -> list[Candle]:
    """Without what the exchange does not tell."""
    counted = exchange in ("binance", "kraken")
    told = exchange != "kraken"
    return [(*row[:6], row[6] if told else "", row[7] if counted else -1) for row in candles]


async def listened(market: Market) -> Line:
    line = await market.connect(PATHS[market.exchange])
    await line.say(SUBSCRIBE[market.exchange])
    for _ in range(MINUTES * 3):
        await market.pass_time(20)
        if market.exchange == "okx":
            await line.say("ping")
    await market.pass_time(4)
    return line


@pytest.mark.parametrize("exchange", ["binance", "okx", "bybit"])
async def test_closing_frames_are_the_tapes_candles_each_once_in_order(exchange: str) -> None:
    async with simulated(exchange) as market:
        rows = pushed(exchange, await listened(market))
    closed = [row for is_closed, row in rows if is_closed]
    if closed[0][0] == START - MINUTE:  # its closing frame was still to come
        del closed[0]
    assert [row[0] for row in closed] == [START + minute * MINUTE for minute in range(MINUTES)]
    idle = {row[0] for row in closed if row[5] == "0"}
    want = comparable(exchange, folded(market.tape, MINUTE, START, START + MINUTES * MINUTE))
    assert [row for row in closed if row[0] not in idle] == want
    assert idle == {row[0] for row in closed} - {row[0] for row in want}
    # no push of a candle behind its closing frame, none of the next before it
    assert [row[0] for _, row in rows] == sorted(row[0] for _, row in rows)
    running = [row[0] for is_closed, row in rows if not is_closed]
    assert len(running) > MINUTES * (25 if exchange == "binance" else 55)


async def test_krakens_last_update_of_each_interval_is_its_candle_and_idle_ones_are_never_told() -> None:
    tape = Tape.generate(12, start_ms=START, trades_per_minute=4, quiet=0.3)
    async with simulated("kraken", tape=tape) as market:
        rows = pushed("kraken", await listened(market))
    last = {row[0]: row for _, row in rows}
    want = comparable("kraken", folded(tape, MINUTE, START, START + MINUTES * MINUTE))
    assert [last[row[0]] for row in want] == want
    assert len(want) < MINUTES
    assert set(last) - {START + MINUTES * MINUTE} == {row[0] for row in want}


@pytest.mark.parametrize("exchange", ["binance", "okx", "kraken", "bybit"])
async def test_rest_gives_the_tapes_candles(exchange: str) -> None:
    start, end = START - 40 * MINUTE, START + 3 * MINUTE
    async with simulated(exchange, start=end + 30_000) as market:
        rows = await asked(market, start)
        want = comparable(exchange, folded(market.tape, MINUTE, start, end))
    assert [row[0] for row in rows] == list(range(start, end + MINUTE, MINUTE))
    by_start = {row[0]: row for row in rows}
    assert [by_start[row[0]] for row in want] == want
    for row in rows:
        if row[0] not in {one[0] for one in want} and row[0] < end:
            assert len({row[1], row[2], row[3], row[4]}) == 1
            assert row[5] == "0"


async def asked(market: Market, start: int) -> list[Candle]:
    """REST's candles from ``start`` on, oldest first."""
    count = 44
    if market.exchange == "binance":
        body = (await market.get("/api/v3/klines", symbol="BTCUSDT", interval="1m", startTime=start)).json()
        return [(row[0], *map(exact, (*row[1:6], row[7])), row[8]) for row in body]  # type: ignore[misc]
    if market.exchange == "okx":
        body = (await market.get("/api/v5/market/candles", instId="BTC-USDT", bar="1m", limit=count)).json()["data"]
        return [(int(row[0]), *map(exact, (*row[1:6], row[7])), -1) for row in reversed(body)]  # type: ignore[misc]
    if market.exchange == "bybit":
        query = {"category": "spot", "symbol": "BTCUSDT", "interval": "1", "start": start}
        body = (await market.get("/v5/market/kline", **query)).json()["result"]["list"]
        return [(int(row[0]), *map(exact, row[1:7]), -1) for row in reversed(body)]  # type: ignore[misc]
    query = {"pair": "XBTUSDT", "interval": 1, "since": start // 1000 - 1}
    body = (await market.get("/0/public/OHLC", **query)).json()["result"]["XBTUSDT"]
    return [(row[0] * 1000, *map(exact, (*row[1:5], row[6])), "", row[7]) for row in body]  # type: ignore[misc]
