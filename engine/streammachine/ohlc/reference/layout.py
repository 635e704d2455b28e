"""Bounds of the candle engine, and the layout of a dump."""

from __future__ import annotations

import struct

WEEK_MS = 604_800_000
MONDAY_SHIFT_MS = 259_200_000  # epoch day 0 is a Thursday, three days into a week
NO_MARK = FIRST = -(2**63)
LAST = 2**63 - 1

ACCEPTED, LATE = 1, 2  # what became of a tick

MAGIC = b"SMOHLC"
VERSION = 1
HEAD = struct.Struct("<6sHqqqqI")  # magic, version, max_candles, tick, late and dropped counts, intervals
SLOT = struct.Struct("<qBI")  # watermark, pending, candles
CANDLE = struct.Struct("<5d4q")
I64 = struct.Struct("<q")
U32 = struct.Struct("<I")
