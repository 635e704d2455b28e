"""A market desk at work: a Valkey of its own, a simulated exchange, an App with a good and a bad agent.

For pages and tests that call every tool as a user's client would: what the tools show is real.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from streammachine.redis.embedded.server import EmbeddedServer
from support.mcp import clean_environment
from support.servers import redis_at
from support.simulator import START, Exchange, exchange

SHOP = """
from streammachine import App, Message, RetryPolicy

app = App(name="shop")

@app.agent("orders", group="billing", retry=RetryPolicy(max_attempts=2, initial=0.01), transactional=True)
async def billing(order: Message):
    await app.send("bills", {"id": order.message["id"], "amount": float(order.message["amount"])})

@app.timer(60)
async def heartbeat():
    await app.send("heartbeat", {"app": "shop"})

if __name__ == "__main__":
    app.start()
"""


@dataclass
class Desk:
    """``env``: for servers and scripts; ``store``: its Redis; ``folder``: where files go."""

    env: dict[str, str]
    store: redis.Redis
    market: Exchange
    folder: Path


@contextmanager
def desk(
    folder: Path, *exchanges: str, start_ms: int = START, speed: float = 60.0, symbols: Sequence[str] = ()
) -> Iterator[Desk]:
    """Open a desk in ``folder``; the simulated market stands at ``start_ms`` (epoch ms) when it opens."""
    data = folder / "data"
    markets = symbols or ("BTC/USDT", "ETH/USDT")
    with (
        EmbeddedServer.acquire(data, fsync="everysec") as server,
        exchange(*(exchanges or ("binance",)), speed=speed, symbols=markets, start_ms=start_ms) as market,
        redis_at(server.url + "?decode_responses=true") as store,
    ):
        own = {
            "STREAMMACHINE_EMBEDDED": "always",
            "STREAMMACHINE_EMBEDDED_FSYNC": "everysec",
            "STREAMMACHINE_DATA_DIR": str(data),
            "PYTHONUNBUFFERED": "1",
        }
        yield Desk(clean_environment({**market.env, **own}), store, market, folder)


@contextmanager
def shop(place: Desk) -> Iterator[subprocess.Popen[bytes]]:
    """Run the shop's App as a process of its own: its agent fails on an order whose amount is no number."""
    script = place.folder / "shop.py"
    script.write_text(SHOP, encoding="utf-8")
    with (place.folder / "shop.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(script)], env=place.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)
