"""Two thousand symbols: as many connections as each exchange's limits ask for, and no more in each than it takes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from streammachine.market.clock.clock import VirtualClock
from streammachine.market.exchanges import adapter_for
from streammachine.market.exchanges.base import Adapter
from streammachine.market.exchanges.registry import ENTRIES
from streammachine.market.live.feed import Feed
from streammachine.market.model.data_input import DataInput
from streammachine.market.model.kline import Trade
from support.market_runs import Collector, run_until, world

COUNT = 2000
PLANS = [
    (entry.name, market, kind)
    for entry in ENTRIES.values()
    for market in entry.market_types
    for kind in ("kline", "trade", "quote")
]
# What the exchanges' documents allow (see the adapters): streams of a connection, and characters of a request.
STREAMS = {
    ("binance", "SPOT"): 1024,
    ("binance", "USDM"): 1024,
    ("binance", "COINM"): 200,
    ("okx", ""): 480,
    ("kraken", ""): 500,
    ("bybit", ""): 500,
    ("coinbase", ""): 500,
}
CHARACTERS = {"okx": 65_536}
TOPICS = 21_000  # characters of all topics of one connection, Bybit


def symbol(adapter: Adapter, number: int) -> str:
    """One of many, in the exchange's form."""
    form = {
        ("okx", "LINEAR"): "C{}-USDT-SWAP",
        ("okx", "INVERSE"): "C{}-USD-SWAP",
        ("binance", "COINM"): "C{}USD_PERP",
        ("bybit", "INVERSE"): "C{}USD",
    }.get((adapter.name, adapter.market_type), adapter.symbol_example.replace("BTC", "C{}"))
    return form.format(number)


@pytest.mark.parametrize(("name", "market", "kind"), PLANS)
def test_the_plan_keeps_the_exchanges_limits(name: str, market: str, kind: str) -> None:
    adapter = adapter_for(name, market)
    wanted = DataInput(kind, [symbol(adapter, number) for number in range(COUNT)], "5m" if kind == "kline" else None)
    feed = Feed(adapter, wanted, urls=adapter.urls(), rest=None, clock=VirtualClock(0))
    parts = [line.subscriptions for line in feed._lines]
    most = STREAMS.get((name, market), STREAMS.get((name, "")))
    assert most is not None
    assert len(parts) == -(-COUNT // most)
    assert max(map(len, parts)) <= most
    assert len({one for part in parts for one in part}) == COUNT
    for part in parts:
        commands = adapter.subscribe(part, 1)
        assert [one for command in commands for one in command.subscriptions] == list(part)
        assert max(len(command.subscriptions) for command in commands) <= adapter.socket.args
        assert max(len(command.frame) for command in commands) <= CHARACTERS.get(name, 65_536)
        if name == "okx":  # it counts them by the hour: what is asked for again must find room too
            assert len(commands) * 10 <= adapter.socket.messages
        if name == "bybit":
            assert sum(len("".join(orjson.loads(command.frame)["args"])) for command in commands) <= TOPICS


@pytest.mark.anyio
async def test_two_thousand_symbols_on_one_runner() -> None:
    """Bybit's trades: its requests are the smallest, ten topics, ten requests a second and connection."""
    symbols = [f"C{number}/USDT" for number in range(COUNT)]
    async with world("bybit", symbols=symbols, trades_per_minute=3) as there:
        runner = there.runner("bybit", symbols, None, kind="trade")
        left = {there.simulator.symbol("bybit", one) for one in symbols}

        def all_came(rows: list[Any]) -> bool:
            left.discard(rows[-1].symbol)
            return not left

        collector = Collector(all_came)
        await run_until(runner, collector)
        assert len(there.simulator.log.of("connect")) == 4
        assert not there.simulator.log.of("reject")
        for one in symbols[::200]:
            name = there.simulator.symbol("bybit", one)
            ours = [(row.ts, row.price) for row in collector.rows if isinstance(row, Trade) and row.symbol == name]
            assert ours == [(row.ts, float(row.price)) for row in there.tape.rows(one, ours[0][0], ours[-1][0] + 1)]
    assert not runner.gaps
