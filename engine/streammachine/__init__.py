"""StreamMachine: market ticks to candles on Redis Streams. The public names, loaded on first use."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from streammachine.charts.chart import Chart as Chart
    from streammachine.charts.chart import ChartLine as ChartLine
    from streammachine.charts.draw import draw_chart as draw_chart
    from streammachine.errors import StreamMachineError as StreamMachineError
    from streammachine.frames.buffer import TimeSeriesBuffer as TimeSeriesBuffer
    from streammachine.frames.convert import prune_old_dataframe_rows as prune_old_dataframe_rows
    from streammachine.frames.convert import streams_to_dataframe as streams_to_dataframe
    from streammachine.frames.convert import streams_to_dataframe_fast as streams_to_dataframe_fast
    from streammachine.frames.read import read_frame as read_frame
    from streammachine.indicators.compute import compute_indicators as compute_indicators
    from streammachine.market.backfill.backfill import Backfilling
    from streammachine.market.backfill.backfill import CcxtBackfilling as CcxtBackfilling
    from streammachine.market.emitters.base import DataEmitter as DataEmitter
    from streammachine.market.emitters.csv import CSVEmitter as CSVEmitter
    from streammachine.market.emitters.duckdb import DuckDBEmitter as DuckDBEmitter
    from streammachine.market.emitters.frame import FrameEmitter as FrameEmitter
    from streammachine.market.emitters.kafka import KafkaEmitter as KafkaEmitter
    from streammachine.market.emitters.logger import Logger as Logger
    from streammachine.market.emitters.parquet import ParquetEmitter as ParquetEmitter
    from streammachine.market.emitters.postgres import PostgresEmitter as PostgresEmitter
    from streammachine.market.emitters.redis import RedisEmitter as RedisEmitter
    from streammachine.market.emitters.webhook import WebhookEmitter as WebhookEmitter
    from streammachine.market.live.feed_options import FeedOptions as FeedOptions
    from streammachine.market.live.merge import merge_streams as merge_streams
    from streammachine.market.live.runner import CcxtRunner as CcxtRunner
    from streammachine.market.live.runner import Runner as Runner
    from streammachine.market.log_config import config as config
    from streammachine.market.model.data_input import DataInput as DataInput
    from streammachine.market.model.kline import Gap as Gap
    from streammachine.market.model.kline import Kline as Kline
    from streammachine.market.model.kline import Trade as Trade
    from streammachine.market.model.kline_columns import KlineColumns as KlineColumns
    from streammachine.market.model.quote import Quote as Quote
    from streammachine.market.network.listing import list_symbols as list_symbols
    from streammachine.ohlc.aggregator import _HAS_FAST_OHLC_CYTHON as _HAS_FAST_OHLC_CYTHON
    from streammachine.ohlc.aggregator import CandleData as CandleData
    from streammachine.ohlc.aggregator import FastOHLC as FastOHLC
    from streammachine.ohlc.aggregator import create_ohlc_aggregator as create_ohlc_aggregator
    from streammachine.ohlc.aggregator import format_candle_for_redis as format_candle_for_redis
    from streammachine.ohlc.aggregator import parse_stream_id_timestamp as parse_stream_id_timestamp
    from streammachine.ohlc.consumer.consumer import FastOHLCConsumer as FastOHLCConsumer
    from streammachine.redis.connection import RedisConnection as RedisConnection
    from streammachine.redis.objects import RedisObjectStorage as RedisObjectStorage
    from streammachine.redis.storage import Storage as Storage
    from streammachine.redis.transport.codec import _has_cython_decode as _has_cython_decode
    from streammachine.redis.transport.codec import decode_dict_bytes_to_utf8 as decode_dict_bytes_to_utf8
    from streammachine.runtime.admin.dead_letters import DeadLetters as DeadLetters
    from streammachine.runtime.alerts.alert import Alert as Alert
    from streammachine.runtime.alerts.alert import create_alert as create_alert
    from streammachine.runtime.app.app import App as App
    from streammachine.runtime.consumer.consumer import StreamConsumer as StreamConsumer
    from streammachine.runtime.model.config import AppConfig as AppConfig
    from streammachine.runtime.model.config import Batch as Batch
    from streammachine.runtime.model.config import ConsumerConfig as ConsumerConfig
    from streammachine.runtime.model.config import TimerConfig as TimerConfig
    from streammachine.runtime.model.message import Message as Message
    from streammachine.runtime.model.message import MessageBatch as MessageBatch
    from streammachine.runtime.model.retry import Reject as Reject
    from streammachine.runtime.model.retry import Retry as Retry
    from streammachine.runtime.model.retry import RetryPolicy as RetryPolicy
    from streammachine.runtime.model.retry import Skip as Skip
    from streammachine.runtime.model.typed import TypedBatch as TypedBatch
    from streammachine.runtime.observability.metrics import collector as collector
    from streammachine.runtime.testing import TestApp as TestApp
    from streammachine.runtime.testing import wait_until as wait_until
    from streammachine.settings import Settings as Settings
    from streammachine.trade_files.build import abuild_candles as abuild_candles
    from streammachine.trade_files.build import build_candles as build_candles

    __version__: str

    # Made from the registry (market/exchanges/registry.py); type checkers read what they are here.
    class BinanceRunner(Runner): ...

    class OKXRunner(Runner): ...

    class KrakenRunner(Runner): ...

    class CoinbaseRunner(Runner): ...

    class BybitRunner(Runner): ...

    class BinanceBackfilling(Backfilling): ...

    class OKXBackfilling(Backfilling): ...

    class KrakenBackfilling(Backfilling): ...

    class CoinbaseBackfilling(Backfilling): ...

    class BybitBackfilling(Backfilling): ...

    OkxBackfilling = OKXBackfilling

_HOMES = {
    "Alert": "runtime.alerts.alert",
    "App": "runtime.app.app",
    "AppConfig": "runtime.model.config",
    "Batch": "runtime.model.config",
    "BinanceBackfilling": "market.backfill.backfill",
    "BinanceRunner": "market.live.runner",
    "BybitBackfilling": "market.backfill.backfill",
    "BybitRunner": "market.live.runner",
    "CSVEmitter": "market.emitters.csv",
    "DuckDBEmitter": "market.emitters.duckdb",
    "FrameEmitter": "market.emitters.frame",
    "KlineColumns": "market.model.kline_columns",
    "CandleData": "ohlc.aggregator",
    "Chart": "charts.chart",
    "ChartLine": "charts.chart",
    "CcxtBackfilling": "market.backfill.backfill",
    "CcxtRunner": "market.live.runner",
    "Runner": "market.live.runner",
    "ConsumerConfig": "runtime.model.config",
    "DataEmitter": "market.emitters.base",
    "DataInput": "market.model.data_input",
    "DeadLetters": "runtime.admin.dead_letters",
    "FastOHLC": "ohlc.aggregator",
    "FastOHLCConsumer": "ohlc.consumer.consumer",
    "FeedOptions": "market.live.feed_options",
    "Gap": "market.model.kline",
    "KafkaEmitter": "market.emitters.kafka",
    "Kline": "market.model.kline",
    "CoinbaseBackfilling": "market.backfill.backfill",
    "CoinbaseRunner": "market.live.runner",
    "KrakenBackfilling": "market.backfill.backfill",
    "KrakenRunner": "market.live.runner",
    "Logger": "market.emitters.logger",
    "Message": "runtime.model.message",
    "MessageBatch": "runtime.model.message",
    "OKXBackfilling": "market.backfill.backfill",
    "OKXRunner": "market.live.runner",
    "OkxBackfilling": "market.backfill.backfill",
    "ParquetEmitter": "market.emitters.parquet",
    "PostgresEmitter": "market.emitters.postgres",
    "Quote": "market.model.quote",
    "RedisConnection": "redis.connection",
    "RedisEmitter": "market.emitters.redis",
    "RedisObjectStorage": "redis.objects",
    "Reject": "runtime.model.retry",
    "Retry": "runtime.model.retry",
    "RetryPolicy": "runtime.model.retry",
    "Settings": "settings",
    "Skip": "runtime.model.retry",
    "Storage": "redis.storage",
    "StreamConsumer": "runtime.consumer.consumer",
    "StreamMachineError": "errors",
    "TestApp": "runtime.testing",
    "TimeSeriesBuffer": "frames.buffer",
    "TimerConfig": "runtime.model.config",
    "TypedBatch": "runtime.model.typed",
    "Trade": "market.model.kline",
    "WebhookEmitter": "market.emitters.webhook",
    "_HAS_FAST_OHLC_CYTHON": "ohlc.aggregator",
    "_has_cython_decode": "redis.transport.codec",
    "abuild_candles": "trade_files.build",
    "build_candles": "trade_files.build",
    "collector": "runtime.observability.metrics",
    "compute_indicators": "indicators.compute",
    "config": "market.log_config",
    "create_alert": "runtime.alerts.alert",
    "create_ohlc_aggregator": "ohlc.aggregator",
    "decode_dict_bytes_to_utf8": "redis.transport.codec",
    "draw_chart": "charts.draw",
    "format_candle_for_redis": "ohlc.aggregator",
    "list_symbols": "market.network.listing",
    "merge_streams": "market.live.merge",
    "parse_stream_id_timestamp": "ohlc.aggregator",
    "prune_old_dataframe_rows": "frames.convert",
    "read_frame": "frames.read",
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


class _MovedModules:
    """Finds a module under the path of the version before (``moved.py``); asked for what no other finder finds."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if not name.startswith("streammachine."):
            return None
        from streammachine.moved import spec_of

        return spec_of(name)


sys.meta_path.append(_MovedModules)
