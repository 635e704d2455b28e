"""Who gets in: no route without the token, nothing that another site asks for, no value as anything but text."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from streammachine.dashboard.access import LOOPBACK, Gate
from streammachine.dashboard.board import Dashboard
from streammachine.dashboard.web import ACTIONS, ASSETS, VIEWS, dashboard_app
from streammachine.redis.connection import RedisConnection

pytestmark = pytest.mark.anyio
TOKEN = "a-token-of-the-test"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def client_of(redis: RedisConnection, base: str = "http://localhost:8000", **options: Any) -> httpx2.AsyncClient:
    async def connect() -> RedisConnection:
        return redis

    async def live(_: Any) -> PlainTextResponse:
        return PlainTextResponse("alive")

    web = Starlette(routes=[Route("/livez", live), Mount("/", dashboard_app(Dashboard(connect, 1.0, **options)))])
    gate = Gate(web, TOKEN, LOOPBACK, ("/livez",))
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=gate), base_url=base)


async def test_no_route_answers_without_the_token(redis: RedisConnection) -> None:
    await redis.command("XADD", "secret", "*", "a", "1")
    paths = [
        "/",
        "/status",
        "/nothing",
        *(f"/assets/{name}" for name in ASSETS),
        *(f"/events/{view}" for view in VIEWS),
    ]
    async with client_of(redis) as client:
        for path in paths:
            for query in ("", "?token=wrong", "?token="):
                answer = await client.get(path + query)
                assert (answer.status_code, "secret" in answer.text) == (401, False), path
        for action in ACTIONS:
            answer = await client.post(f"/do/{action}", json={}, headers={"Sec-Fetch-Site": "same-origin"})
            assert answer.status_code == 401
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/", headers={"Cookie": "sm_dashboard_8000=wrong"})).status_code == 401
        assert (await client.get("/", headers={"Authorization": "Bearer wrong"})).status_code == 401


async def test_the_token_is_answered_with_a_cookie_that_is_not_the_token(redis: RedisConnection) -> None:
    async with client_of(redis) as client:
        answer = await client.get(f"/?token={TOKEN}&more=1")
        assert (answer.status_code, answer.headers["location"]) == (303, "./?more=1")
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie and TOKEN not in cookie
        page = await client.get("/")
        assert page.status_code == 200 and "<title>StreamMachine</title>" in page.text
        policy = page.headers["content-security-policy"]
        assert "script-src 'self'" in policy and "unsafe" not in policy and "http" not in policy
        assert page.headers["referrer-policy"] == "no-referrer"
        for name in ASSETS:
            assert (await client.get(f"/assets/{name}")).status_code == 200
        assert (await client.get("/assets/..%2Fweb.py")).status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9000"},
    ],
)
async def test_what_another_site_asks_for_is_refused_whatever_it_carries(
    redis: RedisConnection, headers: dict[str, str]
) -> None:
    async with client_of(redis) as client:
        await client.get(f"/?token={TOKEN}")
        for more in ({}, BEARER):
            assert (await client.get(f"/?token={TOKEN}", headers={**headers, **more})).status_code == 403
            assert (await client.get("/events/streams", headers={**headers, **more})).status_code == 403
            answer = await client.post("/do/purge", json={"stream": "s"}, headers={**headers, **more})
            assert answer.status_code == 403


async def test_a_form_of_an_old_browser_and_another_name_are_refused(redis: RedisConnection) -> None:
    async with client_of(redis) as client:
        await client.get(f"/?token={TOKEN}")
        assert (await client.post("/do/pause", json={"name": "x"})).status_code == 403  # nothing says whose page it is
        own = {"Origin": "http://localhost:8000"}
        assert (
            await client.post("/do/pause", content=b"{}", headers={**own, "Content-Type": "text/plain"})
        ).status_code == 400
        assert (await client.post("/do/pause", json={"name": "x"}, headers=own)).status_code == 400
        big = {"name": "x" * 70_000}
        assert (await client.post("/do/pause", json=big, headers=own)).status_code == 400
        assert (await client.post("/do/nothing", json={}, headers=own)).status_code == 404
    async with client_of(redis, "http://rebound.example:8000") as client:
        assert (await client.get(f"/?token={TOKEN}")).status_code == 421


async def test_read_only_refuses_every_action(redis: RedisConnection) -> None:
    async with client_of(redis, read_only=True) as client:
        for action in ACTIONS:
            answer = await client.post(f"/do/{action}", json={}, headers=BEARER)
            assert answer.status_code == 403 and "read-only" in answer.text


def test_nothing_of_it_is_imported_unless_it_is_on() -> None:
    code = (
        "import sys\n"
        "import streammachine_mcp.server, streammachine_mcp.entry, streammachine.cli.main\n"
        "from streammachine.runtime.app.app import App\n"
        "App('x', dashboard_enabled=False)\n"
        "ours = ('streammachine.dashboard', 'streammachine_mcp.dashboard')\n"
        "print([name for name in sys.modules if name.startswith(ours)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
