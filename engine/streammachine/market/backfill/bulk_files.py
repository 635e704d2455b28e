"""Binance's bulk files: a zip for each symbol, timeframe and month or day, each with its SHA-256.

``https://data.binance.vision/data/{market}/{monthly|daily}/klines/SYMBOL/TF/SYMBOL-TF-DATE.zip`` (and
``.CHECKSUM``). One CSV in each: futures with a header, spot without; times in microseconds in spot files of 2025 and
later. The columns are those of a row of REST's klines, so REST's decoder reads them.
"""

from __future__ import annotations

import datetime
import io
import logging
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, BinaryIO, Final, Protocol
from urllib.parse import quote

from streammachine.errors import MarketError
from streammachine.market.exchanges.base import Request
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Kline
from streammachine.market.network.rest_queries import marked

if TYPE_CHECKING:
    from streammachine.market.exchanges.base import Adapter
    from streammachine.market.network.rest_client import RestClient

log = logging.getLogger(__name__)

DOWNLOADS: Final = 2  # of one file whose checksum is wrong
ROWS: Final = 5000  # of a file that are decoded at once
LONGEST_LINE: Final = 1000  # bytes
COLUMNS: Final = 12
MICROSECONDS: Final = 10**14  # epoch milliseconds have 13 digits until the year 2286
_SHA256 = re.compile(rb"\s*([0-9a-fA-F]{64})\b")


class BadFileError(MarketError):
    """A bulk file is not what it should be: its checksum, its form or its order."""


class Readable(Protocol):
    """What lines are read from."""

    def readline(self, limit: int, /) -> bytes:
        """A line, or as much of it as the limit allows; empty at the end."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One bulk file: the candles that begin within [start, end), a UTC month or day."""

    start: int
    end: int
    label: str  # "2024-01" or "2024-01-31"

    @property
    def is_month(self) -> bool:
        """Whether it is a month's file."""
        return len(self.label) == 7


def has_bulk(adapter: Adapter, timeframe: str) -> bool:
    """Whether bulk files are worth while: where a day has more candles than a page of REST."""
    step = timeframes.MILLISECONDS.get(timeframe)
    return adapter.bulk_folder is not None and step is not None and timeframes.DAY // step > adapter.rest.page


def pieces(start: int, end: int, now: int) -> list[Piece | tuple[int, int]]:
    """[start, end) as months' files, days' files and, at the edges and for today, ranges for REST. In order."""
    found: list[Piece | tuple[int, int]] = []
    today = timeframes.floor("1d", now)
    this_month = timeframes.floor(timeframes.MONTH, now)
    while start < end:
        month_end = timeframes.end_of(timeframes.MONTH, timeframes.floor(timeframes.MONTH, start))
        day_end = timeframes.floor("1d", start) + timeframes.DAY
        if timeframes.floor(timeframes.MONTH, start) == start and month_end <= min(end, this_month):
            found.append(Piece(start, month_end, _label(start)[:7]))
            start = month_end
        elif timeframes.floor("1d", start) == start and day_end <= min(end, today):
            found.append(Piece(start, day_end, _label(start)))
            start = day_end
        else:
            behind = end if start >= today else min(day_end, end)
            found.append((start, behind))
            start = behind
    return found


def days(month: Piece) -> list[Piece]:
    """The days' files of a month."""
    starts = timeframes.starts("1d", month.start, month.end)
    return [Piece(start, start + timeframes.DAY, _label(start)) for start in starts]


async def fetch(rest: RestClient, symbol: str, timeframe: str, piece: Piece) -> BinaryIO:
    """The zip of a piece, its checksum verified, in a temporary file that vanishes with the process.

    Raises:
        MissingFileError: it does not exist (yet). BadFileError: its checksum is wrong, twice.
        ExchangeError, ExchangeUnavailableError: see ``RestClient.get``.
    """
    request = _request(rest.adapter, symbol, timeframe, piece)
    for attempt in range(1, DOWNLOADS + 1):
        check = _SHA256.match(await rest.get(Request(f"{request.path}.CHECKSUM"), bulk=True))
        wanted = check[1].decode().lower() if check else "nothing that is a SHA-256"
        file = tempfile.TemporaryFile()  # noqa: SIM115 - handed to the caller
        try:
            found = await rest.download(request, file)
            if found == wanted:
                return file
        except BaseException:
            file.close()
            raise
        file.close()
        log.warning("%s (download %d): SHA-256 %s, its CHECKSUM says %s", request.path, attempt, found, wanted)
    raise BadFileError(f"{request.path} does not have the SHA-256 that its CHECKSUM says, in {DOWNLOADS} downloads")


