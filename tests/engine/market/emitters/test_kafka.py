"""KafkaEmitter against librdkafka's mock cluster over TCP, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import anyio.to_thread
import orjson
import pytest

from streammachine.errors import EmitterError, EmitterUnavailableError
from streammachine.market.emitters.kafka import KafkaEmitter
from streammachine.market.emitters.outlet import Outlet
from streammachine.market.model.kline import Gap, Kline
from support.kafka import Kafka
from support.rows import candle, candles, trade
from support.valkey import free_port, until

pytestmark = pytest.mark.anyio
WAIT = 60.0


@pytest.fixture
def topic() -> str:
    return f"candles-{uuid.uuid4().hex[:8]}"


async def consumed(kafka: Kafka, topic: str, count: int) -> list[Any]:
    return await anyio.to_thread.run_sync(kafka.consume, topic, count)


def in_order(numbers: Iterable[int], expected: Iterable[int]) -> bool:
    """Whether the numbers, each at its first appearance, are the expected ones in order."""
    return list(dict.fromkeys(numbers)) == list(expected)


async def test_rows_are_json_keyed_by_their_series_with_headers(kafka: Kafka, topic: str) -> None:
    emitter = KafkaEmitter(kafka.servers, topic)
    async with Outlet(emitter) as outlet:
        await outlet.put([candle(0), trade(0), Gap("OKX", "BTC-USDT", "1m", 0, 60_000, "lost")])
        assert await outlet.drain(WAIT) == []
    found = {message.key().decode(): message for message in await consumed(kafka, topic, 3)}
    assert set(found) == {"Binance|BTCUSDT|1m", "Binance|BTCUSDT|trade", "OKX|BTC-USDT|1m"}
    message = found["Binance|BTCUSDT|1m"]
    assert Kline.model_validate(orjson.loads(message.value())) == candle(0)
    assert message.headers() == [("schema", b"kline"), ("version", b"1")]
    assert found["OKX|BTC-USDT|1m"].headers()[0] == ("schema", b"gap")
    assert orjson.loads(found["Binance|BTCUSDT|trade"].value())["trade_id"] == "1000"


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_rows_of_one_series_arrive_in_order_compressed_or_not(kafka: Kafka, topic: str, compression: str) -> None:
    symbols = ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    emitter = KafkaEmitter(kafka.servers, topic, compression_type=compression)
    async with Outlet(emitter, batch=100) as outlet:
        await outlet.put([candle(number, symbol=symbol) for number in range(200) for symbol in symbols])
        assert await outlet.drain(WAIT) == []
        assert outlet.stats.emitted == 600
    closes = defaultdict(list)
    for message in await consumed(kafka, topic, 600):
        row = orjson.loads(message.value())
        closes[row["symbol"]].append(row["close"])
    assert closes == {symbol: [100.0 + number for number in range(200)] for symbol in symbols}


async def test_serializers_and_a_transformer_are_the_users(kafka: Kafka, topic: str) -> None:
    emitter = KafkaEmitter(
        kafka.servers,
        topic,
        key_serializer=lambda key: key.lower().encode(),
        value_serializer=lambda row: f"{row['price']:.1f}".encode(),
    )
    emitter.set_transformer(lambda row: {"price": row["close"]} if row["close"] != 101 else None)
    async with Outlet(emitter) as outlet:
        await outlet.put(candles(3))
    found = await consumed(kafka, topic, 2)
    assert [(message.key(), message.value()) for message in found] == [
        (b"binance|btcusdt|1m", b"100.0"),
        (b"binance|btcusdt|1m", b"102.0"),
    ]


async def test_a_row_that_cannot_be_serialized_or_is_too_large_is_refused_alone(kafka: Kafka, topic: str) -> None:
    def transformer(row: dict[str, Any]) -> dict[str, Any]:
        return row | {101.0: {"what": object()}, 103.0: {"what": "x" * 2_000_000}}.get(row["close"], {})

    refused: dict[float, str] = {}
    emitter = KafkaEmitter(kafka.servers, topic).set_transformer(transformer)
    async with Outlet(emitter, on_error=lambda row, why: refused.update({row.close: str(why)})) as outlet:
        await outlet.put(candles(5))
        assert await outlet.drain(WAIT) == []
        assert (outlet.stats.emitted, outlet.stats.failed) == (3, 2)
    assert "cannot be serialized" in refused[101.0]
    assert "too large" in refused[103.0]
    assert in_order([int(orjson.loads(m.value())["close"]) for m in await consumed(kafka, topic, 3)], [100, 102, 104])


async def test_a_key_goes_where_librdkafkas_murmur2_random_sends_it_and_not_where_its_default_does(
    kafka: Kafka, topic: str
) -> None:
    """As docs/market.md says."""
    from confluent_kafka import Producer

    symbols = [f"S{number}USDT" for number in range(30)]
    async with Outlet(KafkaEmitter(kafka.servers, topic)) as outlet:
        await outlet.put([candle(symbol=symbol) for symbol in symbols])
        assert await outlet.drain(WAIT) == []
    ours = {message.key(): message.partition() for message in await consumed(kafka, topic, 30)}
    assert len(set(ours.values())) > 1

    def places(partitioner: str) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        producer = Producer({"bootstrap.servers": kafka.servers, "partitioner": partitioner})
        for key in ours:
            producer.produce(topic, b"", key=key, on_delivery=lambda _, m: found.update({m.key(): m.partition()}))
        assert producer.flush(WAIT) == 0
        return found

    assert await anyio.to_thread.run_sync(places, "murmur2_random") == ours
    assert await anyio.to_thread.run_sync(places, "consistent_random") != ours


async def test_a_broker_that_is_away_past_the_timeout_and_back_has_every_row_in_order(topic: str) -> None:
    with Kafka() as kafka:
        emitter = KafkaEmitter(kafka.servers, topic, timeout=2.0)
        symbols = ["BTCUSDT", "ETHUSDT"]

        def rows(first: int) -> list[Kline]:
            return [candle(number, symbol=symbol) for number in range(first, first + 100) for symbol in symbols]

        async with Outlet(emitter, batch=50) as outlet:
            await outlet.put(rows(0))
            await outlet.drain(WAIT)
            kafka.stop()
            await outlet.put(rows(100))
            await until(lambda: outlet.stats.retried >= 2, WAIT)
            assert outlet.stats.state == "away"
            kafka.go_on()
            await outlet.put(rows(200))
            assert await outlet.drain(WAIT) == []
            assert (outlet.stats.emitted, outlet.stats.failed, outlet.stats.state) == (600, 0, "ok")
        closes = defaultdict(list)
        for message in await consumed(kafka, topic, 600):
            row = orjson.loads(message.value())
            closes[row["symbol"]].append(int(row["close"]) - 100)
        assert set(closes) == set(symbols)
        assert all(in_order(numbers, range(300)) for numbers in closes.values())


async def test_a_producer_that_failed_for_good_is_replaced_and_the_rows_go_out(kafka: Kafka, topic: str) -> None:
    from aiokafka.errors import KafkaError

    emitter = KafkaEmitter(kafka.servers, topic)
    async with Outlet(emitter, batch=10) as outlet:
        await outlet.put(candles(20))
        await outlet.drain(WAIT)
        producer: Any = emitter._producer
        producer._message_accumulator.fail_all(KafkaError("Unexpected error during batch delivery"))
        await outlet.put(candles(20, first=20))
        assert await outlet.drain(WAIT) == []
        assert emitter._producer is not producer
        assert outlet.stats.failed == 0
    numbers = [int(orjson.loads(message.value())["close"]) - 100 for message in await consumed(kafka, topic, 40)]
    assert in_order(numbers, range(40))


async def test_leaving_while_the_broker_is_away_says_what_was_not_delivered(
    topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Kafka() as kafka:
        emitter = KafkaEmitter(kafka.servers, topic, timeout=1.0)
        left: list[Any] = []
        async with Outlet(emitter, close_timeout=1.0, on_error=lambda row, why: left.append(row)) as outlet:
            await outlet.put(candles(5))
            await outlet.drain(WAIT)
            kafka.stop()
            await outlet.put(candles(5, first=5))
        assert left == candles(5, first=5)
        assert "5 rows not delivered" in caplog.text


async def test_no_broker_is_an_error_before_anything_starts(topic: str) -> None:
    emitter = KafkaEmitter(f"127.0.0.1:{free_port()}", topic, timeout=5.0)
    with pytest.raises(EmitterUnavailableError, match="does not answer"):
        async with Outlet(emitter):
            raise AssertionError("it was entered")


@pytest.mark.parametrize("topic", ["localhost:9092", "kafka.example:9092,other:9092", "[::1]:9092"])
def test_a_topic_that_looks_like_a_server_is_refused_with_the_right_order(topic: str) -> None:
    with pytest.raises(EmitterError, match=r"looks like host:port.* KafkaEmitter\('localhost:9092', 'candles'\)"):
        KafkaEmitter("candles", topic)


def test_servers_and_topic_come_by_place_or_by_name() -> None:
    for emitter in (
        KafkaEmitter("kafka:9092", "candles"),
        KafkaEmitter(topic="candles", bootstrap_servers=["kafka:9092"]),
    ):
        assert emitter.target == "kafka://kafka:9092/candles"
    assert KafkaEmitter(topic="candles").target == "kafka://localhost:9092/candles"


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"topic": ""}, "topic"), ({"compression_type": "rar"}, "compression_type"), ({"timeout": 0}, "timeout")],
)
def test_wrong_arguments_are_refused_by_name(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(EmitterError, match=named):
        KafkaEmitter(**({"topic": "candles"} | changed))


async def test_an_unknown_option_is_refused_at_the_start(kafka: Kafka, topic: str) -> None:
    with pytest.raises(EmitterError, match="colour"):
        await KafkaEmitter(kafka.servers, topic, colour="red").connect()


@pytest.mark.parametrize(
    ("library", "make"),
    [
        ("aiokafka", "from streammachine.market.emitters.kafka import KafkaEmitter as E; run(E(topic='t').connect())"),
        ("psycopg", "from streammachine.market.emitters.postgres import PostgresEmitter as E; E(host='h', dbname='d')"),
        ("pyarrow", "from streammachine.market.emitters.parquet import ParquetEmitter as E; run(E('/tmp').connect())"),
    ],
)
def test_a_missing_library_says_which_extra_brings_it(library: str, make: str) -> None:
    extra = {"aiokafka": "kafka", "psycopg": "postgres", "pyarrow": "parquet"}[library]
    script = f"import sys; sys.modules[{library!r}] = None\nfrom asyncio import run\n{make}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f'pip install "streammachine-mcp[{extra}]"' in done.stderr
