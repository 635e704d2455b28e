"""The test kit: agents against a private Valkey."""

from __future__ import annotations

import pytest

from streammachine.runtime.app.app import App
from streammachine.runtime.model.message import Message
from streammachine.runtime.model.retry import Retry
from streammachine.runtime.testing import TestApp, wait_until
from streammachine.settings import Settings

pytestmark = pytest.mark.anyio


async def test_agents_run_against_a_server_of_their_own(settings: Settings, anyio_backend: str) -> None:
    app = App("shop", to_scan=False, settings=settings)

    @app.agent("orders", retry=2, lease=0.4)
    async def handle(order: Message) -> None:
        if order.message["id"] == "bad":
            raise ValueError("bad order")
        if order.message["id"] == "later" and order.attempt == 1:
            raise Retry(after=0.5)
        await app.send("results", {"id": order.message["id"]})

    async with TestApp(app) as test:
        assert test.url != (settings.redis_url.get_secret_value() if settings.redis_url else "")
        for identifier in ("1", "bad", "later"):
            await test.send("orders", {"id": identifier})
        await test.wait_until_idle()
        assert [record["id"] for record in await test.messages("results")] == ["1", "later"]
        assert [letter["id"] for letter in await test.dead_letters("orders")] == ["bad"]


async def test_waiting_says_what_for(anyio_backend: str) -> None:
    seen = []

    async def third_time() -> bool:
        seen.append(1)
        return len(seen) == 3

    await wait_until(third_time)
    with pytest.raises(TimeoutError, match=r"After 0\.05 s still not: the moon\."):
        await wait_until(lambda: False, 0.05, what="the moon")


async def test_what_never_becomes_idle_is_an_error(settings: Settings, anyio_backend: str) -> None:
    app = App("stuck", to_scan=False, settings=settings)

    @app.agent("s", lease=0.2)
    async def handle(message: Message) -> None:
        raise Retry(after=60)

    async with TestApp(app) as test:
        await test.send("s", {"n": 1})
        with pytest.raises(TimeoutError, match="idle"):
            await test.wait_until_idle(timeout=1.0)
