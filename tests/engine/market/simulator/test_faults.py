"""Every fault does what it says, to whom it says, and is in the log."""

from __future__ import annotations

import itertools
from typing import Any

import httpx2
import orjson
import pytest
import websockets

from streammachine.market.model.timeframe import MINUTE
from streammachine.market.simulator import Fault
from support.exchange import START, Line, Market, simulated

pytestmark = pytest.mark.anyio

EXCHANGES = ("binance", "okx", "kraken", "bybit")
PATHS = {"binance": "/ws", "okx": "/ws/v5/business", "kraken": "/v2", "bybit": "/v5/public/spot"}
SUBSCRIBE: dict[str, Any] = {
    "binance": {"method": "SUBSCRIBE", "params": ["btcusdt@kline_1m", "ethusdt@kline_1m"], "id": 1},
    "okx": {"op": "subscribe", "args": [{"channel": "candle1m", "instId": f"{base}-USDT"} for base in ("BTC", "ETH")]},
    "kraken": {"method": "subscribe", "params": {"channel": "ohlc", "symbol": ["BTC/USDT", "ETH/USDT"], "interval": 1}},
    "bybit": {"op": "subscribe", "args": ["kline.1.BTCUSDT", "kline.1.ETHUSDT"]},
}
KLINES = {
    "binance": ("/api/v3/klines", {"symbol": "BTCUSDT", "interval": "1m"}),
    "okx": ("/api/v5/market/candles", {"instId": "BTC-USDT"}),
    "kraken": ("/0/public/OHLC", {"pair": "XBTUSDT"}),
    "bybit": ("/v5/market/kline", {"category": "spot", "symbol": "BTCUSDT", "interval": "1"}),
}
EACH = pytest.mark.parametrize("exchange", EXCHANGES)


async def subscribed(market: Market) -> Line:
    line = await market.connect(PATHS[market.exchange])
    await line.say(SUBSCRIBE[market.exchange])
    return line


def data(line: Line, name: str = "") -> list[tuple[int, bytes]]:
    """The frames with candles (of one currency)."""
    marks = (b'"kline"', b'"data":[["', b'"interval_begin"', b'"turnover"')
    return [(moment, frame) for moment, frame in line.heard if any(mark in frame for mark in marks)
            and name.encode() in frame]  # fmt: skip


async def klines(market: Market) -> list[int]:
    """The starts of the candles that REST gives, oldest first."""
    path, query = KLINES[market.exchange]
    body = (await market.get(path, **query)).json()
    if market.exchange == "binance":
        return [row[0] for row in body]
    if market.exchange == "kraken":
        return [row[0] * 1000 for row in body["result"]["XBTUSDT"]]
    rows = body["data"] if market.exchange == "okx" else body["result"]["list"]
    return [int(row[0]) for row in reversed(rows)]


def struck(market: Market) -> list[str]:
    return [entry.detail.split(" hits ")[0] for entry in market.simulator.log.of("fault")]


# -- connections ----------------------------------------------------------------------------------


@EACH
async def test_reset_ends_without_a_close_frame_and_a_new_connection_works(exchange: str) -> None:
    async with simulated(exchange, ["reset@10"]) as market:
        line = await subscribed(market)
        await market.pass_time(9.9)
        assert line.closed is None
        await market.pass_time(0.2)
        assert line.closed == 1006
        assert struck(market) == ["reset@10"]
        again = await subscribed(market)
        await market.pass_time(20)
        assert data(again)


@pytest.mark.parametrize("code", [1001, 1006, 1011, 4000])
async def test_close_has_the_code(code: int) -> None:
    async with simulated("bybit", [Fault("close", 5.0, value=code)]) as market:
        line = await subscribed(market)
        await market.pass_time(6)
        assert line.closed == code
        assert market.simulator.sockets("bybit") == 0


async def test_only_the_named_connection_is_hit() -> None:
    async with simulated("binance", ["close@5:connection=2"]) as market:
        lines = [await subscribed(market) for _ in range(3)]
        await market.pass_time(6)
        assert [line.closed for line in lines] == [None, 1001, None]


async def test_a_fault_of_another_exchange_does_nothing() -> None:
    async with simulated("binance", ["close@5:exchange=okx"]) as market:
        line = await subscribed(market)
        await market.pass_time(6)
        assert line.closed is None
        assert market.simulator.log.of("fault") == []


async def test_cut_closes_as_after_24_hours() -> None:
    async with simulated("binance", ["cut@5"]) as market:
        line = await subscribed(market)
        await market.pass_time(6)
        assert line.closed == 1001


