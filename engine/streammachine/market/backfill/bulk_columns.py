"""Binance's bulk files in columns: a month at once where its lines are as usual, and where not, the plain way.

The plain way (``bulk_files.read``) reads ``bulk_files.ROWS`` lines at a time and leaves out those that are no candle;
where none of them is one, the rest of the file is not read. So that exactly the same comes out of every file, what is
read here are whole such pieces too, and a piece with a line that is not as usual is read the plain way, from its
beginning. A file whose compressed data are broken is read the plain way from there on.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Generator, Iterator
from itertools import islice
from typing import IO, TYPE_CHECKING, BinaryIO, Final

import numpy as np

from streammachine.market.backfill import bulk_files as bulk
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Kline
from streammachine.market.model.kline_columns import KlineColumns

try:
    from streammachine.market.model.fast_columns import ENDED, ODD, read_lines
except ImportError:  # it was not compiled
    HAS_NATIVE = False
else:
    HAS_NATIVE = True

if TYPE_CHECKING:
    from streammachine.market.exchanges.base import Adapter

Batch = KlineColumns | list[Kline]

MOST_ROWS: Final = 10 * bulk.ROWS  # of one batch; a month of minutes has 44,640
BLOCK: Final = 8 << 20  # bytes that are read at once; a month of minutes has fewer
HEADER: Final = b"open_time,"
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError)


def read(
    file: BinaryIO, adapter: Adapter, symbol: str, timeframe: str, *, most: int = MOST_ROWS, block: int = BLOCK
) -> Generator[Batch]:
    """The candles of a zip, in its order: as ``bulk_files.read`` gives them, most of them in columns.

    Args:
        most: rows of a batch, a multiple of ``bulk_files.ROWS``. block: bytes that are read at once.

    Raises:
        BadFileError: it is no zip with one CSV of klines in it.
    """
    done = 0  # pieces of ROWS lines
    if HAS_NATIVE and timeframe in timeframes.MILLISECONDS:
        try:
            with bulk.opened(file) as stream:
                reader = _Reader(_Lines(stream, block), adapter, symbol, timeframe, most)
                for batch, pieces in reader.batches():
                    done += pieces
                    yield batch
                return
        except _BrokenError:
            file.seek(0)
    yield from islice(bulk.read(file, adapter, symbol, timeframe), done, None)


class _BrokenError(Exception):
    """The compressed data cannot be read on."""


class _Lines:
    """A file's bytes, by blocks and by lines.

    Attributes:
        data, at: what was read, and how far it is used. ended: there is nothing behind it; it ends with a newline.
    """

    def __init__(self, stream: IO[bytes], block: int) -> None:
        self.data = b""
        self.at = 0
        self.ended = False
        self._lacks_newline = False  # the file; ``data`` has it all the same
        self._stream = stream
        self._block = block

    def fill(self, size: int | None = None) -> None:
        """Have ``size`` unused bytes (by default a block), or all that there are."""
        missing = (self._block if size is None else size) - (len(self.data) - self.at)
        if self.ended or missing <= 0:
            return
        try:
            more = self._stream.read(max(missing, self._block))
        except _BROKEN as error:
            raise _BrokenError from error
        rest = self.data[self.at :]
        self.ended = len(more) < max(missing, self._block)
        self.data = rest + more if rest else more
        self.at = 0
        if self.ended and self.data and not self.data.endswith(b"\n"):
            self.data += b"\n"
            self._lacks_newline = True

    def readline(self, limit: int) -> bytes:
        """As a file's."""
        self.fill(limit)
        end = self.data.find(b"\n", self.at, self.at + limit) + 1 or min(self.at + limit, len(self.data))
        line = self.data[self.at : end]
        self.at = end
        return line[:-1] if self._lacks_newline and end == len(self.data) else line


class _Reader:
    """Reads the lines of one file."""

    def __init__(self, lines: _Lines, adapter: Adapter, symbol: str, timeframe: str, most: int) -> None:
        self._lines = lines
        self._adapter = adapter
        self._symbol = symbol
        self._timeframe = timeframe
        self._most = most
        self._step = timeframes.MILLISECONDS[timeframe]

    def batches(self) -> Iterator[tuple[Batch, int]]:
        """The batches, each with the number of pieces that it is."""
        lines = self._lines
        self._skip_header()
        while True:
            lines.fill()
            if lines.at == len(lines.data):
                return
            columns, stopped = self._columns()
            if columns:
                yield columns, -(-len(columns) // bulk.ROWS)
            if stopped == ODD:
                for klines in bulk.chunks(lines, self._adapter, self._symbol, self._timeframe, most=1):
                    yield klines, 1

    def _skip_header(self) -> None:
        lines = self._lines
        lines.fill()
        if lines.data.startswith(HEADER):
            lines.at = lines.data.find(b"\n", 0, bulk.LONGEST_LINE) + 1

    def _columns(self) -> tuple[KlineColumns | None, int]:
        """The next candles, in whole pieces unless it is the file's end, and why there are no more of them."""
        lines, most = self._lines, self._most
        starts, trades, places = (np.empty(most, np.int64) for _ in range(3))
        numbers = np.empty((6, most))
        volume, quote = self._adapter.bulk_volumes
        count, at, stopped = read_lines(
            lines.data, lines.at, self._step, volume, quote, starts, numbers, trades, places
        )
        if stopped == ODD or (stopped == ENDED and not lines.ended):
            whole = count - count % bulk.ROWS
            at = at if whole == count else int(places[whole])
            count = whole
            if not count:
                stopped = ODD
        lines.at = at
        if not count:
            return None, stopped
        made = KlineColumns(
            source=self._adapter.source,
            symbol=self._symbol,
            timeframe=self._timeframe,
            step=self._step,
            open_ts=starts[:count],
            open=numbers[0, :count],
            high=numbers[1, :count],
            low=numbers[2, :count],
            close=numbers[3, :count],
            volume=numbers[4, :count],
            quote_volume=numbers[5, :count] if quote >= 0 else None,
            n_trades=trades[:count],
            origin="bulk",
        )
        return made, stopped
