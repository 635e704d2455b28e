"""RedisEmitter: candles and trades into Redis streams, each once, whatever is repeated.

Candles go to ``kline:{exchange}:{symbol}:{timeframe}``, trades to ``trades:{exchange}:{symbol}`` (placeholders; the
exchange in lower case). Fields are flat text by the names of ``Kline`` and ``Trade``; what is None is left out.

Ids make an append repeatable. A candle has ``<open_ts>-<rev>``: rev is 2**63-1 when it is closed, else the volume's
IEEE 754 bits, which rise as the volume does and stay below; so the same state has the same id, and the closed candle
stands behind its open states. A trade has ``<ts>-<trade id>`` where its id is a number, else ``<ts>-<next>``, and is
recognised by its field ``trade_id``. klines.lua and trades.lua append a batch to a stream in one step: a row that is
there already is a duplicate, counted and left out. One that is not, and is older than the stream's end, is an
OutOfOrderError: a stream cannot be filled from behind. Backfill older data into a fresh stream, or with
``archive=True``. Only trades may be ten seconds late: they get the milliseconds of the stream's end, and keep their own
in ``ts``.

A series of candles has two halves then: the stream itself, and its archive, for what is older than the stream or lies
in a hole of it: streams ``<stream>:archive:<open_ts>``, named by their first candle, each in order in itself.
``archive_of`` gives their names (the sorted set ``sm:archive:<stream>`` keeps them); a reader merges by ``open_ts``.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from streammachine.errors import (
    EmitterError,
    EmitterUnavailableError,
    FieldError,
    OutOfOrderError,
    RedisAuthError,
    RedisCommandError,
    RedisFullError,
    RedisUnavailableError,
    SettingsError,
    StreamMachineError,
)
from streammachine.market.emitters.base import DataEmitter, RowsRefusedError, Transformer, values_of
from streammachine.market.emitters.sink_text import SinkText, unknown
from streammachine.market.model.kline import Gap, Kline, Trade
from streammachine.market.model.quote import Quote
from streammachine.market.model.rows import Lane, Row, named
from streammachine.masking import mask_url
from streammachine.redis import streams
from streammachine.redis.connection import RedisConnection
from streammachine.redis.transport.codec import encode_fields

if TYPE_CHECKING:
    from streammachine.settings import Settings

CLOSED: Final = (1 << 63) - 1  # the revision of a closed candle: the last that fits a column of 64-bit integers
ARCHIVES_TRIED: Final = 20  # archive streams that are looked at for room, before a new one is begun
LATE: Final = 10_000  # milliseconds that a trade may be behind the newest of its stream
CHUNK: Final = 250  # rows of one script call: others are not kept waiting long
_PASSING = ("READONLY", "TRYAGAIN", "BUSY", "MISCONF", "NOREPLICAS", "CLUSTERDOWN", "MOVED", "ASK")
# What the server says of a row; all the rest is of the server, and passes.
_OF_THE_ROW = ("stream ID", "ID specified in XADD", "too many results to unpack")
_KLINES, _TRADES = (files(__package__).joinpath(f"{name}.lua").read_text() for name in ("klines", "trades"))
_QUOTES: Final = f"{_TRADES}-- Quotes have no id of their own: a field of ours stands for it.\n"
_ID_FIELDS: Final = {_TRADES: "trade_id", _QUOTES: "sm-key"}  # what tells a row of a moment from the others


class RedisEmitter(DataEmitter):
    """Appends candles and trades to Redis streams (see above). Gaps are left out.

    Once it is connected, a login, right or key that the server refuses is an outage: the rows wait.

    Args:
        url: the server, ``redis://...``; by default as ``RedisConnection`` chooses, embedded Valkey included.
        connection: one that is there already; it is not closed.
        maxlen: about how many entries each stream keeps; 0: all.
        prefix: begins every stream's name.
        archive: candles that are too old for their stream go to its archive (see the module), and none is refused.

    Attributes:
        appended, duplicates: rows so far.

    Raises:
        EmitterError: an argument is not accepted; from ``connect``: the server cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        connection: RedisConnection | None = None,
        *,
        maxlen: int = 1_000_000,
        prefix: str = "",
        archive: bool = False,
        name: str = "redis",
        settings: Settings | None = None,
        transformer: Transformer | None = None,
    ) -> None:
        if isinstance(maxlen, bool) or not isinstance(maxlen, int) or maxlen < 0:
            raise EmitterError(f"maxlen={maxlen!r} is not accepted: give a number of entries, 0 for no limit")
        if connection is not None and url is not None:
            raise EmitterError("give url or connection, not both")
        self.name = name
        self.maxlen = maxlen
        self.prefix = prefix
        self.archive = archive
        self._firsts: dict[str, int] = {}  # with ``archive``: where each stream begins
        self.transformer = transformer
        self.appended = self.duplicates = 0
        self._taken = False  # the server took us once: what it refuses from then on is an outage
        self._own = connection is None
        self._url = url
        try:
            self.connection = connection if connection is not None else RedisConnection(url=url, settings=settings)
        except SettingsError as error:
            raise EmitterError(str(error)) from error

    @property
    def target(self) -> str:
        """Where the rows go, without a password. Which server that is by default is known once it is connected."""
        if self.connection.target is not None:
            return f"{self.connection.name} {self.prefix}*"
        return f"{mask_url(self._url) if self._url is not None else 'redis'} {self.prefix}*"

    def wants(self, row: Row) -> bool:
        """Candles, trades and quotes."""
        return not isinstance(row, Gap)

    def stream_of(self, row: Kline | Trade | Quote) -> str:
        """The name of the stream that a row goes to."""
        kind = "quote" if isinstance(row, Quote) else None if isinstance(row, Trade) else row.timeframe
        return self._stream(row.source, row.symbol, kind)

    def _stream(self, source: str | None, symbol: str, timeframe: str | None) -> str:
        exchange = (source or "unknown").lower()
        if timeframe is None:
            return f"{self.prefix}trades:{exchange}:{symbol}"
        if timeframe == "quote":
            return f"{self.prefix}quotes:{exchange}:{symbol}"
        return f"{self.prefix}kline:{exchange}:{symbol}:{timeframe}"

    async def connect(self) -> None:
        """Connect, and see that the server answers."""
        try:
            if self._own:
                await self.connection.open()
            else:
                await self.connection.command("PING", repeatable=True)
        except StreamMachineError as error:
            raise _translated(error) from error
        self._taken = True

    async def expect(self, lanes: Sequence[Lane]) -> None:
        """Refuse keys that are no streams or that may not be written, and candles of the past for a stream that begins
        behind them and goes on: it takes none of them, but with ``archive``."""
        for lane in lanes:
            stream = self._stream(lane.source, lane.symbol, lane.timeframe)
            first = await self._first(stream, {None: _TRADES, "quote": _QUOTES}.get(lane.timeframe, _KLINES))
            if first is not None and not self.archive and lane.start is not None and lane.timeframe is not None:
                self._refuse_older(stream, first, lane.start)

    async def _first(self, stream: str, script: str) -> int | None:
        """The milliseconds of the stream's first entry, after the script has run for no rows."""
        options = (_ID_FIELDS[script], LATE) if script in _ID_FIELDS else ()
        try:
            await self.connection.command("EVAL", script, 1, stream, self.maxlen, *options, repeatable=True)
            return await _first(self.connection, stream)
        except StreamMachineError as error:
            raise _translated(error, stream) from error

    def _refuse_older(self, stream: str, first: int, start: int) -> None:
        if first > start:
            raise OutOfOrderError(
                f"{stream} already holds candles, from {datetime.fromtimestamp(first / 1000, UTC):%Y-%m-%d %H:%M} UTC "
                "on, and takes no older ones any more. Backfill to another sink, into a fresh stream (another server, "
                "database or prefix), delete that one first, or give archive=True, which puts them beside it"
            )

    async def emit(self, row: Any) -> None:
        """Append one Kline or Trade."""
        await self.emit_batch([row])

    async def emit_batch(self, rows: Sequence[Row]) -> None:
        """Append the rows, stream by stream."""
        refused: dict[int, Exception] = {}
        lanes: dict[tuple[str, str], list[tuple[int, list[bytes | str | int]]]] = {}
        for at, row in enumerate(rows):
            if not isinstance(row, (Kline, Trade, Quote)):
                refused[at] = EmitterError(f"RedisEmitter takes Kline, Trade and Quote rows, not {type(row).__name__}")
                continue
            made = self.transformed(row)
            if made is None:
                continue
            try:
                arguments = _arguments(row, made)
            except FieldError as error:
                refused[at] = EmitterError(f"{named(row)} cannot be written: {error}")
                continue
            script = _TRADES if isinstance(row, Trade) else _QUOTES if isinstance(row, Quote) else _KLINES
            lanes.setdefault((script, self.stream_of(row)), []).append((at, arguments))
        for (script, stream), lane in lanes.items():
            for start in range(0, len(lane), CHUNK):
                piece = lane[start : start + CHUNK]
                if self.archive and script is _KLINES:
                    await self._append_or_archive(stream, piece, rows)
                else:
                    late = await self._append(script, stream, piece)
                    refused |= {at: _out_of_order(rows[at], stream) for at in late}
        if refused:
            raise RowsRefusedError(dict(sorted(refused.items())))

    async def close(self) -> None:
        """Close the connection, if it is the emitter's own."""
        self._taken = False
        if self._own:
            await self.connection.close()

    async def _append_or_archive(self, stream: str, lane: _Lane, rows: Sequence[Row]) -> None:
        """Append to the stream what it takes, and to its archive what is older than that."""
        first = self._firsts.get(stream)
        try:
            if first is None and (first := await _first(self.connection, stream)) is not None:
                self._firsts[stream] = first
        except StreamMachineError as error:
            raise _translated(error, stream, later=self._taken) from error
        newer = [item for item in lane if first is None or _moment(rows, item) >= first]
        late = set(await self._append(_KLINES, stream, newer)) if newer else set()
        old = [item for item in lane if item[0] in late or (first is not None and _moment(rows, item) < first)]
        while old:
            try:
                half = await _archive_for(self.connection, stream, _moment(rows, old[0]))
            except StreamMachineError as error:
                raise _translated(error, stream, later=self._taken) from error
            late = set(await self._append(_KLINES, half, old))
            old = [item for item in old if item[0] in late]  # the first is in it: fewer each time

    async def _append(self, script: str, stream: str, lane: _Lane) -> list[int]:
        """Run the script for these rows; gives the places of those that came too late."""
        options = (_ID_FIELDS[script], LATE) if script in _ID_FIELDS else ()
        flat = [argument for _, arguments in lane for argument in arguments]
        try:
            results = await self.connection.command(
                *("EVAL", script, 1, stream, self.maxlen, *options, *flat), repeatable=True
            )
        except StreamMachineError as error:
            raise _translated(error, stream, later=self._taken) from error
        self.appended += results.count(1)
        self.duplicates += results.count(0)
        return [at for (at, _), result in zip(lane, results, strict=True) if result == -1]


