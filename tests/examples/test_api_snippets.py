"""The shorter examples of the specification, word for word, each in a process of its own.

What is not one of its lines stands in ``before`` and ``after``: values that the example takes for given, and a look at
what came of it. Where the specification writes a signature instead of a call, the call is made.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import pytest

from support.docs import environment, run_python

SNIPPETS: dict[str, tuple[str, str, str]] = {}


def snippet(name: str, code: str, *, before: str = "", after: str = "") -> None:
    SNIPPETS[name] = (textwrap.dedent(before), textwrap.dedent(code), textwrap.dedent(after))


snippet(
    "core imports",
    """
    from streammachine import (
        # Core classes
        App,
        StreamConsumer,
        Message,

        # Configuration
        AppConfig,
        ConsumerConfig,
        TimerConfig,

        # Storage
        Storage,

        # Redis
        RedisConnection,

        # DataFrame utilities
        streams_to_dataframe,
        streams_to_dataframe_fast,
        prune_old_dataframe_rows,
        TimeSeriesBuffer,

        # Fast OHLC (optional, Python fallback always available)
        FastOHLC,
        FastOHLCConsumer,
        create_ohlc_aggregator,
        parse_stream_id_timestamp,
        format_candle_for_redis,
        _HAS_FAST_OHLC_CYTHON,

        # Optional (may be None if extras not installed)
        RedisObjectStorage,
        decode_dict_bytes_to_utf8,
        _has_cython_decode,
    )
    """,
    after="assert None not in (App, Message, RedisObjectStorage, decode_dict_bytes_to_utf8)",
)
snippet(
    "storage",
    """
    # Read/write shared state
    count = await app.storage.read("counter", default=0)
    await app.storage.write("counter", count + 1)

    # Check existence
    if await app.storage.exists("config"):
        config = await app.storage.read("config")
    """,
    before="""
    from streammachine import App
    app = App(name="storing")
    await app.storage.write("config", {"a": 1})
    """,
    after="""
    assert config == {"a": 1}
    assert await app.storage.read("counter") == 1
    await app.redis.close()
    """,
)
snippet(
    "redis connection",
    """
    async with RedisConnection() as redis:
        await redis.pipeline_xadd("stream", [{"key": "value"}])
    """,
    before="from streammachine import RedisConnection",
    after="""
    async with RedisConnection() as redis:
        async for stream, entry in redis.consumer("stream", "c", "g", timeout=10_000):
            assert entry.field_values == {b"key": b"value"}
            break
        assert await redis.health_check() is True
    """,
)
snippet(
    "streams to dataframe",
    """
    from streammachine import streams_to_dataframe

    # streams is Redis XREAD output format
    df = streams_to_dataframe(
        streams,
        stream_name_column="stream",
        id_column="id",
        timestamp_column="timestamp_ms",
        include_sequence=False,
    )
    """,
    before='streams = [[b"ticks", [(b"1638360000000-0", {b"price": b"1.5"})]]]',
    after="""
    from streammachine import streams_to_dataframe_fast
    assert df.to_dict("records")[0] == {
        "stream": "ticks", "id": "1638360000000-0", "timestamp_ms": 1638360000000, "price": "1.5"
    }
    fast = streams_to_dataframe_fast(streams, stream_name_column="stream", id_column="id")
    assert fast.loc[0, "price"] == "1.5"
    """,
)
snippet(
    "pruning",
    """
    from streammachine import prune_old_dataframe_rows

    df_fresh = prune_old_dataframe_rows(
        df,
        cutoff_seconds=60.0,
        timestamp_column="timestamp_ms",
        current_time=1638360000.0,
    )
    """,
    before="""
    import pandas as pd
    df = pd.DataFrame({"timestamp_ms": [1638359000000, 1638359990000]})
    """,
    after='assert df_fresh["timestamp_ms"].tolist() == [1638359990000]',
)
snippet(
    "time series buffer",
    """
    from streammachine import TimeSeriesBuffer

    buffer = TimeSeriesBuffer(
        max_age_seconds=1e9,             # Keep data newer than this
        timestamp_column="timestamp_ms",
        max_rows=None,                   # Optional row limit
    )

    buffer.append(df)                # Add DataFrame rows
    df = buffer.get()                # Get all buffered data
    rows = len(df)
    buffer.clear()                   # Clear buffer
    count = len(buffer)              # Number of rows
    ts = buffer.last_timestamp       # Last timestamp seen
    """,
    before="""
    import pandas as pd
    df = pd.DataFrame({"timestamp_ms": [1638360000000], "value": [1.0]})
    """,
    after="assert (rows, count) == (1, 0)",
)
snippet(
    "object storage",
    """
    from streammachine import RedisObjectStorage  # Requires optional deps

    storage = RedisObjectStorage()

    # Store any Python object
    await storage.store_with_pickle("my_key", {"complex": ["object", 123]})

    # Retrieve it
    obj = await storage.retrieve_with_pickle("my_key")

    # List/delete by pattern
    keys = await storage.list_keys("prefix:*")
    count = await storage.delete_keys("prefix:*")
    """,
    after="""
    assert obj == {"complex": ["object", 123]}
    assert (keys, count) == ([], 0)
    await storage.close()
    """,
)
snippet(
    "decoding",
    """
    from streammachine import decode_dict_bytes_to_utf8, _has_cython_decode

    if _has_cython_decode:
        # Use Cython-accelerated decoder
        decoded = decode_dict_bytes_to_utf8(raw_bytes_dict)
    """,
    before='raw_bytes_dict = {b"a": b"b"}',
    after='assert not _has_cython_decode or decoded == {"a": "b"}',
)
snippet(
    "factory",
    """
    from streammachine import create_ohlc_aggregator

    # Create aggregator with default intervals (1min, 5min)
    agg = create_ohlc_aggregator()

    # Or specify custom intervals
    agg = create_ohlc_aggregator(intervals=[60000, 300000, 900000])  # 1min, 5min, 15min
    """,
    after="assert list(agg.intervals) == [60000, 300000, 900000]",
)
snippet(
    "fast ohlc",
    """
    from streammachine import FastOHLC

    agg = FastOHLC(intervals=[60000, 300000])  # 1min, 5min candles

    # Single tick update
    agg.update_tick(
        symbol=b"AAPL",       # Symbol as bytes
        price=150.25,          # Trade price
        volume=1000.0,         # Trade volume
        timestamp_ms=1638360000000  # Unix timestamp in milliseconds
    )

    # Get candles
    candles = agg.get_candles(b"AAPL", 60000)
    for c in candles:
        print(f"O={c.open} H={c.high} L={c.low} C={c.close} V={c.volume}")

    # Get completed candles (ready to emit)
    completed = agg.get_completed_candles(b"AAPL", 60000)

    # Flush completed candles from memory
    agg.flush_interval(b"AAPL", 60000)

    # Get candles as dictionaries (for serialization)
    dicts = agg.get_candles_as_dicts(b"AAPL", 60000)

    # Process Redis stream batch directly
    count = agg.process_stream_batch(
        entries,               # XREADGROUP output
        price_field="price",
        volume_field="volume"
    )
    print(count)

    # Clear all data
    agg.clear()

    # Check tick count
    print(f"Processed {agg.tick_count} ticks")
    """,
    before='entries = [[b"AAPL", [(b"1638360060000-0", {b"price": b"151", b"volume": b"1"})]]]',
    after="""
    assert len(candles) == len(completed) == 1 and dicts == []
    # -> O=150.25 H=150.25 L=150.25 C=150.25 V=1000.0
    # -> 1
    # -> Processed 0 ticks
    """,
)
snippet(
    "utilities",
    """
    from streammachine import parse_stream_id_timestamp, format_candle_for_redis

    # Parse timestamp from Redis stream ID
    ts = parse_stream_id_timestamp("1638360000000-0")  # Returns 1638360000000

    # Format candle for Redis XADD
    data = format_candle_for_redis(candle, b"AAPL", 60000)
    # Returns: {"symbol": "AAPL", "interval_ms": "60000", "open": "100.5", ...}
    """,
    before="""
    from streammachine import FastOHLC
    agg = FastOHLC(intervals=[60000])
    agg.update_tick(b"AAPL", 100.5, 1.0, 1638360000000)
    (candle,) = agg.get_candles(b"AAPL", 60000)
    """,
    after="""
    assert ts == 1638360000000
    assert list(data.items())[:2] == [("symbol", "AAPL"), ("interval_ms", "60000")] and data["open"] == "100.5"
    """,
)


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with environment(tmp_path_factory.mktemp("snippets")) as found:
        yield found


@pytest.mark.parametrize("name", SNIPPETS)
def test_the_example_runs(name: str, env: dict[str, str]) -> None:
    before, code, after = SNIPPETS[name]
    body = textwrap.indent("\n".join([before, code, after]), "    ")
    shown = run_python(["-c", f"import asyncio\nasync def main():\n{body}\nasyncio.run(main())\n"], env).splitlines()
    wanted = [line.strip().removeprefix("# -> ") for line in after.splitlines() if line.strip().startswith("# -> ")]
    assert shown == wanted
