"""Trade files in the forms in which exchanges publish them, and the candles of the plain path."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from streammachine.market.emitters.base import DataEmitter
from streammachine.market.model import timeframe as timeframes
from streammachine.ohlc.reference import FastOHLC

T0 = 1_735_689_600_000  # 2025-01-01


class T(NamedTuple):
    """A trade as files write it; ``ms`` with a fraction that is cut."""

    id: int
    price: str
    volume: str
    ms: int
    symbol: str = "BTCUSDT"
    fills: int = 1


class Kept(DataEmitter):
    """A sink that keeps its rows."""

    name = "kept"

    def __init__(self) -> None:
        self.rows: list[Any] = []

    async def emit_batch(self, rows: Sequence[Any]) -> None:
        self.rows += rows


def trades(count: int, *, seed: int = 0, symbols: Sequence[str] = ("BTCUSDT",), disorder: float = 0.05) -> list[T]:
    """Two decimals, so that prices tie; gaps of minutes; some come some seconds late."""
    rng = np.random.default_rng(seed)
    ms = T0 + np.cumsum(rng.exponential(200, count)).astype(int) + np.cumsum(rng.random(count) < 0.001) * 400_000
    ms -= np.where(rng.random(count) < disorder, rng.integers(0, 90_000, count), 0)
    prices, volumes = 60_000 + rng.standard_normal(count).cumsum(), rng.lognormal(-4, 1.5, count)
    names, fills = rng.integers(0, len(symbols), count), rng.integers(1, 5, count)
    return [
        T(10**9 + k, f"{prices[k]:.2f}", f"{volumes[k]:.8f}", max(T0, int(ms[k])), symbols[names[k]], int(fills[k]))
        for k in range(count)
    ]


def lines(rows: Iterable[Sequence[object]], header: str | None = None) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return (f"{header}\n" if header else "").encode() + text.getvalue().encode()


def seconds(ms: int) -> str:
    return f"{ms // 1000}.{ms % 1000:03d}9"


FORMS: dict[str, Any] = {  # name of the file -> its text
    "BTCUSDT-trades-2025-01-01.csv": lambda ts: lines(
        [t.id, t.price, t.volume, "1", f"{t.ms}{t.id % 1000:03d}", "True", "True"] for t in ts
    ),
    "BTCUSDT-trades-2024-12.csv": lambda ts: lines([t.id, t.price, t.volume, "1", t.ms, "True", "True"] for t in ts),
    "BTCUSDT-aggTrades-2025-01-01.csv": lambda ts: lines(
        [t.id, t.price, t.volume, t.id * 9, t.id * 9 + t.fills - 1, f"{t.ms}999", "False", "True"] for t in ts
    ),
    "um/BTCUSDT-trades-2025-01-01.csv": lambda ts: lines(
        ([t.id, t.price, t.volume, "1", t.ms, "true"] for t in ts), "id,price,qty,quote_qty,time,is_buyer_maker"
    ),
    "cm/BTCUSDT-trades-2022-01.csv": lambda ts: lines([t.id, t.price, t.volume, "1", t.ms, "true"] for t in ts),
    "um/BTCUSDT-aggTrades-2025-01-01.csv": lambda ts: lines(
        ([t.id, t.price, t.volume, t.id * 9, t.id * 9 + t.fills - 1, t.ms, "true"] for t in ts),
        "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker",
    ),
    "um/BTCUSDT-aggTrades-2022-01.csv": lambda ts: lines(
        [t.id, t.price, t.volume, t.id * 9, t.id * 9 + t.fills - 1, t.ms, "true"] for t in ts
    ),
    "BTCUSDT-trades-2025-01-02.csv": lambda ts: lines(
        ([t.symbol, t.id, "buy", t.price, t.volume, t.ms, "0"] for t in ts),
        "instrument_name,trade_id,side,price,size,created_time,source",
    ),
    "okx/BTCUSDT-trades-2022-01-02.csv": lambda ts: lines([[t.id, "buy", t.volume, t.price, t.ms] for t in ts]).join(
        [b"trade_id/\xb3\xc9\xbd\xbbid,side/\xbd\xbb,size/\xca\xfd\xc1\xbf,price/\xbc\xdb,created_time/\xb3\xc9\n", b""]
    ),
    "BTCUSDT2025-01-01.csv": lambda ts: lines(
        (
            [seconds(t.ms), t.symbol, "Buy", t.volume, t.price, "PlusTick", f"{t.id:x}-a", "1", "1", "1", "0"]
            for t in ts
        ),
        "timestamp,symbol,side,size,price,tickDirection,trdMatchID,grossValue,homeNotional,foreignNotional,RPI",
    ),
    "BTCUSDT_2025-01-01.csv": lambda ts: lines(
        ([k, t.ms, t.price, t.volume, "buy", "0"] for k, t in enumerate(ts, 1)), "id,timestamp,price,volume,side,rpi"
    ),
    "BTCUSDT.csv": lambda ts: lines([seconds(t.ms), t.price, t.volume] for t in ts),
}
SOURCES = {"BTCUSDT-trades-2025-01-02.csv": "OKX", "BTCUSDT.csv": "Kraken", "okx/BTCUSDT-trades-2022-01-02.csv": "OKX"}


def packed(path: Path, data: bytes) -> Path:
    """The file, gzipped or zipped as its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data, 1))
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(path.stem + ".csv", data)
    else:
        path.write_bytes(data)
    return path


def plain(ts: Iterable[T], names: Sequence[str], *, joined: bool = False) -> list[tuple[Any, ...]]:
    """The candles of the same trades by ``update_tick`` of the plain-Python engine, one by one."""
    intervals = [timeframes.MILLISECONDS[name] for name in names]
    base, quote, fills = FastOHLC(intervals), FastOHLC(intervals), FastOHLC(intervals)
    for t in ts:
        price, volume = float(t.price), float(t.volume)
        base.update_tick(t.symbol, price, volume, t.ms)
        quote.update_tick(t.symbol, price, price * volume, t.ms)
        fills.update_tick(t.symbol, price, t.fills, t.ms)
    return sorted(
        (symbol, name, c.candle_start_ms, *_prices(c), c.volume, q.volume, int(f.volume) if joined else c.trade_count)
        for symbol in base.symbols
        for name, interval in zip(names, intervals, strict=True)
        for c, q, f in zip(*(each.get_candles(symbol, interval) for each in (base, quote, fills)), strict=True)
    )


def _prices(candle: Any) -> tuple[float, float, float, float]:
    return candle.open, candle.high, candle.low, candle.close


def values(rows: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Rows of a sink in the form of ``plain``."""
    return sorted(
        (r.symbol, r.timeframe, r.open_ts, r.open, r.high, r.low, r.close, r.volume, r.quote_volume, r.n_trades)
        for r in rows
    )
