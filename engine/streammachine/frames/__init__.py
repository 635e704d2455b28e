"""Streams to pandas: replies become frames, frames are kept short.

Only ``read`` talks to Redis. Importing it does not import pandas; the first call does.
"""

from streammachine.frames.buffer import TimeSeriesBuffer
from streammachine.frames.convert import prune_old_dataframe_rows, streams_to_dataframe, streams_to_dataframe_fast
from streammachine.frames.read import read_frame

__all__ = [
    "TimeSeriesBuffer",
    "prune_old_dataframe_rows",
    "read_frame",
    "streams_to_dataframe",
    "streams_to_dataframe_fast",
]
