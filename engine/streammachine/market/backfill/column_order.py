"""Which candles of a batch are new, and where some are missing: checked for the whole batch at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from streammachine.market.model.kline_columns import KlineColumns


def runs(columns: KlineColumns, position: int, end: int) -> Iterator[KlineColumns]:
    """The candles that begin within [position, end) and behind all before them, in runs without a hole, as they are
    taken one by one: one that is not behind the newest so far is a repetition, or comes too late.

    Args:
        columns: candles on their timeframe's grid, in any order. position, end: epoch milliseconds, on the grid.
    """
    starts, step = columns.open_ts, columns.step
    if not len(columns):
        return
    is_whole = starts[0] == position and starts[-1] < end and bool((np.diff(starts) == step).all())
    if is_whole:
        yield columns
        return
    within = columns[(starts >= position) & (starts < end)]
    if not len(within):
        return
    newest = np.maximum.accumulate(within.open_ts)
    is_new = np.concatenate(([True], within.open_ts[1:] > newest[:-1]))
    found = within if is_new.all() else within[is_new]
    edges = np.flatnonzero(np.diff(found.open_ts) != step) + 1
    first = 0
    for edge in [*edges.tolist(), len(found)]:
        yield found[first:edge]
        first = edge
