"""Coinbase's protocol, spoken to by a bare client."""

from __future__ import annotations

from typing import Any

import pytest

from streammachine.market.model.timeframe import MINUTE
from streammachine.market.simulator import Tape
from support.exchange import START, folded, simulated

pytestmark = pytest.mark.anyio

HEARTBEATS = {"type": "subscribe", "channel": "heartbeats"}
CANDLES = {"type": "subscribe", "product_ids": ["BTC-USDT"], "channel": "candles"}
TRADES = {"type": "subscribe", "product_ids": ["BTC-USDT", "ETH-USDT"], "channel": "market_trades"}
PRODUCTS = "/api/v3/brokerage/market/products"


async def test_who_asks_for_nothing_within_five_seconds_is_closed() -> None:
    async with simulated("coinbase") as market:
        mute, asks = await market.connect(), await market.connect()
        await asks.say(HEARTBEATS)
        await market.pass_time(6)
        assert mute.closed is not None
        assert asks.closed is None


async def test_messages_are_numbered_and_a_heartbeat_comes_every_second() -> None:
    async with simulated("coinbase") as market:
        line = await market.connect()
        for request in (HEARTBEATS, CANDLES, TRADES):
            await line.say(request)
        await market.pass_time(20)
        assert [message["sequence_num"] for message in line.messages] == list(range(len(line.messages)))
        beats = [message for message in line.messages if message["channel"] == "heartbeats"]
        assert [int(beat["events"][0]["heartbeat_counter"]) for beat in beats] == list(range(1, len(beats) + 1))
        assert 19 <= len(beats) <= 20
        told = [message["events"][0]["subscriptions"] for message in line.messages if "sub" in message["channel"]]
        products = {"candles": ["BTC-USDT"], "market_trades": ["BTC-USDT", "ETH-USDT"], "heartbeats": ["heartbeats"]}
        assert told[-1] == products


async def test_without_heartbeats_a_connection_that_says_nothing_is_cut() -> None:
    tape = Tape.generate(1, start_ms=START, quiet=0.99)
    async with simulated("coinbase", tape=tape) as market:
        quiet, kept = await market.connect(), await market.connect()
        for line in (quiet, kept):
            await line.say(CANDLES)
        await kept.say(HEARTBEATS)
        await market.pass_time(90)
        assert (quiet.closed is None, kept.closed) == (False, None)


async def test_candles_are_of_five_minutes_with_a_snapshot_the_newest_first() -> None:
    async with simulated("coinbase", start=START + MINUTE) as market:
        line = await market.connect()
        await line.say(HEARTBEATS)
        await line.say(CANDLES)
        await market.pass_time(700)
        events = [one for message in line.messages if message["channel"] == "candles" for one in message["events"]]
        assert [event["type"] for event in events[:2]] == ["snapshot", "update"]
        starts = [int(row["start"]) for row in events[0]["candles"]]
        assert starts == sorted(starts, reverse=True)
        last: dict[int, Any] = {}
        for event in events:
            for row in event["candles"]:
                last[int(row["start"]) * 1000] = row
        for start, opened, high, low, close, *_ in folded(market.tape, 5 * MINUTE, START + MINUTE, START + 11 * MINUTE):
            row = last[start]
            assert (row["open"], row["high"], row["low"], row["close"]) == (opened, high, low, close)


async def test_trades_bear_the_makers_side_and_come_the_newest_first() -> None:
    async with simulated("coinbase") as market:
        line = await market.connect()
        await line.say(HEARTBEATS)
        await line.say(TRADES)
        await market.pass_time(30)
        events = [
            one for message in line.messages if message["channel"] == "market_trades" for one in message["events"]
        ]
        assert {event["type"] for event in events} == {"snapshot", "update"}
        sides = {row.id: row.side for row in market.tape.trades("BTC/USDT", START - MINUTE, START + MINUTE)}
        for event in events:
            ids = [int(row["trade_id"]) for row in event["trades"]]
            assert ids == sorted(ids, reverse=True)
            for row in event["trades"]:
                if row["product_id"] == "BTC-USDT" and int(row["trade_id"]) in sides:
                    assert {"BUY": "sell", "SELL": "buy"}[row["side"]] == sides[int(row["trade_id"])]


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ("{broken", "failed to parse"),
        ({"type": "dance", "channel": "candles", "product_ids": ["BTC-USDT"]}, "invalid type"),
        ({"type": "subscribe", "channel": "nosuch", "product_ids": ["BTC-USDT"]}, "invalid channel"),
        ({"type": "subscribe", "channel": "candles"}, "no product ids"),
        ({"type": "subscribe", "channel": "candles", "product_ids": ["NO-SUCH"]}, "NO-SUCH is not a valid product"),
    ],
)
async def test_bad_requests_are_errors(sent: Any, said: str) -> None:
    async with simulated("coinbase") as market:
        line = await market.connect()
        await line.say(sent)
        (answer,) = line.messages
        assert answer["type"] == "error"
        assert said in answer["message"]


async def test_nine_messages_in_a_second_are_too_many() -> None:
    async with simulated("coinbase") as market:
        line = await market.connect()
        for _ in range(9):
            await line.say(HEARTBEATS)
        await market.pass_time(1)
        assert line.closed == 1008


async def test_rest_gives_candles_the_newest_first_and_omits_the_empty_ones() -> None:
    tape = Tape.generate(5, start_ms=START, quiet=0.6)
    async with simulated("coinbase", tape=tape, start=START + 60 * MINUTE) as market:
        query = {"start": START // 1000, "end": START // 1000 + 3599, "granularity": "ONE_MINUTE"}
        rows = (await market.get(f"{PRODUCTS}/BTC-USDT/candles", **query)).json()["candles"]
        want = folded(tape, MINUTE, START, START + 60 * MINUTE)
        assert [int(row["start"]) * 1000 for row in rows] == [row[0] for row in reversed(want)]
        assert 0 < len(rows) < 60
        wide = await market.get(f"{PRODUCTS}/BTC-USDT/candles", **{**query, "start": START // 1000 - 350 * 60})
        assert (wide.status_code, "less than 350" in wide.text) == (400, True)
        unknown = await market.get(f"{PRODUCTS}/NO-SUCH/candles", **query)
        assert unknown.status_code == 404


async def test_rest_gives_the_newest_trades_of_a_range_first() -> None:
    async with simulated("coinbase", start=START + 10 * MINUTE) as market:
        query = {"limit": 7, "start": START // 1000, "end": START // 1000 + 120}
        rows = (await market.get(f"{PRODUCTS}/BTC-USDT/ticker", **query)).json()["trades"]
        want = market.tape.trades("BTC/USDT", START, START + 120_001)[-7:]
        assert [int(row["trade_id"]) for row in rows] == [row.id for row in reversed(want)]
