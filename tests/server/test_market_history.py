"""History beside live candles: written first, or behind them into the archive of the same series."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from streammachine.errors import DataInputError, StreamIdError
from streammachine_mcp.tools.market import history_start
from support.mcp import RawClient, ToolFailure
from support.simulator import START, Exchange, exchange

MINUTE = 60_000
DAY = 1440 * MINUTE
TODAY = START // DAY * DAY  # 2025-07-20
SERIES = "kline:binance:BTCUSDT:1m"


@pytest.fixture(scope="module")
def market() -> Iterator[Exchange]:
    with exchange("binance", "kraken", speed=40) as running:
        yield running


@pytest.fixture
def env(hosting_env: dict[str, str], market: Exchange) -> dict[str, str]:
    with redis.Redis.from_url(hosting_env["REDIS_URL"]) as database:
        database.flushdb()
    return {**hosting_env, **market.env}


@pytest.fixture
def database(env: dict[str, str]) -> Iterator[Any]:
    with redis.Redis.from_url(env["REDIS_URL"], decode_responses=True) as client:
        yield client


def until(ask: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while True:
        found = ask()
        if found:
            return found
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.1)


def starts(database: Any, stream: str) -> list[int]:
    """The open_ts of a stream's entries, in its order."""
    return [int(fields["open_ts"]) for _, fields in database.xrange(stream)]


def done(client: RawClient, name: str) -> bool:
    (row,) = client.call("backfill_status", name=name)["backfills"]
    assert row["state"] != "failed", row
    return bool(row["state"] == "done")


def read(client: RawClient, **wanted: Any) -> list[int]:
    """Every candle that candles_read gives, page by page."""
    found: list[int] = []
    start = wanted.pop("start")
    while True:
        page = client.call("candles_read", exchange="binance", symbol="BTCUSDT", start=str(start), limit=700, **wanted)
        found += page["columns"]["open_ts"]
        if not page["truncated"]:
            return found
        start = page["hint"].rpartition("=")[2]


def test_a_runner_writes_its_history_first_and_then_goes_live_in_the_same_streams(
    env: dict[str, str], database: Any, market: Exchange
) -> None:
    first = TODAY - DAY // 2
    with RawClient(env=env) as client:
        wanted = {"exchange": "binance", "symbols": ["BTCUSDT"], "aggregate": ["5m"], "history": "2025-07-19T12:00"}
        started = client.call("runner_start", **wanted)
        assert started["streams"] == [SERIES, "kline:binance:BTCUSDT:5m"]
        now = market.clock.time_ms()
        until(lambda: database.exists(SERIES) and starts(database, SERIES)[-1] > now + 3 * MINUTE)
        assert client.call("runner_start", **wanted) == {**started, "started": False}
        (row,) = client.call("runner_list")["runners"]
        assert row["state"] == "running"
    # Another server goes on where the live candles end, and does not begin the history anew.
    with RawClient(env=env) as client:
        last = starts(database, SERIES)[-1]
        until(lambda: starts(database, SERIES)[-1] > last + 3 * MINUTE, 100)
        until(lambda: starts(database, "kline:binance:BTCUSDT:5m")[-1] > last - 5 * MINUTE, 100)
        for unit, step in (("1m", MINUTE), ("5m", 5 * MINUTE)):
            found = starts(database, f"kline:binance:BTCUSDT:{unit}")
            assert found == list(range(first, found[-1] + step, step)), unit
        assert not database.keys("*:archive:*")
        client.call("runner_stop", name=started["name"])
        assert not database.hgetall("sm:runners:done")


def test_history_that_a_kill_interrupts_is_written_to_its_end(
    env: dict[str, str], database: Any, market: Exchange
) -> None:
    first = TODAY - 60 * DAY
    client = RawClient(env=env)
    client.call("runner_start", exchange="binance", symbols=["BTCUSDT"], history=str(first))
    until(lambda: database.exists(SERIES))
    client.kill()
    with RawClient(env=env) as client:
        now = market.clock.time_ms()
        until(lambda: database.exists(SERIES) and starts(database, SERIES)[-1] > now, 150)
        found = starts(database, SERIES)
        assert found == list(range(first, found[-1] + MINUTE, MINUTE))


def test_a_timeframe_that_the_exchange_does_not_have_is_folded_for_the_history_too(
    env: dict[str, str], database: Any, market: Exchange
) -> None:
    with RawClient(env=env) as client:
        begin = (market.clock.time_ms() - 100 * MINUTE) // (3 * MINUTE) * 3 * MINUTE
        client.call(
            "runner_start", exchange="kraken", symbols=["BTC/USDT"], aggregate=["3m"], history=str(begin + MINUTE)
        )
        now = market.clock.time_ms()
        stream = "kline:kraken:BTC/USDT:3m"
        until(lambda: database.exists(stream) and starts(database, stream)[-1] > now, 100)
        found = starts(database, stream)
        assert found == list(range(begin + 3 * MINUTE, found[-1] + 3 * MINUTE, 3 * MINUTE))
        assert {fields["is_complete"] for _, fields in database.xrange(stream)} == {"true"}


