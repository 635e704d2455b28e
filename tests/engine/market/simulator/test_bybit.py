"""Bybit's protocol, spoken to by a bare client."""

from __future__ import annotations

from typing import Any

import pytest
import websockets

from streammachine.market.model.timeframe import DAY, MINUTE
from support.exchange import START, exact, folded, simulated

pytestmark = pytest.mark.anyio

SPOT, LINEAR, INVERSE = "/v5/public/spot", "/v5/public/linear", "/v5/public/inverse"


async def test_a_request_is_acknowledged_once_by_its_id() -> None:
    async with simulated("bybit", start=START + 30_000) as market:
        spot, linear = await market.connect(SPOT), await market.connect(LINEAR)
        for line in (spot, linear):
            await line.say({"op": "subscribe", "req_id": "77", "args": ["kline.1.BTCUSDT", "publicTrade.BTCUSDT"]})
        for line, text in ((spot, "subscribe"), (linear, "")):
            ack = line.messages[0]
            assert (ack["success"], ack["ret_msg"], ack["req_id"], ack["op"]) == (True, text, "77", "subscribe")
            assert line.messages[1]["topic"] == "kline.1.BTCUSDT"


async def test_an_unknown_topic_fails_the_whole_request() -> None:
    async with simulated("bybit") as market:
        line = await market.connect(SPOT)
        await line.say({"op": "subscribe", "args": ["kline.1.BTCUSDT", "kline.1.NOSUCH", "kline.2.BTCUSDT"]})
        await market.pass_time(5)
        (answer,) = line.messages
        assert (answer["success"], answer["ret_msg"]) == (False, "Invalid topic: kline.1.NOSUCH,kline.2.BTCUSDT")


async def test_spot_takes_ten_topics_a_request() -> None:
    async with simulated("bybit") as market:
        line = await market.connect(SPOT)
        await line.say({"op": "subscribe", "args": ["kline.1.BTCUSDT"] * 11})
        assert line.messages[0]["success"] is False
        wide = await market.connect(LINEAR)
        await wide.say({"op": "subscribe", "args": ["kline.1.BTCUSDT"] * 11})
        assert wide.messages[0]["success"] is True


@pytest.mark.parametrize("sent", ["{broken", {"op": "dance"}, {"op": "subscribe", "args": []}, {"op": "subscribe"}])
async def test_bad_requests_fail(sent: Any) -> None:
    async with simulated("bybit") as market:
        line = await market.connect(SPOT)
        await line.say(sent)
        assert [message["success"] for message in line.messages] == [False]


async def test_ping_is_an_operation_and_keeps_the_connection() -> None:
    async with simulated("bybit") as market:
        line, idle = await market.connect(SPOT), await market.connect(SPOT)
        await market.pass_time(500)
        await line.say({"op": "ping", "req_id": "9"})
        assert (line.messages[0]["ret_msg"], line.messages[0]["req_id"]) == ("pong", "9")
        await market.pass_time(110)
        assert line.closed is None
        assert idle.closed is not None


async def test_candles_come_each_second_as_snapshots_and_are_confirmed() -> None:
    async with simulated("bybit") as market:
        line = await market.connect(SPOT)
        await line.say({"op": "subscribe", "args": ["kline.1.BTCUSDT"]})
        await market.pass_time(125)
        pushes = [message for message in line.messages if "topic" in message]
        assert {message["type"] for message in pushes} == {"snapshot"}
        rows = [message["data"][0] for message in pushes]
        assert len(rows) > 120
        assert [row["start"] for row in rows if row["confirm"]][-2:] == [START, START + MINUTE]
        for row in rows:
            assert (row["end"], row["interval"]) == (row["start"] + MINUTE - 1, "1")


async def test_trades_come_with_ids_that_fit_the_market() -> None:
    async with simulated("bybit") as market:
        spot, linear = await market.connect(SPOT), await market.connect(LINEAR)
        for line in (spot, linear):
            await line.say({"op": "subscribe", "args": ["publicTrade.BTCUSDT"]})
        await market.pass_time(120)
        found = [
            [row for message in line.messages if "topic" in message for row in message["data"]]
            for line in (spot, linear)
        ]
        ids = [int(row["i"]) for row in found[0]]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        assert all(len(row["i"]) == 36 for row in found[1])
        assert [row["p"] for row in found[0]] == [row["p"] for row in found[1]]
        assert {row["S"] for row in found[0]} == {"Buy", "Sell"}


