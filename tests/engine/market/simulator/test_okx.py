"""OKX's protocol, spoken to by a bare client."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import websockets

from streammachine.market.model.timeframe import DAY, HOUR, MINUTE
from support.exchange import START, exact, folded, simulated

pytestmark = pytest.mark.anyio

PUBLIC, BUSINESS = "/ws/v5/public", "/ws/v5/business"


def subscribe(*args: tuple[str, str]) -> dict[str, Any]:
    return {"op": "subscribe", "args": [{"channel": channel, "instId": name} for channel, name in args]}


async def test_each_stream_is_acknowledged_and_followed_by_its_data() -> None:
    async with simulated("okx", start=START + 30_000) as market:
        line = await market.connect(BUSINESS)
        await line.say(subscribe(("candle1m", "BTC-USDT"), ("candle1m", "ETH-USDT")))
        acks = [message for message in line.messages if message.get("event") == "subscribe"]
        assert [ack["arg"]["instId"] for ack in acks] == ["BTC-USDT", "ETH-USDT"]
        assert len({ack["connId"] for ack in acks}) == 1
        data = [message for message in line.messages if "data" in message]
        assert [message["arg"] for message in data] == [ack["arg"] for ack in acks]
        assert all(len(message["data"][0]) == 9 for message in data)


async def test_candles_are_on_business_only_and_trades_on_public() -> None:
    async with simulated("okx") as market:
        public = await market.connect(PUBLIC)
        await public.say(subscribe(("candle1m", "BTC-USDT"), ("trades", "BTC-USDT")))
        business = await market.connect(BUSINESS)
        await business.say(subscribe(("trades", "BTC-USDT"), ("candle1h", "BTC-USDT"), ("candle1m", "NO-SUCH")))
        assert [message["event"] for message in public.messages] == ["error", "subscribe"]
        assert public.messages[0]["code"] == "60018"
        assert "channel:candle1m,instId:BTC-USDT doesn't exist" in public.messages[0]["msg"]
        assert [message["code"] for message in business.messages] == ["60018"] * 3


@pytest.mark.parametrize("sent", ["{broken", {"op": "dance", "args": []}, {"op": "subscribe"}, [1]])
async def test_bad_requests_are_60012(sent: Any) -> None:
    async with simulated("okx") as market:
        line = await market.connect(BUSINESS)
        await line.say(sent)
        assert [message["code"] for message in line.messages] == ["60012"]


async def test_a_text_ping_gets_a_text_pong() -> None:
    async with simulated("okx") as market:
        line = await market.connect(PUBLIC)
        await line.say("ping")
        assert [data for _, data in line.heard] == [b"pong"]


async def test_a_silent_connection_is_cut_after_thirty_seconds_and_pings_keep_it() -> None:
    async with simulated("okx") as market:
        idle = await market.connect(BUSINESS)
        kept = await market.connect(BUSINESS)
        busy = await market.connect(BUSINESS)
        await busy.say(subscribe(("candle1m", "BTC-USDT")))
        for _ in range(4):
            await market.pass_time(14)
            await kept.say("ping")
        assert idle.closed == 4004
        assert (kept.closed, busy.closed) == (None, None)
        await market.pass_time(31)
        assert kept.closed == 4004
        assert busy.closed is None  # data counts


async def test_480_requests_an_hour_for_each_connection() -> None:
    async with simulated("okx", rules={"requests": 3}) as market:
        line = await market.connect(BUSINESS)
        for _ in range(2):
            await line.say(subscribe(*[("candle1m", "BTC-USDT")] * 5))
        await line.say({"op": "unsubscribe", "args": [{"channel": "candle1m", "instId": "BTC-USDT"}]})
        assert not [message for message in line.messages if message.get("event") == "error"]
        await line.say(subscribe(("candle1m", "BTC-USDT")))
        assert line.messages[-1]["code"] == "60014"


async def test_unsubscribing_ends_the_data() -> None:
    async with simulated("okx") as market:
        line = await market.connect(BUSINESS)
        await line.say(subscribe(("candle1m", "BTC-USDT")))
        await line.say({"op": "unsubscribe", "args": [{"channel": "candle1m", "instId": "BTC-USDT"}]})
        count = len(line.heard)
        assert line.messages[-1]["event"] == "unsubscribe"
        await market.pass_time(20)
        assert len(line.heard) == count


async def test_candles_are_pushed_each_second_and_confirmed_once() -> None:
    async with simulated("okx") as market:
        line = await market.connect(BUSINESS)
        await line.say(subscribe(("candle1m", "BTC-USDT")))
        await market.pass_time(130)
        rows = [message["data"][0] for message in line.messages if "data" in message]
        closed = [int(row[0]) for row in rows if row[8] == "1"]
        assert closed[-2:] == [START, START + MINUTE]
        assert len(closed) == len(set(closed))
        assert len(rows) > 120


async def test_the_notice_comes_before_the_cut() -> None:
    async with simulated("okx", ["notice@5"]) as market:
        line = await market.connect(BUSINESS)
        await market.pass_time(6)
        assert line.messages[0]["event"] == "notice"
        assert line.messages[0]["code"] == "64008"
        await market.pass_time(10)
        assert line.closed == 1001


async def test_trades_of_one_order_come_as_one_and_ids_stay_continuous() -> None:
    async with simulated("okx") as market:
        line = await market.connect(PUBLIC)
        await line.say(subscribe(("trades", "BTC-USDT")))
        for _ in range(12):
            await market.pass_time(20)
            await line.say("ping")
        rows = [message["data"][0] for message in line.messages if "data" in message]
        assert any(int(row["count"]) > 1 for row in rows)
        for earlier, later in itertools.pairwise(rows):
            assert int(later["tradeId"]) - int(later["count"]) == int(earlier["tradeId"])
        seen = [row for row in market.tape.trades("BTC/USDT") if row.id <= int(rows[-1]["tradeId"])]
        total = sum(float(row["sz"]) for row in rows)
        first = int(rows[0]["tradeId"]) - int(rows[0]["count"]) + 1
        assert total == pytest.approx(sum(float(row.quantity) for row in seen if row.id >= first))


async def test_only_three_connects_a_second() -> None:
    async with simulated("okx") as market:
        for _ in range(3):
            await market.connect(PUBLIC)
        with pytest.raises(websockets.InvalidStatus):
            await market.connect(PUBLIC)
        await market.pass_time(1)
        await market.connect(PUBLIC)


# -- REST ---------------------------------------------------------------------------------------


def starts(answer: Any) -> list[int]:
    body = answer.json()
    assert (body["code"], body["msg"]) == ("0", "")
    return [int(row[0]) for row in body["data"]]


async def test_pages_are_newest_first_and_their_bounds_exclusive() -> None:
    async with simulated("okx", start=START + 30_000) as market:
        path, name = "/api/v5/market/candles", {"instId": "BTC-USDT", "bar": "1m"}
        assert starts(await market.get(path, **name)) == [START - n * MINUTE for n in range(100)]
        assert len(starts(await market.get(path, **name, limit=1000))) == 300
        older = {"after": START - 10 * MINUTE, "limit": 2}
        assert starts(await market.get(path, **name, **older)) == [START - 11 * MINUTE, START - 12 * MINUTE]
        newer = {"before": START - 3 * MINUTE}
        assert starts(await market.get(path, **name, **newer)) == [START - n * MINUTE for n in range(3)]
        newest = {"before": START - 50 * MINUTE, "limit": 2}  # before alone gives the newest page
        assert starts(await market.get(path, **name, **newest)) == [START, START - MINUTE]
        between = {"after": START - 2 * MINUTE, "before": START - 5 * MINUTE}
        assert starts(await market.get(path, **name, **between)) == [START - 3 * MINUTE, START - 4 * MINUTE]


async def test_confirm_tells_the_running_candle_and_history_has_only_closed_ones() -> None:
    async with simulated("okx", start=START + 30_000) as market:
        name = {"instId": "BTC-USDT", "limit": 2}
        recent = (await market.get("/api/v5/market/candles", **name)).json()["data"]
        assert [row[8] for row in recent] == ["0", "1"]
        history = (await market.get("/api/v5/market/history-candles", **name)).json()["data"]
        assert [(int(row[0]), row[8]) for row in history] == [(START - MINUTE, "1"), (START - 2 * MINUTE, "1")]
        old = {"instId": "BTC-USDT", "after": START - 30 * DAY, "limit": 1000}
        assert len(starts(await market.get("/api/v5/market/history-candles", **old))) == 300


async def test_candles_reach_back_1440_bars_only() -> None:
    async with simulated("okx") as market:
        query = {"instId": "BTC-USDT", "after": START - 1439 * MINUTE + 1}
        assert starts(await market.get("/api/v5/market/candles", **query)) == [START - 1439 * MINUTE]
        assert starts(await market.get("/api/v5/market/history-candles", **query, limit=2)) == [
            START - 1439 * MINUTE,
            START - 1440 * MINUTE,
        ]


async def test_days_begin_at_16_utc_unless_asked_for_utc() -> None:
    async with simulated("okx") as market:
        path = "/api/v5/market/candles"
        hong_kong = starts(await market.get(path, instId="BTC-USDT", bar="1D", limit=2))
        utc = starts(await market.get(path, instId="BTC-USDT", bar="1Dutc", limit=2))
        assert {start % DAY for start in hong_kong} == {16 * HOUR}
        assert {start % DAY for start in utc} == {0}


async def test_trades_page_by_id_and_by_time() -> None:
    async with simulated("okx", start=START + 5 * MINUTE) as market:
        rows = market.tape.trades("BTC/USDT", START, START + 5 * MINUTE)
        path, name = "/api/v5/market/history-trades", {"instId": "BTC-USDT", "limit": 3}
        newest = (await market.get(path, **name)).json()["data"]
        assert [int(row["tradeId"]) for row in newest] == [row.id for row in reversed(rows[-3:])]
        older = (await market.get(path, **name, after=rows[50].id)).json()["data"]
        assert [int(row["tradeId"]) for row in older] == [row.id for row in reversed(rows[47:50])]
        newer = (await market.get(path, **name, before=rows[-2].id)).json()["data"]
        assert [int(row["tradeId"]) for row in newer] == [rows[-1].id]
        timed = (await market.get(path, **name, type=2, after=rows[50].ts)).json()["data"]
        assert int(timed[0]["tradeId"]) == [row.id for row in rows if row.ts < rows[50].ts][-1]


async def test_swaps_count_contracts_of_coins_and_inverse_ones_of_dollars() -> None:
    async with simulated("okx", start=START + 3 * MINUTE + 1) as market:
        want = {row[0]: row for row in folded(market.tape, MINUTE, START, START + 3 * MINUTE)}
        for name, size in (("BTC-USDT-SWAP", 5), ("BTC-USD-SWAP", 6)):
            rows = (await market.get("/api/v5/market/candles", instId=name, limit=4)).json()["data"]
            for row in rows:
                if int(row[0]) in want:
                    assert (exact(row[6]), exact(row[7])) == (want[int(row[0])][5], want[int(row[0])][6])
                    value = 0.01 if size == 5 else 100
                    assert float(row[5]) == pytest.approx(float(want[int(row[0])][size]) / value)
        info = (await market.get("/api/v5/public/instruments", instType="SWAP", instId="BTC-USD-SWAP")).json()["data"]
        assert (info[0]["ctVal"], info[0]["ctValCcy"]) == ("100", "USD")


async def test_errors_have_http_200_and_a_code_and_limits_429() -> None:
    async with simulated("okx", rules={"weight": 3}) as market:
        assert (await market.get("/api/v5/market/candles", instId="NO-SUCH")).json()["code"] == "51001"
        bad = await market.get("/api/v5/market/candles", instId="BTC-USDT", bar="1h")
        assert (bad.status_code, bad.json()["code"], bad.json()["msg"]) == (200, "51000", "Parameter bar error")
        await market.get("/api/v5/market/candles", instId="BTC-USDT")
        spent = await market.get("/api/v5/market/candles", instId="BTC-USDT")
        assert (spent.status_code, spent.json()["code"]) == (429, "50011")
        await market.pass_time(2)
        unknown = await market.get("/api/v5/public/instruments", instType="SPOT", instId="NO-SUCH")
        assert unknown.json()["code"] == "51001"
