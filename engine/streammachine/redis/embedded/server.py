"""The embedded Valkey: one server per user and data directory, shared by every process that needs it.

The rules (docs/decisions/01-embedded-server.md), and why they are so:

**Files.** The data directory (0700) holds ``valkey/`` (the append-only file), ``embedded.log``, the record
``embedded.json`` (socket, fsync, pid and that process's start time, since pids are reused), ``embedded.pid``, and three
files that are only locked, never written or deleted:

========================  ================================================================================
``start.lock``            held exclusively while anybody starts, adopts or stops the server
``holders.lock``          held shared by every process that uses the server
``server.lock``           held exclusively by the server process itself, which inherits it when it is started
========================  ================================================================================

**The kernel keeps the count.** A pid file or a counter goes wrong when a process is killed; an flock(2) is dropped by
the kernel with its last descriptor. So "does anybody still use the server" is whether ``holders.lock`` can be taken
exclusively, and "does a server still run on this data" is whether ``server.lock`` is held: two servers never write one
append-only file, even when the record is lost or the processes live in two containers. The server must inherit none
of the other locks, or it would count as its own user: descriptors are close-on-exec, and only ``server.lock`` is
passed on. (A rewrite of the append-only file runs in a child of the server and holds ``server.lock`` too: when the
server is killed in its midst, the next start waits for that child.)

**acquire.** Under ``start.lock``: lock ``holders.lock`` shared; a server that answers PING is adopted; one that is
still loading, or lives and is silent, is waited for until the deadline and then named in an error; where none lives,
the stale socket goes and a server is started. It is a daemon in a session of its own: nobody's child, so no exit,
terminal or Ctrl-C of ours reaches it. Adopting raises ``everysec`` to ``always`` when that is asked for, and never the
reverse.

**release.** Under ``start.lock``: try to turn the lock on ``holders.lock`` into an exclusive one. Where that fails
others remain. Else we were the last: SHUTDOWN, wait for the exit, remove socket and record. A process that exits
normally releases by itself. After kill -9 of the last holder the server stays, and the next ``acquire`` adopts it.

**ensure.** When the server itself was killed, every holder may notice. Under ``start.lock`` the first restarts it on
the same socket, the others find it answering and adopt it. With ``always`` every acknowledged write is in the
append-only file, and is there again.

**One process, many users.** All holds of one process on a directory share one lock on ``holders.lock`` and are
counted; a forked child has no part in its parent's hold. Everything here blocks; asynchronous callers use a thread.

**Where the socket is.** Environments of one user differ (a desktop session has XDG_RUNTIME_DIR, cron has not), so the
path in the record goes before the path that would be chosen now. Its folder must be ours, since otherwise another
user's server could stand in for ours.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import logging
import os
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import get_args
from urllib.parse import quote

from streammachine.errors import EmbeddedServerError, SettingsError
from streammachine.redis.embedded import process
from streammachine.redis.embedded.files import DataFiles, Deadline, FileLock, Record
from streammachine.redis.embedded.process import Fsync, ServerProcess, find_binary
from streammachine.redis.embedded.repair import mend_torn_end

__all__ = ["EmbeddedServer", "Fsync", "default_data_dir", "find_binary"]

RELEASE_TIMEOUT = 15.0

log = logging.getLogger(__name__)


def default_data_dir() -> Path:
    """The user's data directory for StreamMachine, by the platform's custom."""
    import platformdirs

    return Path(platformdirs.user_data_dir("streammachine", appauthor=False))


class EmbeddedServer:
    """A hold on the user's embedded server: while one is held, no other process shuts the server down.

    Get one from ``acquire`` or ``running`` and ``release`` it, or use it as a context manager. Safe to use from
    several threads. Every method blocks.
    """

    def __init__(self, hold: _Hold, server: ServerProcess, adopted: bool) -> None:
        self._hold = hold
        self._seen = server
        self._adopted = adopted
        self._owner = os.getpid()
        self._released = False

    @classmethod
    def acquire(
        cls,
        data_dir: Path | None = None,
        *,
        fsync: Fsync = "always",
        maxmemory: int | None = None,
        timeout: float = 10.0,
    ) -> EmbeddedServer:
        """Adopt the server of a data directory, or start it, and wait until it answers.

        Args:
            data_dir: None for ``default_data_dir()``. Created when missing, with mode 0700.
            fsync: "always": a write is on disk before it is acknowledged. "everysec" may lose the last seconds'
                acknowledged writes in a crash. A server that runs with "always" keeps it.
            maxmemory: bytes at which writes are refused, for a server that is started; None for a quarter of the
                memory. A running server keeps its own.
            timeout: seconds for all of it.

        Raises:
            EmbeddedServerError: no server could be had; the message says why and what to do.
            SettingsError: an argument is not accepted.
        """
        _check(fsync, maxmemory)
        deadline = Deadline(timeout)
        find_binary()
        files = DataFiles.at(data_dir or default_data_dir())
        files.prepare(tighten=data_dir is None)
        handle = _hold_on(files).join(fsync, maxmemory, deadline, may_start=True)
        assert handle is not None
        return handle

    @classmethod
    def running(
        cls, data_dir: Path | None = None, *, fsync: Fsync | None = None, timeout: float = 10.0
    ) -> EmbeddedServer | None:
        """Adopt the server of a data directory if one answers (or is loading its data); else None.

        Nothing is created or started. ``fsync="always"`` raises a server that runs with "everysec"; None leaves it.

        Raises:
            EmbeddedServerError: it is still loading after ``timeout`` seconds, or is not to be trusted.
        """
        _check(fsync or "always", None)
        files = DataFiles.at(data_dir or default_data_dir())
        if sys.platform == "win32" or not files.owned() or not files.start_lock.exists():
            return None
        return _hold_on(files).join(fsync or "everysec", None, Deadline(timeout), may_start=False)

    @property
    def url(self) -> str:
        """``unix://`` and the socket's path; unusual characters are percent-encoded."""
        return f"unix://{quote(str(self.socket_path))}"

    @property
    def socket_path(self) -> Path:
        return self._server.socket_path

    @property
    def pid(self) -> int:
        """The server's process id; another one after a restart."""
        return self._server.pid

    @property
    def data_dir(self) -> Path:
        return self._hold.files.root

    @property
    def log_path(self) -> Path:
        return self._hold.files.log

    @property
    def adopted(self) -> bool:
        """Whether the server was already there when this hold was taken."""
        return self._adopted

    @property
    def fsync(self) -> Fsync:
        """What the server really runs with."""
        return self._server.fsync

    @property
    def maxmemory(self) -> int:
        """The bytes at which the server refuses writes."""
        return self._server.maxmemory

    def alive(self) -> bool:
        """Whether the server's process, as last seen, still runs. Cheap: no connection is made."""
        return self._server.alive()

    def disk_problem(self, ended: bool = False) -> str:
        """What is wrong with the disk that the data stands on; "" when nothing is to be seen.

        Args:
            ended: the server has just broken a connection: its log is looked at too.
        """
        files = self._hold.files
        if found := files.full_disk():
            return found
        said = files.refused_write() if ended else ""
        return f"The embedded server could not write to {files.valkey}; its log says: {said}." if said else ""

    def ensure(self, timeout: float = 10.0) -> bool:
        """Bring the server back on the same path if it died.

        Returns:
            True if it is another process than this hold last saw, whoever restarted it.

        Raises:
            EmbeddedServerError: it could not be restarted, or this hold is released or its parent process's.
        """
        if self._released or self._owner != os.getpid():
            raise EmbeddedServerError(
                f"This hold on {self.data_dir} was released, or belongs to the process that forked this one. "
                "Call EmbeddedServer.acquire() for one of your own."
            )
        server = self._hold.ensure(Deadline(timeout))
        restarted = (server.pid, server.pid_start) != (self._seen.pid, self._seen.pid_start)
        self._seen = server
        return restarted

    def release(self) -> None:
        """Let go. The last holder of all shuts the server down and waits for its exit. Idempotent.

        In a forked child this does nothing: the hold is the parent's.

        Raises:
            EmbeddedServerError: the server could not be stopped, or ``start.lock`` was not to be had. The hold is
                given up all the same; the next ``acquire`` adopts a server that stayed.
        """
        if self._owner == os.getpid():
            self._hold.leave(self)

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<EmbeddedServer pid={self.pid} data_dir={str(self.data_dir)!r}{' released' * self._released}>"

    @property
    def _server(self) -> ServerProcess:
        return self._seen if self._released else self._hold.server or self._seen


