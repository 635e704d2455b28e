"""Which Redis is chosen, in which order, and what is said about it (docs/decisions/01-embedded-server.md)."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streammachine.errors import (
    EmbeddedServerError,
    RedisAuthError,
    RedisTimeoutError,
    RedisUnavailableError,
    SettingsError,
)
from streammachine.redis import host as host_module
from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.redis.target import Target, choose_target, probe
from streammachine.settings import Settings
from support.valkey import Valkey, free_port

Choose = Callable[..., Target]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="smt-") as folder:
        yield Path(folder)
        assert EmbeddedServer.running(Path(folder)) is None, "the test left an embedded server behind"


@pytest.fixture
def nowhere() -> tuple[str, int]:
    return "127.0.0.1", free_port()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A server that stands where localhost:6379 would."""
    with Valkey(tmp_path_factory.mktemp("local")) as server:
        yield "127.0.0.1", server.port


@pytest.fixture
def choose(data_dir: Path) -> Iterator[Choose]:
    """choose_target with the test's own data directory; what it chose is released after the test."""
    chosen: list[Target] = []

    def make(local: tuple[str, int], url: str | None = None, **settings: object) -> Target:
        target = choose_target(Settings(data_dir=data_dir, embedded_fsync="everysec", **settings), url, local=local)
        chosen.append(target)
        return target

    yield make
    for target in chosen:
        target.release()


# --- explicit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({"redis_url": "redis://:hunter2@example.com:7000/1"}, "redis://:***@example.com:7000/1"),
        ({"redis_host": "example.com"}, "redis://example.com:6379/0"),
        ({"redis_port": 7000}, "redis://localhost:7000/0"),
        ({"redis_db": 2}, "redis://localhost:6379/2"),
    ],
)
def test_a_redis_variable_goes_before_everything_that_runs(
    choose: Choose, local: tuple[str, int], data_dir: Path, settings: dict[str, object], url: str
) -> None:
    with EmbeddedServer.acquire(data_dir, fsync="everysec"):
        target = choose(local, **settings)
    assert (target.origin, target.url, target.embedded) == ("explicit", url, None)
    assert target.why == "a REDIS_ variable names it"
    assert "hunter2" not in repr(target)


def test_an_argument_goes_before_the_variables(choose: Choose, local: tuple[str, int]) -> None:
    target = choose(local, url="redis://:hunter2@other:7001", redis_url="redis://example.com", embedded="always")
    assert (target.origin, target.url, target.endpoint.host) == ("explicit", "redis://:***@other:7001", "other")
    assert target.why == "it was given as an argument"


@pytest.mark.parametrize("settings", [{"redis_url": "redis://h"}, {"redis_host": "h"}, {"redis_db": 0}])
def test_always_embedded_contradicts_a_named_server(
    choose: Choose, local: tuple[str, int], settings: dict[str, object]
) -> None:
    with pytest.raises(SettingsError, match="STREAMMACHINE_EMBEDDED=always contradicts the REDIS_ variables"):
        choose(local, embedded="always", **settings)


@pytest.mark.anyio
@pytest.mark.parametrize("given_as", ["url", "variable", "arguments"])
async def test_a_named_server_that_is_away_is_an_error_and_never_an_empty_server(
    data_dir: Path, nowhere: tuple[str, int], given_as: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "REVIVE_WAIT", 0.01)
    host, port = nowhere
    url = f"redis://:hunter2@{host}:{port}"
    if given_as == "arguments":
        named = RedisConnection(host, port, settings=Settings(data_dir=data_dir))
    elif given_as == "url":
        named = RedisConnection(url=url, settings=Settings(data_dir=data_dir))
    else:
        named = RedisConnection(settings=Settings(data_dir=data_dir, redis_url=url))
    with pytest.raises(RedisUnavailableError, match=r"cannot be reached.*Start it, or correct REDIS_URL") as caught:
        await named.open()
    assert f"{host}:{port}" in str(caught.value) and "hunter2" not in str(caught.value)
    assert not isinstance(caught.value, RedisTimeoutError)
    assert not any(data_dir.iterdir())  # noqa: ASYNC240 - a look at an empty folder


