"""The market tools: a model streams, backfills and reads candles; what it started survives restarts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from streammachine.errors import DataInputError
from streammachine_mcp.tools.market import backfill_range
from support.mcp import RawClient, ToolFailure
from support.simulator import START, Exchange, exchange

MINUTE = 60_000
DAY = 1440 * MINUTE
BEGIN = 1_723_161_600_000  # 2024-08-09


@pytest.fixture(scope="module")
def market() -> Iterator[Exchange]:
    with exchange("binance", "kraken", speed=80) as running:
        yield running


@pytest.fixture
def env(hosting_env: dict[str, str], market: Exchange) -> dict[str, str]:
    with redis.Redis.from_url(hosting_env["REDIS_URL"]) as database:
        database.flushdb()
    return {**hosting_env, **market.env}


def until(ask: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while True:
        found = ask()
        if found:
            return found
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.1)


def _candles(client: RawClient, **wanted: Any) -> dict[str, Any] | None:
    try:
        page = client.call("candles_read", exchange="binance", **wanted)
    except ToolFailure:
        return None
    return page if page["count"] else None


def test_a_runner_streams_quotes(env: dict[str, str]) -> None:
    with RawClient(env=env) as client:
        asked = {"exchange": "binance", "symbols": ["BTCUSDT"], "type": "quote", "every": "100ms"}
        started = client.call("runner_start", **asked)
        assert started["streams"] == ["quotes:binance:BTCUSDT"]
        assert client.call("runner_start", **asked) == {**started, "started": False}

        def some() -> Any:
            try:
                return client.call("stream_read", stream="quotes:binance:BTCUSDT", count=3)["messages"]
            except ToolFailure:
                return None

        for entry in until(some):
            assert 0 < float(entry["data"]["bid"]) < float(entry["data"]["ask"])
        client.call("runner_stop", name=started["name"])


def test_a_runner_streams_candles_that_can_be_read(env: dict[str, str]) -> None:
    with RawClient(env=env) as client:
        started = client.call(
            "runner_start", exchange="binance", symbols=["BTCUSDT", "ETHUSDT"], timeframe="1m", aggregate=["5m"]
        )
        assert started["started"] is True
        series = [f"kline:binance:{symbol}:{unit}" for symbol in ("BTCUSDT", "ETHUSDT") for unit in ("1m", "5m")]
        assert started["streams"] == series
        again = client.call(
            "runner_start", exchange="binance", symbols=["BTCUSDT", "ETHUSDT"], timeframe="1m", aggregate=["5m"]
        )
        assert again == {**started, "started": False}

        def ten() -> dict[str, Any] | None:
            found = _candles(client, symbol="BTCUSDT")
            return found if found and found["count"] >= 6 else None

        page = until(ten)
        starts = page["columns"]["open_ts"]
        assert starts == list(range(starts[0], starts[0] + len(starts) * MINUTE, MINUTE))
        assert all(page["columns"]["is_closed"])
        assert all(low <= high for low, high in zip(page["columns"]["low"], page["columns"]["high"], strict=True))
        until(lambda: _candles(client, symbol="BTCUSDT", timeframe="5m"))
        (row,) = client.call("runner_list")["runners"]
        assert (row["name"], row["state"], row["exchange"]) == (started["name"], "running", "binance")
        assert {last["symbol"] for last in row["last"]} == {"BTCUSDT", "ETHUSDT"}
        part = client.call(
            "candles_read", exchange="binance", symbol="BTCUSDT", start=str(starts[1]), end=str(starts[4]), limit=2
        )
        assert part["columns"]["open_ts"] == starts[1:3]
        assert part["truncated"] is True
        assert str(starts[2] + 1) in part["hint"]
        assert client.call("runner_stop", name=started["name"]) == {"name": started["name"], "stopped": True}
        assert client.call("runner_list")["runners"] == []
        with pytest.raises(ToolFailure, match="There is no runner"):
            client.call("runner_stop", name=started["name"])


def test_a_runner_goes_on_after_a_restart_and_fills_what_it_missed(env: dict[str, str], market: Exchange) -> None:
    with RawClient(env=env) as client:
        client.call("runner_start", exchange="binance", symbols=["BTCUSDT"])
        before = until(lambda: _candles(client, symbol="BTCUSDT"))["columns"]["open_ts"]
    missed = before[-1] + 4 * MINUTE
    until(lambda: market.clock.time_ms() > missed)  # market that nobody sees
    with RawClient(env=env) as client:

        def gone_on() -> bool:
            page = _candles(client, symbol="BTCUSDT")
            return page is not None and page["columns"]["open_ts"][-1] >= missed + 2 * MINUTE

        try:
            until(gone_on, 100)
        except AssertionError as error:
            raise AssertionError(f"{client.call('runner_list')}, {_candles(client, symbol='BTCUSDT')}") from error
        starts = client.call("candles_read", exchange="binance", symbol="BTCUSDT", limit=2000)["columns"]["open_ts"]
        assert starts == list(range(starts[0], starts[-1] + MINUTE, MINUTE))


def test_where_one_server_cannot_reach_the_exchange_another_takes_the_runner_over(env: dict[str, str]) -> None:
    nowhere = env | {name: "http://127.0.0.1:1" for name in env if name.startswith("STREAMMACHINE_BINANCE")}
    del nowhere["STREAMMACHINE_CLOCK_URL"]
    with RawClient(env=nowhere) as lost:
        lost.call("runner_start", exchange="binance", symbols=["BTCUSDT"])

        def row() -> dict[str, Any]:
            (found,) = lost.call("runner_list")["runners"]
            return dict(found)

        until(lambda: row()["state"] == "waiting to start again")
        assert "did not answer" in row()["problem"]
        with RawClient(env=env) as client:
            until(lambda: _candles(client, symbol="BTCUSDT"))
            until(lambda: (found := row())["state"] == "running" and found["rows"] > 0)


def test_the_newest_candles_are_read_however_many_fit(env: dict[str, str]) -> None:
    long = "0.123456789012345678901234567890"  # a page of 2,000 of these is more than a result may hold
    with redis.Redis.from_url(env["REDIS_URL"]) as database, database.pipeline() as pipe:
        for start in range(BEGIN, BEGIN + 2000 * MINUTE, MINUTE):
            names = ("open", "high", "low", "close", "volume", "quote_volume")
            row = {"open_ts": start, "is_closed": "true", "n_trades": 3, **dict.fromkeys(names, long)}
            pipe.xadd("kline:binance:BTCUSDT:1m", row, id=f"{start}-0")
        pipe.xadd("kline:binance:BTCUSDT:1m", {"note": "not a candle"})
        pipe.execute()
    with RawClient(env=env) as client:
        newest = client.call("candles_read", exchange="binance", symbol="BTCUSDT", limit=2000)
        found = newest["columns"]["open_ts"]
        assert newest["truncated"] is True
        assert 200 < len(found) < 2000
        assert found == list(range(found[0], BEGIN + 2000 * MINUTE, MINUTE))
        end = newest["hint"].rpartition("=")[2]
        older = client.call("candles_read", exchange="binance", symbol="BTCUSDT", limit=20, end=end)
        assert older["columns"]["open_ts"][-1] == found[0] - MINUTE
        first = client.call("candles_read", exchange="binance", symbol="BTCUSDT", limit=2000, start="2024-08-09")
        assert first["columns"]["open_ts"] == list(range(BEGIN, BEGIN + first["count"] * MINUTE, MINUTE))
        start = first["hint"].rpartition("=")[2]
        after = client.call("candles_read", exchange="binance", symbol="BTCUSDT", limit=1, start=start)
        assert after["columns"]["open_ts"] == [BEGIN + first["count"] * MINUTE]


def test_a_backfill_fetches_a_range_and_says_how_far_it_is(env: dict[str, str]) -> None:
    with RawClient(env=env) as client:
        day = "2025-07-18"
        started = client.call("backfill_start", exchange="binance", symbol="ETHUSDT", start=day, end=day)
        assert started["started"] is True

        def done() -> dict[str, Any] | None:
            (row,) = client.call("backfill_status", name=started["name"])["backfills"]
            assert row["state"] != "failed", row
            return row if row["state"] == "done" else None

        row = until(done)
        assert row["rows"] == 1440
        page = client.call("candles_read", exchange="binance", symbol="ETHUSDT", start=day, limit=2000)
        assert page["count"] == 1440 or page["truncated"]
        assert page["columns"]["open_ts"][0] == START // 86_400_000 * 86_400_000 - 2 * 86_400_000
        with redis.Redis.from_url(env["REDIS_URL"]) as database:  # as one that is full loses its oldest
            database.xtrim("kline:binance:ETHUSDT:1m", maxlen=1000, approximate=False)
        again = client.call("backfill_start", exchange="binance", symbol="ETHUSDT", start=day, end=day)
        assert again == {**started, "started": False}
        with pytest.raises(ToolFailure, match="There is no backfill"):
            client.call("backfill_status", name="nothing")


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("runner_start", {"exchange": "binance", "symbols": ["BTC-USDT"]}, "Binance writes"),
    ("runner_start", {"exchange": "binance", "symbols": ["NOSUCHCOIN"]}, "NOSUCHCOIN"),
    ("runner_start", {"exchange": "binance", "symbols": ["BTCUSDT"], "type": "quote", "history": "7d"}, "of candles"),
    ("runner_start", {"exchange": "binance", "symbols": ["BTCUSDT"], "type": "quote", "every": "soon"}, "100ms"),
    ("runner_start", {"exchange": "binance", "symbols": ["BTCUSDT"], "every": "1s"}, "thins out quotes"),
    ("runner_start", {"exchange": "kraken", "symbols": ["BTC/USDT"], "timeframe": "3m"}, "no 3m candles"),
    ("runner_start", {"exchange": "binance", "symbols": ["BTCUSDT"], "aggregate": ["90s"]}, "90s"),
    ("runner_start", {"exchange": "binance", "symbols": ["BTCUSDT"], "timeframe": "5m", "aggregate": ["1m"]}, "1m"),
    ("runner_start", {"exchange": "binance", "symbols": ["BTCUSDT"], "emit": ["csv:../../etc/x"]}, "not accepted"),
    ("runner_start", {"exchange": "binance", "symbols": ["BTCUSDT"], "emit": ["postgres:t"]}, "STREAMMACHINE_POSTGRES"),
    ("runner_start", {"exchange": "binance", "symbols": ["BTCUSDT"], "market_type": "MOON"}, "market type"),
    ("backfill_start", {"exchange": "okx", "symbol": "BTC-USDT", "start": "2025-02-01", "end": "2025-01-01"}, "before"),
    ("backfill_start", {"exchange": "okx", "symbol": "BTC-USDT", "start": "2125-01-01", "end": "2126-01-01"}, "future"),
    ("backfill_start", {"exchange": "okx", "symbol": "BTC-USDT", "start": "2025-01-01", "end": "2126-01-01"}, "give n"),
    ("backfill_start", {"exchange": "binance", "symbol": "BTCUSDT", "start": "soon"}, "soon"),
    ("candles_read", {"exchange": "kraken", "symbol": "BTC/USD"}, "no candles"),
    ("candles_read", {"exchange": "binance", "symbol": "BTC-USD"}, "Binance writes"),
    ("candles_read", {"exchange": "binance", "symbol": "BTC/USD:BTC"}, "is an inverse contract"),
    ("symbols_list", {"exchange": "kraken", "market_type": "LINEAR"}, "has no market type"),
]  # fmt: skip


def test_today_as_the_end_of_a_backfill_means_as_far_as_it_has_come() -> None:
    midnight = 20_000 * DAY
    now = midnight + 10 * MINUTE
    today = time.strftime("%Y-%m-%d", time.gmtime(midnight / 1000))
    assert backfill_range("2024-01-01", today, now)[1] == now
    assert backfill_range(str(midnight - DAY), str(midnight), now) == (midnight - DAY, midnight)
    for end in (str(midnight + DAY + MINUTE), time.strftime("%Y-%m-%d", time.gmtime(midnight / 1000 + 86_400))):
        with pytest.raises(DataInputError, match=r"is in the future .this server's clock says 2024-10-04 00:10 UTC"):
            backfill_range("2024-01-01", end, now)


def test_what_cannot_work_is_refused_before_anything_starts(env: dict[str, str]) -> None:
    with RawClient(env=env) as client:
        for tool, arguments, says in REFUSED:
            with pytest.raises(ToolFailure, match=says):
                client.call(tool, **arguments)
        assert client.call("runner_list")["runners"] == []
        assert client.call("backfill_status")["backfills"] == []


def test_a_runner_may_write_to_a_file_below_the_data_directory(env: dict[str, str]) -> None:
    with RawClient(env=env) as client:
        client.call("runner_start", exchange="binance", symbols=["BTCUSDT"], emit=["csv:btc", "redis"])
        until(lambda: _candles(client, symbol="BTCUSDT"))

        def emitted() -> bool:
            (row,) = client.call("runner_list")["runners"]
            return [emitter["emitted"] > 0 for emitter in row.get("emitters", ())] == [True, True]

        until(emitted)
    written = Path(env["STREAMMACHINE_DATA_DIR"], "exports", "btc.csv").read_text()
    assert written.startswith("source,symbol,timeframe,open_ts")


def test_with_read_only_no_runner_can_be_started(env: dict[str, str]) -> None:
    with RawClient("--read-only", env=env) as client:
        assert {"runner_list", "backfill_status", "candles_read"} <= set(client.tools())
        assert not {"runner_start", "runner_stop", "backfill_start"} & set(client.tools())