async def test_refuse_turns_down_handshakes_so_many_times() -> None:
    async with simulated("okx", ["refuse:times=2", "refuse:times=1,value=503"]) as market:
        for _ in range(2):
            with pytest.raises((websockets.InvalidMessage, ConnectionError, EOFError)):
                await subscribed(market)
        with pytest.raises(websockets.InvalidStatus) as turned_down:
            await subscribed(market)
        assert turned_down.value.response.status_code == 503
        await market.pass_time(1)
        line = await subscribed(market)
        assert line.messages


@EACH
async def test_a_stalled_socket_sends_no_data_but_answers_pings(exchange: str) -> None:
    async with simulated(exchange, ["stall@10:lasts=60"], start=START + 30_000) as market:
        line = await subscribed(market)
        await market.pass_time(12)
        count = len(data(line))
        for _ in range(4):
            await market.pass_time(10)
            pong = await line.socket.ping()
            await market.pass_time(0.01)
            assert pong.done()
            if exchange == "okx":
                await line.say("ping")
                assert line.heard[-1][1] == b"pong"
        assert len(data(line)) == count
        if exchange == "kraken":
            assert line.heard[-1][1] == b'{"channel":"heartbeat"}'
        await market.pass_time(90)
        assert len(data(line)) > count


@EACH
@pytest.mark.parametrize("again", ["burst@20:value=5", "snapshot@20"])
async def test_nothing_is_sent_again_through_a_stall(exchange: str, again: str) -> None:
    """The last frame of a stream may be one that the stalled socket never had."""
    async with simulated(exchange, ["stall@10:lasts=60", again], start=START + 30_000) as market:
        line = await subscribed(market)
        await market.pass_time(12)
        count = len(data(line))
        await market.pass_time(30)
        assert len(data(line)) == count


@EACH
@pytest.mark.parametrize("again", ["burst@20:value=5", "snapshot@20"])
async def test_nothing_of_a_silent_stream_is_sent_again(exchange: str, again: str) -> None:
    async with simulated(exchange, ["mute@10:symbol=ETH/USDT,lasts=60", again], start=START + 30_000) as market:
        line = await subscribed(market)
        await market.pass_time(25)
        bitcoin, ether = ([moment for moment, _ in data(line, base)] for base in ("BTC", "ETH"))
        assert START + 50_000 in bitcoin
        assert max(ether) < START + 40_000


async def test_a_frozen_socket_says_nothing_at_all_and_does_not_notice_that_the_client_goes() -> None:
    async with simulated("binance", ["freeze@10"]) as market:
        line = await subscribed(market)
        await market.pass_time(12)
        count = len(line.heard)
        pong = await line.socket.ping()
        await market.pass_time(50)
        assert (len(line.heard), pong.done(), line.closed) == (count, False, None)


async def test_what_a_frozen_socket_held_passes_when_it_thaws() -> None:
    async with simulated("bybit", ["freeze@10:lasts=20"]) as market:
        line = await subscribed(market)
        await market.pass_time(29)
        assert max(moment for moment, _ in data(line)) <= START + 10_000
        await market.pass_time(2)
        late = [frame for moment, frame in data(line) if moment == START + 30_000]
        assert len(late) >= 38  # two symbols, a second each
        pong = await line.socket.ping()
        await market.pass_time(0.01)
        assert pong.done()


async def test_one_stream_can_fall_silent_alone() -> None:
    async with simulated("bybit", ["mute@10:symbol=ETH/USDT,lasts=30"]) as market:
        line = await subscribed(market)
        await market.pass_time(39)
        bitcoin, ether = ([moment for moment, _ in data(line, f"{base}USDT")] for base in ("BTC", "ETH"))
        assert max(ether) < START + 10_000 < max(bitcoin)
        await market.pass_time(5)
        assert max(moment for moment, _ in data(line, "ETHUSDT")) > START + 40_000


# -- frames -----------------------------------------------------------------------------------------


async def frames(
    fault: str, exchange: str = "bybit", seconds: float = 20
) -> tuple[list[bytes], list[bytes], list[str]]:
    """What a socket hears with the fault and without it, by the same seed."""
    heard = []
    log: list[str] = []
    for faults in ([fault], []):
        async with simulated(exchange, faults, start=START + 30_000) as market:
            line = await subscribed(market)
            await market.pass_time(seconds)
            heard.append([frame for _, frame in line.heard])
            log = log or struck(market)
    return heard[0], heard[1], log


