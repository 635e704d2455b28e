"""candles_chart: a picture and the same numbers as text and data, of an exchange or an aggregator."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import talib
from PIL import Image

from streammachine.redis.embedded.server import EmbeddedServer
from support.klines import MINUTE, random_candles, write_klines
from support.mcp import RawClient, ToolFailure

T0 = 1_723_161_600_000
CANDLES = random_candles(700)
SERIES = {"exchange": "binance", "symbol": "BTCUSDT"}


@pytest.fixture
def server(raw: RawClient, shared_server: EmbeddedServer) -> Iterator[RawClient]:
    """With a series of 700 candles: four missing at 620, one incomplete at 650, the last still open."""
    with redis.Redis(unix_socket_path=str(shared_server.socket_path), db=5) as database:
        write_klines(
            database,
            "kline:binance:BTCUSDT:1m",
            T0,
            CANDLES,
            left_out=range(620, 624),
            incomplete={650},
            open_last=True,
        )
    yield raw


def drawn(client: RawClient, **arguments: Any) -> tuple[dict[str, Any], Any]:
    """The summary, and the picture."""
    result = client.request("tools/call", name="candles_chart", arguments=arguments)
    assert not result.get("isError"), result
    text, image = result["content"]
    assert json.loads(text["text"]) == result["structuredContent"]
    assert image["mimeType"] == "image/png"
    png = base64.b64decode(image["data"])
    assert len(png) < 120_000
    return result["structuredContent"], Image.open(io.BytesIO(png))


def test_a_chart_of_an_exchange_with_its_numbers(server: RawClient) -> None:
    summary, image = drawn(server, **SERIES, indicators=["sma:20", "rsi:14"])
    assert image.size == (1000, 600)
    last = CANDLES["close"][:]
    kept = [n for n in range(700) if not 620 <= n < 624][-200:]
    assert (summary["title"], summary["count"], summary["truncated"]) == ("BTCUSDT · 1m · binance", 200, True)
    assert (summary["first_ms"], summary["last_ms"]) == (T0 + kept[0] * MINUTE, T0 + 699 * MINUTE)
    assert summary["high"]["value"] == max(CANDLES["high"][n] for n in kept)
    assert summary["low"]["value"] == min(CANDLES["low"][n] for n in kept)
    assert summary["change_percent"] == pytest.approx((last[699] / CANDLES["open"][kept[0]] - 1) * 100, abs=1e-3)
    assert (summary["missing"], summary["incomplete"], summary["last_is_open"]) == (4, 1, True)
    assert summary["gaps"] == [[T0 + 620 * MINUTE, T0 + 624 * MINUTE]]
    whole = [close for n, close in enumerate(last) if not 620 <= n < 624]
    assert summary["indicators"]["rsi14"] == pytest.approx(talib.RSI(np.asarray(whole), 14)[-1], rel=1e-9)
    assert summary["data"]["tool"] == "candles_read"
    page = server.call(summary["data"]["tool"], **summary["data"]["arguments"])
    assert page["columns"]["open_ts"][0] == summary["first_ms"]
    assert page["columns"]["sma20"][-1] == summary["indicators"]["sma20"]


def test_a_range_and_the_dark_theme(server: RawClient) -> None:
    summary, image = drawn(server, **SERIES, start=T0, end=T0 + 30 * MINUTE, theme="dark")
    assert (summary["count"], summary["last_ms"], summary["truncated"]) == (30, T0 + 29 * MINUTE, False)
    assert sum(image.convert("RGB").getpixel((2, 2))) < 120
    assert summary["data"]["ended"] is True


def test_a_chart_of_an_aggregator(raw: RawClient) -> None:
    raw.call("ohlc_create", name="m", intervals=["1m", "5m"])
    ticks = [{"symbol": "A", "price": 100 + n % 7, "volume": 1, "timestamp_ms": T0 + n * MINUTE} for n in range(40)]
    raw.call("ohlc_update", name="m", ticks=ticks[:20] + ticks[25:])
    summary, _ = drawn(raw, name="m", symbol="A", interval="1m", indicators=["obv"])
    assert (summary["title"], summary["count"], summary["missing"]) == ("A · 1m · m", 35, 5)
    page = raw.call(summary["data"]["tool"], **summary["data"]["arguments"])
    assert page["columns"]["obv"][-1] == summary["indicators"]["obv"]
    part, _ = drawn(raw, name="m", symbol="A", timeframe="5m", end=T0 + 20 * MINUTE, limit=2)
    assert (part["count"], part["last_ms"]) == (2, T0 + 15 * MINUTE)
    page = raw.call(part["data"]["tool"], **part["data"]["arguments"])
    assert page["columns"]["candle_start_ms"][-1] == part["last_ms"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "Say what to draw"),
        ({"exchange": "binance"}, "Say what to draw"),
        ({"name": "m"}, "needs its name, a symbol and an interval"),
        ({"name": "m", "symbol": "A", "timeframe": "1M"}, "needs its name, a symbol and an interval"),
        ({"name": "nope", "symbol": "A", "interval": "1m"}, "nope"),
        ({**SERIES, "start": T0 + 10**9}, "no candles to draw"),
        ({**SERIES, "indicators": ["sma:2", "sma:3", "sma:4", "sma:5", "sma:6"]}, "at most 4"),
        ({**SERIES, "indicators": ["rsii"]}, "Did you mean 'rsi'"),
        ({"exchange": "binance", "symbol": "ETHUSDT"}, "Did you mean 'kline:binance:"),
    ],
)
def test_what_cannot_be_drawn_says_what_to_do(server: RawClient, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ToolFailure, match="(?s)" + words):
        server.call("candles_chart", **arguments)


def test_names_with_markup_stay_text(raw: RawClient) -> None:
    name = '<img src=x onerror="alert(1)">$\\frac{'
    raw.call("ohlc_create", name="m$_", intervals=["1m"])
    raw.call("ohlc_update", name="m$_", symbol=name, price=1e-12, volume=1, timestamp_ms=T0)
    summary, _ = drawn(raw, name="m$_", symbol=name, interval="1m")
    assert summary["title"].startswith(name)


def test_nothing_heavy_is_loaded_before_it_is_used() -> None:
    code = (
        "import sys, asyncio\n"
        "from streammachine_mcp.server import create_server\n"
        "asyncio.run(create_server().list_tools())\n"
        "heavy = ('ccxt', 'duckdb', 'griffe', 'matplotlib', 'numpy', 'pandas', 'PIL', 'polars', 'pyarrow', 'talib')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_many_charts_at_once_leave_the_server_answering(server: RawClient) -> None:
    """Each is answered: with a picture, or with the words that too many wait."""
    drawn(server, **SERIES)
    wanted = [
        server.send("tools/call", name="candles_chart", arguments={**SERIES, "limit": 50, "indicators": ["sma:5"]})
        for _ in range(30)
    ]
    waits = []
    for _ in range(20):
        begun = time.monotonic()
        server.call("redis_ping")
        waits.append(time.monotonic() - begun)
    print(f"pings: at most {max(waits) * 1000:.0f} ms, of {os.cpu_count()} cores")
    answers = [server.wait(identifier) for identifier in wanted]
    refused = [answer["content"][0]["text"] for answer in answers if answer.get("isError")]
    assert len(refused) <= 20
    assert all("call again" in text for text in refused)


def test_the_process_that_draws_ends_with_the_server(server_env: dict[str, str], tmp_path: Path) -> None:
    with RawClient(env=server_env) as client:
        client.call("ohlc_create", name="m")
        client.call("ohlc_update", name="m", symbol="A", price=1, volume=1, timestamp_ms=T0)
        drawn(client, name="m", symbol="A", interval="1m")
        children = Path(f"/proc/{client.process.pid}/task/{client.process.pid}/children").read_text().split()
        drawing = [pid for pid in children if b"anyio.to_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(drawing) == 1
    end = time.monotonic() + 30
    while Path(f"/proc/{drawing[0]}").exists():
        assert time.monotonic() < end, "it is still there"
        time.sleep(0.05)
