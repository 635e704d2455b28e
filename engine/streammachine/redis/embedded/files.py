"""What the embedded server keeps on disk: its paths, its locks, and the record of who runs.

The protocol that these serve is explained in ``embedded``. Nothing here starts or asks a server.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from streammachine.errors import EmbeddedServerError

# sun_path holds 104 bytes on macOS and the BSDs (108 on Linux), the terminating NUL included.
MAX_SOCKET_PATH = 103
OWN_FOLDER_SOCKET = "valkey.sock"
LOG_LIMIT = 5 * 1024 * 1024
PRIVATE_DIR = 0o700
PRIVATE_FILE = 0o600
LEAST_ROOM = 1024 * 1024  # bytes: a disk with less is called full
REFUSED_LATELY = 60.0  # seconds in which a refused write explains why the server ended
_LOG_TIME = re.compile(r"\d{2} \w{3} \d{4} \d{2}:\d{2}:\d{2}")  # local time, as the server logs it
# What the server logs when its disk takes no more; with "always" it ends then.
_WRITE_ERRORS = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "Short write while writing to the AOF",
    "Error writing to the AOF",
)


class Deadline:
    """A point in time until which something may be waited for, with growing pauses."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds
        self._pause = 0.002

    def left(self) -> float:
        """Seconds until the deadline, never negative."""
        return max(0.0, self._end - time.monotonic())

    def pause(self) -> bool:
        """Sleep for 2 ms, growing to 50 ms; False, at once, when the deadline has passed."""
        left = self.left()
        if not left:
            return False
        time.sleep(min(self._pause, left))
        self._pause = min(0.05, self._pause * 1.5)
        return True


class FileLock:
    """An flock(2) on a file, which is created when missing and never deleted.

    The kernel drops the lock when the last descriptor of this open file is gone, so a killed process leaves
    none behind. A forked child closes its copy at once (see ``_abandon_locks``): it shares the parent's open
    file, and would keep the parent's lock for as long as it lives.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        _locks.add(self)

    def fileno(self) -> int:
        """The locked file's descriptor, to be handed to a child on purpose (it is close-on-exec)."""
        if self._fd is None:
            raise ValueError(f"{self.path} is not locked")
        return self._fd

    def try_lock(self, *, exclusive: bool) -> bool:
        """Take the lock, or change the one held; False when another holds it (then nothing is held)."""
        import fcntl

        if self._fd is None:
            self._fd = self._open()
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            self.abandon()
            return False
        except OSError as error:
            self.abandon()
            raise EmbeddedServerError(
                f"The file system of {self.path} cannot lock files ({error.strerror}). "
                "Set STREAMMACHINE_DATA_DIR to a directory on a local disk, or REDIS_URL to use a Redis of your own."
            ) from error
        return True

    def lock(self, *, exclusive: bool, deadline: Deadline) -> None:
        """Wait for the lock; EmbeddedServerError, which names the file, when the deadline passes."""
        while not self.try_lock(exclusive=exclusive):
            if not deadline.pause():
                raise EmbeddedServerError(
                    f"Another process has held {self.path} for {deadline.seconds:g} s: it is starting or stopping the "
                    f"embedded server, or it hangs. Try again; `fuser {self.path}` (or lsof) names that process."
                )

    @contextlib.contextmanager
    def held(self, deadline: Deadline) -> Iterator[None]:
        """Hold the lock exclusively for the length of a block."""
        self.lock(exclusive=True, deadline=deadline)
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Unlock, also for those who inherited the descriptor, and close; harmless when not held."""
        import fcntl

        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            self.abandon()

    def abandon(self) -> None:
        """Close without unlocking: whoever inherited the descriptor keeps the lock."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        except OSError as error:
            raise _unusable(self.path.parent, error) from error


_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _abandon_locks() -> None:
    for lock in list(_locks):
        lock.abandon()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_abandon_locks)


@dataclass(frozen=True)
class Record:
    """``embedded.json``: the server that was started last in this data directory.

    It is written with no pid before the start, so that whoever comes after a starter that was killed half-way
    still knows the socket, and again once the server answers.
    """

    socket: str
    fsync: str
    pid: int | None = None
    pid_start: str | None = None
    started: str = ""