@EACH
async def test_duplicate_sends_frames_twice(exchange: str) -> None:
    spoiled, plain, log = await frames("duplicate:times=3", exchange)
    assert len(spoiled) == len(plain) + 3
    assert [frame for frame, _ in itertools.groupby(spoiled)] == [frame for frame, _ in itertools.groupby(plain)]
    assert len(log) == 3


async def test_reorder_lets_later_frames_pass_first() -> None:
    spoiled, plain, _ = await frames("reorder#3:value=2")
    assert sorted(spoiled) == sorted(plain)
    first = next(index for index, frame in enumerate(plain) if spoiled[index] != frame)
    assert spoiled[first : first + 3] == [plain[first + 1], plain[first + 2], plain[first]]


@EACH
async def test_malformed_frames_are_no_json(exchange: str) -> None:
    spoiled, plain, _ = await frames("malformed:times=2", exchange)
    different = [(bad, good) for bad, good in zip(spoiled, plain, strict=True) if bad != good]
    assert len(different) == 2
    for bad, good in different:
        assert good.startswith(bad)
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(bad)


async def test_truncated_frames_end_within_a_character() -> None:
    spoiled, plain, _ = await frames("truncated#2")
    (bad,) = (bad for bad, good in zip(spoiled, plain, strict=True) if bad != good)
    with pytest.raises(UnicodeDecodeError):
        bad.decode()


async def test_a_client_that_decodes_must_close_on_a_truncated_frame() -> None:
    async with simulated("bybit", ["truncated"], start=START + 30_000) as market:
        line = await subscribed(market)
        await market.pass_time(3)
        assert line.closed is None
        socket = line.socket
        with pytest.raises(UnicodeDecodeError):
            next(frame for _, frame in line.heard if b"\xe2\x82" in frame).decode()
        assert socket.close_code is None


@EACH
async def test_unknown_frames_are_json_of_a_channel_nobody_knows(exchange: str) -> None:
    spoiled, plain, _ = await frames("unknown:times=2", exchange)
    assert len(spoiled) == len(plain) + 2
    extra = [orjson.loads(frame) for frame in spoiled if b"omething" in frame]
    assert len(extra) == 2


@EACH
async def test_numbers_and_texts_change_places(exchange: str) -> None:
    spoiled, plain, _ = await frames("strings", exchange)
    (index,) = (index for index, (bad, good) in enumerate(zip(spoiled, plain, strict=True)) if bad != good)
    bad, good = spoiled[index], plain[index]
    assert bad.replace(b'"', b"") == good.replace(b'"', b"")
    assert orjson.loads(bad) != orjson.loads(good)


@EACH
@pytest.mark.parametrize(("kind", "text"), [("nan", b"NaN"), ("zero", b"0")])
async def test_a_price_can_be_no_number_or_zero(exchange: str, kind: str, text: bytes) -> None:
    spoiled, plain, _ = await frames(kind, exchange)
    ((bad, good),) = ((bad, good) for bad, good in zip(spoiled, plain, strict=True) if bad != good)
    assert text in bad
    assert len(bad) < len(good)


@EACH
async def test_snapshot_repeats_what_was_said(exchange: str) -> None:
    async with simulated(exchange, ["snapshot@15"], start=START + 30_000) as market:
        line = await subscribed(market)
        await market.pass_time(14.9)
        before = {frame for _, frame in data(line)}
        await market.pass_time(0.2)
        repeated = [frame for moment, frame in data(line) if moment == START + 45_000]
        if exchange == "kraken":
            assert [orjson.loads(frame)["type"] for frame in repeated] == ["snapshot", "snapshot"]
        else:
            assert len(repeated) == 2
            assert set(repeated) <= before


async def test_a_burst_is_a_thousand_frames_at_once() -> None:
    async with simulated("bybit", ["burst@15"], start=START + 30_000) as market:
        line = await subscribed(market)
        await market.pass_time(16)
        assert sum(moment == START + 45_000 for moment, _ in line.heard) == 2000
        assert line.closed is None


@EACH
async def test_an_error_comes_that_nobody_asked_for(exchange: str) -> None:
    async with simulated(exchange, ["error@5"]) as market:
        line = await subscribed(market)
        await market.pass_time(6)
        told = [message for message in line.messages if "code" in message or message.get("success") is False]
        assert len(told) == 1


# -- closing frames ---------------------------------------------------------------------------------


def closings(line: Line) -> list[tuple[int, int]]:
    """(moment, start) of each closing frame of the first symbol."""
    found = []
    for moment, frame in data(line, "BTCUSDT"):
        row = orjson.loads(frame)["data"][0]
        if row["confirm"]:
            found.append((moment, row["start"]))
    return found


