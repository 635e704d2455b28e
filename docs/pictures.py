"""The pictures of the documentation: ``python docs/pictures.py`` draws docs/images/chart.png anew.

The chart is what ``candles_chart`` gives to a chat, over candles of a simulated Binance that a backfill wrote, on a
private embedded Valkey. The market is seeded, so the candles are the same each time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import anyio

from streammachine.cli.peer import call, call_for_picture, open_server, private_environment
from streammachine.market.clock.clock import ScaledClock
from streammachine.market.simulator import Simulator, Tape

CHART = Path(__file__).parent / "images" / "chart.png"
START = 1_753_000_020_000  # 2025-07-20 08:27 UTC
MINUTES = 120
SERIES = {"exchange": "binance", "symbol": "BTCUSDT"}


async def draw() -> bytes:
    """The PNG of the chart."""
    clock = ScaledClock(60, START + MINUTES * 60_000)
    tape = Tape.generate(7, symbols=("BTC/USDT",), start_ms=START)
    with tempfile.TemporaryDirectory(prefix="sm-pictures-") as name:
        folder = Path(name)
        async with Simulator(tape, exchanges=("binance",), clock=clock) as simulator:
            rest = simulator.urls("binance").rest
            market = {**simulator.environment(), "STREAMMACHINE_CLOCK_URL": f"{rest}/clock"}
            env = {**private_environment(folder / "data"), **market}
            async with open_server(env, folder / "server.log") as client:
                span = {"start": START, "end": START + MINUTES * 60_000}
                await call(client, "backfill_start", **SERIES, **span)
                with anyio.fail_after(60):
                    while True:
                        (backfill,) = (await call(client, "backfill_status"))["backfills"]
                        if backfill["state"] == "done":
                            break
                        await anyio.sleep(0.1)
                indicators = ["sma:20", "rsi:14"]
                _, png = await call_for_picture(client, "candles_chart", **SERIES, **span, indicators=indicators)
    assert png is not None, "the extra [charts] is not installed"
    return png


if __name__ == "__main__":
    CHART.parent.mkdir(exist_ok=True)
    CHART.write_bytes(anyio.run(draw))
