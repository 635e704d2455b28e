"""Which candles of a tick stream are finished, and what a commit has to write of them. No I/O, no clock.

The candles that a stream's ticks give are a function of the stream, however it was cut into batches and however often
the process died: a symbol's watermark is its newest event time less the grace, a candle is finished when the watermark
reaches its end, and a tick behind the watermark is judged only after everything up to the watermark was closed. The
one exception is closing by the clock, for symbols that fell silent: their event time goes on with the clock from the
arrival of their last tick.

Each symbol has an aggregator of its own, so a commit writes the state of the symbols that changed and no others.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from streammachine.errors import TickError
from streammachine.ohlc.aggregator import FastOHLC, create_ohlc_aggregator, format_candle_for_redis
from streammachine.ohlc.values import field_ms, field_time_error
from streammachine.redis.transport.raw_connection import encode_arguments

Entry = tuple[bytes, dict[bytes, bytes] | None]

NEVER = 2**63 - 1
WEEK_MS, MONDAY_MS = 604_800_000, 259_200_000  # weeks begin on Monday, three days after the epoch's weekday
AHEAD_MS = 86_400_000  # a time field further ahead of the clock is refused: it would make every later tick late
PACKED_PAIRS = 100  # state fields in one argument; Lua's stack takes some thousand values
PACKED_CANDLES = 100  # in one argument
_STATE = struct.Struct("<qq")  # newest event time and wall time of the last arrival, both epoch ms; then the dump


@dataclass(frozen=True)
class TickFields:
    """Where a tick's values stand. ``symbol`` None: the field ``symbol``, and where that is missing the stream's
    name. ``volume`` None: 0. ``timestamp`` None: the entry id's milliseconds."""

    price: str = "price"
    volume: str | None = "volume"
    symbol: str | None = None
    timestamp: str | None = None


@dataclass
class Finished:
    """What the next commit writes."""

    entries: int = 0
    candles: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # interval and fields, in closing order
    refused: list[tuple[bytes, dict[bytes, bytes], TickError]] = field(default_factory=list)
    states: dict[bytes, bytes] = field(default_factory=dict)  # of the symbols that changed

    def encoded_states(self) -> Encoded:
        """The states as ``commit.lua`` takes them: ``s:<name>`` and the state of each symbol that changed."""
        pairs = [(b"s:" + name, state) for name, state in self.states.items()]
        return _encoded(pairs, PACKED_PAIRS)

    def encoded_candles(self, intervals: Sequence[int]) -> list[Encoded]:
        """The candles as ``commit.lua`` takes them, those of each interval by themselves."""
        found = []
        for interval in intervals:
            candles = [fields.copy() for each, fields in self.candles if each == interval]
            for fields in candles:
                del fields["interval_ms"]
            found.append(_encoded([[*fields.values()] for fields in candles], PACKED_CANDLES))
        return found


@dataclass(frozen=True)
class Encoded:
    """So many arguments of a script, in RESP, and how many states or candles are in them."""

    count: int = 0
    arguments: bytes = b""
    items: int = 0


def _encoded(items: Sequence[Sequence[str | bytes]], per_pack: int) -> Encoded:
    """An argument for each ``per_pack`` items."""
    parts = [items[at : at + per_pack] for at in range(0, len(items), per_pack)]
    packs = [packed(*(text for item in part for text in item)) for part in parts]
    return Encoded(len(packs), encode_arguments(packs), len(items))


def packed(*texts: str | bytes) -> bytes:
    """Strings of MessagePack, one behind the other; ``cmsgpack.unpack`` gives them in a script.

    Source of the format: https://github.com/msgpack/msgpack/blob/master/spec.md, fixstr, str 16 and str 32.
    """
    parts: list[bytes] = []
    for text in texts:
        raw = text.encode() if isinstance(text, str) else text
        size = len(raw)
        if size < 32:
            head = bytes((0xA0 | size,))
        else:
            head = b"\xda" + size.to_bytes(2, "big") if size < 65_536 else b"\xdb" + size.to_bytes(4, "big")
        parts += (head, raw)
    return b"".join(parts)


class _Symbol:
    """One symbol's candles. ``due`` is no later than the end of its oldest open candle."""

    __slots__ = ("candles", "due", "name", "newest", "seen")

    def __init__(self, name: bytes, candles: FastOHLC) -> None:
        self.name = name
        self.candles = candles
        self.newest = 0
        self.seen = 0.0
        self.due = NEVER