class _Hold:
    """This process's hold on one data directory, shared by all its EmbeddedServer objects."""

    def __init__(self, files: DataFiles) -> None:
        self.files = files
        self.server: ServerProcess | None = None
        self.handles: set[EmbeddedServer] = set()
        self._threads = threading.Lock()
        self._holders = FileLock(files.holders_lock)

    def join(
        self, fsync: Fsync, maxmemory: int | None, deadline: Deadline, *, may_start: bool
    ) -> EmbeddedServer | None:
        """One more user; None if no server answers and none may be started."""
        with self._alone(deadline):
            if server := self._shared(fsync):
                return self._hand_out(server, adopted=True)
            with FileLock(self.files.start_lock).held(deadline), self._counted(deadline):
                if server := self._adopt(fsync, deadline, wait=may_start):
                    return self._hand_out(server, adopted=True)
                if may_start:
                    return self._hand_out(self._start(fsync, maxmemory, deadline), adopted=False)
                return None

    def ensure(self, deadline: Deadline) -> ServerProcess:
        """The living server, restarted as it was if need be."""
        with self._alone(deadline):
            assert self.server is not None
            if not self.server.alive():
                with FileLock(self.files.start_lock).held(deadline):
                    before = self.server
                    server = self._adopt(before.fsync, deadline, wait=True)
                    self.server = server or self._start(before.fsync, before.maxmemory, deadline)
            return self.server

    def leave(self, handle: EmbeddedServer) -> None:
        """One user less; the last one of the last process stops the server."""
        with self._threads:
            if handle not in self.handles:
                return
            self.handles.discard(handle)
            handle._seen, handle._released = self.server or handle._seen, True
            if self.handles:
                return
            # Somebody who deleted the data directory took the locks with it: nobody else can find this server.
            start_lock = FileLock(self.files.start_lock).held(Deadline(RELEASE_TIMEOUT))
            try:
                with start_lock if self.files.root.is_dir() else contextlib.nullcontext():
                    if self._holders.try_lock(exclusive=True):
                        self._stop()
            finally:
                self._holders.release()

    def _shared(self, fsync: Fsync) -> ServerProcess | None:
        """The server that this process holds already, if it lives and syncs as asked."""
        server = self.server
        if not self.handles or server is None or not server.alive():
            return None
        return server if fsync == "everysec" or server.fsync == "always" else None

    def _hand_out(self, server: ServerProcess, *, adopted: bool) -> EmbeddedServer:
        self.server = server
        handle = EmbeddedServer(self, server, adopted)
        self.handles.add(handle)
        return handle

    @contextlib.contextmanager
    def _alone(self, deadline: Deadline) -> Iterator[None]:
        if not self._threads.acquire(timeout=deadline.left()):
            raise EmbeddedServerError(
                f"Another thread of this process has been starting or stopping the embedded server "
                f"of {self.files.root} for {deadline.seconds:g} s. Try again."
            )
        try:
            yield
        finally:
            self._threads.release()

    @contextlib.contextmanager
    def _counted(self, deadline: Deadline) -> Iterator[None]:
        """Count this process among the holders, and not any longer if the block brought no user."""
        if not self.handles:
            self._holders.lock(exclusive=False, deadline=deadline)
        try:
            yield
        finally:
            if not self.handles:
                self._holders.release()

    def _adopt(self, fsync: Fsync, deadline: Deadline, *, wait: bool) -> ServerProcess | None:
        """The server that runs, once it answers; None if there is none.

        Raises:
            EmbeddedServerError: one lives, and is silent until the deadline (or only loading, if not to ``wait``).
        """
        while True:
            paths, loading = self._sockets(), None
            for path in paths:
                answer, _ = process.ping(path, deadline)
                if answer == "pong" and (server := process.describe(self.files, path)):
                    return self._adopted(server, fsync)
                if answer == "loading":
                    loading = path
            if loading is None and not (wait and self._a_server_lives()):
                return None
            if not deadline.pause():
                raise process.silent(self.files, loading or paths[0], deadline)

    def _adopted(self, server: ServerProcess, fsync: Fsync) -> ServerProcess:
        if fsync == "always" and server.fsync != "always":
            server = process.raise_fsync(server)
            log.info("The embedded server %d now runs with appendfsync always", server.pid)
        self._record(server)
        return server

    def _start(self, fsync: Fsync, maxmemory: int | None, deadline: Deadline) -> ServerProcess:
        path = self.files.default_socket()
        if self._others_hold(deadline):
            # They know the server by its path, and were promised what it ran with.
            path = self._sockets()[0]
            record = self.files.read_record()
            if "always" in (record and record.fsync, self.server and self.server.fsync):
                fsync = "always"
        size = maxmemory or process.default_maxmemory()
        try:
            server = self._launch(path, fsync, size, deadline)
        except process.StartFailedError:
            with FileLock(self.files.server_lock).held(deadline):
                mended = mend_torn_end(self.files, find_binary())
            if not mended:
                raise
            server = self._launch(path, fsync, size, deadline)
        log.info("Started the embedded server %d on %s, data in %s", server.pid, path, self.files.root)
        self._record(server)
        return server

    def _launch(self, path: Path, fsync: Fsync, maxmemory: int, deadline: Deadline) -> ServerProcess:
        lifeline = FileLock(self.files.server_lock)
        lifeline.lock(exclusive=True, deadline=deadline)
        try:
            return process.launch(self.files, path, fsync, maxmemory, lifeline, deadline)
        finally:
            lifeline.abandon()

    def _others_hold(self, deadline: Deadline) -> bool:
        """Whether the server that is about to be started has users already: it died under them."""
        alone = self._holders.try_lock(exclusive=True)
        self._holders.lock(exclusive=False, deadline=deadline)
        return not alone or bool(self.handles)

    def _stop(self) -> None:
        """Stop the server that runs now: the one last seen, or the one that another holder put in its place."""
        server = self.server
        assert server is not None
        record = self.files.read_record()
        if record and record.pid and record.pid_start:
            path = Path(record.socket)
            server = dataclasses.replace(server, pid=record.pid, pid_start=record.pid_start, socket_path=path)
        process.stop(self.files, server)
        log.info("Stopped the embedded server %d", server.pid)

    def _sockets(self) -> list[Path]:
        """Where the server may listen, the likeliest first."""
        known = [self.server.socket_path] if self.handles and self.server else []
        if record := self.files.read_record():
            known.append(Path(record.socket))
        return list(dict.fromkeys([*known, self.files.default_socket()]))

    def _a_server_lives(self) -> bool:
        lock = FileLock(self.files.server_lock)
        if lock.try_lock(exclusive=True):
            lock.release()
            return False
        return True

    def _record(self, server: ServerProcess) -> None:
        known = self.files.read_record()
        if known is None or (known.pid, known.pid_start, known.fsync) != (server.pid, server.pid_start, server.fsync):
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self.files.write_record(Record(str(server.socket_path), server.fsync, server.pid, server.pid_start, now))


# One entry per data directory that this process ever used: all its users must meet in one _Hold.
_holds: dict[Path, _Hold] = {}
_holds_guard = threading.Lock()


def _hold_on(files: DataFiles) -> _Hold:
    with _holds_guard:
        return _holds.setdefault(files.root, _Hold(files))


def _forget_the_parents_holds() -> None:
    """In a forked child: the holds are the parent's, and a lock may have been held by one of its threads."""
    global _holds_guard
    _holds_guard = threading.Lock()
    _holds.clear()


@atexit.register
def _release_all() -> None:
    for hold in list(_holds.values()):
        for handle in list(hold.handles):
            try:
                handle.release()
            except EmbeddedServerError as error:
                log.warning("At exit: %s", error)


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_the_parents_holds)


def _check(fsync: str, maxmemory: int | None) -> None:
    if fsync not in get_args(Fsync):
        raise SettingsError(f"fsync is {fsync!r}; accepted are {' and '.join(get_args(Fsync))}.")
    if maxmemory is not None and maxmemory <= 0:
        raise SettingsError(f"maxmemory is {maxmemory}; give a number of bytes above 0, or None for the default.")
