"""FastOHLCConsumer on a real Valkey: what becomes of ticks, names and refusals, and where it runs."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from streammachine.errors import AggregatorExistsError, CrossSlotError, IntervalError, SettingsError, WrongTypeError
from streammachine.ohlc.consumer.consumer import FastOHLCConsumer
from streammachine.redis.connection import RedisConnection
from streammachine.runtime.app.app import App
from streammachine.runtime.testing import TestApp
from streammachine.settings import Settings
from support.candles import (
    GRACE,
    INTERVALS,
    START,
    Candle,
    MakeConsumer,
    caught_up,
    emitted,
    feed,
    make_ticks,
    maker,
    oracle,
    records,
    same,
)
from support.cluster import cluster
from support.runtime import Probe
from support.valkey import Valkey, free_port, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def make(redis: RedisConnection) -> MakeConsumer:
    return maker(redis)


# -- exactness ------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [0.0, 0.01])
async def test_candles_are_those_of_the_ticks(redis: RedisConnection, make: MakeConsumer, late: float) -> None:
    ticks = make_ticks(20_000, late=late)
    wanted, late_count = oracle(ticks)
    assert (late_count > 50) == bool(late)
    await feed(redis, ticks)
    consumer = make()
    await consumer.start()
    await caught_up(redis, len(ticks))
    same(await emitted(redis), wanted)
    stats = consumer.stats()
    assert (stats["late"], stats["candles"], stats["bad"], stats["symbols"]) == (late_count, len(wanted), 0, 5)
    await consumer.stop()


async def test_candles_are_those_that_duckdb_groups(redis: RedisConnection, make: MakeConsumer) -> None:
    duckdb = pytest.importorskip("duckdb")
    ticks = make_ticks(20_000)
    await feed(redis, ticks)
    consumer = make()
    await consumer.start()
    await caught_up(redis, len(ticks))
    await consumer.stop()
    with duckdb.connect() as database:
        database.execute("CREATE TABLE ticks (place INT, symbol TEXT, price DOUBLE, volume DOUBLE, ms BIGINT)")
        database.executemany(
            "INSERT INTO ticks VALUES (?, ?, ?, ?, ?)", [(place, *tick) for place, tick in enumerate(ticks)]
        )
        wanted: list[Candle] = []
        for interval in INTERVALS:
            wanted += database.execute(
                """SELECT symbol, ?, ms // ? * ? AS start, first(price ORDER BY ms, place), max(price), min(price),
                last(price ORDER BY ms, place), sum(volume), count(*) FROM ticks GROUP BY symbol, start
                HAVING start + ? <= (SELECT max(ms) FROM ticks) - ?""",
                [interval, interval, interval, interval, GRACE],
            ).fetchall()
    same(await emitted(redis), wanted)


async def test_how_ticks_come_in_changes_nothing(redis: RedisConnection, make: MakeConsumer) -> None:
    """Ticks in small portions, the consumer restarted in between, give what one read gives."""
    ticks = make_ticks(4_000, late=0.02)
    wanted, late_count = oracle(ticks)
    rnd = random.Random(1)
    at = 0
    consumer = make()
    while at < len(ticks):
        await consumer.start()
        step = rnd.randrange(1, 500)
        await feed(redis, ticks[at : at + step])
        at = min(at + step, len(ticks))
        if rnd.random() < 0.5:
            await caught_up(redis, at)
        await consumer.stop()
    await consumer.start()
    await caught_up(redis, len(ticks))
    assert consumer.stats()["late"] == late_count
    await consumer.stop()
    same(await emitted(redis), wanted)


async def test_the_time_is_that_of_the_id_and_the_symbol_the_stream(redis: RedisConnection, make: MakeConsumer) -> None:
    for ms, price in ((START, "10"), (START + 59_999, "12"), (START + 60_000, "11"), (START + 65_000, "9")):
        await Probe(redis).ask("XADD", "ticks", f"{ms}-0", "price", price, "volume", "2")
    consumer = make(timestamp_field=None)
    await consumer.start()
    await caught_up(redis, 4)
    await consumer.stop()
    assert await Probe(redis).fields("candles_1m") == [
        {
            "symbol": "ticks", "interval_ms": "60000", "candle_start_ms": str(START), "open": "10.0", "high": "12.0",
            "low": "10.0", "close": "12.0", "volume": "4.0", "trade_count": "2",
        }
    ]  # fmt: skip


# -- the clock, late and bad ticks ----------------------------------------------------------------


async def test_a_silent_symbol_is_closed_by_the_clock(redis: RedisConnection, make: MakeConsumer) -> None:
    consumer = make(intervals=[1_000], grace=0.3)
    await consumer.start()
    await feed(redis, [("A", 5.0, 1.0, START), ("B", 6.0, 1.0, START + 200)])
    loop = asyncio.get_running_loop()
    began = loop.time()
    await until(lambda: Probe(redis).ask("XLEN", "candles_1s"))
    assert loop.time() - began > 0.9
    await until(lambda: _is(Probe(redis).ask("XLEN", "candles_1s"), 2))
    await feed(redis, [("A", 9.0, 1.0, START + 10), ("B", 9.0, 1.0, START + 10)])
    await until(lambda: consumer.stats().get("late") == 2)
    await consumer.stop()
    assert [row["symbol"] for row in await Probe(redis).fields("candles_1s")] == ["A", "B"]


async def _is(question: Any, wanted: object) -> bool:
    return bool(await question == wanted)


async def test_a_symbol_that_trades_is_not_closed_by_the_clock(redis: RedisConnection, make: MakeConsumer) -> None:
    """A replay slower than the clock: event time counts, not the wall's."""
    consumer = make(intervals=[1_000], grace=0.5)
    await consumer.start()
    for k in range(20):
        await feed(redis, [("A", 5.0, 1.0, START + k * 10)])
        await asyncio.sleep(0.1)
    assert consumer.stats()["candles"] == 0
    assert consumer.stats()["late"] == 0
    await consumer.stop()


