"""Ticks, and the candles that must become of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from streammachine.ohlc.consumer.consumer import FastOHLCConsumer
from streammachine.redis.connection import RedisConnection
from support.runtime import Probe
from support.valkey import until

START = 1_700_000_100_000 // 300_000 * 300_000
GRACE = 5_000
INTERVALS = (60_000, 300_000)
Tick = tuple[str, float, float, int]
Candle = tuple[str, int, int, float, float, float, float, float, int]


def make_ticks(count: int, *, symbols: int = 5, late: float = 0.0, seed: int = 7) -> list[Tick]:
    """Ticks in about the order of time: up to 2 s of disorder, ``late`` of them far behind; last, one of each symbol
    that closes everything and opens a minute."""
    rnd = random.Random(seed)
    found: list[Tick] = []
    for k in range(count - symbols):
        ms = START + k * 40 - rnd.randrange(2_000)
        if rnd.random() < late:
            ms -= rnd.randrange(10_000, 200_000)
        symbol = f"S{rnd.randrange(symbols)}"
        found.append((symbol, round(100 + rnd.gauss(0, 3), 4), round(rnd.random(), 4), max(ms, START - 60_000)))
    last = START + (count * 40 // 300_000 + 2) * 300_000
    return found + [(f"S{k}", 100.0, 1.0, last) for k in range(symbols)]


def oracle(ticks: Sequence[Tick], grace: int = GRACE) -> tuple[list[Candle], int]:
    """Tick by tick in plain Python: the finished candles, and how many ticks were late."""
    newest: dict[str, int] = {}
    marks: dict[tuple[str, int], int] = {}
    held: dict[tuple[str, int], dict[int, list[tuple[int, int, float, float]]]] = {}
    finished: list[Candle] = []
    late = 0

    def close(symbol: str) -> None:
        for interval in INTERVALS:
            candles = held.setdefault((symbol, interval), {})
            for start in sorted(candles):
                if start + interval <= newest[symbol] - grace:
                    rows = candles.pop(start)
                    marks[symbol, interval] = start + interval
                    prices = [price for _, _, price, _ in sorted(rows)]
                    volume = sum(volume for _, _, _, volume in rows)
                    finished.append(
                        (symbol, interval, start, prices[0], max(prices), min(prices), prices[-1], volume, len(rows))
                    )

    for place, (symbol, price, volume, ms) in enumerate(ticks):
        if symbol in newest:
            close(symbol)
        was_late = False
        for interval in INTERVALS:
            if ms < marks.get((symbol, interval), 0):
                was_late = True
                continue
            held.setdefault((symbol, interval), {}).setdefault(ms - ms % interval, []).append(
                (ms, place, price, volume)
            )
        late += was_late
        newest[symbol] = max(newest.get(symbol, 0), ms)
        close(symbol)
    return finished, late


def records(ticks: Sequence[Tick]) -> list[dict[str, str]]:
    return [
        {"symbol": symbol, "price": str(price), "volume": str(volume), "ts": str(ms)}
        for symbol, price, volume, ms in ticks
    ]


async def feed(redis: RedisConnection, ticks: Sequence[Tick], stream: str = "ticks") -> None:
    await redis.pipeline_xadd(stream, records(ticks))


async def emitted(redis: RedisConnection, prefix: str = "candles") -> list[Candle]:
    """All that stands in the candle streams, in their order."""
    found: list[Candle] = []
    for interval in INTERVALS:
        name = f"{prefix}_{FastOHLCConsumer.interval_name(interval)}"
        for row in await Probe(redis).fields(name):
            assert row["interval_ms"] == str(interval)
            prices = [float(row[name]) for name in ("open", "high", "low", "close", "volume")]
            found.append(
                (row["symbol"], interval, int(row["candle_start_ms"]), *prices, int(row["trade_count"]))  # type: ignore[arg-type]
            )
    return found


def same(found: Sequence[Candle], wanted: Sequence[Candle]) -> None:
    """Each wanted candle once, and no other; sums to 1e-9."""
    repeated = [key for key, count in Counter(candle[:3] for candle in found).items() if count > 1]
    assert not repeated
    assert [c[:7] + c[8:] for c in sorted(found)] == [c[:7] + c[8:] for c in sorted(wanted)]
    assert [c[7] for c in sorted(found)] == pytest.approx([c[7] for c in sorted(wanted)], rel=1e-9)


async def group(redis: RedisConnection, stream: str = "ticks", name: str = "ohlc_workers") -> dict[str, Any]:
    for facts in await Probe(redis).ask("XINFO", "GROUPS", stream):
        found = {key.decode(): value for key, value in zip(facts[::2], facts[1::2], strict=True)}
        if found["name"] == name.encode():
            return found
    return {}


async def caught_up(redis: RedisConnection, count: int, seconds: float = 20.0, stream: str = "ticks") -> None:
    async def done() -> bool:
        facts = await group(redis, stream)
        return bool(facts and facts["lag"] == 0 and facts["entries-read"] == count)

    await until(done, seconds)


MakeConsumer = Callable[..., FastOHLCConsumer]


def maker(redis: RedisConnection) -> MakeConsumer:
    """Makes consumers of ``ticks`` whose ticks have their time in ``ts``."""

    def build(**options: Any) -> FastOHLCConsumer:
        defaults = {"intervals": list(INTERVALS), "timestamp_field": "ts", "connection": redis}
        return FastOHLCConsumer("ticks", **{**defaults, **options})

    return build
