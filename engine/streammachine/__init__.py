"""StreamMachine: market ticks to candles on Redis Streams. The public names, loaded on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streammachine.errors import StreamMachineError as StreamMachineError
    from streammachine.frames.buffer import TimeSeriesBuffer as TimeSeriesBuffer
    from streammachine.frames.convert import prune_old_dataframe_rows as prune_old_dataframe_rows
    from streammachine.frames.convert import streams_to_dataframe as streams_to_dataframe
    from streammachine.frames.convert import streams_to_dataframe_fast as streams_to_dataframe_fast
    from streammachine.ohlc.aggregator import _HAS_FAST_OHLC_CYTHON as _HAS_FAST_OHLC_CYTHON
    from streammachine.ohlc.aggregator import CandleData as CandleData
    from streammachine.ohlc.aggregator import FastOHLC as FastOHLC
    from streammachine.ohlc.aggregator import create_ohlc_aggregator as create_ohlc_aggregator
    from streammachine.ohlc.aggregator import format_candle_for_redis as format_candle_for_redis
    from streammachine.ohlc.aggregator import parse_stream_id_timestamp as parse_stream_id_timestamp
    from streammachine.ohlc.consumer import FastOHLCConsumer as FastOHLCConsumer
    from streammachine.redis.codec import _has_cython_decode as _has_cython_decode
    from streammachine.redis.codec import decode_dict_bytes_to_utf8 as decode_dict_bytes_to_utf8
    from streammachine.redis.connection import RedisConnection as RedisConnection
    from streammachine.redis.objects import RedisObjectStorage as RedisObjectStorage
    from streammachine.redis.storage import Storage as Storage
    from streammachine.runtime.app import App as App
    from streammachine.runtime.config import AppConfig as AppConfig
    from streammachine.runtime.config import ConsumerConfig as ConsumerConfig
    from streammachine.runtime.config import TimerConfig as TimerConfig
    from streammachine.runtime.consumer import StreamConsumer as StreamConsumer
    from streammachine.runtime.message import Message as Message
    from streammachine.settings import Settings as Settings

_HOMES = {
    "App": "runtime.app",
    "AppConfig": "runtime.config",
    "CandleData": "ohlc.aggregator",
    "ConsumerConfig": "runtime.config",
    "FastOHLC": "ohlc.aggregator",
    "FastOHLCConsumer": "ohlc.consumer",
    "Message": "runtime.message",
    "RedisConnection": "redis.connection",
    "RedisObjectStorage": "redis.objects",
    "Settings": "settings",
    "Storage": "redis.storage",
    "StreamConsumer": "runtime.consumer",
    "StreamMachineError": "errors",
    "TimeSeriesBuffer": "frames.buffer",
    "TimerConfig": "runtime.config",
    "_HAS_FAST_OHLC_CYTHON": "ohlc.aggregator",
    "_has_cython_decode": "redis.codec",
    "create_ohlc_aggregator": "ohlc.aggregator",
    "decode_dict_bytes_to_utf8": "redis.codec",
    "format_candle_for_redis": "ohlc.aggregator",
    "parse_stream_id_timestamp": "ohlc.aggregator",
    "prune_old_dataframe_rows": "frames.convert",
    "streams_to_dataframe": "frames.convert",
    "streams_to_dataframe_fast": "frames.convert",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
