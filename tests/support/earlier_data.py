"""Data as an earlier build wrote it, for the test that this build still reads it.

As a script it writes with the code that it finds, and prints the keys of Redis as JSON. With the build of a commit::

    git worktree add /tmp/earlier COMMIT
    .venv/bin/pip install --no-deps --no-build-isolation --target /tmp/built /tmp/earlier
    cd /tmp && PYTHONPATH=/tmp/built python REPOSITORY/tests/support/earlier_data.py COMMIT > tests/data/COMMIT.json

``load`` puts such keys back into a Redis. ``stored_values`` and ``stored_objects`` make with today's code what the
script stored with the earlier one; ``content`` is what of a value must be the same.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import importlib
import json
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio

# A key of the tests' own: it signs nothing else.
SIGNING_KEY = "the signing key of the tests"
T0 = 1_723_161_600_000
INTERVALS = [60_000, 300_000]
# (symbol, price, volume, epoch ms)
TICKS = [
    ("BTCUSDT", 60_000.1, 0.5, T0),
    ("BTCUSDT", 60_010.0, 0.25, T0 + 30_000),
    ("ETHUSDT", 2_600.5, 3.0, T0 + 61_000),
    ("BTCUSDT", 59_990.0, 1.0, T0 + 400_000),
    ("BTCUSDT", 60_005.0, 0.125, T0 + 45_000),
]
LATER_TICKS = [("BTCUSDT", 60_100.0, 2.0, T0 + 420_000)]  # in the journal, behind the snapshot
LATE_TICKS = [("BTCUSDT", 60_100.0, 2.0, T0)]  # of a candle that was flushed
FLUSHED_BEFORE = T0 + 120_000
AGENTS: list[dict[str, Any]] = [
    {
        "name": "big-orders",
        "stream": "orders",
        "output_stream": "big",
        "filter": "num.amount > 100.0",
        "select": "{'id': msg.id}",
        "start": "0",
        "created_ms": T0,
    },
    {"name": "copy", "stream": "orders", "output_stream": "copies", "start": "$", "created_ms": T0},
]
RUNNER: dict[str, Any] = {
    "name": "binance-1m-0badc0de",
    "exchange": "binance",
    "symbols": ["BTCUSDT"],
    "timeframe": "1m",
    "aggregate": ["5m"],
    "emit": ["redis", "csv:candles"],
    "market_type": "SPOT",
    "created_ms": T0,
}
BACKFILL: dict[str, Any] = {
    "name": "okx-1h-0badc0de",
    "exchange": "okx",
    "symbol": "BTC-USDT",
    "timeframe": "1h",
    "start_ms": T0,
    "end_ms": T0 + 86_400_000,
    "emit": ["redis"],
    "market_type": "SPOT",
    "created_ms": T0,
}
RUNNER_STATUS = {"state": "running", "klines": 7}
ORDERS = [{"id": "1", "amount": "250"}, {"id": "2", "amount": "50"}]
WRONG_ORDER = {"id": "3", "amount": "-1"}  # ends as a dead letter
LATE_ORDER = {"id": "4", "amount": "0"}  # waits for its retry


def stored_values() -> dict[str, Any]:
    """Values of the shared storage: JSON, and what is pickled because JSON does not give it back equal."""
    from streammachine import DataInput, Gap, Kline, Trade

    kline = _kline(Kline)
    return {
        "text": "Grüße, 市場",
        "integer": 2**40,
        "float": 0.1,
        "none": None,
        "list": [1, 2.5, "three", None, True, {"nested": []}],
        "dict": {"a": {"b": [1, 2]}},
        "tuple": (1, "two", 3.0),
        "set": {1, 2, 3},
        "bytes": b"\x00\xff",
        "time": datetime.datetime(2024, 8, 9, tzinfo=datetime.UTC),
        "decimal": decimal.Decimal("0.10"),
        "kline": kline,
        "klines": [kline, kline.model_copy(update={"open_ts": T0 + 60_000, "end_ts": T0 + 119_999})],
        "trade": Trade(source="Binance", symbol="BTCUSDT", price=60_000.1, volume=0.5, ts=T0, trade_id="7", side="buy"),
        "gap": Gap("Binance", "BTCUSDT", "1m", T0, T0 + 60_000, "the exchange has none"),
        "data_input": DataInput("kline", ["BTCUSDT"], "1m", ["5m"]),
        "retry_policy": _class("RetryPolicy", "runtime.retry")(
            max_attempts=3, initial=0.01, maximum=1.0, give_up_on=(KeyError,)
        ),
    }


def stored_objects(python_engine: Any) -> dict[str, Any]:
    """Objects of RedisObjectStorage. ``python_engine``: the plain-Python FastOHLC."""
    from streammachine import ConsumerConfig, FastOHLC, Kline, Message, TimerConfig
    from streammachine.errors import DataInputError

    batch = _class("Batch", "runtime.config")
    retry, reject, skip = (_class(name, "runtime.retry") for name in ("Retry", "Reject", "Skip"))
    native, plain = FastOHLC(INTERVALS), python_engine(INTERVALS)
    for engine in (native, plain):
        update(engine, TICKS)
    return {
        "plain": {"numbers": [1, 2, 3], "when": datetime.date(2024, 8, 9)},
        "kline": {"last": _kline(Kline)},
        "native_engine": native,
        "python_engine": plain,
        "native_candle": native.get_candles("BTCUSDT", 60_000)[0],
        "python_candle": plain.get_candles("BTCUSDT", 60_000)[0],
        "configs": [batch(10, 0.5), ConsumerConfig("billing", concurrency=4), TimerConfig(60.0)],
        "message": Message("orders", "1-0", 1.0, 2.0, "consumer", {b"id": b"1"}, 2),
        "errors": [retry(after=1.5), reject("no such account"), skip("a test"), DataInputError("symbols is empty")],
    }


def update(engine: Any, ticks: list[tuple[str, float, float, int]]) -> None:
    """Add ticks to a FastOHLC."""
    for symbol, price, volume, moment in ticks:
        engine.update_tick(symbol, price, volume, moment)


def _class(name: str, place: str) -> Any:
    """A class by its public name, or where it stood before it had one."""
    package = importlib.import_module("streammachine")
    return getattr(package, name, None) or getattr(importlib.import_module(f"streammachine.{place}"), name)


def _kline(kline: Any) -> Any:
    return kline(
        source="Binance",
        symbol="BTCUSDT",
        timeframe="1m",
        open_ts=T0,
        end_ts=T0 + 59_999,
        open=60_000.1,
        high=60_010.0,
        low=59_990.0,
        close=60_005.0,
        volume=1.875,
        quote_volume=112_500.25,
        n_trades=5,
        is_closed=True,
        origin="ws",
    )


def content(value: Any) -> Any:
    """What of a value must be the same after it was stored and read: its type's name and its parts."""
    if isinstance(value, dict):
        return {key: content(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [content(part) for part in value]
    name = type(value).__name__
    if hasattr(value, "dump"):  # FastOHLC: all of its state, bit for bit
        return name, value.dump()
    if hasattr(value, "to_dict"):  # CandleData
        return name, value.to_dict()
    if name == "Message":
        return name, [
            getattr(value, part) for part in ("topic", "key", "sent", "received", "consumer_id", "data", "attempt")
        ]
    if isinstance(value, Exception):
        return name, str(value), vars(value)
    return name, value


# -- keys of Redis as JSON --


def load(client: Any, keys: dict[str, Any]) -> None:
    """Put keys that ``dump`` gave into a Redis, through a redis-py client."""
    for name, fields in keys.items():
        kind, parts = fields["type"], fields["value"]
        if kind == "string":
            client.set(name, _bytes(parts))
        elif kind == "hash":
            client.hset(name, mapping={_bytes(key): _bytes(value) for key, value in parts})
        elif kind == "set":
            client.sadd(name, *[_bytes(part) for part in parts])
        elif kind == "zset":
            client.zadd(name, {_bytes(part): score for part, score in parts})
        elif kind == "stream":
            for identifier, pairs in parts:
                client.xadd(name, {_bytes(key): _bytes(value) for key, value in pairs}, id=identifier)
            for group, last in fields["groups"]:
                client.xgroup_create(name, group, last)
        else:
            raise AssertionError(f"{name} is a {kind}")


def dump(client: Any) -> dict[str, Any]:
    """Every key of a Redis by its logical fields, through a redis-py client."""
    found = {}
    for raw in sorted(client.keys("*")):
        name, kind = raw.decode(), client.type(raw).decode()
        fields: dict[str, Any] = {"type": kind}
        if kind == "string":
            fields["value"] = _text(client.get(raw))
        elif kind == "hash":
            fields["value"] = [[_text(key), _text(value)] for key, value in sorted(client.hgetall(raw).items())]
        elif kind == "set":
            fields["value"] = [_text(part) for part in sorted(client.smembers(raw))]
        elif kind == "zset":
            fields["value"] = [[_text(part), score] for part, score in client.zrange(raw, 0, -1, withscores=True)]
        elif kind == "stream":
            fields["value"] = [
                [identifier.decode(), [[_text(key), _text(value)] for key, value in pairs.items()]]
                for identifier, pairs in client.xrange(raw)
            ]
            fields["groups"] = [
                [group["name"].decode(), group["last-delivered-id"].decode()] for group in client.xinfo_groups(raw)
            ]
        found[name] = fields
    return found


def _text(value: bytes) -> Any:
    """Bytes as JSON: text where they are UTF-8, else base64."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _bytes(value: Any) -> bytes:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value.encode()


# -- the script --


async def _write(settings: Any) -> None:
    from streammachine import RedisConnection, RedisObjectStorage, Storage
    from streammachine.ohlc.durable import DurableAggregators, Tick

    try:
        from streammachine.ohlc.reference.engine import FastOHLC as PythonEngine
    except ImportError:
        from streammachine.ohlc.reference import FastOHLC as PythonEngine  # type: ignore[no-redef]
    try:
        from streammachine.runtime.declared.agents import DeclaredAgent, declare
    except ImportError:
        from streammachine.runtime.declared import DeclaredAgent, declare
    try:
        from streammachine.runtime.admin import remembered
    except ImportError:
        from streammachine_mcp.market import remembered

    async with RedisConnection(settings=settings) as connection:
        storage = Storage(connection)
        for key, value in stored_values().items():
            await storage.write(key, value)
        await storage.incr("counter", 41)
        await storage.incr("counter")
        objects = RedisObjectStorage(connection=connection)
        for key, value in stored_objects(PythonEngine).items():
            await objects.store_with_pickle(key, value)
        aggregators = DurableAggregators(connection)
        aggregator, _ = await aggregators.create("btc", INTERVALS)
        await aggregator.update([Tick(*tick) for tick in TICKS])
        await aggregator.snapshot()
        await aggregator.update([Tick(*tick) for tick in LATER_TICKS])
        aggregator, _ = await aggregators.create("journal-only", INTERVALS)
        await aggregator.update([Tick(*tick) for tick in TICKS])
        await aggregator.flush("BTCUSDT", 60_000, FLUSHED_BEFORE)
        await aggregator.update([Tick(*tick) for tick in LATE_TICKS])
        await _run_app(settings, connection)
        for agent in AGENTS:
            await declare(connection, DeclaredAgent(**agent))
        await remembered.RUNNERS.remember(connection, remembered.RunnerSpec(**RUNNER))
        await remembered.RUNNERS.report(connection, RUNNER["name"], RUNNER_STATUS)
        await remembered.BACKFILLS.remember(connection, remembered.BackfillSpec(**BACKFILL))


async def _run_app(settings: Any, connection: Any) -> None:
    """Orders that an agent has handled, one that it gave up, and one that waits for its retry."""
    from streammachine import App, Message

    retry, reject = (_class(name, "runtime.retry") for name in ("Retry", "Reject"))
    app = App(name="shop", settings=settings)

    @app.agent("orders", group="billing")
    async def bill(order: Message) -> None:
        if order.message == WRONG_ORDER:
            raise reject("a negative amount")
        if order.message == LATE_ORDER:
            raise retry(after=86_400.0)

    async with app:
        for order in (*ORDERS, WRONG_ORDER, LATE_ORDER):
            await app.send("orders", order)
        await until(lambda: connection.command("EXISTS", "{orders}:dlq", "{orders}:retry:billing:due"), 2)
        await until(lambda: _pending(connection), 0)


async def _pending(connection: Any) -> int:
    return int((await connection.command("XPENDING", "orders", "billing"))[0])


async def until(ask: Callable[[], Awaitable[int]], wanted: int) -> None:
    """Wait until the answer is the one wanted."""
    with anyio.fail_after(60):
        while await ask() != wanted:  # noqa: ASYNC110 - Redis is asked
            await anyio.sleep(0.05)


def main(written_by: str) -> None:
    """Write everything into a Valkey of its own, and print its keys."""
    import redis

    from streammachine import Settings

    try:
        from streammachine.redis.embedded.server import EmbeddedServer
    except ImportError:
        from streammachine.redis.embedded import EmbeddedServer  # type: ignore[no-redef]

    with tempfile.TemporaryDirectory() as folder, EmbeddedServer.acquire(Path(folder) / "valkey") as server:
        settings = Settings(redis_url=server.url, data_dir=Path(folder) / "data", signing_key=SIGNING_KEY)
        anyio.run(_write, settings)
        with redis.Redis(unix_socket_path=str(server.socket_path)) as client:
            keys = dump(client)
    text = json.dumps({"written_by": written_by, "keys": keys}, indent=1, ensure_ascii=False)
    print(re.sub(r'File \\"[^"]*/', r'File \\"', text))  # tracebacks without this machine's folders


if __name__ == "__main__":
    main(*sys.argv[1:])
