"""The look for leaks (conftest.py) finds them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import redis as redis_py

from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from support.leaks import Leaks, check_server
from support.runtime import MakeApp
from support.servers import redis_at

pytestmark = pytest.mark.anyio


def test_a_socket_or_a_child_left_behind_is_found() -> None:
    leaks = Leaks()
    leaks.check_process(0.2)
    with socket.socket(), pytest.raises(AssertionError, match="no socket"):
        leaks.check_process(0.2)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        with pytest.raises(AssertionError, match="no child"):
            leaks.check_process(0.2)
        child.kill()
    leaks.check_process()


async def test_an_app_that_runs_is_found(make_app: MakeApp) -> None:
    app = make_app()

    @app.agent("s")
    async def handle(_: object) -> None: ...

    async with app:
        with pytest.raises(AssertionError, match="no socket"):
            Leaks.of_nothing().check_process(0.2)


@pytest.mark.parametrize("key", ["sm:lease", "{s}:dedup:a", "{sm:tick:app:t}:5", "sm:agents:lease:x", "{s}:retry"])
async def test_a_key_of_ours_without_end_is_found(
    redis: RedisConnection, shared_server: EmbeddedServer, key: str
) -> None:
    with redis_at(shared_server.url) as client:
        client.set(key, "1")
        with pytest.raises(AssertionError):
            check_server(client)
        client.expire(key, 100)
        check_server(client)


async def test_a_consumer_of_ours_is_found(redis: RedisConnection, shared_server: EmbeddedServer) -> None:
    with redis_at(shared_server.url) as client:
        keeps_what_it_should(client)
        client.xgroup_create("s", "g", mkstream=True)
        client.xgroup_createconsumer("s", "g", "dead-elsewhere-1-0123abcd")
        check_server(client)
        name = f"app-{socket.gethostname()}-{os.getpid()}-0123abcd"
        client.xgroup_createconsumer("s", "g", name)
        with pytest.raises(AssertionError, match=name):
            check_server(client)
        client.xgroup_delconsumer("s", "g", name)


def keeps_what_it_should(client: redis_py.Redis) -> None:
    for key in ("mine", "sm:storage", "{s}:dlq", "{s}:retry:g", "{s}:retry:g:due", "{s}:retry:g:mark", "{s}:state:g"):
        client.set(key, "1")
    check_server(client)
