"""A runner that is told what its sinks have already goes on behind it: no hole, no duplicate, targets included."""

from __future__ import annotations

import anyio
import pytest

from streammachine.market.clock.clock import VirtualClock
from streammachine.market.live.runner import BinanceRunner
from streammachine.market.model.data_input import DataInput
from streammachine.market.model.kline import Kline
from streammachine.market.simulator import Simulator, Tape

START = 1_753_000_020_000  # on the minute, in the middle of five
MINUTE = 60_000
pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("away", [3, 7, 42])
async def test_what_came_while_nobody_listened_is_emitted_first(away: int) -> None:
    clock = VirtualClock(START)
    tape = Tape.generate(3, symbols=("BTC/USDT",), start_ms=START)
    rows: list[Kline] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.drive)
        async with Simulator(tape, ("binance",), clock) as simulator:
            urls = simulator.urls("binance")

            async def stream(until: int, resume: dict[tuple[str, str], int]) -> None:
                wanted = DataInput("kline", ["BTCUSDT"], "1m", ["5m", "15m"])
                runner = BinanceRunner(wanted, True, ws_url=urls.ws, rest_url=urls.rest, clock=clock, resume=resume)
                async for row in runner.stream():
                    assert isinstance(row, Kline)
                    rows.append(row)
                    if row.timeframe == "1m" and row.open_ts >= until:
                        break
                await runner.close()

            await stream(START + 9 * MINUTE, {})
            had = {(row.symbol, row.timeframe): row.open_ts for row in rows}
            await clock.sleep(away * 60)
            await stream(clock.time_ms() + 6 * MINUTE, had)
        tasks.cancel_scope.cancel()
    for timeframe, length in (("1m", MINUTE), ("5m", 5 * MINUTE), ("15m", 15 * MINUTE)):
        starts = [row.open_ts for row in rows if row.timeframe == timeframe]
        assert starts == list(range(starts[0], starts[0] + len(starts) * length, length)), timeframe
    assert all(row.is_complete for row in rows)
    assert rows[-1].open_ts >= START + (9 + away + 6) * MINUTE
