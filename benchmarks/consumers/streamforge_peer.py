"""streamforge 0.1.3 as the peer of the market benchmarks; runs in an environment of its own, which has it.

Reads one JSON command a line, answers with one JSON object a line:

    {"do": "frames", "path": ...}                 load frames, one a line
    {"do": "normalise"}                           each frame from bytes to its Kline; {"seconds": ...}
    {"do": "stream"}                              each frame through its whole stream(), off a socket that is none
    {"do": "rows", "path": ...}                   load candles, one JSON object a line
    {"do": "postgres", "url": ..., "batch": ...}  emit the candles by its bulk emitter; {"seconds": ...}
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import streamforge as sf
from sqlalchemy import BigInteger, Boolean, Float, Integer, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from streamforge.base import ws
from streamforge.base.emitters.postgresql.db import PostgresEmitter
from streamforge.base.normalize.ohlc.models.candle import Kline
from streamforge.ingestion.binance.normalizers.normalizer import binance_normalizer
from streamforge.ingestion.binance.processors.kline import BinanceCandleProcessor
from streamforge.ingestion.binance.processors.processor import BinanceProcessor
from streamforge.ingestion.binance.ws.ws import BinanceWS


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


class Sockets:
    """Stands for ``websockets.connect``: one connection, on which the frames have come already."""

    def __init__(self, frames: list[bytes]) -> None:
        self._frames = iter(frames)

    async def __aiter__(self) -> AsyncIterator[Sockets]:
        yield self

    async def send(self, message: str) -> None:
        pass

    async def recv(self) -> bytes:
        return next(self._frames)


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

    def stream(self) -> dict[str, float]:
        return {"seconds": asyncio.run(self._stream())}

    async def _stream(self) -> float:
        symbols = list(dict.fromkeys(orjson.loads(frame)["data"]["s"] for frame in self._frames))
        wanted = sf.DataInput(type="kline", symbols=symbols, timeframe="1m")
        processors = {"kline": BinanceCandleProcessor}  # a fresh one: it writes into it
        processor = BinanceProcessor(processors_map=processors, emit_only_closed_candles=False)
        handler = BinanceWS(streams=wanted, processor_class=processor)
        ws.websockets.connect = lambda url: Sockets(self._frames)  # type: ignore[attr-defined]
        left = len(self._frames)
        began = time.process_time()
        async for _ in handler.stream():
            left -= 1
            if not left:
                break
        return time.process_time() - began

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
