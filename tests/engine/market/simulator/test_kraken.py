"""Kraken's protocol, spoken to by a bare client."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pytest

from streammachine.market.model.timeframe import DAY, MINUTE
from streammachine.market.simulator import Tape
from support.exchange import START, exact, folded, simulated

pytestmark = pytest.mark.anyio


def subscribe(*symbols: str, channel: str = "ohlc", **params: Any) -> dict[str, Any]:
    given = {"channel": channel, "symbol": list(symbols), **({"interval": 1} if channel == "ohlc" else {}), **params}
    return {"method": "subscribe", "params": given, "req_id": 5}


async def test_it_says_its_status_first() -> None:
    async with simulated("kraken") as market:
        line = await market.connect("/v2")
        (status,) = line.messages
        assert (status["channel"], status["type"]) == ("status", "update")
        assert (status["data"][0]["system"], status["data"][0]["api_version"]) == ("online", "v2")


async def test_every_symbol_is_acknowledged_with_a_warning_and_a_snapshot_of_ten() -> None:
    async with simulated("kraken", start=START + 30_000) as market:
        line = await market.connect("/v2")
        await line.say(subscribe("BTC/USDT", "XYZ/USD", "ETH/USDT"))
        kinds = [message.get("method") or message["type"] for message in line.messages[1:]]
        assert kinds == ["subscribe", "snapshot", "subscribe", "subscribe", "snapshot"]
        good, snapshot, bad = line.messages[1:4]
        assert good["result"]["warnings"] == ["timestamp is deprecated, use interval_begin"]
        assert (good["success"], good["req_id"], good["result"]["symbol"]) == (True, 5, "BTC/USDT")
        assert (bad["success"], bad["error"]) == (False, "Currency pair not supported XYZ/USD")
        assert len(snapshot["data"]) == 10
        assert snapshot["data"][-1]["interval_begin"] == "2024-08-08T23:54:00.000000000Z"
        assert "closed" not in snapshot["data"][0]


async def test_numbers_are_json_numbers_with_their_exact_digits() -> None:
    async with simulated("kraken", start=START + 3 * MINUTE) as market:
        line = await market.connect("/v2")
        await line.say(subscribe("BTC/USDT"))
        data = next(data for _, data in line.heard if b'"type":"snapshot"' in data)
        row = orjson.loads(data)["data"][-2]
        assert isinstance(row["close"], float | int)
        assert isinstance(row["trades"], int)
        want = folded(market.tape, MINUTE, START - 10 * MINUTE, START + 3 * MINUTE)
        for price in (want[-1][1], want[-1][4]):
            assert price.encode() in data


async def test_updates_come_with_trades_only_and_heartbeats_when_nothing_else_does() -> None:
    tape = Tape.generate(12, start_ms=START, trades_per_minute=4, quiet=0.3)
    async with simulated("kraken", tape=tape) as market:
        line = await market.connect("/v2")
        await market.pass_time(3)
        assert len(line.messages) == 1  # no heartbeat before a subscription
        await line.say(subscribe("BTC/USDT"))
        await market.pass_time(300)
        assert line.closed is None
        gaps = [later - earlier for (earlier, _), (later, _) in zip(line.heard[3:], line.heard[4:], strict=False)]
        assert max(gaps) <= 1000
        updates = [(moment, message) for (moment, _), message in zip(line.heard, line.messages, strict=True)
                   if message.get("type") == "update" and message["channel"] == "ohlc"]  # fmt: skip
        moments = {row.ts + 20 for row in tape.trades("BTC/USDT")}
        assert updates
        for moment, _ in updates:
            assert moment in moments


async def test_a_snapshot_can_be_declined() -> None:
    async with simulated("kraken") as market:
        line = await market.connect("/v2")
        await line.say(subscribe("BTC/USDT", snapshot=False))
        assert line.messages[-1]["result"]["snapshot"] is False


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        ("{broken", "Malformed request: invalid JSON"),
        ({"method": "dance"}, "Method(s) not found"),
        ({"method": "subscribe", "params": {"channel": "nothing"}}, "Channel name invalid"),
        (subscribe("BTC/USDT", interval=3), "Interval not supported"),
        ({**subscribe("BTC/USDT"), "method": "unsubscribe"}, "Subscription Not Found"),
    ],
)  # fmt: skip
async def test_bad_requests_say_why(sent: Any, error: str) -> None:
    async with simulated("kraken") as market:
        line = await market.connect("/v2")
        await line.say(sent)
        assert line.messages[-1]["error"] == error
        assert line.messages[-1]["success"] is False


async def test_subscribing_twice_is_an_error_and_unsubscribing_ends_it() -> None:
    async with simulated("kraken") as market:
        line = await market.connect("/v2")
        await line.say(subscribe("BTC/USDT"))
        await line.say(subscribe("BTC/USDT"))
        assert line.messages[-1]["error"] == "Already subscribed"
        params = {"channel": "ohlc", "symbol": ["BTC/USDT"], "interval": 1}
        await line.say({"method": "unsubscribe", "params": params, "req_id": 9})
        assert (line.messages[-1]["success"], line.messages[-1]["req_id"]) == (True, 9)
        count = len(line.heard)
        await market.pass_time(30)
        assert len(line.heard) == count


async def test_ping_is_answered_and_an_idle_connection_is_closed_after_a_minute() -> None:
    async with simulated("kraken") as market:
        line = await market.connect("/v2")
        await market.pass_time(30)
        await line.say({"method": "ping", "req_id": 3})
        assert (line.messages[-1]["method"], line.messages[-1]["req_id"]) == ("pong", 3)
        await market.pass_time(59)
        assert line.closed is None
        await market.pass_time(2)
        assert line.closed == 1000


async def test_trades_begin_with_the_last_fifty_and_ids_rise_by_one() -> None:
    async with simulated("kraken") as market:
        line = await market.connect("/v2")
        await line.say(subscribe("BTC/USDT", channel="trade"))
        await market.pass_time(120)
        messages = [
            message for message in line.messages if message["channel" if "channel" in message else "method"] == "trade"
        ]
        assert (messages[0]["type"], len(messages[0]["data"])) == ("snapshot", 50)
        ids = [row["trade_id"] for message in messages for row in message["data"]]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        assert len(ids) > 90


async def test_a_service_upgrade_is_a_status_message() -> None:
    async with simulated("kraken", ["notice@5"]) as market:
        line = await market.connect("/v2")
        await market.pass_time(6)
        assert line.messages[-1]["data"][0]["system"] == "maintenance"


# -- REST ---------------------------------------------------------------------------------------


async def test_ohlc_gives_720_candles_and_the_running_one_whatever_since_says() -> None:
    async with simulated("kraken", start=START + 30_000) as market:
        for query in ({}, {"since": 0}, {"since": (START - 30 * DAY) // 1000}):
            result = (await market.get("/0/public/OHLC", pair="XBTUSDT", interval=1, **query)).json()["result"]
            rows = result["XBTUSDT"]
            assert [row[0] * 1000 for row in rows] == [START - n * MINUTE for n in range(720, -1, -1)]
            assert result["last"] * 1000 == START - MINUTE
        since = (START - 3 * MINUTE) // 1000
        rows = (await market.get("/0/public/OHLC", pair="BTC/USDT", since=since)).json()["result"]["XBTUSDT"]
        assert [row[0] * 1000 for row in rows] == [START - 2 * MINUTE, START - MINUTE, START]


async def test_vwap_is_cut_off_at_the_tick_and_empty_minutes_are_flat() -> None:
    tape = Tape.generate(12, start_ms=START, trades_per_minute=4, quiet=0.3)
    async with simulated("kraken", tape=tape) as market:
        rows = (await market.get("/0/public/OHLC", pair="XBTUSDT")).json()["result"]["XBTUSDT"]
    want = {row[0]: row for row in folded(tape, MINUTE, START - 720 * MINUTE, START)}
    cut = 0
    for row in rows[:-1]:
        if row[7]:
            value = Decimal(want[row[0] * 1000][6]) / Decimal(want[row[0] * 1000][5])
            assert 0 <= value - Decimal(row[5]) < Decimal("0.01")
            cut += exact(f"{value:.2f}") != exact(row[5])
        else:
            assert (row[5], row[6], row[7]) == ("0.0", "0.00000000", 0)
            assert len(set(row[1:5])) == 1
    assert cut > 100  # rounding would have given another text
    assert any(not row[7] for row in rows)


@pytest.mark.parametrize(
    ("path", "query", "error"),
    [
        ("/0/public/OHLC", {"pair": "NOSUCH"}, "EQuery:Unknown asset pair"),
        ("/0/public/OHLC", {"pair": "XBTUSDT", "interval": 3}, "EGeneral:Invalid arguments:interval"),
        ("/0/public/OHLC", {"pair": "XBTUSDT", "interval": "x"}, "EGeneral:Invalid arguments"),
        ("/0/public/AssetPairs", {"pair": "XBTUSDT,NOSUCH"}, "EQuery:Unknown asset pair"),
        ("/0/public/Nothing", {}, "EGeneral:Unknown method"),
    ],
)
async def test_errors_have_http_200(path: str, query: dict[str, Any], error: str) -> None:
    async with simulated("kraken") as market:
        answer = await market.get(path, **query)
        assert (answer.status_code, answer.json()["error"]) == (200, [error])


async def test_too_many_requests_are_an_error_with_http_200() -> None:
    async with simulated("kraken", rules={"weight": 1, "weight_within": 1.0}) as market:
        await market.get("/0/public/Time")
        answer = await market.get("/0/public/Time")
        assert (answer.status_code, answer.json()) == (200, {"error": ["EGeneral:Too many requests"]})
        await market.pass_time(1)
        assert (await market.get("/0/public/Time")).json()["error"] == []


async def test_trades_page_by_nanoseconds_without_losing_those_of_one_moment() -> None:
    async with simulated("kraken", start=START + 10 * MINUTE, rules={"trades_page": 7}) as market:
        since = str(START * 1_000_000 - 1)
        found: list[int] = []
        while True:
            result = (await market.get("/0/public/Trades", pair="XBTUSDT", since=since)).json()["result"]
            if not result["XBTUSDT"]:
                break
            found += [row[6] for row in result["XBTUSDT"]]
            since = result["last"]
            await market.pass_time(0)
            if len(found) > 100:
                break
        rows = market.tape.trades("BTC/USDT", START, START + 10 * MINUTE)
        assert len({row.ts for row in rows[: len(found)]}) < len(found)  # some share a millisecond
        assert found == [row.id for row in rows[: len(found)]]


async def test_pairs_go_by_all_their_names() -> None:
    tape = Tape.generate(1, ("BTC/USD", "ETH/USDT", "DOGE/USD"), START)
    async with simulated("kraken", tape=tape) as market:
        pairs = (await market.get("/0/public/AssetPairs")).json()["result"]
        assert {key: (pair["altname"], pair["wsname"]) for key, pair in pairs.items()} == {
            "XXBTZUSD": ("XBTUSD", "XBT/USD"),
            "ETHUSDT": ("ETHUSDT", "ETH/USDT"),
            "XXDGZUSD": ("XDGUSD", "XDG/USD"),
        }
        for name in ("XXBTZUSD", "XBTUSD", "XBT/USD", "BTC/USD"):
            assert "XXBTZUSD" in (await market.get("/0/public/OHLC", pair=name, interval=1440)).json()["result"]
