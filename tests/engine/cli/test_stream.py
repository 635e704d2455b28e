"""``streammachine stream``: from the command line into sinks; what cannot work is said before anything starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support_simulator import Exchange, exchange


@pytest.fixture(scope="module")
def market() -> Iterator[Exchange]:
    with exchange("binance", speed=60) as running:
        yield running


@pytest.fixture(autouse=True)
def _in_its_folder(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cli.folder)


def test_a_file_of_candles_takes_no_trades_and_the_other_way_round(cli: Any, market: Exchange) -> None:
    for first, then in (((), ("--type", "trade")), (("--type", "trade"), ())):
        out = f"{len(first)}.csv"
        arguments = ("stream", "binance", "BTCUSDT", "--to", f"csv:{out}", "--candles", "1")
        assert cli(*arguments, *first, **market.env).returncode == 0
        before = (cli.folder / out).read_bytes()
        refused = cli(*arguments, *then, **market.env)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert f"{out} has the columns" in refused.stderr
        assert "Give another file_path" in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert (cli.folder / out).read_bytes() == before


def test_a_backfill_that_a_redis_stream_does_not_take_is_refused_at_once(cli: Any, market: Exchange) -> None:
    arguments = ("binance", "BTCUSDT", "--to", "redis")
    assert cli("stream", *arguments, "--candles", "1", **market.env).returncode == 0
    before = len(market.simulator.log.of("rest"))
    refused = cli("backfill", *arguments, "--from", "2025-07-18", "--to", "2025-07-18", **market.env)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "kline:binance:BTCUSDT:1m already holds candles, from 2025-07-20 " in refused.stderr
    assert "fresh stream" in refused.stderr
    assert refused.stderr.count("\n") == 1
    asked = [entry.detail for entry in market.simulator.log.of("rest")[before:]]
    assert not [detail for detail in asked if "klines" in detail or "data/" in detail]