async def test_a_late_closing_frame_comes_after_the_next_candles_first() -> None:
    async with simulated("bybit", ["late_close@30:seconds=7,symbol=BTC/USDT"]) as market:
        line = await subscribed(market)
        await market.pass_time(190)
        found = {start: moment for moment, start in closings(line)}
        assert found[START] - (START + MINUTE) >= 7000
        assert found[START + MINUTE] - (START + 2 * MINUTE) < 1000
        early = [frame for moment, frame in data(line, "BTCUSDT") if START + MINUTE < moment < found[START]]
        assert {orjson.loads(frame)["data"][0]["start"] for frame in early} == {START + MINUTE}


async def test_a_lost_closing_frame_comes_on_no_socket_and_is_in_the_log() -> None:
    async with simulated("bybit", ["lost_close@30:symbol=BTC/USDT"]) as market:
        lines = [await subscribed(market) for _ in range(2)]
        await market.pass_time(190)
        for line in lines:
            assert [start for _, start in closings(line) if start >= START] == [START + MINUTE, START + 2 * MINUTE]
        assert [entry.detail for entry in market.simulator.log.of("lack")] == [f"socket BTC/USDT 1m {START}"]


# -- acknowledgements -------------------------------------------------------------------------------


@EACH
async def test_a_refused_subscription_is_an_error_and_brings_no_data(exchange: str) -> None:
    faults = ["ack_error:times=all"]
    async with simulated(exchange, faults) as market:
        line = await subscribed(market)
        await market.pass_time(70)
        assert not data(line)
        told = [message for message in line.messages if "code" in message or message.get("success") is False]
        assert len(told) == (2 if exchange in ("okx", "kraken") else 1)


@EACH
async def test_a_subscription_that_is_never_acknowledged_brings_no_data(exchange: str) -> None:
    async with simulated(exchange, ["ack_never:times=all"]) as market:
        line = await subscribed(market)
        await market.pass_time(25)
        assert [message for message in line.messages if message.get("channel") != "status"] == []


@EACH
async def test_data_can_come_before_the_acknowledgement(exchange: str) -> None:
    async with simulated(exchange, ["data_first"], start=START + 30_000) as market:
        line = await subscribed(market)
        first = line.heard[1 if exchange == "kraken" else 0]
        assert first in data(line)


# -- REST -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exchange", "value", "status", "text"),
    [
        ("binance", 429, 429, "-1003"),
        ("binance", 418, 418, "banned"),
        ("okx", 429, 429, "50011"),
        ("okx", 50026, 200, "50026"),
        ("kraken", 429, 200, "EGeneral:Too many requests"),
        ("bybit", 429, 200, "10006"),
        ("bybit", 403, 403, "too frequent"),
        ("bybit", 10016, 200, "10016"),
        *((exchange, 502, 502, "html") for exchange in EXCHANGES),
    ],
)
async def test_rest_refuses_as_the_exchange_does(exchange: str, value: int, status: int, text: str) -> None:
    async with simulated(exchange, [Fault("status", value=value, seconds=7, times=2)]) as market:
        path, query = KLINES[exchange]
        for _ in range(2):
            answer = await market.get(path, **query)
            assert answer.status_code == status
            assert text in answer.text
        if exchange == "binance" and status in (418, 429):
            assert answer.headers["Retry-After"] == "7"
        assert (await klines(market))[-1] == START


async def test_rest_can_leave_a_request_without_an_answer() -> None:
    async with simulated("okx", ["timeout:seconds=40"]) as market:
        path, query = KLINES["okx"]
        with pytest.raises(httpx2.RemoteProtocolError):
            await market.get(path, **query)
        assert market.clock.time_ms() == START + 40_000
        assert (await klines(market))[-1] == START + 0


async def test_rest_can_reset_and_end_half_way() -> None:
    async with simulated("okx", ["rest_refuse", "half"]) as market:
        path, query = KLINES["okx"]
        with pytest.raises(httpx2.ReadError):
            await market.get(path, **query)
        with pytest.raises(httpx2.RemoteProtocolError):
            await market.get(path, **query)
        assert len(await klines(market)) == 100


async def test_rest_can_take_its_time_with_the_body() -> None:
    async with simulated("okx", ["slow:seconds=12"]) as market:
        assert len(await klines(market)) == 100
        assert START + 11_900 <= market.clock.time_ms() <= START + 12_100
        assert len(await klines(market)) == 100
        assert market.clock.time_ms() <= START + 12_100


