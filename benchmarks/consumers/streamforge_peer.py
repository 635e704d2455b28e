"""streamforge 0.1.3 as the peer of the market benchmarks; runs in an environment of its own, which has it.

Reads one JSON command a line, answers with one JSON object a line:

    {"do": "frames", "path": ...}                 load frames, one a line
    {"do": "normalise"}                           each frame from bytes to its Kline, by its own way; {"seconds": ...}
    {"do": "rows", "path": ...}                   load candles, one JSON object a line
    {"do": "postgres", "url": ..., "batch": ...}  emit the candles by its bulk emitter; {"seconds": ...}
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import BigInteger, Boolean, Float, Integer, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from streamforge.base.emitters.postgresql.db import PostgresEmitter
from streamforge.base.normalize.ohlc.models.candle import Kline
from streamforge.ingestion.binance.normalizers.normalizer import binance_normalizer


class Base(DeclarativeBase):
    pass


class Candle(Base):
    """The table of ``benchmarks/market_postgres.py``."""

    __tablename__ = "candles"
    source: Mapped[str] = mapped_column(String, primary_key=True)
    symbol: Mapped[str] = mapped_column(String, primary_key=True)
    timeframe: Mapped[str] = mapped_column(String, primary_key=True)
    open_ts: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    end_ts: Mapped[int] = mapped_column(BigInteger)
    open: Mapped[float] = mapped_column(Float)
    high: Mapped[float] = mapped_column(Float)
    low: Mapped[float] = mapped_column(Float)
    close: Mapped[float] = mapped_column(Float)
    volume: Mapped[float] = mapped_column(Float)
    quote_volume: Mapped[float | None] = mapped_column(Float)
    vwap: Mapped[float | None] = mapped_column(Float)
    n_trades: Mapped[int | None] = mapped_column(Integer)
    is_closed: Mapped[bool | None] = mapped_column(Boolean)


class Peer:
    """Holds what was loaded, and does what it is told."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._rows: list[Any] = []

    def frames(self, path: str) -> dict[str, float]:
        self._frames = Path(path).read_bytes().splitlines()
        return {"loaded": len(self._frames)}

    def normalise(self) -> dict[str, float]:
        loads, normalise, frames = orjson.loads, binance_normalizer.ws, self._frames
        began = time.process_time()
        for frame in frames:
            normalise(loads(frame))
        return {"seconds": time.process_time() - began}

    def rows(self, path: str) -> dict[str, float]:
        self._rows = [Kline(**orjson.loads(line)) for line in Path(path).read_bytes().splitlines()]
        return {"loaded": len(self._rows)}

    def postgres(self, url: str, batch: int) -> dict[str, float]:
        return {"seconds": asyncio.run(self._emit(url, batch))}

    async def _emit(self, url: str, batch: int) -> float:
        emitter = PostgresEmitter(url=url).set_model(Candle)
        emitter.on_conflict(["source", "symbol", "timeframe", "open_ts"])
        await emitter.connect()
        began = time.perf_counter()
        for start in range(0, len(self._rows), batch):
            await emitter.emit_orm_bulk(self._rows[start : start + batch])
        took = time.perf_counter() - began
        await emitter.close()
        return took


def main() -> None:
    """Until there are no more commands."""
    peer = Peer()
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(peer, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


main()
