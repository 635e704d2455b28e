"""Trade files as blocks of whole lines: plain, gzip, and the members of a zip."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from streammachine.errors import TickError

BLOCK: Final = 768 << 10  # bytes of lines that are read at once; of twice as many the memory is new pages each time
READ: Final = 192 << 10  # compressed bytes: about a block
LONGEST_LINE: Final = 1 << 20
AHEAD: Final = 2  # blocks that are made while one is worked on
_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"

T = TypeVar("T")
Read = Callable[[int], bytes]
Block = bytes | memoryview
Opened = tuple[Read, Callable[[], int]]
BAD_FILE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, struct.error)


@contextmanager
def members(path: Path) -> Iterator[list[tuple[str, Callable[[], Any]]]]:
    """The texts in a file: their names, and what opens one as ``with opened() as (read, tell)``; ``tell``: how many
    bytes of the file are used.

    Raises:
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    if path.suffix.lower() != ".zip":
        opened = _gzip if path.suffix.lower() == ".gz" else _plain
        yield [(path.name, lambda: opened(path))]
        return
    with zipfile.ZipFile(path) as archive:
        found = [
            info
            for info in archive.infolist()
            if info.filename.lower().endswith((".csv", ".txt")) and not info.filename.startswith("__MACOSX/")
        ]
        if not found:
            raise TickError(f"the zip holds no CSV, but {', '.join(archive.namelist()[:5]) or 'nothing'}")
        yield [(info.filename, partial(_member, archive, path, info)) for info in found]


def blocks(read: Read) -> Iterator[Block]:
    """What ``read`` gives, cut behind the end of a line; the last block may end without one. A line that two reads
    share is a block of its own, so that the others are not copied.

    Raises:
        TickError: a line is longer than a line of trades can be.
    """
    rest = b""
    while data := read(BLOCK):
        first, cut = data.find(b"\n") + 1, data.rfind(b"\n") + 1
        if cut == 0:
            rest += data
        else:
            if rest:
                yield rest + data[:first]
            else:
                first = 0
            if first < cut:
                yield memoryview(data)[first:cut]
            rest = data[cut:]
        if len(rest) > LONGEST_LINE:
            raise TickError(f"it has a line of more than {LONGEST_LINE:,} bytes")
    if rest:
        yield rest


@contextmanager
def ahead(items: Iterator[T]) -> Iterator[Iterator[T]]:
    """The same items, made in another thread while the one before is worked on."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="trade-file")
    waiting: deque[Future[T | None]] = deque()

    def taken() -> Iterator[T]:
        for _ in range(AHEAD):
            waiting.append(pool.submit(next, items, None))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, items, None))
            yield item

    try:
        yield taken()
    finally:
        for future in waiting:
            future.cancel()
        pool.shutdown(wait=True)


@contextmanager
def _plain(path: Path) -> Iterator[Opened]:
    with path.open("rb") as file:
        yield file.read, file.tell


@contextmanager
def _gzip(path: Path) -> Iterator[Opened]:
    with path.open("rb", buffering=0) as file:
        yield _inflated(file), file.tell


@contextmanager
def _member(archive: zipfile.ZipFile, path: Path, info: zipfile.ZipInfo) -> Iterator[Opened]:
    """A member of a zip: deflated ones as the gzip streams that they nearly are, others as ``zipfile`` reads them."""
    if info.compress_type != zipfile.ZIP_DEFLATED or info.flag_bits & 1:
        with archive.open(info) as member:
            yield member.read, lambda: 0
        return
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name, extra = struct.unpack("<26xHH", file.read(30))
        file.seek(name + extra, os.SEEK_CUR)
        trailer = struct.pack("<II", info.CRC, info.file_size & 0xFFFFFFFF)
        parts = _Parts(_GZIP_HEADER, file, info.compress_size, trailer)
        yield _inflated(parts), lambda: info.compress_size - parts.left


class _Parts(io.RawIOBase):
    """Bytes, then a part of a file, then bytes."""

    def __init__(self, head: bytes, file: IO[bytes], size: int, tail: bytes) -> None:
        self._head, self._file, self.left, self._tail = head, file, size, tail

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._head:
            found, self._head = self._head, b""
        elif self.left:
            found = self._file.read(min(size, self.left) if size > 0 else self.left)
            self.left -= len(found)
            if not found:
                raise EOFError("the zip ends too early")
        else:
            found, self._tail = self._tail, b""
        return found


def _zlib() -> Any:
    """What inflates: isal, which is three times as quick, where it is installed (the extra ``trades``)."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib


def _inflated(file: Any) -> Read:
    """A reader of a gzip file's text."""
    return _Inflating(file, _zlib()).read


class _Inflating:
    """A gzip file of any number of members; each is checked against its checksum."""

    def __init__(self, file: Any, library: Any) -> None:
        self._file = file
        self._library = library
        self._made = library.decompressobj(31)
        self._data = b""
        self._begun = False

    def read(self, size: int) -> bytes:
        """Some of the text, ``size`` bytes at most; empty at its end."""
        while True:
            if not self._data:
                self._data = self._file.read(READ)
                if not self._data:
                    if self._begun and not self._made.eof:
                        raise EOFError("it ends too early")
                    return b""
            if self._made.eof:
                self._made = self._library.decompressobj(31)
            self._begun = True
            try:
                found: bytes = self._made.decompress(self._data, size)
            except self._library.error as error:
                raise EOFError(f"it is damaged: {error}") from error
            self._data = self._made.unconsumed_tail or self._made.unused_data
            if found:
                return found
