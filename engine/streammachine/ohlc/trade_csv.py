"""The door to the reader of trade files' lines: the Cython one where it was built, else its plain-Python twin."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streammachine.ohlc.reference.trade_csv import trade_lines
else:
    try:
        from streammachine.ohlc.fast import trade_lines
    except ImportError:
        from streammachine.ohlc.reference.trade_csv import trade_lines

__all__ = ["trade_lines"]