_Lane = Sequence[tuple[int, list[bytes | str | int]]]  # rows of one stream: place in the batch, arguments


def _out_of_order(row: Row, stream: str) -> OutOfOrderError:
    return OutOfOrderError(
        f"{named(row)} is older than the end of the stream {stream} and not in it. "
        "Backfill older data into a fresh stream (another prefix)."
    )


def _moment(rows: Sequence[Row], item: tuple[int, Any]) -> int:
    row = rows[item[0]]
    return row.open_ts if isinstance(row, Kline) else 0


async def _first(connection: RedisConnection, stream: str) -> int | None:
    """The milliseconds of a stream's first entry; None: it has none."""
    entries = await streams.read_from(connection, stream, "-", "+", 1)
    return int(entries[0].id.partition("-")[0]) if entries else None


# -- the archive of a stream ------------------------------------------------------------------


async def archive_of(connection: RedisConnection, stream: str) -> list[str]:
    """The streams with the older candles of a stream's series, by the time of their first; they may overlap."""
    names = await connection.command("ZRANGE", _index(stream), 0, -1, repeatable=True)
    return [bytes(name).decode() for name in names]


async def _archive_for(connection: RedisConnection, stream: str, ts: int) -> str:
    """The archive stream that takes the candle of a moment: the last one that ends before it or holds it, else a
    new one."""
    reply = await connection.command(
        *("ZRANGE", _index(stream), ts, "-inf", "BYSCORE", "REV", "LIMIT", 0, ARCHIVES_TRIED), repeatable=True
    )
    for name in (bytes(each).decode() for each in reply):
        newest = await streams.read_newest(connection, name, 1)
        if not newest:  # deleted, or trimmed to nothing: its last id must not stand in the way
            await connection.command("UNLINK", name, repeatable=True)
            return name
        if int(newest[0].id.partition("-")[0]) < ts:
            return name
        if await streams.read_from(connection, name, str(ts), str(ts), 1):
            return name
    name = f"{stream}:archive:{ts}"
    await connection.command("ZADD", _index(stream), ts, name, repeatable=True)
    return name


