"""The pictures of the documentation: ``python docs/pictures.py`` makes docs/images/chart.png and chat.png anew.

Both are what ``candles_chart`` gives to a chat, over candles of a simulated Binance that a backfill wrote, on a private
embedded Valkey. The market is seeded, so the candles are the same each time. ``chart.png`` is the tool's picture, for
chats that show no pages; ``chat.png`` the tool's page in a chat that does (MCP Apps): ``chat.html``, a chat of a few
lines with no model behind it, in an installed Chromium.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from streammachine.cli.peer import call, call_for_picture, open_server, private_environment
from streammachine.market.clock.clock import ScaledClock
from streammachine.market.simulator import Simulator, Tape

if TYPE_CHECKING:
    from fastmcp import Client

HOST = Path(__file__).parent / "chat.html"
CHART, CHAT = (Path(__file__).parent / "images" / name for name in ("chart.png", "chat.png"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
START = 1_753_000_020_000  # 2025-07-20 08:27 UTC
MINUTES = 120
SERIES = {"exchange": "binance", "symbol": "BTCUSDT"}
SPAN = {"start": START, "end": START + MINUTES * 60_000}
INDICATORS = ["sma:20", "rsi:14"]


@asynccontextmanager
async def market() -> AsyncIterator[Client[Any]]:
    """A client of the real server, which has loaded the candles of a simulated Binance."""
    clock = ScaledClock(60, START + MINUTES * 60_000)
    tape = Tape.generate(7, symbols=("BTC/USDT",), start_ms=START)
    with tempfile.TemporaryDirectory(prefix="sm-pictures-") as name:
        folder = Path(name)
        async with Simulator(tape, exchanges=("binance",), clock=clock) as simulator:
            rest = simulator.urls("binance").rest
            urls = {**simulator.environment(), "STREAMMACHINE_CLOCK_URL": f"{rest}/clock"}
            env = {**private_environment(folder / "data"), **urls}
            async with open_server(env, folder / "server.log") as client:
                await call(client, "backfill_start", **SERIES, **SPAN)
                with anyio.fail_after(60):
                    while True:
                        (backfill,) = (await call(client, "backfill_status"))["backfills"]
                        if backfill["state"] == "done":
                            break
                        await anyio.sleep(0.1)
                yield client


async def draw() -> bytes:
    """The PNG that a chat without pages is given."""
    async with market() as client:
        _, png = await call_for_picture(client, "candles_chart", **SERIES, **SPAN, indicators=INDICATORS)
    assert png is not None, "the extra [charts] is not installed"
    return png


async def chat() -> bytes:
    """The PNG of a chat in which the chart stands.

    Raises:
        RuntimeError: no Chromium is installed.
    """
    from playwright.async_api import async_playwright

    if CHROMIUM is None:
        raise RuntimeError("No Chromium is installed.")
    given = {**SERIES, **SPAN, "indicators": INDICATORS}
    async with market() as client, async_playwright() as playwright:
        (html,) = await client.read_resource("ui://streammachine/candles")
        result = await _asked(client, "candles_chart", given)
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = await browser.new_page(viewport={"width": 900, "height": 700}, color_scheme="light")

        async def called(params: dict[str, Any]) -> dict[str, Any]:
            return await _asked(client, params["name"], params.get("arguments", {}))

        await page.expose_function("callTool", called)
        await page.set_content(HOST.read_text(encoding="utf-8"))
        told = {"html": html.text, "arguments": given, "result": result}
        await page.evaluate("told => window.show(told)", told)
        await page.wait_for_function("window.height > 400")
        await page.frame_locator("iframe").locator("#legend", has_text="UTC").wait_for()
        await page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        picture = await page.screenshot()
        await browser.close()
    return picture


async def _asked(client: Client[Any], name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A tool's whole result, as a host passes it on to a page."""
    result = await client.call_tool_mcp(name, arguments)
    found: dict[str, Any] = result.model_dump(mode="json", by_alias=True, exclude_none=True)
    return found


if __name__ == "__main__":
    CHART.parent.mkdir(exist_ok=True)
    CHART.write_bytes(anyio.run(draw))
    CHAT.write_bytes(anyio.run(chat))
