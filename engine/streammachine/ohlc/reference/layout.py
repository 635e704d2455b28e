"""Constants of the candle engine and the layout of its snapshots."""

from __future__ import annotations

import struct

from streammachine.ohlc.reference.candles import _Series

WEEK_MS = 604_800_000


MONDAY_SHIFT_MS = 259_200_000  # epoch day 0 is a Thursday, three days into a week


NO_MARK = FIRST = -(2**63)


LAST = 2**63 - 1


MAGIC = b"SMOHLC"


VERSION = 1


HEAD = struct.Struct("<6sHqqqqI")  # magic, version, max_candles, tick, late and dropped counts, intervals


SLOT = struct.Struct("<qBI")  # watermark, pending, candles


CANDLE = struct.Struct("<5d4q")


I64 = struct.Struct("<q")


U32 = struct.Struct("<I")


ACCEPTED = 1


LATE = 2


_Tick = tuple["_Series", float, float, int]