def read(file: BinaryIO, adapter: Adapter, symbol: str, timeframe: str) -> Iterator[list[Kline]]:
    """The candles of a zip, in its order, some thousand at a time.

    Raises:
        BadFileError: it is no zip with one CSV of klines in it.
    """
    with opened(file) as stream:
        lines = io.BufferedReader(stream)  # type: ignore[type-var]  # a zip's own readline may exceed its limit
        yield from chunks(lines, adapter, symbol, timeframe)


@contextmanager
def opened(file: BinaryIO) -> Iterator[IO[bytes]]:
    """The one CSV of a zip, to be read within the block, which says of whatever is wrong with it that it is a
    BadFileError."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if name.lower().endswith(".csv")]
            if len(names) != 1:
                raise BadFileError(f"the zip holds {archive.namelist()[:5]}, not one CSV")
            with archive.open(names[0]) as lines:
                yield lines
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise BadFileError(f"the bulk file cannot be read: {error}") from error


def chunks(
    lines: Readable, adapter: Adapter, symbol: str, timeframe: str, *, most: int | None = None
) -> Iterator[list[Kline]]:
    """The candles of ``ROWS`` lines at a time, ``most`` times at most.

    Raises:
        ValueError: a line is none, or no candle of so many lines can be used.
    """
    rows: list[str] = []
    try:
        while line := lines.readline(LONGEST_LINE):
            row = _row(line)
            if row is not None:
                rows.append(row)
            if len(rows) >= ROWS:
                yield _klines(rows, adapter, symbol, timeframe)
                rows = []
                if most is not None:
                    most -= 1
                    if not most:
                        return
    except ValueError:  # what stands before a line that is none is good
        if rows:
            yield _klines(rows, adapter, symbol, timeframe)
        raise
    if rows:
        yield _klines(rows, adapter, symbol, timeframe)


def _request(adapter: Adapter, symbol: str, timeframe: str, piece: Piece) -> Request:
    kind = "monthly" if piece.is_month else "daily"
    name = adapter.timeframes[timeframe]
    symbol = quote(symbol, safe="")
    folder = f"{adapter.bulk_folder}/{kind}/klines/{symbol}/{name}"
    return Request(f"{folder}/{symbol}-{name}-{piece.label}.zip")


def _row(line: bytes) -> str | None:
    """A line of the CSV as a JSON row of REST's klines; None for the header and empty lines.

    Raises:
        ValueError: it is neither.
    """
    cells = line.decode("ascii").strip().split(",")
    if cells == [""] or cells[0] == "open_time":
        return None
    if len(cells) != COLUMNS or not (cells[0].isdigit() and cells[6].isdigit() and cells[8].isdigit()):
        raise ValueError(f"the line {line[:100]!r} is no kline")
    if int(cells[0]) >= MICROSECONDS:
        cells[0], cells[6] = cells[0][:-3], cells[6][:-3]
    o, h, l, c, v = cells[1:6]  # noqa: E741 - as the exchange names them
    return (
        f'[{cells[0]},"{o}","{h}","{l}","{c}","{v}",{cells[6]},"{cells[7]}",{cells[8]},"{cells[9]}","{cells[10]}","0"]'
    )


def _klines(rows: list[str], adapter: Adapter, symbol: str, timeframe: str) -> list[Kline]:
    body = f"[{','.join(rows)}]".encode()
    return [marked(kline, origin="bulk", is_closed=True) for kline in adapter.decode_klines(body, symbol, timeframe)]


def _label(start: int) -> str:
    return f"{datetime.datetime.fromtimestamp(start // 1000, datetime.UTC):%Y-%m-%d}"
