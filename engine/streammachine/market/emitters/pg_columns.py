"""Candles in columns as COPY text, without a row between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from streammachine.market.emitters.pg_table import is_plain_number, is_time
from streammachine.market.model import kline_columns
from streammachine.market.model.kline import Kline

if TYPE_CHECKING:
    from streammachine.market.emitters.pg_table import WritePlan
    from streammachine.market.model.kline_columns import KlineColumns

_VARYING = ("open_ts", "end_ts", "open", "high", "low", "close", "volume", "quote_volume", "vwap", "n_trades")


def fits(plan: WritePlan, names: Sequence[str]) -> bool:
    """Whether candles in columns can be written so: the same again does no harm, no two are the same row, and each
    value is text by itself.

    Args:
        names: a candle's fields as the plan names them, in their order.
    """
    ours = dict(zip(names, Kline.model_fields, strict=True))
    fields = dict(zip(plan.columns, plan.fields, strict=False))
    if plan.defaults or "open_ts" not in [ours.get(fields[column]) for column in plan.key]:
        return False
    return all(
        is_plain_number(encode) or is_time(encode)
        for field, encode in zip(plan.fields, plan.encoders, strict=True)
        if ours[field] in _VARYING
    )


def copy_text(plan: WritePlan, names: Sequence[str], columns: KlineColumns) -> bytes:
    """The candles as COPY text: what ``WritePlan.encode`` makes of their rows, but for how numbers are written."""
    ours = dict(zip(names, Kline.model_fields, strict=True))
    cells: list[kline_columns.Text] = []
    for field, encode in zip(plan.fields, plan.encoders, strict=True):
        value = columns.column(ours[field])
        if not isinstance(value, np.ndarray):
            cells.append((encode(value).encode(),))
        elif is_plain_number(encode, is_whole=value.dtype.kind == "i"):
            cells.append(kline_columns.number_texts(value, shortest=False))
        else:
            cells.append(",".join(map(encode, value.tolist())).encode())
    return kline_columns.lines(cells, len(columns), b"\t", b"\n")
