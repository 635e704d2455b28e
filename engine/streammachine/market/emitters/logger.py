"""Logger: a readable line for every row."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from streammachine.market.emitters.base import DataEmitter
from streammachine.market.emitters.sink_text import SinkText
from streammachine.market.model.kline import Gap, Kline, Trade
from streammachine.market.model.quote import Quote
from streammachine.market.model.rows import Row

LOGGER: Final = "streammachine.candles"


class Logger(DataEmitter):
    """Writes a line for every row to the logger ``streammachine.candles``, at INFO.

    The lines go where logging goes. Where nobody has configured logging they go to stderr, so that they are seen all
    the same (never to stdout, which belongs to the protocol inside an MCP server).

    Args:
        prefix: begins every line. note: a line of its own before the first row.
    """

    def __init__(self, prefix: str = "", *, note: str = "", name: str = "logger") -> None:
        self.prefix = prefix
        self.note = note
        self.name = name
        # An object of its own below the named one: what it needs to be seen, no other Logger takes away.
        self._logger = logging.Logger(LOGGER)
        self._logger.parent = logging.getLogger(LOGGER)

    async def connect(self) -> None:
        """See to it that the lines are seen."""
        self._logger.setLevel(logging.getLogger(LOGGER).level or logging.INFO)
        if not self._logger.hasHandlers():
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("%(message)s"))
            self._logger.addHandler(handler)
        if self.note:
            self._logger.info("%s", self.note)

    async def emit(self, row: Any) -> None:
        """Write one line."""
        self._logger.info("%s", self.line(row))

    async def emit_batch(self, rows: Sequence[Row]) -> None:
        """Write a line for each."""
        for row in rows:
            made = self.transformed(row)
            if made is not None:
                self._logger.info("%s", self.line(made))

    async def close(self) -> None:
        """Take back what ``connect`` set up."""
        self._logger.handlers.clear()

    def line(self, row: Any) -> str:
        """A row in one line; what a transformer made, as name=value."""
        text = _line(row)
        return f"{self.prefix} {text}" if self.prefix else text


def _line(row: Any) -> str:
    if isinstance(row, Kline):
        state = "" if row.is_closed is None else " closed" if row.is_closed else " open"
        trades = "" if row.n_trades is None else f" trades {row.n_trades}"
        partly = "" if row.is_complete else " incomplete"
        return (
            f"{row.source or '-'} {row.symbol} {row.timeframe} {_time(row.open_ts)} O {_number(row.open)} "
            f"H {_number(row.high)} L {_number(row.low)} C {_number(row.close)} V {_number(row.volume)}"
            f"{trades}{state}{partly}"
        )
    if isinstance(row, Trade):
        side = f" {row.side}" if row.side else ""
        return (
            f"{row.source or '-'} {row.symbol} trade {_time(row.ts, 'milliseconds')}{side} "
            f"{_number(row.volume)} at {_number(row.price)} id {row.trade_id}"
        )
    if isinstance(row, Quote):
        bid, ask = (
            "none" if price is None or size is None else f"{_number(size)} at {_number(price)}"
            for price, size in ((row.bid, row.bid_size), (row.ask, row.ask_size))
        )
        return f"{row.source or '-'} {row.symbol} quote {_time(row.ts, 'milliseconds')} bid {bid} ask {ask}"
    if isinstance(row, Gap):
        return (
            f"{row.source} {row.symbol} {row.timeframe} GAP from {_time(row.start)} to {_time(row.end)} "
            f"(not included): {row.reason}"
        )
    return " ".join(f"{name}={value}" for name, value in row.items())


def _time(ts: int, unit: str = "seconds") -> str:
    return datetime.fromtimestamp(ts / 1000, UTC).replace(tzinfo=None).isoformat(" ", unit) + "Z"


def _number(value: float) -> str:
    text = repr(value)
    return text.removesuffix(".0") if "e" not in text else f"{value:.12f}".rstrip("0").rstrip(".")


def from_text(text: SinkText) -> Logger:
    """The emitter that ``log`` means."""
    return Logger()