async def test_each_kind_of_market_has_its_path() -> None:
    async with simulated("bybit") as market:
        inverse = await market.connect(INVERSE)
        await inverse.say({"op": "subscribe", "args": ["kline.1.BTCUSD"]})
        assert inverse.messages[0]["success"] is True
        with pytest.raises(websockets.InvalidStatus):
            await market.connect("/v5/public/nothing")


# -- REST ---------------------------------------------------------------------------------------


async def kline(market: Any, **query: Any) -> list[int]:
    given = {"category": "spot", "symbol": "BTCUSDT", "interval": "1", **query}
    body = (await market.get("/v5/market/kline", **given)).json()
    assert (body["retCode"], body["retMsg"]) == (0, "OK")
    return [int(row[0]) for row in body["result"]["list"]]


async def test_klines_are_newest_first_and_both_ends_are_included() -> None:
    async with simulated("bybit", start=START + 30_000) as market:
        assert await kline(market) == [START - n * MINUTE for n in range(200)]
        assert len(await kline(market, limit=5000)) == 1000
        span = {"start": START - 5 * MINUTE, "end": START - 3 * MINUTE}
        assert await kline(market, **span) == [START - n * MINUTE for n in (3, 4, 5)]
        forward = {"start": START - 3 * DAY, "limit": 3}
        assert await kline(market, **forward) == [START - 3 * DAY + n * MINUTE for n in (2, 1, 0)]
        assert await kline(market, start=START + DAY) == []


async def test_inverse_volume_is_in_dollars() -> None:
    async with simulated("bybit", start=START + 3 * MINUTE) as market:
        query = {"category": "inverse", "symbol": "BTCUSD", "interval": "1", "limit": 4}
        rows = (await market.get("/v5/market/kline", **query)).json()["result"]["list"]
        want = {row[0]: row for row in folded(market.tape, MINUTE, START, START + 3 * MINUTE)}
        checked = [row for row in rows if int(row[0]) in want]
        assert checked
        for row in checked:
            assert (exact(row[6]), exact(row[5])) == (want[int(row[0])][5], want[int(row[0])][6])


async def test_recent_trades_are_newest_first_and_at_most_sixty() -> None:
    async with simulated("bybit", start=START + 5 * MINUTE) as market:
        query = {"category": "spot", "symbol": "BTCUSDT", "limit": 500}
        rows = (await market.get("/v5/market/recent-trade", **query)).json()["result"]["list"]
        want = market.tape.trades("BTC/USDT", START, START + 5 * MINUTE)[-60:]
        assert [(int(row["time"]), exact(row["price"])) for row in rows] == [
            (row.ts, exact(row.price)) for row in reversed(want)
        ]
        linear = {"category": "linear", "symbol": "BTCUSDT", "limit": 100}
        assert len((await market.get("/v5/market/recent-trade", **linear)).json()["result"]["list"]) == 100


async def test_instruments_page_by_cursor_and_an_unknown_spot_symbol_is_an_empty_list() -> None:
    async with simulated("bybit") as market:
        path = "/v5/market/instruments-info"
        first = (await market.get(path, category="linear", limit=1)).json()["result"]
        then = (await market.get(path, category="linear", limit=1, cursor=first["nextPageCursor"])).json()["result"]
        assert [row["symbol"] for row in first["list"] + then["list"]] == ["BTCUSDT", "ETHUSDT"]
        assert then["nextPageCursor"] == ""
        assert (await market.get(path, category="spot", symbol="NOSUCH")).json()["result"]["list"] == []
        assert (await market.get(path, category="linear", symbol="NOSUCH")).json()["retCode"] == 10001


async def test_errors_have_a_ret_code_and_the_address_limit_403() -> None:
    async with simulated("bybit", rules={"weight": 2}) as market:
        bad = {"category": "spot", "symbol": "BTCUSDT", "interval": "7"}
        assert (await market.get("/v5/market/kline", **bad)).json()["retCode"] == 10001
        unknown = {"category": "spot", "symbol": "NOSUCH", "interval": "1"}
        assert (await market.get("/v5/market/kline", **unknown)).json()["retMsg"] == "Not supported symbols"
        assert (await market.get("/v5/market/kline", **bad)).status_code == 403
