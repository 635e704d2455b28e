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
    from streammachine.market.backfill import BinanceBackfilling as BinanceBackfilling
    from streammachine.market.backfill import BybitBackfilling as BybitBackfilling
    from streammachine.market.backfill import KrakenBackfilling as KrakenBackfilling
    from streammachine.market.backfill import OKXBackfilling as OKXBackfilling
    from streammachine.market.backfill import OkxBackfilling as OkxBackfilling
    from streammachine.market.data_input import DataInput as DataInput
    from streammachine.market.emitters.base import DataEmitter as DataEmitter
    from streammachine.market.emitters.csv import CSVEmitter as CSVEmitter
    from streammachine.market.emitters.kafka import KafkaEmitter as KafkaEmitter
    from streammachine.market.emitters.logger import Logger as Logger
    from streammachine.market.emitters.parquet import ParquetEmitter as ParquetEmitter
    from streammachine.market.emitters.postgres import PostgresEmitter as PostgresEmitter
    from streammachine.market.emitters.redis import RedisEmitter as RedisEmitter
    from streammachine.market.feed import FeedOptions as FeedOptions
    from streammachine.market.kline import Gap as Gap
    from streammachine.market.kline import Kline as Kline
    from streammachine.market.kline import Trade as Trade
    from streammachine.market.logs import config as config
    from streammachine.market.merge import merge_streams as merge_streams
    from streammachine.market.runner import BinanceRunner as BinanceRunner
    from streammachine.market.runner import BybitRunner as BybitRunner
    from streammachine.market.runner import KrakenRunner as KrakenRunner
    from streammachine.market.runner import OKXRunner as OKXRunner
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
    from streammachine.runtime.config import Batch as Batch
    from streammachine.runtime.config import ConsumerConfig as ConsumerConfig
    from streammachine.runtime.config import TimerConfig as TimerConfig
    from streammachine.runtime.consumer import StreamConsumer as StreamConsumer
    from streammachine.runtime.message import Message as Message
    from streammachine.runtime.metrics import collector as collector
    from streammachine.runtime.redrive import DeadLetters as DeadLetters
    from streammachine.runtime.retry import Reject as Reject
    from streammachine.runtime.retry import Retry as Retry
    from streammachine.runtime.retry import RetryPolicy as RetryPolicy
    from streammachine.runtime.retry import Skip as Skip
    from streammachine.runtime.running import MessageBatch as MessageBatch
    from streammachine.runtime.testing import TestApp as TestApp
    from streammachine.runtime.testing import wait_until as wait_until
    from streammachine.settings import Settings as Settings

    __version__: str

_HOMES = {
    "App": "runtime.app",
    "AppConfig": "runtime.config",
    "Batch": "runtime.config",
    "BinanceBackfilling": "market.backfill",
    "BinanceRunner": "market.runner",
    "BybitBackfilling": "market.backfill",
    "BybitRunner": "market.runner",
    "CSVEmitter": "market.emitters.csv",
    "CandleData": "ohlc.aggregator",
    "ConsumerConfig": "runtime.config",
    "DataEmitter": "market.emitters.base",
    "DataInput": "market.data_input",
    "DeadLetters": "runtime.redrive",
    "FastOHLC": "ohlc.aggregator",
    "FastOHLCConsumer": "ohlc.consumer",
    "FeedOptions": "market.feed",
    "Gap": "market.kline",
    "KafkaEmitter": "market.emitters.kafka",
    "Kline": "market.kline",
    "KrakenBackfilling": "market.backfill",
    "KrakenRunner": "market.runner",
    "Logger": "market.emitters.logger",
    "Message": "runtime.message",
    "MessageBatch": "runtime.running",
    "OKXBackfilling": "market.backfill",
    "OKXRunner": "market.runner",
    "OkxBackfilling": "market.backfill",
    "ParquetEmitter": "market.emitters.parquet",
    "PostgresEmitter": "market.emitters.postgres",
    "RedisConnection": "redis.connection",
    "RedisEmitter": "market.emitters.redis",
    "RedisObjectStorage": "redis.objects",
    "Reject": "runtime.retry",
    "Retry": "runtime.retry",
    "RetryPolicy": "runtime.retry",
    "Settings": "settings",
    "Skip": "runtime.retry",
    "Storage": "redis.storage",
    "StreamConsumer": "runtime.consumer",
    "StreamMachineError": "errors",
    "TestApp": "runtime.testing",
    "TimeSeriesBuffer": "frames.buffer",
    "TimerConfig": "runtime.config",
    "Trade": "market.kline",
    "_HAS_FAST_OHLC_CYTHON": "ohlc.aggregator",
    "_has_cython_decode": "redis.codec",
    "collector": "runtime.metrics",
    "config": "market.logs",
    "create_ohlc_aggregator": "ohlc.aggregator",
    "decode_dict_bytes_to_utf8": "redis.codec",
    "format_candle_for_redis": "ohlc.aggregator",
    "merge_streams": "market.merge",
    "parse_stream_id_timestamp": "ohlc.aggregator",
    "prune_old_dataframe_rows": "frames.convert",
    "streams_to_dataframe": "frames.convert",
    "streams_to_dataframe_fast": "frames.convert",
    "wait_until": "runtime.testing",
}

__all__ = list(_HOMES)
__all__ += ["__version__"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is not None:
        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    elif name == "__version__":
        value = _installed_version()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _installed_version() -> str:
    """The version of the installed distribution; "0+unknown" where the package is run from its source."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("streammachine-mcp")
    except PackageNotFoundError:
        return "0+unknown"
