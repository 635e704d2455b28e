"""The torn end of an append-only file: found, copied, and cut as Valkey's own tool cuts it.

After a power cut a file system may leave the last write unfinished, with zeros where its rest should be. Valkey mends
an unfinished command by itself (aof-load-truncated) and refuses zeros. Neither was acknowledged, so both may go.
Anything else that is unreadable stays as it is: what stands behind it was acknowledged.

valkey-check-aof is no program of its own: valkey-server is it when it is called by that name. It is given the one file
that a server was writing (the last in the manifest), since of a manifest 9.1 takes the base file for broken.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from streammachine.redis.embedded.files import PRIVATE_FILE, DataFiles

TOOL = "valkey-check-aof"
TOOL_TIMEOUT = 120.0  # seconds; it reads about 1 GB in ten
LONGEST_END = 64 * 1024 * 1024  # bytes of an unfinished write that are looked at
_GOOD = re.compile(rb"ok_up_to=(\d+)")
_LAST = re.compile(r"^file (\S+) .*\btype i\b", re.MULTILINE)

log = logging.getLogger(__name__)


def mend_torn_end(files: DataFiles, binary: Path) -> bool:
    """Cut an unfinished write that ends in zeros off the append-only file; whether that was the trouble.

    The file as it was is kept beside the folder, and the log says where. Callers hold ``server.lock``: nobody writes.
    """
    path = last_file(files)
    if path is None or not _ends_in_zeros(path):
        return False
    good = _check(binary, path)
    if good is None or not _is_unfinished(path, good):
        return False
    size = path.stat().st_size
    copy = files.root / f"{path.name}.{datetime.now(UTC):%Y%m%dT%H%M%S}.torn"
    try:
        shutil.copyfile(path, copy)
        copy.chmod(PRIVATE_FILE)
    except OSError as error:
        log.warning("%s is not mended: no copy of it can be kept (%s)", path, error)
        return False
    if _check(binary, path, "--fix") != good or path.stat().st_size != good:
        return False
    log.warning(
        "The append-only file %s ended in an unfinished write and zeros, as a power cut leaves it; the last %d of its "
        "%d bytes were cut off by %s --fix. The file as it was is kept as %s",
        path, size - good, size, TOOL, copy,
    )  # fmt: skip
    return True


def repair_command(files: DataFiles, binary: Path) -> str:
    """The command that cuts the append-only file off at its first unreadable place; "" when it cannot be told."""
    path = last_file(files)
    if path is None:
        return ""
    inner = f"exec -a {TOOL} {shlex.quote(str(binary))} --fix {shlex.quote(str(path))}"
    return f"bash -c {shlex.quote(inner)}"


def last_file(files: DataFiles) -> Path | None:
    """The file that the server was writing: the last increment that the manifest names."""
    folder = files.valkey / "appendonlydir"
    try:
        names = _LAST.findall((folder / "appendonly.aof.manifest").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    path = folder / names[-1] if names else None
    return path if path is not None and path.is_file() else None


def _ends_in_zeros(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\0"


def _check(binary: Path, path: Path, *options: str) -> int | None:
    """How many bytes of the file the tool finds good."""
    try:
        done = subprocess.run(
            [TOOL, *options, str(path)],
            executable=binary,
            input=b"y\n",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TOOL_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("%s cannot be run on %s: %s", TOOL, path, error)
        return None
    found = _GOOD.findall(done.stdout)
    return int(found[-1]) if found else None


def _is_unfinished(path: Path, good: int) -> bool:
    """Whether nothing but zeros and the beginning of one write (a command, or MULTI without its EXEC) follows."""
    from streammachine.redis.transport.codec import NEED_MORE, ProtocolError, ReplyParser

    with path.open("rb") as file:
        file.seek(good)
        end = file.read(LONGEST_END).rstrip(b"\0")
        while more := file.read(1024 * 1024):
            if more.strip(b"\0"):
                return False
    parser = ReplyParser()
    begun = False
    try:
        parser.feed(end)
        while (command := parser.get()) is not NEED_MORE:
            if not begun and command != [b"MULTI"]:
                return False
            begun = True
    except ProtocolError:
        return False
    return True
