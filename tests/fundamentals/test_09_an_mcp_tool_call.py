"""Chapter 9: the MCP server, which hands the engine to a model as tools.

``RawClient`` speaks as Claude Desktop does: it starts the server as a process and writes JSON lines to its stdin. What
a tool answers is the same data twice, as text for the model and as structured content for programs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from streammachine.redis.embedded.server import EmbeddedServer
from support.mcp import RawClient, ToolFailure

START = 1_723_161_600_000  # 2024-08-09 00:00 UTC


def test_a_model_makes_candles_and_reads_them(shared_server: EmbeddedServer, tmp_path: Path) -> None:
    env = {"REDIS_URL": f"{shared_server.url}?db=6", "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
    with RawClient(env=env) as client:
        client.call("ohlc_create", name="tutorial", intervals=["1m"])
        client.call("ohlc_update", name="tutorial", symbol="BTCUSDT", price=61837.63, volume=0.5, timestamp_ms=START)
        client.call("ohlc_update", name="tutorial", symbol="BTCUSDT", price=61840, volume=0.5, timestamp_ms=START + 1)
        answer = client.call("ohlc_get_candles", name="tutorial", symbol="BTCUSDT", interval_ms="1m")
        assert (answer["columns"]["open"], answer["columns"]["close"]) == ([61837.63], [61840])

        with pytest.raises(ToolFailure, match="Did you mean 'tutorial'"):  # an error says what to do next
            client.call("ohlc_get_candles", name="tutoral", symbol="BTCUSDT", interval_ms="1m")
