"""RedisEmitter: streams by exchange, symbol and timeframe, ids that make every append repeatable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from streammachine.errors import EmitterError, EmitterUnavailableError, OutOfOrderError
from streammachine.frames.convert import streams_to_dataframe
from streammachine.market.emitters.outlet import Outlet
from streammachine.market.emitters.redis import CLOSED, RedisEmitter, archive_of, revision
from streammachine.market.model.kline import Gap
from streammachine.market.model.rows import Lane
from streammachine.ohlc.consumer.consumer import FastOHLCConsumer
from streammachine.redis.connection import RedisConnection
from streammachine.redis.streams import length, read_from
from support.cluster import cluster
from support.rows import START, candle, candles, trade
from support.valkey import Valkey, until

pytestmark = pytest.mark.anyio
STREAM = "kline:binance:BTCUSDT:1m"
TRADES = "trades:binance:BTCUSDT"
WAIT = 60.0


@pytest.fixture
async def emitter(redis: RedisConnection) -> AsyncIterator[RedisEmitter]:
    made = RedisEmitter(connection=redis)
    await made.connect()
    yield made
    await made.close()


async def test_candles_stand_in_their_streams_as_flat_text(redis: RedisConnection, emitter: RedisEmitter) -> None:
    await emitter.emit_batch(
        [candle(0, vwap=1e-7), candle(0, source="Kraken", symbol="BTC/USD", timeframe="5m"), candle(1)]
    )
    entries = await read_from(redis, STREAM)
    assert [entry.id for entry in entries] == [f"{START}-{CLOSED}", f"{START + 60_000}-{CLOSED}"]
    assert entries[0].data == {
        "source": "Binance",
        "symbol": "BTCUSDT",
        "timeframe": "1m",
        "open_ts": str(START),
        "end_ts": str(START + 59_999),
        "open": "100.5",
        "high": "1000000.0",
        "low": "0.1",
        "close": "100.0",
        "volume": "2.5",
        "quote_volume": "250.25",
        "vwap": entries[0].data["vwap"],
        "n_trades": "7",
        "is_closed": "true",
        "is_complete": "true",
        "estimated": "false",
        "origin": "ws",
    }
    assert float(entries[0].data["vwap"]) == 1e-7
    assert await length(redis, "kline:kraken:BTC/USD:5m") == 1


async def test_the_same_rows_again_are_duplicates_also_after_a_restart(redis: RedisConnection) -> None:
    for turn in range(3):
        emitter = RedisEmitter(connection=redis)
        async with Outlet(emitter) as outlet:
            await outlet.put(candles(600))
            await outlet.drain()
            assert outlet.stats.failed == 0
        assert (emitter.appended, emitter.duplicates) == ((600, 0) if turn == 0 else (0, 600))
    assert await length(redis, STREAM) == 600


async def test_the_closed_candle_stands_behind_its_open_states_and_none_follows_it(
    redis: RedisConnection, emitter: RedisEmitter
) -> None:
    states = [candle(0, is_closed=False, volume=volume) for volume in (0.0, 0.5, 1e6, 1e18)]
    await emitter.emit_batch(states)
    await emitter.emit(candle(0))
    await emitter.emit_batch([states[1], candle(0, is_closed=False, volume=7e20), candle(0)])  # late, and again
    await emitter.emit(candle(1, is_closed=False, volume=0.0))
    await emitter.emit(candle(0, is_closed=False, volume=0.7))
    found = await read_from(redis, STREAM)
    assert [entry.data["is_closed"] for entry in found] == ["false"] * 4 + ["true", "false"]
    assert [revision(state) for state in states] == sorted(revision(state) for state in states)
    assert emitter.duplicates == 4


async def test_a_candle_older_than_the_end_and_not_there_is_out_of_order_and_the_others_go_on(
    redis: RedisConnection, emitter: RedisEmitter
) -> None:
    refused: list[Any] = []
    async with Outlet(emitter, on_error=lambda row, why: refused.append((row, why))) as outlet:
        await outlet.put([candle(5), candle(4), candle(6), candle(5), candle(7)])
        await outlet.drain()
        assert (outlet.stats.emitted, outlet.stats.failed) == (4, 1)
    assert [row for row, _ in refused] == [candle(4)]
    assert isinstance(refused[0][1], OutOfOrderError)
    assert "fresh stream" in str(refused[0][1])
    assert [float(entry.data["close"]) for entry in await read_from(redis, STREAM)] == [105, 106, 107]


@pytest.mark.parametrize(("start", "taken"), [(START + 300_000, False), (START + 360_000, True), (None, True)])
async def test_candles_of_the_past_that_a_stream_would_refuse_are_refused_before_the_first(
    emitter: RedisEmitter, start: int | None, taken: bool
) -> None:
    await emitter.emit(candle(6))
    lanes = [Lane("Binance", "ETHUSDT", "1m", start), Lane("Binance", "BTCUSDT", "1m", start)]
    if taken:
        await emitter.expect(lanes)
    else:
        with pytest.raises(OutOfOrderError, match="already holds candles, from 20"):
            await emitter.expect(lanes)


async def test_a_fresh_stream_takes_the_older_data(redis: RedisConnection, emitter: RedisEmitter) -> None:
    await emitter.emit(candle(100))
    older = RedisEmitter(connection=redis, prefix="old:")
    await older.emit_batch(candles(100))
    assert await length(redis, f"old:{STREAM}") == 100


async def test_a_stream_keeps_about_maxlen(redis: RedisConnection) -> None:
    emitter = RedisEmitter(connection=redis, maxlen=1000)
    await emitter.emit_batch(candles(5000))
    assert 1000 <= await length(redis, STREAM) <= 1500
    with pytest.raises(EmitterError, match="maxlen"):
        RedisEmitter(maxlen=-1)


async def test_trades_are_appended_once_by_their_ids(redis: RedisConnection) -> None:
    rows = [trade(number, ts=START + number // 3) for number in range(300)]  # several in one millisecond
    for turn in range(2):
        emitter = RedisEmitter(connection=redis)
        for start in range(0, 300, 50):
            await emitter.emit_batch(rows[max(0, start - 20) : start + 50])
        assert emitter.appended == (300 if turn == 0 else 0)
    entries = await read_from(redis, TRADES)
    assert [entry.data["trade_id"] for entry in entries] == [row.trade_id for row in rows]
    assert [entry.id for entry in entries[:2]] == [f"{START}-1000", f"{START}-1001"]
    assert entries[0].data["price"] == "100.0"


async def test_trades_with_text_ids_are_appended_once_too(redis: RedisConnection) -> None:
    rows = [trade(number, ts=START + number // 4, trade_id=f"{number:02x}-uuid") for number in range(60)]
    for _ in range(2):
        emitter = RedisEmitter(connection=redis)
        await emitter.emit_batch(rows)
        await emitter.emit_batch(rows[30:])
    entries = await read_from(redis, TRADES)
    assert [entry.data["trade_id"] for entry in entries] == [row.trade_id for row in rows]
    assert [int(entry.id.partition("-")[0]) for entry in entries] == [row.ts for row in rows]


@pytest.mark.parametrize("text", ["", "x"])
async def test_a_trade_that_comes_a_little_late_is_kept_and_one_that_is_far_behind_is_refused(
    redis: RedisConnection, emitter: RedisEmitter, text: str
) -> None:
    first, later = trade(1, ts=START, trade_id=f"{text}500"), trade(2, ts=START + 50, trade_id=f"{text}501")
    late = trade(3, ts=START + 20, trade_id=f"{text}502")
    again = trade(4, ts=START + 50, trade_id=f"{text}503")
    await emitter.emit_batch([first, later, late, late, again])
    await emitter.emit_batch([late, later, first, again])
    entries = await read_from(redis, TRADES)
    assert [entry.data["trade_id"] for entry in entries] == [row.trade_id for row in (first, later, late, again)]
    assert entries[2].data["ts"] == str(START + 20)
    with pytest.raises(EmitterError, match="older than the end"):
        await emitter.emit(trade(5, ts=START - 60_000, trade_id=f"{text}1"))


async def test_a_late_trade_never_takes_the_id_of_another(redis: RedisConnection, emitter: RedisEmitter) -> None:
    rows = [trade(0, ts=START + 10, trade_id="50"), trade(0, ts=START + 9, trade_id="60")]
    await emitter.emit_batch([*rows, trade(0, ts=START + 10, trade_id="51"), trade(0, ts=START + 10, trade_id="52")])
    assert [entry.data["trade_id"] for entry in await read_from(redis, TRADES)] == ["50", "60", "51", "52"]


async def test_a_transformer_changes_the_fields_and_not_the_place(redis: RedisConnection) -> None:
    emitter = RedisEmitter(connection=redis)
    emitter.set_transformer(lambda row: {"price": row["close"], "none": None} if row["close"] != 101 else None)
    async with Outlet(emitter) as outlet:
        await outlet.put(candles(3))
    entries = await read_from(redis, STREAM)
    assert [entry.data for entry in entries] == [{"price": "100.0"}, {"price": "102.0"}]
    assert entries[0].id == f"{START}-{CLOSED}"


async def test_a_value_that_is_no_flat_text_is_refused_by_name(redis: RedisConnection) -> None:
    emitter = RedisEmitter(connection=redis)
    emitter.set_transformer(lambda row: {"levels": [1, 2]} if row["close"] == 101 else {"ok": 1})
    refused: list[str] = []
    async with Outlet(emitter, on_error=lambda row, why: refused.append(str(why))) as outlet:
        await outlet.put([*candles(3), Gap("Binance", "BTCUSDT", "1m", 0, 1, "lost")])
    assert await length(redis, STREAM) == 2
    assert len(refused) == 1
    assert "levels" in refused[0]
    assert outlet.stats.skipped == 1


async def test_the_frames_read_what_was_emitted(redis: RedisConnection, emitter: RedisEmitter) -> None:
    await emitter.emit_batch(candles(3))
    frame = streams_to_dataframe({STREAM: await redis.run(lambda client: client.xrange(STREAM))})
    assert frame["close"].astype(float).tolist() == [100, 101, 102]
    assert frame["timestamp_ms"].tolist() == [row.open_ts for row in candles(3)]


async def test_candles_are_built_from_the_trades_that_were_emitted(
    redis: RedisConnection, emitter: RedisEmitter
) -> None:
    await emitter.emit_batch([trade(number) for number in range(200)])
    consumer = FastOHLCConsumer(TRADES, output_stream_prefix="built", intervals=[60_000], connection=redis)
    await consumer.start()
    try:
        await until(lambda: length(redis, "built_1m"), WAIT)
        entry = (await read_from(redis, "built_1m"))[0]
    finally:
        await consumer.stop()
    assert entry.data["candle_start_ms"] == str(START)
    assert (float(entry.data["open"]), float(entry.data["close"])) == (100.0, 159.0)
    assert entry.data["trade_count"] == "60"


async def test_a_server_that_is_away_and_comes_back_has_every_row_once(tmp_path: Path) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with Valkey(tmp_path / "server", *options) as server:
        emitter = RedisEmitter(server.url)
        async with Outlet(emitter, batch=20) as outlet, RedisConnection(url=server.url) as redis:
            for turn in range(4):
                await outlet.put(candles(100, first=turn * 100))
                if turn == 1:
                    await until(lambda: outlet.stats.emitted > 100, WAIT)
                    server.stop()
                    await outlet.put(candles(100, first=900))
                    await until(lambda: outlet.stats.state == "away", WAIT)
                    server.start()
                    break
            assert await outlet.drain(WAIT) == []
            assert outlet.stats.failed == 0
            closes = [float(entry.data["close"]) for entry in await read_from(redis, STREAM)]
    assert closes == [100.0 + number for number in (*range(200), *range(900, 1000))]


async def test_a_full_server_is_waited_for(tmp_path: Path) -> None:
    with Valkey(tmp_path / "server") as server:
        emitter = RedisEmitter(server.url)
        async with RedisConnection(url=server.url) as redis, Outlet(emitter) as outlet:
            await redis.command("CONFIG", "SET", "maxmemory", "1")
            await outlet.put(candles(10))
            await until(lambda: outlet.stats.state == "away", WAIT)
            assert "memory limit" in (outlet.stats.last_error or "")
            await redis.command("CONFIG", "SET", "maxmemory", "0")
            assert await outlet.drain(WAIT) == []
            assert await length(redis, STREAM) == 10


async def test_a_server_that_cannot_be_used_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(EmitterUnavailableError, match="cannot be reached"):
        await RedisEmitter("redis://127.0.0.1:1").connect()
    with pytest.raises(EmitterError, match="URL"):
        RedisEmitter("http://nonsense")
    with Valkey(tmp_path / "server", "--requirepass", "hush") as server:
        with pytest.raises(EmitterError) as caught:
            await RedisEmitter(f"redis://:wrong-word@127.0.0.1:{server.port}").connect()
        assert not isinstance(caught.value, EmitterUnavailableError)
        assert "wrong-word" not in str(caught.value)


async def test_a_key_that_is_no_stream_is_an_error_that_says_so(redis: RedisConnection, emitter: RedisEmitter) -> None:
    await redis.run(lambda client: client.set(STREAM, "text"))
    with pytest.raises(EmitterError, match="another type"):
        await emitter.emit(candle())


async def test_it_works_on_a_cluster(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        emitter = RedisEmitter(f"redis://127.0.0.1:{nodes[0].port}?cluster=true")
        symbols = [f"S{number}USDT" for number in range(20)]
        async with Outlet(emitter) as outlet:
            for _ in range(2):
                await outlet.put([row for symbol in symbols for row in candles(30, symbol=symbol)])
                await outlet.put([trade(number, symbol=symbol) for symbol in symbols for number in range(30)])
            assert await outlet.drain(WAIT) == []
            assert outlet.stats.failed == 0
            assert emitter.appended == emitter.duplicates == 1200
        past = RedisEmitter(f"redis://127.0.0.1:{nodes[0].port}?cluster=true", archive=True)
        async with Outlet(past) as outlet:
            await outlet.put([candle(number, symbol=symbol) for symbol in symbols for number in (-9, -8, 3)])
            assert await outlet.drain(WAIT) == []
            assert (outlet.stats.failed, past.appended, past.duplicates) == (0, 40, 20)


async def _series(redis: RedisConnection) -> dict[str, list[int]]:
    """The candles of the stream and of each part of its archive, by their number."""
    names = [STREAM, *await archive_of(redis, STREAM)]
    return {
        name.removeprefix(STREAM): [
            (int(entry.data["open_ts"]) - START) // 60_000 for entry in await read_from(redis, name)
        ]
        for name in names
    }


async def test_candles_older_than_their_stream_go_to_its_archive(redis: RedisConnection) -> None:
    def part(number: int) -> str:
        return f":archive:{START + number * 60_000}"

    await RedisEmitter(connection=redis).emit_batch([candle(number) for number in (100, 101, 104)])
    for turn in range(2):  # the same again changes nothing
        past = RedisEmitter(connection=redis, archive=True)
        await past.expect([Lane("Binance", "BTCUSDT", "1m", START)])
        await past.emit_batch([candle(number) for number in range(50, 60)])
        await past.emit_batch([candle(number) for number in (60, 61)])
        await past.emit_batch([candle(number) for number in range(20, 55)])  # before and into what is there
        await past.emit_batch([candle(number) for number in range(99, 106)])  # around it, and into its hole
        assert past.appended == ({0: 12 + 35 + 3 + 1, 1: 0}[turn])
    series = await _series(redis)
    assert series[""] == [100, 101, 104, 105]
    assert series[part(50)] == [*range(50, 62), 99, 102, 103]
    assert series[part(20)] == list(range(20, 55))
    assert len(series) == 3
    with pytest.raises(EmitterError, match="older than the end"):
        await RedisEmitter(connection=redis).emit_batch([candle(1)])


async def test_an_archive_takes_candles_in_any_order_and_after_it_was_emptied(redis: RedisConnection) -> None:
    await RedisEmitter(connection=redis).emit(candle(100))
    past = RedisEmitter(connection=redis, archive=True)
    await past.emit_batch([candle(number) for number in (30, 10, 20, 5)])
    assert sorted(number for name, found in (await _series(redis)).items() for number in found if name) == [
        5,
        10,
        20,
        30,
    ]
    for name in await archive_of(redis, STREAM):
        await redis.command("XTRIM", name, "MAXLEN", 0)
    await past.emit_batch([candle(number) for number in (10, 30)])
    assert sorted(number for name, found in (await _series(redis)).items() for number in found if name) == [10, 30]


async def test_trades_that_come_too_late_have_no_archive(redis: RedisConnection) -> None:
    past = RedisEmitter(connection=redis, archive=True)
    await past.emit(trade(1_000_000))
    with pytest.raises(EmitterError, match="older than the end"):
        await past.emit(trade(1))
