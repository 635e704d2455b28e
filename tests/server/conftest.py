"""Servers under test: processes over stdio, each with a private Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from streammachine.redis.embedded.server import EmbeddedServer
from support.mcp import RawClient
from support.servers import stop_embedded

DATABASE = 5  # of the run's shared Valkey; no other test uses it
HOSTING_DATABASE = 7  # likewise


@pytest.fixture
def server_env(shared_server: EmbeddedServer, tmp_path: Path) -> dict[str, str]:
    """The environment of a server on the run's shared Valkey; data directory of the test's own."""
    return {"REDIS_URL": f"{shared_server.url}?db={DATABASE}", "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}


@pytest.fixture
def hosting_env(server_env: dict[str, str]) -> dict[str, str]:
    """As ``server_env``, in a database that the run's server does not see: a server hosts the agents and runners of its
    database, whoever started them."""
    return {**server_env, "REDIS_URL": server_env["REDIS_URL"].replace(f"db={DATABASE}", f"db={HOSTING_DATABASE}")}


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
