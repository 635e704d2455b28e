"""A backfill into every kind of sink at once, killed on its way: each has every candle, those with keys once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from streammachine.market.simulator import Fault
from streammachine.redis.embedded.server import EmbeddedServer
from support.backfill import assert_golden, rows_of, utc
from support.postgres import PASSWORD, Postgres
from support.servers import redis_at
from support.simulator import exchange

DATABASE = 10  # of the run's shared Valkey; no other test uses it
START, END = "2025-07-10", "2025-07-18"


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


def _command(*to: str) -> list[str]:
    sinks = [part for text in to for part in ("--to", text)]
    command = [sys.executable, "-m", "streammachine.cli", "backfill", "bybit", "BTCUSDT", "--timeframe", "1m"]
    return [*command, "--from", START, "--to", END, *sinks]


def _rows(postgres: Postgres) -> list[dict[str, Any]]:
    columns = [
        "source",
        "symbol",
        "open_ts",
        "end_ts",
        "open",
        "high",
        "low",
        "close",
        "volume",
        "n_trades",
        "is_closed",
    ]
    found = postgres.execute(f"SELECT {', '.join(columns)} FROM klines ORDER BY open_ts")
    return [dict(zip(columns, row, strict=True)) for row in found]


def test_all_sinks_have_all_candles_after_a_kill(
    postgres: Postgres, shared_server: EmbeddedServer, tmp_path: Path
) -> None:
    sinks = [
        f"csv:{tmp_path}/out.csv",
        f"postgres:{postgres.url}",
        f"{shared_server.url}?db={DATABASE}",
        f"parquet:{tmp_path}/folder",
    ]
    faults = [Fault("status", value=503, seconds=1000, after=9)]
    with exchange("bybit", speed=60, faults=faults) as here:
        env = {**os.environ, **here.env, "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
        with subprocess.Popen(_command(*sinks), env=env) as process:
            while process.poll() is None and not here.simulator.log.of("fault"):
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        done = subprocess.run(_command(*sinks), env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "12,960 candles" in done.stdout
        assert PASSWORD not in done.stdout + done.stderr
        asked = len(here.simulator.log.of("rest"))
        again = subprocess.run(_command(*sinks), env=env, capture_output=True, text=True, check=False)
        assert "nothing new" in again.stdout
        assert len(here.simulator.log.of("rest")) == asked
    first, last = utc(START), utc(END) + 86_400_000
    assert_golden(rows_of(tmp_path / "out.csv"), here.tape, "1m", first, last)
    assert_golden(_rows(postgres), here.tape, "1m", first, last)
    stream = "kline:bybit:BTCUSDT:1m"
    with closing(redis_at(f"{shared_server.url}?db={DATABASE}")) as client:
        assert client.xlen(stream) == 12_960
        client.delete(stream)
    with duckdb.connect() as database:
        starts = database.execute(
            f"SELECT DISTINCT open_ts FROM read_parquet('{tmp_path}/folder/**/*.parquet') ORDER BY open_ts"
        ).fetchall()
    assert [ts for (ts,) in starts] == list(range(first, last, 60_000))
