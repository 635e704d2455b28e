"""Logger: one readable line a row, seen also where nobody configured logging, never on stdout."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from streammachine.market.emitters.logger import Logger
from streammachine.market.emitters.outlet import Outlet
from streammachine.market.model.kline import Gap
from support.rows import candle, candles, trade

pytestmark = pytest.mark.anyio
TESTS = Path(__file__).parents[3]

SCRIPT = """
import asyncio, logging, sys
sys.path.insert(0, {tests!r})
from streammachine.market.emitters.logger import Logger
from streammachine.market.emitters.outlet import Outlet
from support.rows import candle
{setup}
async def main():
    async with Outlet(Logger(prefix="[demo]")) as one, Outlet(Logger()) as other:
        await one.put([candle()])
        await one.close()
        await other.put([candle(1)])
asyncio.run(main())
"""


def _run(setup: str = "") -> subprocess.CompletedProcess[str]:
    script = SCRIPT.format(tests=str(TESTS), setup=setup)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)


def test_lines_are_seen_on_stderr_where_nobody_configured_logging() -> None:
    done = _run()
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "[demo] Binance BTCUSDT 1m 2023-11-14 22:14:00Z O 100.5 H 1000000 L 0.1 C 100 V 2.5 trades 7 closed",
        "Binance BTCUSDT 1m 2023-11-14 22:15:00Z O 100.5 H 1000000 L 0.1 C 101 V 2.5 trades 7 closed",
    ]


def test_lines_go_where_logging_goes_once() -> None:
    done = _run("logging.basicConfig(format='LOG %(message)s')")
    assert [line[:3] for line in done.stderr.splitlines()] == ["LOG", "LOG"]


def test_a_user_can_silence_them() -> None:
    assert _run("logging.getLogger('streammachine.candles').setLevel(logging.WARNING)").stderr == ""


async def test_every_kind_of_row_has_its_line(caplog: pytest.LogCaptureFixture) -> None:
    emitter = Logger()
    async with Outlet(emitter) as outlet:
        await outlet.put([candle(is_closed=False, volume=1e-7, is_complete=False, n_trades=None)])
        await outlet.put([trade(), Gap("OKX", "BTC-USDT", "1m", 0, 60_000, "REST has it not")])
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.INFO] == [
        "Binance BTCUSDT 1m 2023-11-14 22:14:00Z O 100.5 H 1000000 L 0.1 C 100 V 0.0000001 open incomplete",
        "Binance BTCUSDT trade 2023-11-14 22:14:00.000Z buy 0.5 at 100 id 1000",
        "OKX BTC-USDT 1m GAP from 1970-01-01 00:00:00Z to 1970-01-01 00:01:00Z (not included): REST has it not",
    ]


async def test_what_a_transformer_makes_is_shown_by_name(caplog: pytest.LogCaptureFixture) -> None:
    emitter = Logger("x").set_transformer(lambda row: {"price": row["close"]} if row["close"] > 100 else None)
    async with Outlet(emitter) as outlet:
        await outlet.put(candles(2))
    assert [record.getMessage() for record in caplog.records if record.name == "streammachine.candles"] == [
        "x price=101.0"
    ]
