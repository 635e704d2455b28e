"""What the runtime's tests share: Apps on the shared Valkey, and scripts that run as processes of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.runtime.app.app import App
from streammachine.settings import Settings
from support.leaks import Leaks, check_server
from support.runtime import MakeApp, Probe, Script
from support.servers import redis_at


@pytest.fixture(autouse=True)
def leaves_nothing(shared_server: EmbeddedServer, request: pytest.FixtureRequest) -> Iterator[None]:
    """Set up first and so torn down last: by then the test's loop and connections have ended."""
    leaks = Leaks()
    yield
    leaks.check_process()
    if "redis" in request.fixturenames:  # which empties the server before the test
        with redis_at(shared_server.url) as client:
            check_server(client)


@pytest.fixture
def make_app(redis: RedisConnection, settings: Settings) -> MakeApp:
    """Makes Apps on the shared server, which is empty when the test begins."""

    def make(name: str = "test", *, count: int = 10, **options: Any) -> App:
        return App(name, to_scan=False, settings=settings.model_copy(update={"count": count}), **options)

    return make


@pytest.fixture
def script(redis: RedisConnection, settings: Settings, tmp_path: Path) -> Iterator[Callable[..., Script]]:
    """Writes a script on the shared server; whatever of it still runs at the test's end is killed."""
    made: list[Script] = []

    def make(body: str, name: str = "script") -> Script:
        assert settings.redis_url is not None
        made.append(Script(tmp_path, settings.redis_url.get_secret_value(), body, name))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
async def probe(redis: RedisConnection, anyio_backend: str) -> AsyncIterator[Probe]:
    yield Probe(redis)