class CandleBook:
    """The open candles of one stream.

    Args:
        stream: its name.
        intervals: milliseconds.
        fields: where a tick's values stand.
        grace_ms: how far behind its symbol's newest a tick may come.
        max_candles: most candles held per symbol and interval; the oldest is dropped and counted.
    """

    def __init__(
        self, stream: str, intervals: Sequence[int], fields: TickFields, *, grace_ms: int, max_candles: int
    ) -> None:
        self._stream = stream.encode()
        self._intervals = list(intervals)
        self._grace = grace_ms
        self.max_candles = max_candles
        self._price = fields.price
        self._volume = fields.volume
        self._timestamp = fields.timestamp.encode() if fields.timestamp is not None else None
        # A symbol field that is not given may be missing; the stream's name stands in.
        self._symbol_field = fields.symbol.encode() if fields.symbol is not None else b"symbol"
        self._fallback = None if fields.symbol is not None else self._stream
        self._symbols: dict[bytes, _Symbol] = {}
        self._changed: dict[bytes, _Symbol] = {}
        self._finished = Finished()

    # -- in -----------------------------------------------------------------------------------

    def fold(self, entries: Sequence[Entry], now_ms: float) -> None:
        """Take entries, in stream order, that arrived at ``now_ms``; close what they bring to an end."""
        self._finished.entries += len(entries)
        groups: dict[bytes | None, list[Entry]] = {}
        symbol_field, fallback = self._symbol_field, self._fallback
        for entry in entries:
            fields = entry[1]
            if not fields:
                continue
            name = fields.get(symbol_field, fallback)
            group = groups.get(name)
            if group is None:
                groups[name] = [entry]
            else:
                group.append(entry)
        for name, group in groups.items():
            self._fold_group(name, group, now_ms)

    def close_idle(self, as_of_ms: float) -> None:
        """Close by the clock: no tick had arrived, and been left out, up to ``as_of_ms``."""
        for symbol in self._symbols.values():
            if symbol.due != NEVER and as_of_ms > symbol.seen:
                until = int(symbol.newest + as_of_ms - symbol.seen) - self._grace
                if symbol.due <= until:
                    self._close(symbol, until)

    def load(self, name: bytes, state: bytes) -> None:
        """Take a symbol's state from the last commit.

        Raises:
            SnapshotError: it is damaged, or a newer version's.
        """
        symbol = self._make_symbol(name, FastOHLC.load(state[_STATE.size :]))
        symbol.newest, seen = _STATE.unpack_from(state)
        symbol.seen = float(seen)
        self._symbols[name] = symbol
        self._find_due(symbol)

    # -- out ----------------------------------------------------------------------------------

    @property
    def folded(self) -> int:
        """How many entries were taken since the last ``take``."""
        return self._finished.entries

    @property
    def closed(self) -> int:
        """How many candles were finished since the last ``take``."""
        return len(self._finished.candles)

    def take(self) -> Finished:
        """What changed since the last call."""
        taken, self._finished = self._finished, Finished()
        for name, symbol in self._changed.items():
            if name in self._symbols:
                taken.states[name] = _STATE.pack(symbol.newest, int(symbol.seen)) + symbol.candles.dump()
        self._changed = {}
        return taken

    def counts(self) -> dict[str, int]:
        """Ticks taken, late ones, dropped candles and symbols, since the beginning of the state."""
        every = [symbol.candles for symbol in self._symbols.values()]
        return {
            "ticks": sum(candles.tick_count for candles in every),
            "late": sum(candles.late_count for candles in every),
            "dropped": sum(candles.dropped_count for candles in every),
            "symbols": len(every),
        }

    # -- details ------------------------------------------------------------------------------

    def _make_symbol(self, name: bytes, candles: FastOHLC) -> _Symbol:
        return _Symbol(name, candles)

    def _fold_group(self, name: bytes | None, group: list[Entry], now_ms: float) -> None:
        """Take entries of one symbol, or those that have none."""
        if name is None:
            missing = TickError(f"the field {self._symbol_field.decode()!r}, which names the symbol, is missing.")
            for entry in group:
                self._refuse(entry, missing)
            return
        known = self._symbols.get(name)
        symbol = known if known is not None else self._make_symbol(name, self._new_candles())
        self._fold_symbol(symbol, group, now_ms)
        if known is None and (symbol.candles.tick_count or symbol.candles.late_count):
            self._symbols[name] = symbol

    def _new_candles(self) -> FastOHLC:
        return create_ohlc_aggregator(self._intervals, max_candles=self.max_candles)

    def _fold_symbol(self, symbol: _Symbol, entries: list[Entry], now_ms: float) -> None:
        if self._timestamp is None:
            # Ids only rise, so no tick is behind the watermark of those before it.
            self._feed(symbol, entries, _id_ms(entries[0][0]), _id_ms(entries[-1][0]), now_ms)
            return
        chunk: list[Entry] = []
        low, newest = NEVER, symbol.newest
        for entry in entries:
            ms = self._time_of(entry, now_ms)
            if ms is None:
                continue
            if ms < newest - self._grace:
                if chunk:
                    self._feed(symbol, chunk, low, newest, now_ms)
                    chunk, low, newest = [], NEVER, symbol.newest
                self._close(symbol, symbol.newest - self._grace)
            chunk.append(entry)
            if ms < low:
                low = ms
            if ms > newest:
                newest = ms
        if chunk:
            self._feed(symbol, chunk, low, newest, now_ms)

    def _feed(self, symbol: _Symbol, entries: list[Entry], low: int, high: int, now_ms: float) -> None:
        """Fold entries of which none is behind the watermark of another, then close what they finish."""
        try:
            self._process(symbol, entries)
        except TickError:
            self._feed_singly(symbol, entries, now_ms)
            return
        self._note(symbol, low, high, now_ms)

    def _feed_singly(self, symbol: _Symbol, entries: list[Entry], now_ms: float) -> None:
        """Fold entries of which one at least is refused. A refused tick moves no watermark."""
        for entry in entries:
            ms = _id_ms(entry[0]) if self._timestamp is None else self._time_of(entry, now_ms)
            if ms is None:
                continue
            if ms < symbol.newest - self._grace:
                self._close(symbol, symbol.newest - self._grace)
            try:
                self._process(symbol, [entry])
            except TickError as error:
                self._refuse(entry, error)
            else:
                self._note(symbol, ms, ms, now_ms)

    def _process(self, symbol: _Symbol, entries: list[Entry]) -> None:
        symbol.candles.process_stream_batch([(symbol.name, entries)], self._price, self._volume, None, self._timestamp)

    def _note(self, symbol: _Symbol, low: int, high: int, now_ms: float) -> None:
        self._changed[symbol.name] = symbol
        if high >= symbol.newest - self._grace:  # late ticks keep no silent symbol awake
            symbol.seen = now_ms
        symbol.newest = max(symbol.newest, high)
        for interval in self._intervals:
            start = low - (low + MONDAY_MS) % interval if interval == WEEK_MS else low - low % interval
            symbol.due = min(symbol.due, start + interval)
        if symbol.due <= symbol.newest - self._grace:
            self._close(symbol, symbol.newest - self._grace)

    def _close(self, symbol: _Symbol, until: int) -> None:
        """Finish the candles that end at or before ``until``."""
        if until <= 0 or symbol.due > until:
            return
        candles, name = symbol.candles, symbol.name
        for interval in self._intervals:
            done = candles.get_completed_candles(name, interval, until)
            if done:
                candles.flush_interval(name, interval, until)
                self._finished.candles += [
                    (interval, format_candle_for_redis(candle, name, interval)) for candle in done
                ]
        self._changed[name] = symbol
        self._find_due(symbol)

    def _find_due(self, symbol: _Symbol) -> None:
        symbol.due = NEVER
        for interval in self._intervals:
            still_open = symbol.candles.get_candles(symbol.name, interval)
            if still_open:
                symbol.due = min(symbol.due, still_open[0].candle_start_ms + interval)

    def _time_of(self, entry: Entry, now_ms: float) -> int | None:
        """A tick's time from its field; None where it is refused."""
        assert self._timestamp is not None and entry[1] is not None
        raw = entry[1].get(self._timestamp)
        where = f"the field {self._timestamp.decode()!r}"
        if raw is None:
            self._refuse(entry, TickError(f"{where} is missing; it holds the time."))
            return None
        ms = field_ms(raw)
        if ms is None:
            self._refuse(entry, field_time_error(raw, f"{where}: "))
        elif ms > now_ms + AHEAD_MS:
            shown = raw[:60].decode("utf-8", "backslashreplace")
            self._refuse(entry, TickError(f"{where} holds {shown!r}: it is more than a day ahead of the clock."))
        else:
            return ms
        return None

    def _refuse(self, entry: Entry, error: TickError) -> None:
        fields: Mapping[bytes, bytes] = entry[1] or {}
        self._finished.refused.append((entry[0], dict(fields), error))


def _id_ms(identifier: bytes) -> int:
    return int(identifier.partition(b"-")[0])