def test_a_backfill_behind_live_candles_is_read_across_with_them(env: dict[str, str], database: Any) -> None:
    with RawClient(env=env) as client:
        started = client.call("runner_start", exchange="binance", symbols=["BTCUSDT"])
        until(lambda: database.exists(SERIES))
        live = starts(database, SERIES)[0]
        for first, last in (("2025-07-19", str(live)), ("2025-07-16", "2025-07-17"), ("2025-07-18", "2025-07-18")):
            asked = {"exchange": "binance", "symbol": "BTCUSDT", "start": first, "end": last}
            back = client.call("backfill_start", **asked)
            assert back["started"] is True
            assert back["streams"] == [SERIES]
            until(lambda name=back["name"]: done(client, name))  # type: ignore[misc]
            assert client.call("backfill_start", **asked)["started"] is False
        assert starts(database, SERIES)[0] == live
        archive = sorted(database.keys(f"{SERIES}:archive:*"))
        assert archive == [f"{SERIES}:archive:{TODAY - days * DAY}" for days in (4, 1)]
        assert set(client.call("stream_list", pattern="kline:*")["streams"]) == {SERIES, *archive}
        found = read(client, start="2025-07-15")
        assert found == list(range(TODAY - 4 * DAY, found[-1] + MINUTE, MINUTE))
        newest = client.call("candles_read", exchange="binance", symbol="BTCUSDT", limit=300)
        assert newest["truncated"] is True
        opened = newest["columns"]["open_ts"]
        assert opened == list(range(opened[-1] - 299 * MINUTE, opened[-1] + MINUTE, MINUTE))
        assert opened[0] < live
        client.call("runner_stop", name=started["name"])
        # A history that is asked for later comes too, behind what is there.
        later = client.call("runner_start", exchange="binance", symbols=["BTCUSDT"])
        with_history = client.call("runner_start", exchange="binance", symbols=["BTCUSDT"], history="2025-07-14")
        assert with_history == {**later, "started": True}
        until(lambda: read(client, start="2025-07-13", end="2025-07-15")[:1] == [TODAY - 6 * DAY])
        until(lambda: client.call("runner_list")["runners"][0]["state"] == "running")
        found = read(client, start="2025-07-13")
        assert found == list(range(TODAY - 6 * DAY, found[-1] + MINUTE, MINUTE))


def test_backfills_run_side_by_side(env: dict[str, str], database: Any) -> None:
    with RawClient(env=env) as client:
        asked = {"exchange": "binance", "start": "2025-07-17", "end": "2025-07-18"}
        names = [
            client.call("backfill_start", symbol=symbol, timeframe=unit, **asked)["name"]
            for symbol in ("BTCUSDT", "ETHUSDT")
            for unit in ("1m", "5m")
        ]
        for name in names:
            until(lambda name=name: done(client, name))  # type: ignore[misc]
        assert len(starts(database, "kline:binance:ETHUSDT:5m")) == 2 * 288


def test_a_backfill_whose_stream_was_deleted_can_be_asked_for_again(env: dict[str, str], database: Any) -> None:
    with RawClient(env=env) as client:
        asked = {"exchange": "binance", "symbol": "BTCUSDT", "start": "2025-07-18", "end": "2025-07-18"}
        name = client.call("backfill_start", **asked)["name"]
        until(lambda: done(client, name))
        assert client.call("stream_delete", stream=SERIES, confirm=True)["deleted"] is True
        with pytest.raises(ToolFailure, match="no candles"):
            read(client, start="2025-07-18")
        assert client.call("backfill_start", **asked)["started"] is True
        until(lambda: done(client, name))
        assert len(starts(database, SERIES)) == 1440


def test_a_history_is_how_far_back_or_since_when() -> None:
    now = TODAY + 5 * MINUTE
    assert history_start("7d", now + 10**15) > now
    for text in ("7d", "now-7d", "12h", "90 m", "2w"):
        assert history_start(text, int(time.time() * 1000)) < time.time() * 1000
    assert history_start("2025-07-19", now) == TODAY - DAY
    assert history_start(str(TODAY), now) == TODAY
    with pytest.raises(DataInputError, match="in the future"):
        history_start("2025-07-21", now)
    with pytest.raises(StreamIdError, match="not a position"):
        history_start("a week", now)


def test_a_runner_s_indicators_are_further_fields_of_its_candles(env: dict[str, str], database: Any) -> None:
    with RawClient(env=env) as client:
        started = client.call("runner_start", exchange="binance", symbols=["BTCUSDT"], indicators=["sma:3", "macd"])
        assert client.call("runner_list")["runners"][0]["indicators"] == ["sma:3", "macd"]
        until(lambda: database.xlen(SERIES) >= 4)
        entries = [fields for _, fields in database.xrange(SERIES)]
        closes = [float(fields["close"]) for fields in entries]
        for place in range(2, len(entries)):
            assert float(entries[place]["sma3"]) == pytest.approx(sum(closes[place - 2 : place + 1]) / 3)
        assert all(float(fields["macd12_26_9_signal"]) for fields in entries)  # the candles before them were fetched
        page = client.call("candles_read", exchange="binance", symbol="BTCUSDT", limit=2)
        assert page["count"] == 2
        with pytest.raises(ToolFailure, match="no indicator"):
            client.call("runner_start", exchange="binance", symbols=["BTCUSDT"], indicators=["smma:3"])
        with pytest.raises(ToolFailure, match="are of candles"):
            client.call("runner_start", exchange="binance", symbols=["BTCUSDT"], type="trade", indicators=["sma:3"])
        client.call("runner_stop", name=started["name"])