def _index(stream: str) -> str:
    return f"sm:archive:{stream}"


def revision(row: Kline) -> int:
    """The part of a candle's id behind the dash (see the module)."""
    if row.is_closed is not False:
        return CLOSED
    (bits,) = struct.unpack(">Q", struct.pack(">d", max(row.volume, 0.0)))
    return int(bits)


def _arguments(row: Kline | Trade | Quote, made: Any) -> list[bytes | str | int]:
    """What the script takes for a row."""
    values = values_of(made)
    if not isinstance(row, Quote):
        return [*_identity(row), *_fields(values)]
    digest = hashlib.sha256(row.model_dump_json().encode()).hexdigest()[:16]
    return [row.ts, digest, "0", *_fields({**values, "sm-key": digest})]


def _identity(row: Kline | Trade) -> tuple[int | str, ...]:
    if isinstance(row, Kline):
        return row.open_ts, str(revision(row))
    is_number = row.trade_id.isascii() and row.trade_id.isdigit() and 0 < int(row.trade_id) < CLOSED
    return row.ts, str(int(row.trade_id)) if is_number else row.trade_id, "1" if is_number else "0"


def _fields(values: Mapping[str, Any]) -> Iterable[bytes | str | int]:
    encoded = encode_fields({name: value for name, value in values.items() if value is not None})
    flat: list[bytes | str | int] = [2 * len(encoded)]
    for name, value in encoded.items():
        flat += (name, value)
    return flat


