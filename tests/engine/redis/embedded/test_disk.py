"""The embedded server's disk: full, or with what a power cut leaves at the end of the append-only file."""

from __future__ import annotations

import logging
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streammachine.errors import EmbeddedServerError, RedisDiskError, RedisUnavailableError
from streammachine.redis import streams
from streammachine.redis.condition import condition_of
from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.files import DataFiles
from streammachine.redis.embedded.process import ask
from streammachine.redis.embedded.server import EmbeddedServer, Fsync
from streammachine.runtime.app.app import App
from streammachine.settings import Settings
from support.mcp import RawClient, ToolFailure
from support.servers import stop_embedded
from support.valkey import until

pytestmark = pytest.mark.timeout(120)
SIZE = 4 * 1024 * 1024
ROW = "x" * 50_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A data directory on a disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs", str(folder)],
            capture_output=True,
            check=False,
        ).returncode
    ):
        pytest.skip("a small disk needs the right to mount a tmpfs (root)")
    try:
        yield folder / "data"
    finally:
        stop_embedded(folder / "data")
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(data_dir: Path) -> Path:
    """Take the room that is left, but for some bytes."""
    ballast = data_dir.parent / "ballast"
    room = shutil.disk_usage(data_dir).free
    ballast.write_bytes(b"x" * (room - 100_000))
    return ballast


@pytest.mark.anyio
@pytest.mark.parametrize("fsync", ["always", "everysec"])
async def test_a_full_disk_is_named_by_the_error_and_by_health(fsync: Fsync, small_disk: Path) -> None:
    settings = Settings(embedded="always", data_dir=small_disk, embedded_fsync=fsync)
    async with RedisConnection(settings=settings) as connection:
        await streams.append(connection, "s", {"a": 1})
        assert not (await condition_of(connection)).problem
        ballast = fill(small_disk)

        async def refused() -> RedisUnavailableError | None:
            try:
                await streams.append(connection, "s", {"a": ROW})
            except RedisDiskError as error:
                return error
            return None

        error = await until(refused)
        assert f"The disk of {small_disk}" in str(error) and "is full" in str(error)
        assert "set STREAMMACHINE_DATA_DIR to another disk" in str(error)

        async def named() -> bool:
            return f"The disk of {small_disk}" in (await condition_of(connection)).problem

        await until(named)
        ballast.unlink()

        async def well() -> bool:
            found = await condition_of(connection)
            return found.connected and not found.problem

        await until(well)
        await streams.append(connection, "s", {"a": ROW})
        assert (await streams.read_newest(connection, "s", 1))[0].raw[b"a"] == ROW.encode()


@pytest.mark.anyio
async def test_an_app_on_a_full_disk_says_so(small_disk: Path) -> None:
    app = App("full", to_scan=False, settings=Settings(embedded="always", data_dir=small_disk))
    async with app:
        fill(small_disk)

        async def refused() -> bool:
            try:
                await app.send("s", {"a": ROW})
            except RedisDiskError as error:
                return "is full" in str(error)
            return False

        await until(refused)

        async def named() -> bool:
            return any("is full" in problem for problem in (await app.health_check())["problems"])

        await until(named)


def test_the_mcp_server_on_a_full_disk_says_so(small_disk: Path) -> None:
    env = {"STREAMMACHINE_EMBEDDED": "always", "STREAMMACHINE_DATA_DIR": str(small_disk)}
    with RawClient(env=env) as client:
        client.call("stream_send", stream="s", message={"a": "1"})
        ballast = fill(small_disk)
        with pytest.raises(ToolFailure, match=r"The disk of .* is full"):
            for _ in range(10):
                client.call("stream_send", stream="s", message={"a": ROW})
        health = client.call("health_check")
        assert health["status"] in ("degraded", "unhealthy")
        assert "is full" in health["problem"]
        ballast.unlink()


def test_a_start_on_a_full_disk_names_it(small_disk: Path) -> None:
    small_disk.mkdir(mode=0o700)
    ballast = small_disk.parent / "ballast"
    ballast.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 4096))
    with pytest.raises(EmbeddedServerError, match=r"The disk of .* is full"):
        EmbeddedServer.acquire(small_disk)
    ballast.unlink()
    EmbeddedServer.acquire(small_disk).release()


def test_a_refused_write_in_the_log_explains_an_end_for_a_minute(tmp_path: Path) -> None:
    """A quota or a limit of the file's size shows in the log alone: the disk as a whole has room."""
    files = DataFiles.at(tmp_path)
    now = time.time()
    for age, found in ((300, False), (2, True)):
        stamp = time.strftime("%d %b %Y %H:%M:%S", time.localtime(now - age))
        with files.log.open("a") as log:
            log.write(
                f"77:M {stamp}.903 # Error writing to the AOF file: Disk quota exceeded\n77:M {stamp}.904 # Exiting\n"
            )
        assert ("Disk quota exceeded" in files.refused_write()) is found


# --- the end of the append-only file ---------------------------------------------------------------------------------


def written(data_dir: Path) -> Path:
    """Fifty entries and then two keys in one transaction; gives the append-only file."""
    with EmbeddedServer.acquire(data_dir) as server:
        for number in range(50):
            ask(server.socket_path, "XADD", "s", "*", "n", str(number))
        ask(server.socket_path, "EVAL", 'redis.call("SET", "a", "1") redis.call("SET", "b", "1")', "0")
    (path,) = (data_dir / "valkey" / "appendonlydir").glob("*.incr.aof")
    return path


@pytest.mark.parametrize(
    ("cut", "entries", "keys"),
    [
        (0, 50, 1),  # nothing is missing, zeros follow
        (3, 50, 0),  # the transaction has no whole EXEC
        (70, 50, 0),  # nor a second SET
        (130, 49, 0),  # the last entry is unfinished
    ],
)
def test_zeros_behind_an_unfinished_write_are_cut_off_and_a_copy_is_kept(
    cut: int, entries: int, keys: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path / "data")
    whole = path.read_bytes()
    torn = whole[: len(whole) - cut] + bytes(5000)
    path.write_bytes(torn)
    with EmbeddedServer.acquire(tmp_path / "data") as server:
        assert ask(server.socket_path, "XLEN", "s") == entries
        assert ask(server.socket_path, "EXISTS", "a") == ask(server.socket_path, "EXISTS", "b") == keys
    (copy,) = (tmp_path / "data").glob("*.torn")
    assert copy.read_bytes() == torn
    assert copy.stat().st_mode & 0o077 == 0
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "valkey-check-aof --fix" in record.getMessage() and str(copy) in record.getMessage()


def test_what_follows_rubbish_in_the_middle_is_kept_and_the_command_that_cuts_it_runs_here(tmp_path: Path) -> None:
    path = written(tmp_path / "data")
    whole = path.read_bytes()
    start = whole.index(b"XADD", 1500)
    bad = whole[:start] + bytes(6) + whole[start + 6 :] + bytes(100)
    path.write_bytes(bad)
    with pytest.raises(EmbeddedServerError) as caught:
        EmbeddedServer.acquire(tmp_path / "data")
    assert path.read_bytes() == bad
    assert not list((tmp_path / "data").glob("*.torn"))
    text = str(caught.value)
    command = text[text.index("bash -c") : text.index(" . Its log")]
    done = subprocess.run(command, shell=True, input=b"y\n", capture_output=True, check=False)
    assert b"Successfully truncated" in done.stdout, done
    with EmbeddedServer.acquire(tmp_path / "data") as server:
        assert 0 < ask(server.socket_path, "XLEN", "s") < 50
