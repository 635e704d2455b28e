"""A dump, written, and read with suspicion."""

from __future__ import annotations

import struct
import zlib
from math import inf
from typing import Any

from streammachine.errors import SnapshotError
from streammachine.ohlc.reference.candles import Candle, Level, Series, Slot
from streammachine.ohlc.reference.core import Core
from streammachine.ohlc.reference.layout import CANDLE, HEAD, I64, MAGIC, NO_MARK, SLOT, U32, VERSION
from streammachine.ohlc.reference.values import canonical
from streammachine.ohlc.values import MAX_COUNT, MAX_MS, show


def dumped(core: Core) -> bytes:
    """A dump without its checksum."""
    count = len(core._intervals)
    parts = [
        HEAD.pack(MAGIC, VERSION, core._max_candles, core._ticks, core._late, core._dropped, count),
        struct.pack(f"<{count}qI", *core._intervals, len(core._texts)),
    ]
    for name in sorted(core._bytes):
        parts += (U32.pack(len(name)), name)
        for interval in core._intervals:
            slot = core._bytes[name].slots[core._level_of[interval]]
            parts.append(SLOT.pack(slot.mark, slot.pending, len(slot.candles)))
            parts += [CANDLE.pack(*candle.values()) for candle in slot.candles]
    return b"".join(parts)


class DumpLoader:
    """Reads a dump, and believes nothing of it."""

    def __init__(self, data: object) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise SnapshotError(f"{show(data)} is not a dump: give the bytes that dump() returned.")
        self.data = bytes(data)
        self.at = 0
        self.end = len(self.data) - 4
        if self.end < 0 or self.data[:6] != MAGIC:
            raise SnapshotError("These bytes are not a dump of an aggregator.")
        if U32.unpack_from(self.data, self.end)[0] != zlib.crc32(self.data[: self.end]):
            raise SnapshotError("The dump is damaged: its checksum does not fit.")
        _, version, self.max_candles, self.ticks, self.late, self.dropped, count = self.take(HEAD)
        if version != VERSION:
            raise SnapshotError(f"The dump has version {version}; this version reads {VERSION}.")
        self.intervals: list[int] = [self.take(I64)[0] for _ in range(count)]
        for number in (self.ticks, self.late, self.dropped):
            self.sure(0 <= number <= MAX_COUNT, "a count is out of range")

    def sure(self, holds: bool, why: str) -> None:
        if not holds:
            raise SnapshotError(f"The dump is damaged: {why}.")

    def raw(self, size: int) -> bytes:
        self.sure(size <= self.end - self.at, "it ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self.raw(layout.size))

    def fill(self, into: Core) -> None:
        previous = b""
        for _ in range(self.take(U32)[0]):
            name = self.raw(self.take(U32)[0])
            text = canonical(name)
            self.sure(text is not None and name > previous, "its symbols are not in order")
            assert text is not None
            previous = name
            series = Series(text, len(into._levels), len(into._roots))
            for interval in self.intervals:
                at = into._level_of[interval]
                self.read_slot(into, into._levels[at], series.slots[at])
            for at in range(len(into._levels)):
                self.check_folding(into._levels, series, at)
            into._refresh_hots(series)
            into._adopt(series)
        self.sure(self.at == self.end, "it goes on behind its end")
        into._ticks, into._late, into._dropped = self.ticks, self.late, self.dropped

    def read_slot(self, into: Core, level: Level, slot: Slot) -> None:
        mark, pending, count = self.take(SLOT)
        candles = self.raw(count * CANDLE.size)
        self.sure(pending <= (count > 0), "a flag is wrong")
        self.sure(into._max_candles == 0 or count <= into._max_candles, "it holds more candles than its bound")
        self.sure(
            mark == NO_MARK or (-level.shift <= mark <= 2 * MAX_MS and (mark + level.shift) % level.interval == 0),
            "a watermark is wrong",
        )
        slot.mark = mark
        slot.pending = bool(pending)
        for values in CANDLE.iter_unpack(candles):
            candle = Candle(0)
            candle.assign(*values)
            previous = slot.candles[-1].start if slot.candles else NO_MARK
            slot.candles.append(candle)
            self.check_candle(level, slot, candle, previous, len(slot.candles) == count)

    def check_candle(self, level: Level, slot: Slot, candle: Candle, previous: int, newest: bool) -> None:
        self.sure(
            -level.shift <= candle.start <= MAX_MS
            and candle.start == level.align(candle.start)
            and candle.start >= slot.mark
            and candle.start > previous,
            "a candle is out of place",
        )
        if candle.count == 0:
            empty = CANDLE.pack(*Candle(candle.start).values())
            self.sure(CANDLE.pack(*candle.values()) == empty, "a candle is wrong")
            self.sure(newest and level.source >= 0, "a candle is empty")
            return
        self.sure(
            0 < candle.count <= MAX_COUNT
            and max(candle.start, 0) <= candle.first <= candle.last <= MAX_MS
            and candle.last - candle.start < level.interval
            and -inf < candle.low <= candle.open <= candle.high < inf
            and candle.low <= candle.close <= candle.high
            and candle.volume >= 0.0,
            "a candle is wrong",
        )

    def check_folding(self, levels: list[Level], series: Series, at: int) -> None:
        """The invariants of ``fast.pyx``."""
        slot = series.slots[at]
        if not levels[at].dependents:
            self.sure(slot.pending == bool(slot.candles), "a flag is wrong")
        if slot.candles and slot.candles[-1].count == 0:
            self.sure(series.slots[levels[at].source].pending, "a candle is empty")
        for up in levels[at].dependents if slot.pending else ():
            above = series.slots[up]
            self.sure(
                bool(above.candles)
                and above.candles[-1].start == levels[up].align(slot.candles[-1].start)
                and above.pending,
                "its folding is wrong",
            )