@dataclass(frozen=True)
class DataFiles:
    """The paths inside one data directory (absolute, symbolic links resolved)."""

    root: Path

    @classmethod
    def at(cls, data_dir: Path) -> DataFiles:
        """The files of a directory that need not exist."""
        return cls(Path(os.path.realpath(data_dir.expanduser())))

    @property
    def valkey(self) -> Path:
        return self.root / "valkey"

    @property
    def log(self) -> Path:
        return self.root / "embedded.log"

    @property
    def record(self) -> Path:
        return self.root / "embedded.json"

    @property
    def pid_file(self) -> Path:
        return self.root / "embedded.pid"

    @property
    def start_lock(self) -> Path:
        return self.root / "start.lock"

    @property
    def holders_lock(self) -> Path:
        return self.root / "holders.lock"

    @property
    def server_lock(self) -> Path:
        return self.root / "server.lock"

    def owned(self) -> bool:
        """Whether the directory exists and is this user's."""
        try:
            info = self.root.stat()
        except OSError:
            return False
        return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid()

    def prepare(self, *, tighten: bool) -> None:
        """Create the directory (0700) and ``valkey/`` in it, or check that an existing one is safe to use.

        ``tighten`` takes other users' rights off an existing directory. An empty one is always tightened; one
        with somebody's content is left alone (it may be a home or a project) unless others may write there.
        """
        root = self.root
        try:
            root.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
            info = root.stat()
            if info.st_uid != os.geteuid():
                raise EmbeddedServerError(
                    f"The data directory {root} belongs to user {info.st_uid}, this process runs as {os.geteuid()}. "
                    "Set STREAMMACHINE_DATA_DIR to a directory of your own."
                )
            if info.st_mode & 0o077 and (tighten or not any(root.iterdir())):
                root.chmod(PRIVATE_DIR)
            elif info.st_mode & 0o022:
                raise EmbeddedServerError(
                    f"Other users may write to the data directory {root} (mode {stat.S_IMODE(info.st_mode):04o}). "
                    f"Run `chmod 700 {root}`, or set STREAMMACHINE_DATA_DIR to a directory of its own."
                )
            if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(root))
            self.valkey.mkdir(mode=PRIVATE_DIR, exist_ok=True)
        except OSError as error:
            if isinstance(error, EmbeddedServerError):
                raise
            raise _unusable(root, error) from error

    def read_record(self) -> Record | None:
        """The record, or None when there is none or it cannot be understood (an older or broken one)."""
        try:
            found = json.loads(self.record.read_text("utf-8"))
            record = Record(**{name: found[name] for name in Record.__dataclass_fields__})
        except (OSError, ValueError, TypeError, KeyError):
            return None
        understood = isinstance(record.socket, str) and isinstance(record.pid, int | None)
        return record if understood else None

    def write_record(self, record: Record) -> None:
        """Replace the record in one step: a reader sees the old one or the new one."""
        draft = self.record.with_suffix(".json.new")
        try:
            draft.unlink(missing_ok=True)
            draft.touch(mode=PRIVATE_FILE)
            draft.write_text(json.dumps(asdict(record)), "utf-8")
            draft.replace(self.record)
        except OSError as error:
            raise _unusable(self.root, error) from error

    def rotate_log(self) -> None:
        """Move a log of more than 5 MB to ``embedded.log.1``; only while no server writes it."""
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > LOG_LIMIT:
                self.log.replace(self.log.with_name("embedded.log.1"))

    def open_log(self) -> int:
        """A descriptor that appends to the log."""
        try:
            return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE_FILE)
        except OSError as error:
            raise _unusable(self.root, error) from error

    def log_tail(self, since: int = 0, lines: int = 8) -> str:
        """The log's last lines, indented, from byte ``since`` on."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(since, log.seek(0, os.SEEK_END) - 8192))
                text = log.read().decode("utf-8", "replace")
        except OSError as error:
            return f"  (the log cannot be read: {error.strerror})"
        return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "  (the log is empty)"

    def full_disk(self) -> str:
        """What to say of the disk when it is full; "" while there is room."""
        try:
            found = os.statvfs(self.valkey)
        except OSError:
            return ""
        free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        if free >= LEAST_ROOM:
            return ""
        return (
            f"The disk of {self.valkey} is full ({free:,} of {size:,} bytes are free), so the embedded server cannot "
            "keep what is written. Free space there, or set STREAMMACHINE_DATA_DIR to another disk."
        )

    def refused_write(self) -> str:
        """The server's line of the last minute about a write that its disk did not take; "" when there is none."""
        for line in reversed(self.log_tail(lines=200).splitlines()):
            if any(words in line for words in _WRITE_ERRORS) and (stamp := _LOG_TIME.search(line)):
                with contextlib.suppress(ValueError):  # another locale's month
                    logged = time.mktime(time.strptime(stamp[0], "%d %b %Y %H:%M:%S"))
                    return line.strip() if time.time() - logged < REFUSED_LATELY else ""
        return ""

    def default_socket(self) -> Path:
        """Where this directory's server listens: the user's runtime directory, else a short temporary path.

        Two environments of one user may differ in XDG_RUNTIME_DIR or TMPDIR, so the record's path goes first.
        """
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        candidates = []
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        if runtime and _is_private_dir(Path(runtime)):
            candidates.append(Path(runtime) / "streammachine" / f"{digest}.sock")
        for temporary in (tempfile.gettempdir(), "/tmp"):
            candidates.append(Path(temporary) / f"sm-{os.geteuid()}-{digest}" / OWN_FOLDER_SOCKET)
        return next((path for path in candidates if len(os.fsencode(path)) <= MAX_SOCKET_PATH), candidates[-1])