def _translated(error: StreamMachineError, stream: str = "", *, later: bool = False) -> EmitterError:
    """In an emitter's terms. ``later``: the server has taken us before."""
    text = f"{stream}: {error}" if stream else str(error)
    if later:
        of_the_row = isinstance(error, RedisCommandError) and any(words in text for words in _OF_THE_ROW)
        return EmitterError(text) if of_the_row else EmitterUnavailableError(text)
    passing = isinstance(error, (RedisUnavailableError, RedisFullError)) or (
        isinstance(error, RedisCommandError) and any(code in text for code in _PASSING)
    )
    if isinstance(error, RedisAuthError):
        passing = False
    return EmitterUnavailableError(text) if passing else EmitterError(text)


def from_text(text: SinkText) -> RedisEmitter:
    """The emitter that ``redis``, ``redis:URL`` or a URL means.

    Raises:
        EmitterError: a URL's scheme stands alone.
    """
    if text.rest:
        return RedisEmitter(url=text.url, prefix=text.prefix)
    if text.word != "redis":
        raise unknown(text.given)
    return RedisEmitter(prefix=text.prefix)


def from_connection(connection: RedisConnection, *, archive: bool) -> RedisEmitter:
    """The emitter on a connection that is there. ``archive``: for candles that may be older than those it holds."""
    return RedisEmitter(connection=connection, archive=archive)
