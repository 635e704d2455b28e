"""Binance's bulk files, as data.binance.vision hands them out: a zip for a day or a month, and its sha256 beside it.

/data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01-31.zip, .../monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01.zip,
/data/futures/um/... and /data/futures/cm/...; ".CHECKSUM" behind a name gives its checksum. Spot files have no header
line, and times in microseconds since 2025-01-01; futures files have one, and milliseconds.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import re
import zipfile
from collections import OrderedDict
from typing import Protocol

from streammachine.market.simulator.protocols.binance_rows import kline_row
from streammachine.market.simulator.tape.candles import UTC, Bar
from streammachine.market.simulator.tape.tape import Tape
from streammachine.market.simulator.venue.rules import Rules
from streammachine.market.simulator.venue.transport import Answer

MICROSECONDS_SINCE = 1_735_689_600_000  # 2025-01-01
KEPT = 16  # files
HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)
MARKETS = {"spot": "SPOT", "futures/um": "USDM", "futures/cm": "COINM"}
PATH = re.compile(
    r"/data/(spot|futures/um|futures/cm)/(daily|monthly)/klines/(\w+)/(\w+)/(\w+)-(\w+)-(\d{4}-\d{2}(?:-\d{2})?)\.zip"
    r"(\.CHECKSUM)?"
)


class BulkHost(Protocol):
    """Binance, as far as its bulk files need it."""

    tape: Tape
    rules: Rules

    def now(self) -> int:
        """The exchange's time, epoch milliseconds."""

    def ours(self, native: str, market: str) -> str | None:
        """The tape symbol of a Binance symbol."""

    def bars(self, symbol: str, timeframe: str, start: int, end: int) -> list[Bar]:
        """The candles of [start, end), oldest first."""


class BulkFiles:
    """Makes the files when they are asked for."""

    def __init__(self, exchange: BulkHost) -> None:
        self._exchange = exchange
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def answer(self, path: str) -> Answer:
        """The file at a path below the host, or a 404."""
        found = PATH.fullmatch(path)
        if found is None:
            return _nothing(path)
        kind, span, native, interval, native_again, interval_again, date, checksum = found.groups()
        market = MARKETS[kind]
        timeframe = "1M" if interval == "1mo" else interval
        symbol = self._exchange.ours(native, market)
        stretch = _stretch(span, date)
        if (
            symbol is None
            or stretch is None
            or (native, interval) != (native_again, interval_again)
            or timeframe not in UTC
            or (span == "daily" and timeframe in ("3d", "1w", "1M"))
        ):
            return _nothing(path)
        start, end = stretch
        ready = end + int(self._exchange.rules.bulk_delay * 1000)
        if self._exchange.now() < ready or end <= self._exchange.tape.listed(symbol):
            return _nothing(path)
        name = path.removesuffix(".CHECKSUM")
        body = self._file(name, symbol, market, timeframe, start, end)
        if checksum:
            line = f"{hashlib.sha256(body).hexdigest()}  {name.rpartition('/')[2]}\n"
            return Answer(line.encode(), 200, {"Content-Type": "binary/octet-stream"})
        return Answer(body, 200, {"Content-Type": "application/zip"})

    def _file(self, path: str, symbol: str, market: str, timeframe: str, start: int, end: int) -> bytes:
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        fine = market == "SPOT" and start >= MICROSECONDS_SINCE
        lines = [] if market == "SPOT" else [HEADER]
        for bar in self._exchange.bars(symbol, timeframe, start, end):
            row = kline_row(market, bar)
            if fine:
                row[0], row[6] = bar.start * 1000, bar.end * 1000 - 1
            lines.append(",".join(map(str, row)))
        made = io.BytesIO()
        inside = zipfile.ZipInfo(path.rpartition("/")[2].replace(".zip", ".csv"), (2024, 1, 1, 0, 0, 0))
        inside.compress_type = zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr(inside, "\n".join(lines) + "\n")
        self._kept[path] = made.getvalue()
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return made.getvalue()


def _stretch(span: str, date: str) -> tuple[int, int] | None:
    """A day or a month, [start, end)."""
    try:
        day = datetime.datetime.strptime(date, "%Y-%m-%d" if span == "daily" else "%Y-%m")
    except ValueError:
        return None
    start = int(day.replace(tzinfo=datetime.UTC).timestamp() * 1000)
    return start, UTC["1d" if span == "daily" else "1M"].shift(start)


def _nothing(path: str) -> Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code><Key>{path[1:]}</Key></Error>'
    return Answer(body.encode(), 404, {"Content-Type": "application/xml"})
