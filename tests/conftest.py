"""What all tests share: a private embedded Valkey, never the user's Redis, and an environment without its settings."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.settings import Settings

# What the tests themselves are told: where recorded data is, and how many of ccxt's scripts are run.
_OF_TESTS = ("STREAMMACHINE_SHARED_DATA", "STREAMMACHINE_BRIDGE_SCRIPTS")
for _name in [name for name in os.environ if name.startswith(("REDIS_", "STREAMMACHINE_"))]:
    if _name not in _OF_TESTS:
        del os.environ[_name]

# A shell starts what runs in the background with SIGINT ignored, and children inherit that: no Ctrl-C would arrive.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One Valkey for the whole run. Tests that kill a server start their own."""
    with EmbeddedServer.acquire(tmp_path_factory.mktemp("valkey"), fsync="everysec") as server:
        yield server


@pytest.fixture
def settings(shared_server: EmbeddedServer, tmp_path: Path) -> Settings:
    """Settings that name the shared server; signing key and data in the test's own folder."""
    return Settings(redis_url=shared_server.url, data_dir=tmp_path / "data")


@pytest.fixture
async def redis(settings: Settings, anyio_backend: str) -> AsyncIterator[RedisConnection]:
    """A connection to the shared server, emptied before the test."""
    async with RedisConnection(settings=settings) as connection:
        await connection.run(lambda client: client.flushall())
        yield connection
