"""Servers under test: processes over stdio, each with a private Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from streammachine.redis.embedded import EmbeddedServer
from support_mcp import RawClient
from support_servers import stop_embedded

DATABASE = 5  # of the run's shared Valkey; no other test uses it


@pytest.fixture
def server_env(shared_server: EmbeddedServer, tmp_path: Path) -> dict[str, str]:
    """The environment of a server on the run's shared Valkey; data directory of the test's own."""
    return {"REDIS_URL": f"{shared_server.url}?db={DATABASE}", "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}


@pytest.fixture
def private_env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a server with an embedded Valkey of its own; one that outlives the test is shut down."""
    yield {"STREAMMACHINE_EMBEDDED": "always", "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
    stop_embedded(tmp_path / "data")


@pytest.fixture(scope="session")
def running_server(shared_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawClient]:
    """One server process for the run, for tests that only call tools."""
    data_dir = str(tmp_path_factory.mktemp("server"))
    with RawClient(
        env={"REDIS_URL": f"{shared_server.url}?db={DATABASE}", "STREAMMACHINE_DATA_DIR": data_dir}
    ) as client:
        yield client


@pytest.fixture
def raw(running_server: RawClient, shared_server: EmbeddedServer) -> RawClient:
    """A raw legacy client of the run's server, its database emptied before the test."""
    with redis.Redis(unix_socket_path=str(shared_server.socket_path), db=DATABASE) as client:
        client.flushdb()
    return running_server
