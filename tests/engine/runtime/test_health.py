"""health_check and the status page."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from starlette.applications import Starlette

from streammachine.redis.connection import RedisConnection
from streammachine.runtime.app.app import App
from streammachine.runtime.consumer import facts as consumer_facts
from streammachine.runtime.delivery.gauges import group_gauges
from streammachine.runtime.model.message import Message
from streammachine.runtime.observability.status_page import status_routes
from streammachine.settings import Settings
from support.proxy import Proxy
from support.runtime import MakeApp, Probe
from support.servers import free_port
from support.valkey import until

pytestmark = pytest.mark.anyio
EVIL = "<img src=x>"


async def test_an_app_that_does_not_run_is_not_healthy(make_app: MakeApp) -> None:
    app = make_app()
    found = await app.health_check()
    assert (found["status"], found["redis"]) == ("degraded", "connected")
    assert "not running" in found["problems"][0]
    await app.redis.close()


async def test_a_running_app_tells_what_it_does(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    gate = anyio.Event()

    @app.agent("s", concurrency=2)
    async def handle(message: Message) -> None:
        await gate.wait()

    @app.timer(1000)
    async def tick() -> None: ...

    async with app:
        await app.send_batch("s", [{"n": 1}, {"n": 2}, {"n": 3}])
        await until(lambda: app.consumers[0][1].active == 2)
        found = await app.health_check()
        gate.set()
        await until(lambda: probe.done("s", 3))
    assert found["status"] == "healthy"
    wanted = {"redis": "connected", "active_tasks": 2, "registered_agents": 1, "registered_timers": 1}
    assert {key: found[key] for key in wanted} == wanted
    (consumer,) = found["consumers"]
    assert (consumer["stream"], consumer["in_flight"], consumer["held"]) == ("s", 2, 3)


async def test_a_consumer_that_does_not_read_is_stuck_though_redis_answers(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(grace=0.1)

    @app.agent("s")
    async def handle(message: Message) -> None: ...

    async def never(*_: Any) -> list[Any]:
        await anyio.sleep_forever()
        return []

    async with app:
        assert (await app.health_check())["status"] == "healthy"
        monkeypatch.setattr(consumer_facts, "STALE_POLL", 0.2)
        consumer = app.consumers[0][1]
        consumer.delivery.read = never  # type: ignore[method-assign]

        async def stuck() -> bool:
            found = await app.health_check()
            return bool(found["redis"] == "connected" and "stands still" in str(found["problems"]))

        await until(stuck)


async def test_a_handler_that_never_ends_is_told(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_facts, "STALE_HANDLER", 0.1)
    app = make_app(grace=0.1)

    @app.agent("s", lease=0.1)
    async def handle(message: Message) -> None:
        await anyio.sleep_forever()

    async with app:
        await app.send_batch("s", [{"n": 1}, {"n": 2}])

        async def told() -> bool:
            return "finished nothing" in str((await app.health_check())["problems"])

        await until(told)


async def test_redis_away_is_degraded_and_comes_back(settings: Settings, redis: RedisConnection) -> None:
    assert redis.target is not None
    async with Proxy(Path(str(redis.target.endpoint.path))) as proxy:
        app = App("proxied", to_scan=False, settings=settings, redis_url=proxy.url)

        @app.agent("s")
        async def handle(message: Message) -> None: ...

        async with app:
            assert (await app.health_check())["status"] == "healthy"
            await proxy.refuse()
            proxy.reset()

            async def away() -> bool:
                found = await app.health_check()
                return bool(found["status"] == "degraded" and found["redis"] == "disconnected")

            await until(away)
            await proxy.listen()

            async def back() -> bool:
                return bool((await app.health_check())["status"] == "healthy")

            await until(back)


async def test_gauges_of_a_group(redis: RedisConnection, probe: Probe) -> None:
    assert await group_gauges(redis, "missing", "g") == {}
    for number in range(5):
        await probe.ask("XADD", "s", f"{1_700_000_000_000 + number}-0", "n", number)
    await probe.ask("XGROUP", "CREATE", "s", "g", "0")
    assert await group_gauges(redis, "s", "other") == {}
    await probe.ask("XREADGROUP", "GROUP", "g", "c", "COUNT", 2, "STREAMS", "s", ">")
    found = await group_gauges(redis, "s", "g")
    assert (found["lag"], found["pending"]) == (3, 2)
    assert found["oldest_pending_seconds"] > 1e6
    await probe.ask("XDEL", "s", f"{1_700_000_000_003}-0")  # now the server does not know the lag
    assert (await group_gauges(redis, "s", "g"))["lag"] == 2


async def test_the_status_pages_routes(make_app: MakeApp, probe: Probe) -> None:
    app = make_app(EVIL)

    @app.agent(EVIL, group=EVIL)
    async def handle(message: Message) -> None: ...

    @app.timer(1000)
    async def tick() -> None: ...

    transport = httpx2.ASGITransport(app=Starlette(routes=status_routes(app)))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/readyz")).status_code == 503
        async with app:
            await app.send(EVIL, {"n": 1})
            await until(lambda: probe.done(EVIL, 1, EVIL))
            page = await client.get("/status")
            assert page.status_code == 200
            assert EVIL not in page.text
            assert "&lt;img src=x&gt;" in page.text
            assert "default-src 'none'" in page.headers["content-security-policy"]
            assert "tick" in page.text
            live = await client.get("/livez")
            assert (live.status_code, live.json()) == (200, {"alive": True, "stalled": []})
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (200, "healthy")
            metrics = await client.get("/metrics")
            assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert "streammachine_consumed_total" in metrics.text
            assert (await client.get("/other")).status_code == 404


async def test_the_status_page_is_served_on_loopback_and_closed_at_the_end(make_app: MakeApp) -> None:
    port = free_port()
    app = make_app(dashboard_enabled=True, dashboard_port=port, dashboard_host="127.0.0.1")

    async with app:
        await until(lambda: listens(port))
        async with httpx2.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/livez")).status_code == 200
    assert not listens(port)


async def test_the_dashboard_of_an_app_that_is_read_only_refuses_its_actions(
    redis: RedisConnection, settings: Settings
) -> None:
    port, token = free_port(), "a-token-of-the-test"
    app = App(
        "kept", to_scan=False, settings=settings.model_copy(update={"read_only": True}), dashboard_enabled=True,
        dashboard_port=port, dashboard_host="127.0.0.1", dashboard_token=token,
    )  # fmt: skip
    async with app, httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await until(lambda: listens(port))
        answer = await client.post("/do/pause", json={}, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 403 and "read-only" in answer.text


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


async def test_a_taken_port_does_not_end_the_app(make_app: MakeApp) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        app = make_app(dashboard_enabled=True, dashboard_port=port, dashboard_host="127.0.0.1")
        async with app:
            await until(lambda: app.restarts >= 1)
            assert (await app.health_check())["redis"] == "connected"