async def test_rest_can_answer_with_a_page_of_html() -> None:
    async with simulated("okx", ["garbage"]) as market:
        path, query = KLINES["okx"]
        answer = await market.get(path, **query)
        assert answer.status_code == 200
        assert answer.text.startswith("<html>")


@EACH
async def test_rest_can_lag_behind_the_sockets(exchange: str) -> None:
    async with simulated(exchange, ["behind:seconds=30,lasts=20"], start=START + 10_000) as market:
        assert (await klines(market))[-1] == START - MINUTE
        await market.pass_time(21)
        assert (await klines(market))[-1] == START


async def test_a_lagging_okx_confirms_no_candle_that_it_does_not_know_whole() -> None:
    async with simulated("okx", ["behind:seconds=30"], start=START + 10_000) as market:
        rows = (await market.get("/api/v5/market/candles", instId="BTC-USDT", limit=3)).json()["data"]
        assert [(int(row[0]), row[8]) for row in rows] == [
            (START - MINUTE, "0"),
            (START - 2 * MINUTE, "1"),
            (START - 3 * MINUTE, "1"),
        ]
        history = (await market.get("/api/v5/market/history-candles", instId="BTC-USDT", limit=3)).json()["data"]
        assert int(history[0][0]) == START - 2 * MINUTE


@EACH
async def test_rest_can_lack_a_candle_for_a_time(exchange: str) -> None:
    fault = Fault("missing", symbol="BTC/USDT", timeframe="1m", value=START - 2 * MINUTE, lasts=20)
    async with simulated(exchange, [fault]) as market:
        assert (await klines(market))[-4:] == [START - 4 * MINUTE, START - 3 * MINUTE, START - MINUTE, START]
        assert [entry.detail for entry in market.simulator.log.of("lack")] == [f"REST BTC/USDT 1m {START - 2 * MINUTE}"]
        await market.pass_time(21)
        assert START - 2 * MINUTE in await klines(market)


async def test_a_missing_candle_is_by_default_the_one_of_its_moment_and_for_ever() -> None:
    async with simulated("binance", ["missing@90:symbol=BTC/USDT"]) as market:
        await market.pass_time(80)
        assert START + MINUTE in await klines(market)
        await market.pass_time(600)
        assert START + MINUTE not in await klines(market)
        assert START + 2 * MINUTE in await klines(market)


# -- for everybody ----------------------------------------------------------------------------------


async def test_the_exchanges_clock_can_be_wrong() -> None:
    async with simulated("binance", ["skew@5:value=-1300,lasts=60"]) as market:
        line = await subscribed(market)
        await market.pass_time(10)
        assert (await market.get("/api/v3/time")).json()["serverTime"] == market.clock.time_ms() - 1300
        assert line.messages[-1]["E"] <= market.clock.time_ms() - 1300
        await market.pass_time(60)
        assert (await market.get("/api/v3/time")).json()["serverTime"] == market.clock.time_ms()


@EACH
async def test_a_delisted_symbol_falls_silent_everywhere(exchange: str) -> None:
    async with simulated(exchange, ["delist@70:symbol=BTC/USDT"]) as market:
        line = await subscribed(market)
        await market.pass_time(69)
        for _ in range(9):
            await market.pass_time(20)
            if exchange == "okx":
                await line.say("ping")
        assert max(moment for moment, _ in data(line, "BTC")) < START + 70_000
        assert max(moment for moment, _ in data(line, "ETH")) > START + 200_000
        assert (await klines(market))[-1] == START + MINUTE
        listed = {
            "binance": ("/api/v3/exchangeInfo", "BREAK"),
            "okx": ("/api/v5/public/instruments?instType=SPOT", "suspend"),
            "kraken": ("/0/public/AssetPairs", "cancel_only"),
            "bybit": ("/v5/market/instruments-info?category=spot", "Closed"),
        }[exchange]
        assert listed[1] in (await market.get(listed[0])).text


async def test_a_fault_can_be_injected_at_any_time() -> None:
    async with simulated("bybit") as market:
        line = await subscribed(market)
        await market.pass_time(7.5)
        market.simulator.inject(Fault("close", value=1011))
        market.simulator.inject(Fault("garbage"))
        await market.pass_time(0.1)
        assert line.closed == 1011
        assert (await market.get("/v5/market/time")).text.startswith("<html>")
        assert struck(market) == ["close@7.502:value=1011", "garbage@7.502"]
