"""The candles of a tick stream by way of rows: the native road of ``candle_book.py``, with the same results.

The reply of a read comes as rows of numbers (``redis/transport/ticks.py``) and is folded, closed and encoded by
``ohlc.fast`` without an object for an entry. What is unusual in a symbol's rows of one read (a value that is missing or
not plain, a time ahead of the clock, a symbol that is none) sends those rows the way of ``CandleBook``, entry by entry,
on the same candles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streammachine.ohlc.aggregator import FastOHLC
from streammachine.ohlc.consumer.candle_book import (
    AHEAD_MS,
    PACKED_CANDLES,
    PACKED_PAIRS,
    CandleBook,
    Encoded,
    Finished,
    TickFields,
)
from streammachine.redis.transport.ticks import HAS_NATIVE, TickReader, TickReply

if TYPE_CHECKING:
    from streammachine.ohlc.fast import TickBook as _NativeBook

    NATIVE: bool
else:
    try:
        from streammachine.ohlc.fast import TickBook as _NativeBook

        NATIVE = HAS_NATIVE
    except ImportError:
        NATIVE = False

_LONGEST = 10**17  # milliseconds of grace: no time is so late that more makes a difference

__all__ = ["NATIVE", "TickBook", "make_book"]


def make_book(
    stream: str, intervals: Sequence[int], fields: TickFields, *, grace_ms: int, max_candles: int
) -> CandleBook:
    """A ``TickBook`` where the native parts are built, else a ``CandleBook``."""
    kind = TickBook if NATIVE else CandleBook
    return kind(stream, intervals, fields, grace_ms=grace_ms, max_candles=max_candles)


@dataclass
class _EncodedFinished(Finished):
    """What the next commit writes, encoded already."""

    state_arguments: Encoded = field(default_factory=Encoded)
    candle_arguments: list[Encoded] = field(default_factory=list)

    def encoded_states(self) -> Encoded:
        return self.state_arguments

    def encoded_candles(self, intervals: Sequence[int]) -> list[Encoded]:
        return self.candle_arguments


class TickBook(CandleBook):
    """A ``CandleBook`` that also takes rows. Its arguments are the same."""

    def __init__(
        self, stream: str, intervals: Sequence[int], fields: TickFields, *, grace_ms: int, max_candles: int
    ) -> None:
        super().__init__(stream, intervals, fields, grace_ms=grace_ms, max_candles=max_candles)
        self._native = _NativeBook(
            self._intervals, min(grace_ms, _LONGEST), AHEAD_MS, fields.timestamp is not None, self._new_candles,
            self._symbols, self._changed, PACKED_CANDLES,
        )  # fmt: skip

    def reader(self) -> TickReader:
        """What reads the replies that ``fold_rows`` takes."""
        return TickReader(
            self._stream,
            self._price.encode(),
            self._volume.encode() if self._volume is not None else None,
            self._symbol_field,
            self._fallback,
            self._timestamp,
        )

    def fold_rows(self, reply: TickReply, now_ms: float) -> None:
        """Take the entries of a reply, which arrived at ``now_ms``; close what they bring to an end."""
        self._finished.entries += reply.count

        def slow(name: bytes | None, rows: list[int]) -> None:
            self._fold_group(name, [reply.entry(row) for row in rows], now_ms)

        self._native.fold(reply, reply.names, now_ms, slow)

    def close_idle(self, as_of_ms: float) -> None:
        self._native.close_idle(as_of_ms)

    @property
    def closed(self) -> int:
        return self._native.finished_count

    def counts(self) -> dict[str, int]:
        return self._native.counts()

    def take(self) -> Finished:
        finished, self._finished = self._finished, Finished()
        return _EncodedFinished(
            finished.entries,
            refused=finished.refused,
            state_arguments=Encoded(*self._native.states(PACKED_PAIRS)),
            candle_arguments=[Encoded(*each) for each in self._native.candles()],
        )

    def _make_symbol(self, name: bytes, candles: FastOHLC) -> Any:
        return self._native.symbol(name, candles)

    def _close(self, symbol: Any, until: int) -> None:
        self._native.close(symbol, until)

    def _find_due(self, symbol: Any) -> None:
        self._native.find_due(symbol)
