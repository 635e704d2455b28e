"""Streams to pandas: replies become frames, frames are kept short.

Nothing here talks to Redis, and importing it does not import pandas; the first call does.
"""

from streammachine.frames.buffer import TimeSeriesBuffer
from streammachine.frames.convert import prune_old_dataframe_rows, streams_to_dataframe, streams_to_dataframe_fast

__all__ = ["TimeSeriesBuffer", "prune_old_dataframe_rows", "streams_to_dataframe", "streams_to_dataframe_fast"]
