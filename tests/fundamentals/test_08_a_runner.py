"""Chapter 8: a runner, which streams an exchange's candles to any number of sinks and heals what the network breaks.

The exchange here is simulated: the real protocol over real sockets, by a clock that runs as fast as we like. In your
program leave out ``clock`` and the URLs, and the runner talks to the exchange itself.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from streammachine import BinanceRunner, CSVEmitter, DataInput, Kline
from streammachine.market.clock.clock import ScaledClock
from streammachine.market.simulator import Fault, Simulator, Tape

pytestmark = pytest.mark.anyio
START = 1_753_000_020_000  # 2025-07-20 08:27 UTC, on the minute
MINUTE = 60_000


async def test_closed_candles_come_in_order_through_a_broken_connection(tmp_path: Path) -> None:
    tape = Tape.generate(7, symbols=("BTC/USDT",), start_ms=START)
    clock = ScaledClock(120, START)  # a minute is half a second
    broken = Fault("reset", at=100)  # 100 s of the market after its beginning
    async with Simulator(tape, exchanges=["binance"], clock=clock, faults=[broken]) as simulator:
        urls = simulator.urls("binance")
        wanted = DataInput("kline", symbols=["BTCUSDT"], timeframe="1m", aggregate_list=["5m"])
        runner = BinanceRunner(wanted, ws_url=urls.ws, rest_url=urls.rest, clock=clock, active_warmup=True)
        runner.register_emitter(CSVEmitter(file_path=str(tmp_path / "candles.csv")))
        candles: list[Kline] = []
        async for kline in runner.stream():
            candles.append(kline)
            if sum(row.timeframe == "1m" for row in candles) == 6:
                break
        await runner.close()  # what stands in the emitters is written first
    minutes = [row.open_ts for row in candles if row.timeframe == "1m"]
    assert minutes == [minutes[0] + number * MINUTE for number in range(6)]
    assert [row.is_complete for row in candles if row.timeframe == "5m"][:1] == [True]
    with (tmp_path / "candles.csv").open() as file:
        assert len(list(csv.DictReader(file))) >= len(candles)
