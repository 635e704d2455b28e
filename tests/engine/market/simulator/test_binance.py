"""Binance's protocol, spoken to by a bare client."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import zipfile
from typing import Any

import orjson
import pytest
import websockets

from streammachine.market.model.timeframe import DAY, MINUTE
from streammachine.market.simulator import Tape
from support.exchange import START, exact, folded, simulated

pytestmark = pytest.mark.anyio


def klines(messages: list[Any]) -> list[Any]:
    found = [message.get("data", message) for message in messages]
    return [message for message in found if message.get("e") == "kline"]


async def test_a_raw_path_delivers_at_once_and_unwrapped() -> None:
    async with simulated("binance") as market:
        line = await market.connect("/ws/btcusdt@kline_1m/ethusdt@kline_1m")
        await market.pass_time(5)
        assert {message["s"] for message in line.messages} == {"BTCUSDT", "ETHUSDT"}
        assert all(message["e"] == "kline" for message in line.messages)


async def test_a_combined_path_names_the_stream() -> None:
    async with simulated("binance") as market:
        line = await market.connect("/stream?streams=btcusdt@kline_1m/ethusdt@trade")
        await market.pass_time(30)
        assert {message["stream"] for message in line.messages} == {"btcusdt@kline_1m", "ethusdt@trade"}
        trade = next(message["data"] for message in line.messages if message["stream"] == "ethusdt@trade")
        assert list(trade) == ["e", "E", "s", "t", "p", "q", "T", "m", "M"]
        assert trade["E"] >= trade["T"]


async def test_subscribing_unsubscribing_and_listing_are_acknowledged_by_id() -> None:
    async with simulated("binance") as market:
        line = await market.connect("/ws")
        await line.say({"method": "SUBSCRIBE", "params": ["btcusdt@kline_1m", "nosuch@kline_1m"], "id": 7})
        await line.say({"method": "LIST_SUBSCRIPTIONS", "id": "list"})
        await line.say({"method": "UNSUBSCRIBE", "params": ["btcusdt@kline_1m"], "id": 8})
        await line.say({"method": "LIST_SUBSCRIPTIONS", "id": 9})
        assert line.messages == [
            {"result": None, "id": 7},
            {"result": ["btcusdt@kline_1m", "nosuch@kline_1m"], "id": "list"},
            {"result": None, "id": 8},
            {"result": ["nosuch@kline_1m"], "id": 9},
        ]
        await market.pass_time(70)
        assert len(line.messages) == 4  # the unknown symbol was acknowledged and stays silent


async def test_a_socket_can_be_switched_to_combined() -> None:
    async with simulated("binance") as market:
        line = await market.connect("/ws")
        await line.say({"method": "SET_PROPERTY", "params": ["combined", True], "id": 1})
        await line.say({"method": "GET_PROPERTY", "params": ["combined"], "id": 2})
        await line.say({"method": "SUBSCRIBE", "params": ["btcusdt@kline_1m"], "id": 3})
        await market.pass_time(3)
        assert [message.get("result") for message in line.messages[:3]] == [None, True, None]
        assert line.messages[3]["stream"] == "btcusdt@kline_1m"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ("{not json", 3),
        ({"method": "SUBSCRIBE", "params": "btcusdt@trade", "id": 1}, 2),
        ({"method": "SUBSCRIBE", "params": [], "id": 1}, 2),
        ({"method": "DANCE", "id": 1}, 2),
        ([1], 2),
    ],
)
async def test_bad_requests_are_answered_with_their_code(sent: Any, code: int) -> None:
    async with simulated("binance") as market:
        line = await market.connect("/ws")
        await line.say(sent)
        assert line.messages[0]["code"] == code
        assert line.closed is None


async def test_running_candles_come_every_two_seconds_and_1s_candles_every_second() -> None:
    async with simulated("binance") as market:
        line = await market.connect("/ws/btcusdt@kline_1m")
        fast = await market.connect("/ws/btcusdt@kline_1s")
        await market.pass_time(50)
        moments = [moment for moment, _ in line.heard][1:]
        assert {later - earlier for earlier, later in itertools.pairwise(moments)} == {2000}
        closed = [message["k"]["t"] for message in fast.messages if message["k"]["x"]]
        assert closed == list(range(closed[0], closed[0] + 1000 * len(closed), 1000))
        assert len(closed) >= 48


async def test_the_closing_frame_comes_a_moment_after_the_end_and_before_the_next_candle() -> None:
    async with simulated("binance") as market:
        line = await market.connect("/ws/btcusdt@kline_1m")
        await market.pass_time(200)
        rows = [(moment, message["k"]) for (moment, _), message in zip(line.heard, line.messages, strict=True)]
        closings = [(moment, row) for moment, row in rows if row["x"]]
        assert len(closings) >= 3
        for moment, row in closings:
            assert 0 < moment - row["T"] <= 2005
        assert all(row["t"] <= moment <= row["T"] for moment, row in rows if not row["x"])


async def test_a_idle_minute_has_a_flat_candle_without_trade_ids() -> None:
    tape = Tape.generate(12, start_ms=START, trades_per_minute=4, quiet=0.4)
    async with simulated("binance", tape=tape) as market:
        line = await market.connect("/ws/btcusdt@kline_1m")
        await market.pass_time(600)
        empty = [message["k"] for message in line.messages if message["k"]["x"] and message["k"]["n"] == 0]
        assert empty
        for row in empty:
            assert (row["f"], row["L"], row["v"], row["q"]) == (-1, -1, "0.00000000", "0.00000000")
            assert row["o"] == row["h"] == row["l"] == row["c"]


async def test_trade_ids_are_contiguous() -> None:
    async with simulated("binance") as market:
        line = await market.connect("/ws/btcusdt@trade")
        await market.pass_time(120)
        ids = [message["t"] for message in line.messages]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        assert len(ids) > 50


async def test_an_answering_client_is_pinged_every_twenty_seconds_and_kept() -> None:
    async with simulated("binance") as market:
        line = await market.connect("/ws")
        await market.pass_time(150)
        assert [entry.time_ms - START for entry in market.simulator.log.of("ping")] == [
            20_000 * number for number in range(1, 8)
        ]
        assert len(market.simulator.log.of("pong")) == 7
        assert line.closed is None


async def test_a_client_without_pongs_is_cut_after_a_minute() -> None:
    async with simulated(
        "binance", ["freeze@10:lasts=100"]
    ) as market:  # reads nothing for a while: its pongs come too late
        line = await market.connect("/ws")
        await market.pass_time(120)
        (kill,) = market.simulator.log.of("kill")
        assert (kill.time_ms - START, kill.detail) == (80_000, "no pong")
        assert line.closed is not None
        assert market.simulator.sockets("binance") == 0


async def test_the_sixth_message_within_a_second_kills_the_connection() -> None:
    async with simulated("binance") as market:
        line = await market.connect("/ws")
        for number in range(5):
            await line.say({"method": "LIST_SUBSCRIPTIONS", "id": number})
        await market.pass_time(1.5)
        assert line.closed is None
        for number in range(6):
            await line.say({"method": "LIST_SUBSCRIPTIONS", "id": number})
        await market.pass_time(0.1)
        assert line.closed == 1008


async def test_ping_frames_count_as_messages() -> None:
    async with simulated("binance") as market:
        line = await market.connect("/ws")
        for _ in range(6):
            await line.socket.ping()
        await market.pass_time(0.1)
        assert line.closed == 1008


async def test_a_connection_holds_1024_streams() -> None:
    symbols = [f"C{number}/USDT" for number in range(1025)]
    tape = Tape.generate(1, symbols, START, trades_per_minute=1)
    async with simulated("binance", tape=tape) as market:
        line = await market.connect("/ws")
        names = [f"c{number}usdt@kline_1m" for number in range(1025)]
        await line.say({"method": "SUBSCRIBE", "params": names[:1024], "id": 1})
        await line.say({"method": "SUBSCRIBE", "params": names[:2], "id": 2})
        await line.say({"method": "SUBSCRIBE", "params": names[1024:], "id": 3})
        answers = {message["id"]: message for message in line.messages if "id" in message}
        assert answers[1] == {"result": None, "id": 1}
        assert answers[2] == {"result": None, "id": 2}
        assert answers[3]["code"] == 2
        await market.pass_time(3)
        assert len({message["s"] for message in klines(line.messages)}) == 1024


async def test_a_connection_lives_24_hours() -> None:
    async with simulated("binance", rules={"ping_every": None}) as market:
        line = await market.connect("/ws")
        await market.pass_time(24 * 3600 - 1)
        assert line.closed is None
        await market.pass_time(2)
        assert line.closed == 1001


async def test_only_300_connection_attempts_in_five_minutes() -> None:
    async with simulated("binance", rules={"connects": 3}) as market:
        for _ in range(3):
            await market.connect("/ws")
        with pytest.raises(websockets.InvalidStatus) as refused:
            await market.connect("/ws")
        assert refused.value.response.status_code == 429
        await market.pass_time(301)
        await market.connect("/ws")


async def test_there_is_no_socket_elsewhere() -> None:
    async with simulated("binance") as market:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await market.connect("/nowhere")
        assert refused.value.response.status_code == 404


async def test_shutdown_notice_comes_raw_and_combined() -> None:
    async with simulated("binance", ["notice@5:seconds=4"]) as market:
        raw = await market.connect("/ws")
        combined = await market.connect("/stream")
        await market.pass_time(5)
        assert raw.messages == [{"e": "serverShutdown", "E": START + 5000}]
        assert combined.messages == [{"stream": "!serverShutdown", "data": {"e": "serverShutdown", "E": START + 5000}}]
        await market.pass_time(5)
        assert (raw.closed, combined.closed) == (1001, 1001)


# -- REST ---------------------------------------------------------------------------------------


async def test_klines_pages_are_oldest_first_and_carry_the_used_weight() -> None:
    async with simulated("binance") as market:
        answer = await market.get("/api/v3/klines", symbol="BTCUSDT", interval="1m", startTime=START - DAY)
        rows = answer.json()
        assert [row[0] for row in rows] == list(range(START - DAY, START - DAY + 500 * MINUTE, MINUTE))
        assert answer.headers["X-MBX-USED-WEIGHT-1M"] == "2"
        most = (await market.get("/api/v3/klines", symbol="BTCUSDT", interval="1m", startTime=0, limit=5000)).json()
        assert len(most) == 1000
        assert most[0][0] == market.tape.listed("BTCUSDT")
        newest = (await market.get("/api/v3/klines", symbol="BTCUSDT", interval="1m", limit=3)).json()
        assert [row[0] for row in newest] == [START - 2 * MINUTE, START - MINUTE, START]
        span = {"startTime": START - 5 * MINUTE, "endTime": START - 2 * MINUTE}
        some = (await market.get("/api/v3/klines", symbol="BTCUSDT", interval="1m", **span)).json()
        assert [row[0] for row in some] == [START - 5 * MINUTE + n * MINUTE for n in range(4)]
        fine = {name: value * 1000 for name, value in span.items()}
        assert (await market.get("/api/v3/klines", symbol="BTCUSDT", interval="1m", **fine)).json() == some
        assert [type(value) for value in some[0]] == [int, *[str] * 5, int, str, int, str, str, str]
        assert some[0][6] == some[0][0] + MINUTE - 1


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("/api/v3/klines", {"symbol": "NOSUCH", "interval": "1m"}, -1121),
        ("/api/v3/klines", {"symbol": "BTCUSDT", "interval": "7m"}, -1120),
        ("/api/v3/klines", {"interval": "1m"}, -1102),
        ("/api/v3/klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "x"}, -1100),
        ("/api/v3/exchangeInfo", {"symbols": '["BTCUSDT","NOSUCH"]'}, -1121),
        ("/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "1s"}, -1120),
    ],
)
async def test_refused_requests_say_why(path: str, query: dict[str, str], code: int) -> None:
    async with simulated("binance") as market:
        answer = await market.get(path, **query)
        assert answer.status_code == 400
        assert answer.json()["code"] == code


async def test_historical_trades_page_by_id() -> None:
    async with simulated("binance", start=START + 5 * MINUTE) as market:
        rows = market.tape.trades("BTC/USDT", START, START + 5 * MINUTE)
        query = {"symbol": "BTCUSDT", "limit": 50, "fromId": rows[10].id}
        page = (await market.get("/api/v3/historicalTrades", **query)).json()
        assert [(row["id"], exact(row["price"]), row["time"]) for row in page] == [
            (row.id, exact(row.price), row.ts) for row in rows[10:60]
        ]
        newest = (await market.get("/api/v3/trades", symbol="BTCUSDT", limit=5)).json()
        assert [row["id"] for row in newest] == [row.id for row in rows[-5:]]
        span = {"startTime": rows[20].ts, "endTime": rows[40].ts}
        aggregated = (await market.get("/api/v3/aggTrades", symbol="BTCUSDT", **span)).json()
        wanted = [row.id for row in rows if rows[20].ts <= row.ts <= rows[40].ts]
        assert [row["a"] for row in aggregated] == wanted
        assert [row["f"] for row in aggregated] == [row["l"] for row in aggregated] == wanted


async def test_exchange_info_and_time() -> None:
    async with simulated("binance") as market:
        info = (await market.get("/api/v3/exchangeInfo", symbols='["ETHUSDT"]')).json()
        assert [(row["symbol"], row["status"]) for row in info["symbols"]] == [("ETHUSDT", "TRADING")]
        assert (await market.get("/api/v3/time")).json() == {"serverTime": START}
        assert (await market.get("/api/v3/nothing")).status_code == 404


async def test_over_the_weight_comes_429_then_a_ban() -> None:
    async with simulated("binance", rules={"weight": 10, "refusals": 2}) as market:
        query = {"symbol": "BTCUSDT", "interval": "1m", "limit": 1}
        codes = []
        for _ in range(8):
            answer = await market.get("/api/v3/klines", **query)
            codes.append(answer.status_code)
        assert codes == [200] * 5 + [429, 429, 418]
        assert answer.json()["code"] == -1003
        assert answer.headers["Retry-After"] == "120"
        await market.pass_time(61)
        assert (await market.get("/api/v3/klines", **query)).status_code == 418
        await market.pass_time(60)
        assert (await market.get("/api/v3/klines", **query)).status_code == 200


async def test_429_says_when_the_window_ends() -> None:
    async with simulated("binance", start=START + 45_500, rules={"weight": 1}) as market:
        answer = await market.get("/api/v3/klines", symbol="BTCUSDT", interval="1m")
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "15")


# -- futures ------------------------------------------------------------------------------------


async def test_usdm_has_its_own_paths() -> None:
    async with simulated("binance") as market:
        line = await market.connect("/market/stream?streams=btcusdt@kline_1m")
        await market.pass_time(5)
        assert line.messages[-1]["data"]["s"] == "BTCUSDT"
        rows = (await market.get("/fapi/v1/klines", symbol="BTCUSDT", interval="1m", limit=2)).json()
        assert len(rows) == 2
        info = (await market.get("/fapi/v1/exchangeInfo")).json()
        assert [row["symbol"] for row in info["symbols"]] == ["BTCUSDT", "ETHUSDT"]
        assert (await market.get("/fapi/v1/historicalTrades", symbol="BTCUSDT")).status_code == 401


async def test_usdm_pings_every_three_minutes_and_takes_ten_messages_a_second() -> None:
    async with simulated("binance") as market:
        line = await market.connect("/market/ws")
        for number in range(10):
            await line.say({"method": "LIST_SUBSCRIPTIONS", "id": number})
        await market.pass_time(185)
        assert [entry.time_ms - START for entry in market.simulator.log.of("ping")] == [180_000]
        assert line.closed is None
        for number in range(11):
            await line.say({"method": "LIST_SUBSCRIPTIONS", "id": number})
        await market.pass_time(0.1)
        assert line.closed == 1008


async def test_coinm_counts_contracts_and_pays_in_coins() -> None:
    async with simulated("binance", start=START + 3 * MINUTE) as market:
        line = await market.connect("/ws/btcusd_perp@kline_1m")
        await market.pass_time(5)
        assert line.messages[-1]["s"] == "BTCUSD_PERP"
        query = {"symbol": "BTCUSD_PERP", "interval": "1m", "startTime": START, "limit": 3}
        rows = (await market.get("/dapi/v1/klines", **query)).json()
        want = {row[0]: row for row in folded(market.tape, MINUTE, START, START + 3 * MINUTE)}
        for row in rows:
            if row[8]:
                assert exact(row[7]) == want[row[0]][5]
                assert float(row[5]) == pytest.approx(float(want[row[0]][6]) / 100)
        (info, _) = (await market.get("/dapi/v1/exchangeInfo")).json()["symbols"]
        assert (info["symbol"], info["contractSize"], info["contractStatus"]) == ("BTCUSD_PERP", 100, "TRADING")


# -- bulk files ---------------------------------------------------------------------------------


async def unzipped(market: Any, path: str) -> list[list[str]]:
    answer = await market.get(path)
    assert answer.status_code == 200
    checksum = (await market.get(f"{path}.CHECKSUM")).text
    name = path.rpartition("/")[2]
    assert checksum == f"{hashlib.sha256(answer.content).hexdigest()}  {name}\n"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == [name.replace(".zip", ".csv")]
        return list(csv.reader(io.TextIOWrapper(archive.open(archive.namelist()[0]))))


async def test_a_day_file_holds_the_days_candles_without_a_header() -> None:
    start = START // DAY * DAY - 3 * DAY  # 2024-08-05
    async with simulated("binance") as market:
        rows = await unzipped(market, "/data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-08-05.zip")
        assert [int(row[0]) for row in rows] == list(range(start, start + DAY, MINUTE))
        want = {row[0]: row for row in folded(market.tape, MINUTE, start, start + DAY)}
        for row in rows:
            if row[8] != "0":
                told = (int(row[0]), *map(exact, (*row[1:6], row[7])), int(row[8]))
                assert told == want[int(row[0])]
        assert {row[0]: row[8] for row in rows if row[8] == "0"}.keys().isdisjoint(map(str, want))


async def test_a_month_file_of_2025_is_in_microseconds() -> None:
    now = 1_741_046_400_000  # 2025-03-04
    tape = Tape.generate(3, start_ms=now)
    async with simulated("binance", tape=tape, start=now) as market:
        rows = await unzipped(market, "/data/spot/monthly/klines/BTCUSDT/4h/BTCUSDT-4h-2025-02.zip")
        assert len(rows) == 28 * 6
        assert (rows[0][0], rows[0][6]) == ("1738368000000000", "1738382399999999")
        futures = await unzipped(market, "/data/futures/um/monthly/klines/BTCUSDT/4h/BTCUSDT-4h-2025-02.zip")
        assert futures[0][0] == "open_time"
        assert (len(futures), futures[1][0]) == (28 * 6 + 1, "1738368000000")


@pytest.mark.parametrize(
    "name",
    [
        "spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-08-08.zip",  # today
        "spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-08-08.zip.CHECKSUM",
        "spot/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-08.zip",
        "spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2018-08-05.zip",  # before it was listed
        "spot/daily/klines/NOSUCH/1m/NOSUCH-1m-2024-08-05.zip",
        "spot/daily/klines/BTCUSDT/1w/BTCUSDT-1w-2024-08-05.zip",  # months only
        "spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-02-30.zip",
        "spot/daily/klines/BTCUSDT/1m/ETHUSDT-1m-2024-08-05.zip",
    ],
)
async def test_files_that_are_not_there_are_404(name: str) -> None:
    async with simulated("binance") as market:
        answer = await market.get(f"/data/{name}")
        assert answer.status_code == 404
        assert "NoSuchKey" in answer.text


async def test_a_days_file_appears_some_hours_after_the_day() -> None:
    async with simulated("binance") as market:
        path = "/data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2024-08-08.zip"
        await market.pass_time(9 * 3600)
        assert (await market.get(path)).status_code == 404
        await market.pass_time(2 * 3600)
        assert (await market.get(path)).status_code == 200


async def test_orjson_reads_every_frame() -> None:
    async with simulated("binance") as market:
        line = await market.connect("/stream?streams=btcusdt@kline_1m/btcusdt@trade/btcusdt@aggTrade/ethusdt@kline_1s")
        await market.pass_time(65)
        assert len(line.heard) > 100
        for _, data in line.heard:
            orjson.loads(data)
