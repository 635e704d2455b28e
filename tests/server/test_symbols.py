"""symbols_list: what can be traded, in both spellings; and both are taken where a symbol is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from support.mcp import RawClient, ToolFailure
from support.servers import until
from support.simulator import Exchange, exchange


@pytest.fixture(scope="module")
def market() -> Iterator[Exchange]:
    with exchange("okx", "coinbase", speed=20) as running:
        yield running


@pytest.fixture
def env(hosting_env: dict[str, str], market: Exchange) -> dict[str, str]:
    with redis.Redis.from_url(hosting_env["REDIS_URL"]) as database:
        database.flushdb()
    return {**hosting_env, **market.env}


def test_symbols_are_listed_in_both_spellings_and_either_starts_a_runner(env: dict[str, str]) -> None:
    with RawClient(env=env) as client:
        found = client.call("symbols_list", exchange="okx", query="btc", market_type="linear")
        (row,) = [one for one in found["symbols"] if one["pair"] == "BTC/USDT:USDT"]
        assert (row["symbol"], row["contract_size"]) == ("BTC-USDT-SWAP", 0.01)
        assert (found["market_type"], found["truncated"]) == ("LINEAR", False)
        few = client.call("symbols_list", exchange="coinbase", limit=1)
        assert (len(few["symbols"]), few["truncated"], few["count"] > 1) == (1, True, True)
        assert client.call("symbols_list", exchange="okx", query="nosuch")["symbols"] == []
        started = client.call("runner_start", exchange="okx", symbols=["BTC/USDT"])
        assert started["streams"] == ["kline:okx:BTC-USDT:1m"]
        again = client.call("runner_start", exchange="okx", symbols=["BTC-USDT"])
        assert again == {**started, "started": False}
        client.call("runner_stop", name=started["name"])


def test_a_pair_that_there_is_not_is_refused_with_near_ones(env: dict[str, str]) -> None:
    with (
        RawClient(env=env) as client,
        pytest.raises(ToolFailure, match=r"does not trade BTC.USDX: did you mean BTC.US"),
    ):
        client.call("runner_start", exchange="okx", symbols=["BTC/USDX"])


def test_a_runner_through_ccxt_writes_candles_that_can_be_read(env: dict[str, str]) -> None:
    pytest.importorskip("ccxt", reason="the extra [ccxt] is not installed")
    with RawClient(env=env) as client:
        started = client.call("runner_start", exchange="CCXT:okx", symbols=["BTC/USDT"])
        assert started["streams"] == ["kline:ccxt:okx:BTC/USDT:1m"]

        def read() -> int:
            try:
                page = client.call("candles_read", exchange="ccxt:okx", symbol="BTC/USDT")
            except ToolFailure:
                return 0
            return int(page["count"])

        until(lambda: read() >= 2, timeout=90.0)
        client.call("runner_stop", name=started["name"])
        with pytest.raises(ToolFailure, match="ccxt streams no exchange 'gat': did you mean gate"):
            client.call("runner_start", exchange="ccxt:gat", symbols=["BTC/USDT"])