# In seconds, microseconds and nanoseconds, none at all, and in forms that are no whole number.
OTHER_TIMES = (
    str(START // 1000),
    f"{START}000",
    f"{START}000000",
    "0",
    "true",
    f"{START}.5",
    f"{START:_}",
    "946684799999",
)


async def test_bad_ticks_become_dead_letters_and_the_rest_goes_on(redis: RedisConnection, make: MakeConsumer) -> None:
    ticks = make_ticks(1_000)
    good = records(ticks)
    bad: list[dict[str, str]] = [
        {"symbol": "S0", "volume": "1", "ts": str(START)},
        {"symbol": "S0", "price": "nan", "volume": "1", "ts": str(START)},
        {"symbol": "S1", "price": "1", "volume": "-1", "ts": str(START)},
        {"symbol": "S1", "price": "1", "volume": "1", "ts": "soon"},
        {"symbol": "S1", "price": "1", "volume": "1"},
        {"symbol": "S2", "price": "1", "volume": "1", "ts": "99999999999999"},
        *({"symbol": "S2", "price": "1", "volume": "1", "ts": ts} for ts in OTHER_TIMES),
        {"symbol": "S2", "price": "1_000", "volume": "1", "ts": str(START)},
        {"symbol": "S2", "price": "true", "volume": "1", "ts": str(START)},
        {"symbol": "", "price": "1", "volume": "1", "ts": str(START)},
        {"symbol": "NEW", "price": "x", "volume": "1", "ts": str(START), "sm-reason": "mine"},
    ]
    mixed = good[:500] + bad + good[500:]
    await redis.pipeline_xadd("ticks", mixed)
    consumer = make()
    await consumer.start()
    await caught_up(redis, len(mixed))
    assert consumer.stats()["bad"] == len(bad)
    await consumer.stop()
    same(await emitted(redis), oracle(ticks)[0])
    letters = await Probe(redis).fields("{ticks}:dlq")
    assert len(letters) == len(bad)
    for letter in letters:
        assert (letter["sm-reason"], letter["sm-group"], letter["sm-origin-stream"]) == (
            "decode",
            "ohlc_workers",
            "ticks",
        )
        assert letter["sm-error"] and letter["sm-origin-id"]
    kept = [{k: v for k, v in letter.items() if not k.startswith("sm-")} for letter in letters]
    assert sorted(map(str, kept)) == sorted(
        str({k: v for k, v in record.items() if not k.startswith("sm-")}) for record in bad
    )


async def test_a_dead_letter_says_what_a_time_in_another_unit_would_have_meant(
    redis: RedisConnection, make: MakeConsumer
) -> None:
    await redis.pipeline_xadd("ticks", [{"symbol": "A", "price": "1", "volume": "1", "ts": str(1_700_000_000)}])
    consumer = make()
    await consumer.start()
    await caught_up(redis, 1)
    await consumer.stop()
    (letter,) = await Probe(redis).fields("{ticks}:dlq")
    assert "the field 'ts': " in letter["sm-error"]
    assert "in seconds it would be 2023-11-14T22:13:20Z. Multiply it by 1,000" in letter["sm-error"]


async def test_a_whole_time_written_as_a_float_is_a_time(redis: RedisConnection, make: MakeConsumer) -> None:
    ticks = make_ticks(500)
    forms = ("{}", "{}.0", "{}.", "+{}", " {} ", "{}.000e0")
    await redis.pipeline_xadd(
        "ticks",
        [
            {**record, "ts": forms[place % len(forms)].format(record["ts"])}
            for place, record in enumerate(records(ticks))
        ],
    )
    consumer = make()
    await consumer.start()
    await caught_up(redis, len(ticks))
    await consumer.stop()
    same(await emitted(redis), oracle(ticks)[0])
    assert consumer.stats().get("bad", 0) == 0
    assert await Probe(redis).fields("{ticks}:dlq") == []


async def test_a_missing_symbol_field_is_a_bad_tick_where_it_was_named(
    redis: RedisConnection, make: MakeConsumer
) -> None:
    await Probe(redis).ask("XADD", "ticks", "*", "price", "1", "volume", "1", "ts", START)
    consumer = make(symbol_field="pair")
    await consumer.start()
    await caught_up(redis, 1)
    assert (consumer.stats()["bad"], consumer.stats()["symbols"]) == (1, 0)
    await consumer.stop()


# -- names and refusals ---------------------------------------------------------------------------


def test_names_never_collide() -> None:
    names = {
        60_000: "1m", 300_000: "5m", 3_600_000: "1h", 86_400_000: "1d", 604_800_000: "1w",
        90_000: "90s", 1_500: "1500ms", 5_400_000: "90m", 1: "1ms", 1_000: "1s",
    }  # fmt: skip
    assert {interval: FastOHLCConsumer.interval_name(interval) for interval in names} == names
    every = [FastOHLCConsumer.interval_name(interval) for interval in range(500, 700_000, 500)]
    assert len(set(every)) == len(every)
    with pytest.raises(IntervalError):
        FastOHLCConsumer.interval_name(0)


@pytest.mark.parametrize(
    "options",
    [{"grace": -1}, {"grace": float("nan")}, {"lease": 0}, {"max_candles": 5}, {"group": ""}],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        FastOHLCConsumer("ticks", **options)


async def test_other_intervals_in_the_same_group_are_refused(redis: RedisConnection, make: MakeConsumer) -> None:
    first = make()
    await first.start()
    with pytest.raises(AggregatorExistsError, match=r"\[60000, 300000\]"):
        await make(intervals=[1_000]).start()
    await first.stop()


async def test_a_key_of_another_type_is_refused(redis: RedisConnection, make: MakeConsumer) -> None:
    await Probe(redis).ask("SET", "candles_1m", "x")
    with pytest.raises(WrongTypeError, match="candles_1m"):
        await make().start()


async def test_on_a_cluster_the_outputs_stand_in_the_inputs_slot(tmp_path: Path) -> None:
    node = Valkey(tmp_path / "node", "--cluster-enabled", "yes")
    while node.port > 55_000:  # its bus port is 10,000 above
        node.port = free_port()
    with node as server:
        async with RedisConnection(url=server.url) as redis:
            await redis.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await until(lambda: _holds(redis, b"cluster_state:ok"))
            with pytest.raises(CrossSlotError, match=r"output_stream_prefix='\{ticks\}:candles'"):
                await FastOHLCConsumer("ticks", connection=redis).start()
            consumer = FastOHLCConsumer(
                "ticks", output_stream_prefix="{ticks}:candles", timestamp_field="ts", connection=redis
            )
            await consumer.start()
            ticks = make_ticks(500)
            await feed(redis, ticks)
            await caught_up(redis, len(ticks))
            await consumer.stop()
            same(await emitted(redis, "{ticks}:candles"), oracle(ticks)[0])


async def test_on_a_cluster_of_three_nodes(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        async with RedisConnection(url=f"{nodes[0].url}?cluster=true") as redis:
            with pytest.raises(CrossSlotError):
                await FastOHLCConsumer("ticks", connection=redis).start()
            ticks = make_ticks(2_000)
            for stream in ("{a.0}", "{a.1}", "{a.2}"):
                consumer = FastOHLCConsumer(stream, f"{stream}:candles", timestamp_field="ts", connection=redis)
                await feed(redis, ticks, stream)
                await consumer.start()
                await caught_up(redis, len(ticks), stream=stream)
                await consumer.stop()
                same(await emitted(redis, f"{stream}:candles"), oracle(ticks)[0])


async def _holds(redis: RedisConnection, text: bytes) -> bool:
    return text in bytes(await redis.command("CLUSTER", "INFO"))


# -- where it runs --------------------------------------------------------------------------------


async def test_the_specifications_example() -> None:
    app = App(name="ohlc_realtime", to_scan=False)

    consumer = FastOHLCConsumer(
        input_stream="ticks",
        output_stream_prefix="candles",  # Creates candles_1m, candles_5m, etc.
        intervals=[60000, 300000],  # 1min, 5min candles
        group="ohlc_workers",
        price_field="price",
        volume_field="volume",
    )

    @app.on_startup
    async def start_consumer() -> None:
        await consumer.start()

    @app.on_shutdown
    async def stop_consumer() -> None:
        await consumer.stop()

    async with TestApp(app) as test:
        assert consumer.active
        for ms, price in ((START, "10"), (START + 1, "11"), (START + 300_000 + GRACE, "12")):
            await app.redis.command("XADD", "ticks", f"{ms}-0", "symbol", "BTC", "price", price, "volume", "1")
        await caught_up(app.redis, 3)
        (five,) = await test.messages("candles_5m")
        assert (five["symbol"], five["open"], five["close"], five["trade_count"]) == ("BTC", "10.0", "11.0", "2")
        (one,) = await test.messages("candles_1m")
        assert one == {**five, "interval_ms": "60000"}
    assert not consumer.active


async def test_it_ends_with_the_app_that_it_joined() -> None:
    app = App(name="ohlc_realtime", to_scan=False)
    consumer = FastOHLCConsumer("ticks")
    app.on_startup(consumer.start)
    for _ in range(2):
        async with TestApp(app):
            assert consumer.active
        assert not consumer.active


def test_bare_use_needs_no_app(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert settings.redis_url is not None
    monkeypatch.setenv("REDIS_URL", settings.redis_url.get_secret_value())

    async def main(stop: bool) -> None:
        async with RedisConnection() as redis:
            await redis.command("FLUSHALL")
            consumer = FastOHLCConsumer("ticks", timestamp_field="ts")
            await consumer.start()
            await consumer.start()  # a second time changes nothing
            await feed(redis, make_ticks(200))
            await caught_up(redis, 200)
            if stop:
                await consumer.stop()
                await consumer.stop()

    asyncio.run(main(True))
    asyncio.run(main(False))  # the loop's end ends it


async def test_nothing_answers_there(tmp_path: Path) -> None:
    with Valkey(tmp_path / "own") as server:
        url = server.url
    connection = RedisConnection(url=url)
    with pytest.raises(ConnectionError):
        await FastOHLCConsumer("ticks", connection=connection).start()
    await connection.close()
