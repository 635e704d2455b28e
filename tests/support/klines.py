"""Candles of an exchange as a runner would have written them, without an exchange."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import redis

MINUTE = 60_000
CLOSED = (1 << 63) - 1
PRICES = ("open", "high", "low", "close", "volume")


def random_candles(count: int, *, seed: int = 5, price: float = 100.0) -> dict[str, Any]:
    """A random walk as arrays of open, high, low, close and volume."""
    random = np.random.default_rng(seed)
    close = price * np.exp(np.cumsum(random.normal(0, 0.002, count)))
    opened = np.concatenate([close[:1], close[:-1]])
    high = np.maximum(opened, close) * (1 + np.abs(random.normal(0, 0.001, count)))
    low = np.minimum(opened, close) * (1 - np.abs(random.normal(0, 0.001, count)))
    return {"open": opened, "high": high, "low": low, "close": close, "volume": random.lognormal(0, 1, count)}


def write_klines(
    database: redis.Redis,
    stream: str,
    start: int,
    candles: dict[str, Any],
    *,
    step: int = MINUTE,
    left_out: Collection[int] = (),
    incomplete: Collection[int] = (),
    open_last: bool = False,
) -> None:
    """Write them as ``RedisEmitter`` does; those of ``left_out`` are a gap."""
    count = len(candles["close"])
    with database.pipeline(transaction=False) as batch:
        for place in range(count):
            if place in left_out:
                continue
            is_open = open_last and place == count - 1
            fields = {name: repr(float(candles[name][place])) for name in PRICES}
            fields |= {
                "open_ts": str(start + place * step),
                "is_closed": "false" if is_open else "true",
                "is_complete": "false" if place in incomplete else "true",
            }
            batch.xadd(stream, fields, id=f"{start + place * step}-{1 if is_open else CLOSED}")  # type: ignore[arg-type]
        batch.execute()