def secure_folder(folder: Path, *, create: bool) -> bool:
    """Whether the socket's folder is there; EmbeddedServerError when another user could have put it there.

    The temporary directory is everybody's: a folder (or a symbolic link) that somebody else made under our name
    could hold a server that reads along, so it is refused and never followed.
    """
    try:
        if create:
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=PRIVATE_DIR)
        info = folder.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
            kind = "a symbolic link" if stat.S_ISLNK(info.st_mode) else f"not a folder of user {os.geteuid()}"
            raise EmbeddedServerError(
                f"{folder} is {kind}: the embedded server's socket is not put or looked for there, since another user "
                "could listen on it. Remove it, or set XDG_RUNTIME_DIR or TMPDIR to a directory of your own."
            )
        if info.st_mode & 0o077:
            folder.chmod(PRIVATE_DIR)
    except FileNotFoundError:
        if create:
            raise EmbeddedServerError(f"{folder.parent} does not exist. Set TMPDIR to a directory that does.") from None
        return False
    except OSError as error:
        if isinstance(error, EmbeddedServerError):
            raise
        raise EmbeddedServerError(
            f"The socket folder {folder} cannot be used ({error.strerror}). "
            "Set XDG_RUNTIME_DIR or TMPDIR to a directory that you may write."
        ) from error
    return True


def remove_socket(path: Path) -> None:
    """Delete a socket that nobody listens on; refuse to delete anything else."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise EmbeddedServerError(f"{path} is in the way: it is not a socket. Move it elsewhere.")
        path.unlink()


def remove_folder(path: Path) -> None:
    """Delete the folder of a removed socket, if it was made for this socket alone."""
    if path.name == OWN_FOLDER_SOCKET:
        with contextlib.suppress(OSError):
            path.parent.rmdir()


def _is_private_dir(path: Path) -> bool:
    try:
        info = path.stat()
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and os.access(path, os.W_OK | os.X_OK)


def _unusable(directory: Path, error: OSError) -> EmbeddedServerError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EmbeddedServerError(
            f"The disk of {directory} is full ({error.strerror}). Free space there, or set STREAMMACHINE_DATA_DIR to "
            "another disk."
        )
    return EmbeddedServerError(
        f"The data directory {directory} cannot be used ({error.strerror or error}). "
        "Set STREAMMACHINE_DATA_DIR to a directory that you may write."
    )
