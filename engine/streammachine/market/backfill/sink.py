"""One emitter of a backfill: how far it has come, its outlet, and a CSV cut back to where it is known to be right."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio

from streammachine.errors import EmitterError
from streammachine.market.backfill.journal import Journal, JournalRecord, digest
from streammachine.market.emitters.any_emitter import takes_columns
from streammachine.market.emitters.base import DataEmitter, Transformer
from streammachine.market.emitters.outlet import Outlet
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.rows import Lane

if TYPE_CHECKING:
    from streammachine.market.clock.clock import Clock
    from streammachine.market.exchanges.base import Adapter, Urls
    from streammachine.market.model.kline import Gap, Kline
    from streammachine.market.model.kline_columns import KlineColumns

log = logging.getLogger(__name__)

CHECKPOINT_ROWS: Final = 5000  # about so many rows, at most, are done again after a kill
CHECKPOINT_SECONDS: Final = 2.0
LAST_WAIT: Final = 5.0  # seconds that a sink has for what it was given, when the run ends before its time
MOST_LINES_BEHIND: Final = 20 * CHECKPOINT_ROWS  # lines of a CSV behind its checkpoint; more than that we did not write


def request_key(adapter: Adapter, urls: Urls, symbol: str, timeframe: str, start: int) -> str:
    """Names what a journal's record is of. The end is no part of it: a later end goes on where an earlier one was.
    Another host is (a simulator is not the exchange), but not its port, which changes with every start."""
    host = "" if urls.rest == adapter.default_urls.rest else urlsplit(urls.rest).hostname or ""
    return digest(json.dumps([adapter.name, adapter.market_type, host, symbol, timeframe, start]))


class Sink:
    """One emitter of a backfill.

    Args:
        start: of the request. is_default: the CSV is named after the request, so all in it is the request's.

    Attributes:
        position: rows before it are there already. rows, gaps, close: what the journal says of them.
    """

    def __init__(self, emitter: Any, key: str, start: int, *, resume: bool, is_default: bool) -> None:
        self.emitter = emitter
        self.position = start
        self.rows = 0
        self.gaps: list[Gap] = []
        self.close: float | None = None
        self._key = key
        self._start = start
        self._resume = resume
        self._is_default = is_default
        self._csv = _csv_path(emitter)
        self._journal: Journal | None = None
        self._outlet: Outlet | None = None
        self._unsaved = 0
        self._saved_at = 0.0
        self._saved = start  # the journal's position
        self._is_known = False  # an earlier run of the request has begun to write to it
        self._given: tuple[int, float] | None = None  # behind the last candle that the outlet has, and its close

    def look(self, journals: ExitStack, folder: Path | None) -> None:
        """Open the journal, if it can have one, and see how far it has come. Changes nothing of the sink.

        Raises:
            EmitterError: another backfill is writing to it, or a file is not as the journal says.
        """
        target = getattr(self.emitter, "target", None)
        if self._csv is not None:
            if not self._csv.parent.is_dir():
                raise EmitterError(f"{self._csv} cannot be written: the folder {self._csv.parent} does not exist")
            if self._csv.is_dir():
                raise EmitterError(f"{self._csv} cannot be written: it is a folder")
            self._journal = Journal.beside(self._csv)
        elif isinstance(target, str) and target:
            self._journal = Journal.below((folder or data_dir()) / "backfills", target)
        else:
            return  # nobody knows whether the same object means the same place the next time
        journals.enter_context(self._journal)
        record = self._journal.find(self._key)
        self._is_known = record is not None
        record = record if self._resume else None
        if self._csv is not None:
            record = self._checked(self._csv, self._journal, record)
        if record is not None:
            self.position, self.rows, self.gaps, self.close = record.position, record.rows, record.gaps, record.close

    @asynccontextmanager
    async def open(self, transformer: Transformer | None, clock: Clock, lane: Lane) -> AsyncGenerator[None]:
        """Cut a CSV back to where it is known to be right, and connect.

        Args:
            lane: what is going to come; an emitter is told of its start where that is news to it.
        """
        self._saved_at = clock.monotonic()
        expected = self._expected(lane)
        if self._csv is not None and self._journal is not None:
            self._rewind(self._csv, self._journal)
            self._write(self._journal, self.position, size=_size(self._csv))
        emitter = self.emitter
        if transformer is None:
            async with Outlet(emitter, clock=clock, expected=expected) as self._outlet:
                self._begin()
                yield
        elif isinstance(emitter, DataEmitter):
            own = emitter.transformer
            emitter.set_transformer(transformer if own is None else _chained(transformer, own))
            try:
                async with Outlet(emitter, clock=clock, expected=expected) as self._outlet:
                    self._begin()
                    yield
            finally:
                emitter.set_transformer(own)
        else:
            async with Outlet(_Transforming(emitter).set_transformer(transformer), clock=clock) as self._outlet:
                yield

    async def try_out(self, clock: Clock, lane: Lane) -> None:
        """Connect, and give nothing."""
        async with Outlet(self.emitter, clock=clock, expected=self._expected(lane)):
            pass

    def _expected(self, lane: Lane) -> list[Lane]:
        return [lane if self._is_known else replace(lane, start=self.position)]

    def _begin(self) -> None:
        """Note that it is written to from here on, should the run be killed before it notes more."""
        if self._journal is not None and self._csv is None and self.position == self._start:
            self._write(self._journal, self.position, size=None)

    async def put(self, klines: Sequence[Kline]) -> None:
        """Hand on those that it does not have yet."""
        if self._outlet is None:
            return
        wanted = [kline for kline in klines if kline.open_ts >= self.position]
        at = 0
        while at < len(wanted):
            piece = wanted[at : at + max(1, self._outlet.room)]  # whoever is cancelled has given all of it or nothing
            await self._outlet.put(piece)
            at += len(piece)
            self._given = timeframes.end_of(piece[-1].timeframe, piece[-1].open_ts), piece[-1].close
        self._unsaved += len(klines)

    @property
    def takes_columns(self) -> bool:
        """Whether it may be given candles in columns."""
        return self._outlet is not None and takes_columns(self._outlet.emitter)

    async def put_columns(self, columns: KlineColumns) -> None:
        """As ``put``, of candles in columns."""
        wanted = columns[columns.open_ts >= self.position] if columns.open_ts[0] < self.position else columns
        if self._outlet is not None and len(wanted):
            await self._outlet.put_columns(wanted)
            self._given = wanted.end, float(wanted.close[-1])
        self._unsaved += len(columns)

    def is_due(self, now: float) -> bool:
        """Whether to flush and note it, by the rows since the last time, or the seconds (``now``: of the clock)."""
        rows, seconds = _checkpoints(self.emitter)
        return self._journal is not None and (self._unsaved >= rows or now - self._saved_at >= seconds)

    async def save(
        self, position: int, close: float | None, gaps: list[Gap], rows: int, now: float, *, clean: bool
    ) -> None:
        """Flush, and note that it has all before the position."""
        if self._outlet is not None:
            await self._outlet.drain()
        self._unsaved, self._saved_at = 0, now
        if self._journal is None or position < self.position:
            return
        self.close, self.gaps, self.rows = close, gaps, rows
        size = _size(self._csv) if self._csv is not None else None
        self._write(self._journal, position, size=size, clean=clean)

    async def save_given(self, gaps: list[Gap], rows: int) -> None:
        """Note what the sink was given by a run that ends before its time, so that it does not get it again."""
        if self._outlet is None or self._journal is None or self._given is None or self._given[0] <= self._saved:
            return
        with anyio.move_on_after(LAST_WAIT), contextlib.suppress(EmitterError):  # the outlet says it when it is closed
            if await self._outlet.drain(LAST_WAIT):
                return
            position, self.close = self._given
            self.gaps, self.rows = [gap for gap in gaps if gap.end <= position], rows
            self._write(self._journal, position, size=_size(self._csv) if self._csv is not None else None)

    @property
    def name(self) -> str:
        """The emitter's."""
        return str(getattr(self.emitter, "name", "") or type(self.emitter).__name__)

    @property
    def is_away(self) -> bool:
        """Whether it cannot be reached just now."""
        return self._outlet is not None and self._outlet.stats.state == "away"

    def describe(self) -> dict[str, Any]:
        """How its outlet stands."""
        if self._outlet is None:
            return {"name": self.name, "state": "waiting"}
        stats = self._outlet.stats
        return {
            "name": stats.name,
            "state": stats.state,
            "emitted": stats.emitted,
            "dropped": stats.dropped,
            "failed": stats.failed,
            "queued": stats.queued,
            "last_error": stats.last_error,
        }

    # -- the journal and the CSV --

    def _write(self, journal: Journal, position: int, *, size: int | None, clean: bool = False) -> None:
        record = JournalRecord(self._key, position, size, clean=clean, close=self.close, rows=self.rows, gaps=self.gaps)
        journal.write(record)
        self._saved = position

    def _checked(self, csv: Path, journal: Journal, record: JournalRecord | None) -> JournalRecord | None:
        """The record, if the file is as it says."""
        size = _size(csv)
        if not self._resume:
            return None
        if record is None:
            if size and self._is_default:
                raise EmitterError(
                    f"{csv} exists, and no journal says how far it goes: move it away, or give resume=False to write "
                    f"it anew"
                )
            return None
        if size == 0:
            log.warning("%s is gone or empty: doing it all again", csv)
            return None
        known = record if record.clean else journal.last
        if known is not None and known.size is not None and size < known.size:
            raise EmitterError(
                f"{csv} has {size} bytes, fewer than the {known.size} that a backfill had written: it was changed. "
                f"Move it away, or give resume=False"
            )
        return record

    def _rewind(self, csv: Path, journal: Journal) -> None:
        """Take away what a killed run wrote behind its last checkpoint."""
        if not self._resume and self._is_default:
            csv.unlink(missing_ok=True)
            return
        last = journal.last
        size = _size(csv)
        if last is None or last.clean or last.size is None or size <= last.size:
            return
        try:
            with csv.open("r+b") as file:
                file.seek(last.size)
                if _lines(file) > MOST_LINES_BEHIND:
                    raise EmitterError(
                        f"{csv} was written to since a backfill into it was killed; what is whose cannot be told. Move "
                        f"it away, or give resume=False"
                    )
                file.truncate(last.size)
        except OSError as error:
            raise EmitterError(f"{csv} cannot be written: {error.strerror}") from error
        log.info("%s: %d bytes behind the last checkpoint taken away", csv, size - last.size)


