"""What happens to the rows of one feed between the exchange and the sinks. Synchronous and pure: no clock, no I/O.

Dedupe (a closed candle that is not behind the last one of its symbol and timeframe is left out), fold trades to
candles, aggregate. The runner does the rest: batches, transformers and back-pressure belong to the outlets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streammachine.market.aggregation.candle_aggregator import Aggregator
from streammachine.market.aggregation.trade_folder import TradeFolder
from streammachine.market.model.data_input import DataInput
from streammachine.market.model.kline import Gap, Kline, Trade
from streammachine.market.model.quote import Quote
from streammachine.market.model.rows import Row


class Pipeline:
    """The rows of one DataInput: what a feed delivers in, what goes to the sinks out.

    Args:
        source: the exchange as its klines name it. only_closed: leave candles out that are still open.
        emit_trades: with trades that are folded to candles, hand on the trades too.

    Attributes:
        last: the last closed candle of each (symbol, timeframe). duplicates: candles left out.
        folder: what folds trades; None where candles come in, or trades are only handed on.
    """

    def __init__(
        self,
        data_input: DataInput,
        source: str,
        *,
        only_closed: bool = True,
        emit_trades: bool = False,
    ) -> None:
        self.only_closed = only_closed
        self.last: dict[tuple[str, str], Kline] = {}
        self.duplicates = 0
        base = data_input.timeframe
        self.folder = TradeFolder(source, base) if base is not None and data_input.kind == "trade" else None
        self.emit_trades = emit_trades or self.folder is None
        self._aggregator = (
            Aggregator(base, data_input.aggregate_list, running=not only_closed)
            if base is not None and data_input.aggregate_list
            else None
        )

    def process(self, rows: Iterable[Row]) -> list[Row]:
        """The rows that go on, in order."""
        out: list[Row] = []
        candle = self._candle
        for row in rows:
            if isinstance(row, Kline):
                candle(row, out)
            elif isinstance(row, Trade):
                self._trade(row, out)
            elif isinstance(row, Quote):
                out.append(row)
            else:
                self._gap(row, out)
        if self.folder is not None and not self.only_closed:
            for kline in self.folder.running():
                self._candle(kline, out)
        return out

    def close_until(self, symbol: str, ts: int) -> list[Row]:
        """The candles of a symbol that the clock, not a trade, shows to be over: all its trades before ``ts`` came."""
        out: list[Row] = []
        if self.folder is not None:
            self._candles(self.folder.close_until(symbol, ts), out)
        return out

    def _candle(self, kline: Kline, out: list[Row]) -> None:
        fields = kline.__dict__  # a look at a model's attribute costs three times one into its fields
        is_open = fields["is_closed"] is False
        if is_open and self.only_closed:
            return
        key = (fields["symbol"], fields["timeframe"])
        last = self.last.get(key)
        if last is not None and fields["open_ts"] <= last.__dict__["open_ts"]:
            self.duplicates += 1
            return
        if not is_open:
            self.last[key] = kline
        if self._aggregator is None:
            out.append(kline)
        else:
            self._with_targets(kline, out)

    def _with_targets(self, row: Kline | Gap, out: list[Row]) -> None:
        if self._aggregator is None:
            out.append(row)
            return
        for made in self._aggregator.extend((row,)):
            if made is not row and isinstance(made, Kline) and made.is_closed:
                self.last[made.symbol, made.timeframe] = made
            out.append(made)

    def _trade(self, trade: Trade, out: list[Row]) -> None:
        if self.folder is not None:
            closed = self.folder.add(trade)
            if closed:
                self._candles(closed, out)
        if self.emit_trades:
            out.append(trade)

    def _gap(self, gap: Gap, out: list[Row]) -> None:
        if self.folder is not None and gap.timeframe == "trade":
            out.append(gap)
            self._candles(self.folder.add_gap(gap), out)
            return
        self._with_targets(gap, out)

    def _candles(self, rows: Sequence[Kline | Gap], out: list[Row]) -> None:
        for row in rows:
            if isinstance(row, Kline):
                self._candle(row, out)
            else:
                self._with_targets(row, out)
