"""A file of raw frames: what an exchange sent over its sockets, when it came, and the REST answers beside it.

It is JSON, one line each: first an object that says what was streamed, then arrays whose first part tells what they
are. Times are epoch milliseconds by the clock of whoever recorded.

    ["o", ms, number, key]        a connection was opened; the key names its first stream
    ["n", ms, key, reason]        one could not be opened
    ["f", ms, number, text]       a frame came        ["b", ms, number, base64]  one that is no UTF-8
    ["x", ms, number]             a connection ended
    ["r", ms, path, query, text]  REST answered
    ["e", ms]                     the recording was alive then

No address, no header and nothing that we send is in it, so no login or key can be. The name's ending says how it is
packed: ``.zst`` (Python 3.14's own module, else the package zstandard), ``.gz``, or anything else for plain text. About
once a second what is packed so far is written, so a file that was cut off by a kill can be read up to there.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from streammachine.errors import DataInputError

VERSION: Final = 1
FLUSH_EVERY: Final = 1.0  # seconds, real ones
CHUNK: Final = 1 << 16  # bytes that are written at once
READ: Final = 1 << 12  # bytes that are read at once: whoever made the file, they unpack to no more than 128 MB
LONGEST_LINE: Final = 1 << 27  # bytes; a REST answer of 64 MB, escaped
MOST_BYTES: Final = 4 << 30  # of a file; then the recording ends
_FORMS: Final[dict[str, list[type]]] = {  # what stands behind the kind of each
    "o": [int, int, str],
    "n": [int, str, str],
    "f": [int, int, str],
    "b": [int, int, str],
    "x": [int, int],
    "r": [int, str, dict, str],
    "e": [int],
}


@dataclass(frozen=True)
class FramesHeader:
    """What was streamed: the arguments of a runner that plays it."""

    exchange: str
    market_type: str
    type: str
    symbols: tuple[str, ...]
    timeframe: str | None
    aggregate_list: tuple[str, ...]
    began: int


class _Packer(Protocol):
    def pack(self, data: bytes) -> bytes: ...
    def flush(self) -> bytes: ...
    def end(self) -> bytes: ...


class FrameWriter:
    """Writes a recording. Each method notes one event that has just happened; once it can take no more, nothing does.

    Attributes:
        problem: why it takes no more: the disk is full, or the file as large as it may be; empty as long as it does.
        on_end: called when that happens.

    Raises:
        DataInputError: the file is there already, cannot be written, or its packing needs a library that is missing.
    """

    def __init__(self, path: Path, header: FramesHeader, *, most_bytes: int = MOST_BYTES) -> None:
        self.path = path
        self._packer = _packer(path)
        try:
            self._file: BinaryIO | None = path.open("xb", buffering=0)
        except FileExistsError:
            raise DataInputError(f"{path} is there already: give another name, or remove it") from None
        except OSError as error:
            raise DataInputError(f"{path} cannot be written: {error.strerror}") from None
        self._most = most_bytes
        self._size = 0
        self._flushed = time.monotonic()
        self._buffer = bytearray()
        self.problem = ""
        self.on_end: Callable[[], None] = _nothing
        self._line({"streammachine_frames": VERSION, **asdict(header)})
        self.flush()

    def opened(self, ms: int, number: int, key: str) -> None:
        """A connection was opened."""
        self._line(["o", ms, number, key])

    def not_opened(self, ms: int, key: str, reason: str) -> None:
        """A connection could not be opened."""
        self._line(["n", ms, key, reason])

    def frame(self, ms: int, number: int, frame: bytes) -> None:
        """A frame came."""
        try:
            self._line(["f", ms, number, frame.decode()])
        except UnicodeDecodeError:
            self._line(["b", ms, number, base64.b64encode(frame).decode()])

    def closed(self, ms: int, number: int) -> None:
        """A connection ended."""
        self._line(["x", ms, number])

    def answer(self, ms: int, path: str, query: Mapping[str, str], body: bytes) -> None:
        """REST answered."""
        self._line(["r", ms, path, dict(query), body.decode("utf-8", "replace")])

    def alive(self, ms: int) -> None:
        """Nothing else to say."""
        self._line(["e", ms])

    def close(self) -> None:
        """Write the rest."""
        file, self._file = self._file, None
        if file is not None:
            with file:
                self._write(file, bytes(self._buffer) + self._packer.end())

    def flush(self) -> None:
        """Write what is packed so far, so that a kill loses none of it."""
        self._flushed = time.monotonic()
        if self._file is not None:
            data = bytes(self._buffer) + self._packer.flush()
            self._buffer.clear()
            self._size += len(data)
            self._write(self._file, data)
            if self._size > self._most:
                self._end(f"it has {self._size:,} bytes, and {self._most:,} are the most")

    def _write(self, file: BinaryIO, data: bytes) -> None:
        """Never raises: whoever receives a frame has nothing to do with the disk."""
        try:
            _write_all(file, data)
        except OSError as error:
            self._file = None
            file.close()
            self._end(f"it cannot be written: {error.strerror}")

    def _end(self, reason: str) -> None:
        if not self.problem:
            self.problem = f"the recording {self.path} has ended, for {reason}"
            self.on_end()

    def _line(self, values: object) -> None:
        if self._file is None or self.problem:
            return
        self._buffer += self._packer.pack(json.dumps(values, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        if len(self._buffer) >= CHUNK or time.monotonic() - self._flushed >= FLUSH_EVERY:
            self.flush()


def _nothing() -> None:
    pass


def read_header(path: str | Path) -> FramesHeader:
    """What a recording is of.

    Raises:
        DataInputError: it is none, or cannot be read.
    """
    for values in _lines(Path(path)):
        return _header(Path(path), values)
    raise _no_recording(Path(path))


def read_events(path: str | Path) -> Iterator[list[Any]]:
    """The events of a recording, in their order, up to its end or to where it was cut off.

    Raises:
        DataInputError: it is none, or cannot be read.
    """
    path = Path(path)
    lines = _lines(path)
    _header(path, next(lines, None))
    for values in lines:
        if not _is_event(values):
            raise DataInputError(f"{path} holds {str(values)[:80]!r}, which is no event of a recording")
        if values[0] == "b":
            yield ["f", values[1], values[2], base64.b64decode(values[3])]
        elif values[0] == "f":
            yield ["f", values[1], values[2], values[3].encode()]
        else:
            yield values


def _is_event(values: Any) -> bool:
    if not isinstance(values, list) or not values or not isinstance(values[0], str):
        return False
    known = _FORMS.get(values[0])
    return known is not None and list(map(type, values[1:])) == known


def _header(path: Path, values: Any) -> FramesHeader:
    if not isinstance(values, dict) or "streammachine_frames" not in values:
        raise _no_recording(path)
    if values.pop("streammachine_frames") != VERSION:
        raise DataInputError(f"{path} was recorded by another version of StreamMachine")
    try:
        lists = {name: tuple(values[name]) for name in ("symbols", "aggregate_list")}
        return FramesHeader(**{**values, **lists})
    except (TypeError, KeyError):
        raise _no_recording(path) from None


def _no_recording(path: Path) -> DataInputError:
    return DataInputError(f"{path} is no recording of frames: `streammachine record EXCHANGE SYMBOL --frames FILE`")


def _lines(path: Path) -> Iterator[Any]:
    """The lines as values; a last one that is half is left out, as it was when the recorder was killed."""
    unpack = _unpacker(path)
    parts: list[bytes] = []  # of a line whose end is not here yet
    size = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(READ):
                first, end, more = unpack(chunk).partition(b"\n")
                parts.append(first)
                size += len(first)
                if size > LONGEST_LINE:
                    raise _no_recording(path)
                if end:
                    *lines, rest = more.split(b"\n")
                    yield json.loads(b"".join(parts))
                    for line in lines:
                        yield json.loads(line)
                    parts, size = [rest], len(rest)
    except OSError as error:
        raise DataInputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError, zlib.error) as error:
        raise DataInputError(f"{path} cannot be read as a recording of frames: {error}") from None


# -- packing --------------------------------------------------------------------------------------


class _Plain:
    def pack(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""

    def end(self) -> bytes:
        return b""


class _Gzip:
    def __init__(self) -> None:
        self._made = zlib.compressobj(6, wbits=31)

    def pack(self, data: bytes) -> bytes:
        return self._made.compress(data)

    def flush(self) -> bytes:
        return self._made.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._made.flush()


class _Zstd:
    def __init__(self) -> None:
        made, self._block, self._end = _zstd_compressor()
        self._made = made

    def pack(self, data: bytes) -> bytes:
        packed: bytes = self._made.compress(data)
        return packed

    def flush(self) -> bytes:
        packed: bytes = self._made.flush(self._block)
        return packed

    def end(self) -> bytes:
        packed: bytes = self._made.flush(self._end)
        return packed


def _packer(path: Path) -> _Packer:
    made: dict[str, Callable[[], _Packer]] = {".zst": _Zstd, ".gz": _Gzip}
    return made.get(path.suffix, _Plain)()


def _unpacker(path: Path) -> Any:
    if path.suffix == ".gz":
        return zlib.decompressobj(wbits=31).decompress
    if path.suffix != ".zst":
        return bytes
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        zstandard = _zstandard()
        inner = zstandard.ZstdDecompressor().decompressobj().decompress
        failure: type[Exception] = zstandard.ZstdError
    else:
        inner, failure = zstd.ZstdDecompressor().decompress, zstd.ZstdError

    def unpack(data: bytes) -> bytes:
        try:
            found: bytes = inner(data)
        except failure as error:
            raise ValueError(str(error)) from None
        return found

    return unpack


def _zstd_compressor() -> tuple[Any, Any, Any]:
    """A compressor, and what its ``flush`` takes for the end of a block and of the whole."""
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        zstandard = _zstandard()
        made = zstandard.ZstdCompressor(level=3).compressobj()
        return made, zstandard.COMPRESSOBJ_FLUSH_BLOCK, zstandard.COMPRESSOBJ_FLUSH_FINISH
    made = zstd.ZstdCompressor()
    return made, made.FLUSH_BLOCK, made.FLUSH_FRAME


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise DataInputError(
            "files named .zst need the package zstandard (pip install zstandard); a name that ends with .gz needs none"
        ) from None
    return zstandard


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