# --- nothing named --------------------------------------------------------------------------------------------------


def test_a_running_embedded_server_goes_before_localhost(
    choose: Choose, local: tuple[str, int], data_dir: Path
) -> None:
    with EmbeddedServer.acquire(data_dir, fsync="everysec") as running:
        target = choose(local)
        assert target.origin == "embedded"
        assert target.embedded is not None and target.embedded.pid == running.pid
        assert "was already running" in target.why
        target.release()


def test_a_server_on_localhost_goes_before_a_new_embedded_one(
    choose: Choose, local: tuple[str, int], data_dir: Path
) -> None:
    target = choose(local)
    assert (target.origin, target.embedded) == ("local", None)
    assert target.url == f"redis://{local[0]}:{local[1]}"
    assert target.why == f"a server answers on {local[0]}:{local[1]}"
    assert list(data_dir.iterdir()) == []


def test_else_an_embedded_server_is_started_and_the_last_one_out_stops_it(
    choose: Choose, nowhere: tuple[str, int]
) -> None:
    target = choose(nowhere)
    assert target.origin == "embedded" and target.embedded is not None
    assert target.embedded.alive() and not target.embedded.adopted
    assert f"no Redis answers on {nowhere[0]}:{nowhere[1]}" in target.why
    second = choose(nowhere)
    assert second.embedded is not None and second.embedded.pid == target.embedded.pid
    target.release()
    assert second.embedded.alive()
    second.release()
    assert not second.embedded.alive()


def test_a_local_server_that_wants_a_password_is_an_error_that_says_what_to_set(choose: Choose, tmp_path: Path) -> None:
    with Valkey(tmp_path / "locked", "--requirepass", "hunter2") as server, pytest.raises(RedisAuthError) as caught:
        choose(("127.0.0.1", server.port))
    assert f"Set REDIS_URL=redis://:PASSWORD@127.0.0.1:{server.port}" in str(caught.value)
    assert "STREAMMACHINE_EMBEDDED=always" in str(caught.value)


def test_always_takes_an_embedded_server_although_localhost_answers(choose: Choose, local: tuple[str, int]) -> None:
    target = choose(local, embedded="always")
    assert (target.origin, target.why) == ("embedded", "STREAMMACHINE_EMBEDDED=always")


def test_never_takes_localhost_although_an_embedded_server_runs(
    choose: Choose, local: tuple[str, int], data_dir: Path
) -> None:
    with EmbeddedServer.acquire(data_dir, fsync="everysec"):
        assert choose(local, embedded="never").origin == "local"


def test_never_and_nothing_there_is_an_error_that_says_what_to_do(
    choose: Choose, nowhere: tuple[str, int], data_dir: Path
) -> None:
    with pytest.raises(EmbeddedServerError, match=r"STREAMMACHINE_EMBEDDED=never forbids.*or set REDIS_URL"):
        choose(nowhere, embedded="never")
    assert list(data_dir.iterdir()) == []


# --- the probe ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("greeting", "verdict"),
    [
        (b"+PONG\r\n", "redis"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "redis"),
        (b"-NOAUTH Authentication required.\r\n", "auth"),
        (b"-ERR operation not permitted\r\n", "auth"),
        (b"HTTP/1.1 400 Bad Request\r\n", "none"),
        (b"", "none"),
        (None, "none"),
    ],
)
def test_the_probe_knows_a_redis_from_anything_else(greeting: bytes | None, verdict: str) -> None:
    """``None`` accepts and says nothing."""
    done = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            if greeting is None:
                done.wait(10)
            else:
                connection.recv(64)
                connection.sendall(greeting)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            assert probe("127.0.0.1", listener.getsockname()[1], timeout=5 if greeting is not None else 0.05) == verdict
        finally:
            done.set()
            thread.join(10)


def test_the_probe_finds_nobody_on_a_closed_port(nowhere: tuple[str, int]) -> None:
    assert probe(*nowhere) == "none"
