"""The last candles of a series, and the indicators of the newest of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from streammachine.indicators.compute import PRICES, compute
from streammachine.indicators.spec import Indicator, warmup_of
from streammachine.indicators.warmup import MOST_HISTORY


class IndicatorWindow:
    """Candles of one series as they come, as many as the indicators need.

    What adds up (obv, vwap) begins at the oldest candle that is kept, so such indicators are computed from all that
    came as long as those are at most ``MOST_HISTORY``.

    Args:
        indicators: what ``parse_all`` gives.
    """

    def __init__(self, indicators: Sequence[Indicator]) -> None:
        self.indicators = list(indicators)
        cumulative = any(indicator.cumulative for indicator in self.indicators)
        size = MOST_HISTORY if cumulative else min(warmup_of(self.indicators), MOST_HISTORY)
        self._rows: deque[tuple[float, ...]] = deque(maxlen=size + 1)
        self._last: int | None = None

    def add(self, start: int, prices: Sequence[float | None]) -> dict[str, float | None]:
        """Take a candle and give the indicators' values at it, by column.

        Args:
            start: its open_ts. The candle that came last may come again (it was open); an older one is not taken.
            prices: open, high, low, close, volume.
        """
        row = tuple(float("nan") if value is None else float(value) for value in prices)
        if self._last is not None and start < self._last:
            return {name: None for indicator in self.indicators for name in indicator.columns}
        if start == self._last:
            self._rows[-1] = row
        else:
            self._rows.append(row)
        self._last = start
        columns = dict(zip(PRICES, zip(*self._rows, strict=True), strict=True))
        values: dict[str, float | None] = {}
        cumulative = [each for each in self.indicators if each.cumulative]
        fading = [each for each in self.indicators if not each.cumulative]
        if fading:
            values |= {name: column[-1] for name, column in compute(fading, columns, shown=1).items()}
        if cumulative:
            values |= {name: column[-1] for name, column in compute(cumulative, columns).items()}
        return values