class _Transforming(DataEmitter):
    """An object with emit(row) that is no DataEmitter, with a transformer before it."""

    def __init__(self, emitter: Any) -> None:
        self.name = str(getattr(emitter, "name", "") or type(emitter).__name__)
        self._emitter = emitter

    async def connect(self) -> None:
        await self._call("connect")

    async def emit(self, row: Any) -> None:
        await self._call("emit", row)

    async def flush(self) -> None:
        await self._call("flush")

    async def close(self) -> None:
        await self._call("close")

    async def _call(self, name: str, *arguments: Any) -> None:
        method = getattr(self._emitter, name, None)
        if method is not None:
            result = method(*arguments)
            if hasattr(result, "__await__"):
                await result


def _chained(first: Transformer, then: Transformer) -> Transformer:
    def both(row: dict[str, Any]) -> Mapping[str, Any] | None:
        made = first(row)
        return None if made is None else then(dict(made))

    return both


def _csv_path(emitter: Any) -> Path | None:
    """The file of a CSV emitter of ours, or of a subclass."""
    from streammachine.market.emitters.csv import CSVEmitter

    if not isinstance(emitter, CSVEmitter) or emitter.file_path is None:
        return None
    return emitter.file_path.absolute()


def _checkpoints(emitter: Any) -> tuple[int, float]:
    """After how many rows, or seconds, an emitter is flushed."""
    from streammachine.market.emitters.parquet import ParquetEmitter

    if isinstance(emitter, ParquetEmitter):
        return emitter.rows, emitter.seconds  # each flush makes a file
    return CHECKPOINT_ROWS, CHECKPOINT_SECONDS


def data_dir() -> Path:
    """STREAMMACHINE_DATA_DIR, or the platform's folder for this user."""
    import platformdirs

    given = os.environ.get(
        "STREAMMACHINE_DATA_DIR", ""
    ).strip()  # as Settings reads it, which this package does not import
    return Path(given).expanduser().absolute() if given else Path(platformdirs.user_data_dir("streammachine", False))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # the emitter says what is wrong with it


def _lines(file: Any) -> int:
    return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
