"""Runners: one exchange's stream, healed, aggregated, into any number of emitters or an ``async for``.

A run lives in one task of its own, which its caller (``run`` or ``stream``) starts, always awaits, and stops when it is
cancelled or closed. So Ctrl-C and cancellation drain: the feed ends first, then every emitter gets what waits for it
(``drain_timeout`` seconds at most), is flushed and closed.

Nothing is shared between runners, whichever exchange they are of.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from streammachine.errors import DataInputError, EmitterError, MarketError
from streammachine.indicators import parse_all
from streammachine.market.clock.clock import Clock, ScaledClock, VirtualClock
from streammachine.market.clock.remote_clock import default_clock
from streammachine.market.emitters.any_emitter import check_emitter
from streammachine.market.emitters.logger import Logger
from streammachine.market.exchanges.lookup import adapter_for, bridged, entry_for, is_bridged
from streammachine.market.exchanges.registry import ENTRIES, ExchangeEntry
from streammachine.market.live.bounded_queue import Queue
from streammachine.market.live.feed_options import FeedOptions
from streammachine.market.live.memory import Memory
from streammachine.market.live.run import Ending, Run
from streammachine.market.live.run_plan import OnError, OnGap, RunnerStats, RunPlan
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.data_input import DataInput
from streammachine.market.model.kline import Gap, Kline, Trade
from streammachine.market.model.quote import Quote
from streammachine.market.network.frame_file import FramesHeader, FrameWriter, read_header
from streammachine.market.network.recording import Recorder
from streammachine.market.network.replaying import Player
from streammachine.market.network.symbols import spelled

if TYPE_CHECKING:
    from streammachine.market.exchanges.base import Adapter

__all__ = ["CcxtRunner", "Runner", "RunnerStats", "runner_for"]

_NO_EMITTER: Final = (
    "no emitter is registered, so the rows are logged: runner.register_emitter(...) sends them elsewhere"
)


class Runner:
    """Streams one DataInput of one exchange. Use the class of the exchange, such as BinanceRunner, or ``runner_for``.

    Args:
        stream_input: what to stream; may be given later (``set_stream_input``).
        active_warmup: load history first, as far back as the aggregated candles now running begin (without
            aggregate_list: since 00:00 UTC), so that they are complete.
        emit_warmup: also emit what was loaded, before what is live, without a hole or a duplicate between them.
            Means active_warmup.
        resume: (symbol, timeframe) to the open_ts of the last closed candle that the sinks have, for the base and the
            aggregated timeframes: what came since is loaded and emitted first, so that a restart leaves no hole.
        remember: keep in the data directory (True) or in a folder (a path) how far the emitters have come, and go on
            there at the next start: as ``resume``, without being told. What cannot be had is a Gap.
        fresh: with ``remember``: begin anew, whatever is remembered.
        record: a new file in which everything that the exchange sends is noted, with its times (``frame_file``). Once
            it can take no more (4 GB, a full disk) the run ends with a MarketError; keep_going: it goes on unrecorded,
            and ``stats().unrecorded`` says so.
        frames: such a file, which is played in place of the exchange through the same decode, healing and sinks; the
            stream_input is then by default what was recorded. ``Runner(frames=...)`` is of the exchange that it is of.
        speed: of ``frames``: its seconds in one of ours; None: as fast as it can be worked off.
        emit_only_closed_candles: False: also emit the running candles, and those aggregated, at each of their changes.
        market_type: "SPOT", or another kind that the exchange has: the class's docstring names them.
        verbose: log every row that is emitted (INFO).
        ws_url, ws_business_url, rest_url, bulk_url: base URLs in place of the exchange's own (or of the environment's:
            STREAMMACHINE_BINANCE_WS, _WS_BUSINESS, _REST, _BULK).
        clock: what time it is; the system's by default, or that of the simulator that STREAMMACHINE_CLOCK_URL names.
        on_gap: called (plain or async) with each Gap. on_error: with each row that an emitter gives up, and why. What
            they raise is logged.
        emit_gap: give Gaps to the emitters too. ``stream`` never yields them.
        emit_trades: with type="trade" and a timeframe, give the emitters the trades too.
        close_grace: seconds after its end when a candle that is built from trades is closed by the clock.
        capacity: rows that may wait for one emitter, or for ``stream``'s consumer; then the exchange is read no further
            until there is room.
        batch, linger: most rows given to an emitter at once (by default what it likes best), and seconds to wait for
            that many.
        drain_timeout: seconds that emitters get at the end for what waits.
        max_gaps: most Gaps kept in ``gaps``.
        indicators: "sma:20", "rsi:14", "macd:12,26,9" (``streammachine.indicators``): further columns of the candles,
            sma20 and so on, from the first candle on with the values of the whole series. Means active_warmup, and that
            the candles before are loaded. What adds up (obv, vwap) begins with the run.
        feed_options: reconnects, watchdogs, healing: see ``FeedOptions``.

    Raises:
        DataInputError, SymbolError, TimeframeError: the exchange does not take the input.
        IndicatorError: an indicator is none, or TA-Lib is not installed.
    """

    exchange: ClassVar[str] = ""

    def __init__(
        self,
        stream_input: DataInput | None = None,
        active_warmup: bool = False,
        emit_warmup: bool = False,
        emit_only_closed_candles: bool = True,
        market_type: str = "SPOT",
        *,
        verbose: bool = False,
        ws_url: str | None = None,
        ws_business_url: str | None = None,
        rest_url: str | None = None,
        bulk_url: str | None = None,
        clock: Clock | None = None,
        resume: Mapping[tuple[str, str], int] | None = None,
        remember: bool | str | os.PathLike[str] = False,
        fresh: bool = False,
        record: str | os.PathLike[str] | None = None,
        keep_going: bool = False,
        frames: str | os.PathLike[str] | None = None,
        speed: float | None = None,
        on_gap: OnGap | None = None,
        emit_gap: bool = False,
        on_error: OnError | None = None,
        emit_trades: bool = False,
        close_grace: float = 2.0,
        capacity: int = 10_000,
        batch: int | None = None,
        linger: float = 0.0,
        drain_timeout: float = 10.0,
        max_gaps: int = 1_000,
        indicators: Sequence[str] = (),
        feed_options: FeedOptions | None = None,
    ) -> None:
        exchange = self.exchange
        header = read_header(os.fspath(frames)) if frames is not None else None
        if header is not None:
            exchange = exchange or header.exchange
            stream_input, market_type = _recorded_input(header, exchange, stream_input)
            if speed is not None and not 0 < speed < 1e9:
                raise DataInputError(f"speed={speed!r} is not accepted: give a number above 0, or None")
        if not exchange:
            classes = ", ".join(entry.runner_class for entry in ENTRIES.values())
            raise MarketError(f"Runner itself has no exchange: use {classes}")
        self.adapter: Adapter = adapter_for(exchange, market_type)
        self.urls = self.adapter.urls(
            ws_url=ws_url, ws_business_url=ws_business_url, rest_url=rest_url, bulk_url=bulk_url
        )
        self.active_warmup = active_warmup or emit_warmup
        self.emit_warmup = emit_warmup
        self.resume = dict(resume or {})
        self.remember = remember
        self.fresh = fresh
        self.record = record
        self.keep_going = keep_going
        self.frames = frames
        self.speed = speed
        self.emit_only_closed_candles = emit_only_closed_candles
        self.verbose = verbose
        self.on_gap = on_gap
        self.emit_gap = emit_gap
        self.on_error = on_error
        self.emit_trades = emit_trades
        self.close_grace = close_grace
        self.drain_timeout = drain_timeout
        self.gaps: deque[Gap] = deque(maxlen=max_gaps)
        self.indicators = parse_all(indicators) if indicators else []
        self._clock = clock
        self._capacity = capacity
        self._outlet_options = {"capacity": capacity, "batch": batch, "linger": linger}
        self._feed_options = feed_options if feed_options is not None else FeedOptions()
        self._emitters: list[Any] = []
        self._input: DataInput | None = None
        self._run: Run | None = None
        self._closed = False
        if stream_input is not None:
            self.set_stream_input(stream_input)

    # -- before it runs -----------------------------------------------------------------------

    @property
    def stream_input(self) -> DataInput | None:
        """What is streamed, its symbols as the exchange writes them; a pair whose symbol is not known yet as it was
        given, until the exchange has told."""
        return self._input

    @property
    def source(self) -> str:
        """The exchange, as klines name it."""
        return self.adapter.source

    @property
    def emitters(self) -> list[Any]:
        """Those registered, in order."""
        return list(self._emitters)

    def set_stream_input(self, stream_input: DataInput) -> None:
        """Say what to stream; checked at once, but for whether the exchange has the symbols.

        Raises:
            DataInputError, SymbolError, TimeframeError: the exchange does not take it; the text says what it takes.
            MarketError: it is running.
        """
        self._not_running()
        if not isinstance(stream_input, DataInput):
            raise DataInputError(
                f"stream_input={stream_input!r} is not accepted: give a DataInput, e.g. "
                f"DataInput(type='kline', symbols=['{self.adapter.symbol_example}'], timeframe='1m')"
            )
        self.adapter.check_kind(stream_input.kind)
        symbols = spelled(self.adapter, self.urls, stream_input.symbols)
        base = stream_input.timeframe
        if stream_input.kind == "kline" and base is not None:
            self.adapter.check_timeframe(base)
        if stream_input.kind == "trade" and base == timeframes.MONTH:
            raise DataInputError("1M candles are not built from trades: give timeframe='1d', aggregate_list=['1M']")
        self._input = replace(stream_input, symbols=symbols)

    def register_emitter(self, emitter: Any, model: Any = None, map_object: Mapping[str, str] | None = None) -> None:
        """Add a sink; any number of them, of one kind too. Each gets every row.

        Args:
            emitter: a DataEmitter, or any object with ``emit(row)`` and, where needed, ``connect()`` and ``close()``.
            model: given to its ``set_model``.
            map_object: our field's name to the sink's, e.g. {"open_ts": "time"}; fields that are not named keep theirs.

        Raises:
            EmitterError: it is no emitter, is registered already, or cannot take a model or a map.
            MarketError: it is running.
        """
        self._not_running()
        check_emitter(emitter)
        if any(known is emitter for known in self._emitters):
            raise EmitterError(f"this {type(emitter).__name__} is registered already: every row would come twice")
        if model is not None:
            if not callable(getattr(emitter, "set_model", None)):
                raise EmitterError(f"{type(emitter).__name__} takes no model: it has no set_model")
            emitter.set_model(model)
        if map_object is not None:
            _rename(emitter, dict(map_object))
        self._emitters.append(emitter)

    # -- while it runs ------------------------------------------------------------------------

    async def run(self) -> None:
        """Stream into the emitters until ``close()``; cancelled (Ctrl-C), it drains them first.

        Without an emitter the rows go to a ``Logger``, at INFO, which says so first.

        Raises:
            MarketError: no stream_input, or it is running already.
            DataInputError, SymbolError, ExchangeError, ExchangeUnavailableError: the exchange does not have what is
                asked for, or does not answer. Before anything starts.
            EmitterError: an emitter cannot connect. Before anything starts.
        """
        if self._closed:
            return
        run = self._launch(None, self._emitters or [Logger(note=_NO_EMITTER)])
        try:
            await asyncio.wait([run.task])
        finally:
            await run.end()
        run.result()

    async def stream(self) -> AsyncGenerator[Kline | Trade | Quote]:
        """Yield candles (trades, for type="trade" without a timeframe), until ``close()``. Emitters get them too.

        A consumer that is slower than the exchange holds it up, after ``capacity`` rows, and the emitters with it. When
        the loop is left, or its task cancelled, the emitters are drained.

        Raises:
            As ``run``.
        """
        if self._closed:
            return
        queue: Queue[Kline | Trade | Quote] = Queue(self._capacity)
        run = self._launch(queue, self._emitters)
        try:
            while rows := await queue.get():
                for row in rows:
                    yield row
        finally:
            queue.discard()
            await run.end()
        run.result()

    def close(self) -> Awaitable[None]:
        """Stop: read no further, drain and close the emitters; ``run`` and ``stream`` then end. Acts at once, and for
        good; awaiting what it returns waits for the end (not from within an emitter or on_gap, which it waits for)."""
        self._closed = True
        if self._run is not None:
            self._run.stop()
        return Ending(self._run)

    def stats(self) -> RunnerStats:
        """Numbers of the run now going on, or of the last one."""
        if self._run is not None:
            return self._run.stats()
        return RunnerStats(self.adapter.name, self.adapter.market_type)

    # -- inside -------------------------------------------------------------------------------

    def _launch(self, queue: Queue[Kline | Trade | Quote] | None, emitters: Sequence[Any]) -> Run:
        self._not_running()
        if self._input is None:
            raise DataInputError(
                f"there is nothing to stream: give {type(self).__name__} a stream_input, e.g. "
                f"DataInput(type='kline', symbols=['{self.adapter.symbol_example}'], timeframe='1m')"
            )
        data_input, from_trades = self._input, self._is_folded(self._input)
        if from_trades:
            data_input = replace(data_input, type="trade")
        player = Player(os.fspath(self.frames)) if self.frames is not None else None
        clock = self._clock
        if player is not None:
            began = player.header.began
            clock = VirtualClock(began) if self.speed is None else ScaledClock(self.speed, began)
        clock = clock if clock is not None else default_clock()
        recorder = self._recorder(clock)
        opener = player.open if player is not None else recorder.open if recorder is not None else None
        plan = RunPlan(
            adapter=self.adapter,
            urls=self.urls,
            clock=clock,
            data_input=data_input,
            emitters=tuple(emitters),
            gaps=self.gaps,
            feed_options=replace(self._feed_options, open_candles=not self.emit_only_closed_candles, opener=opener),
            outlet_options=self._outlet_options,
            active_warmup=self.active_warmup,
            emit_warmup=self.emit_warmup,
            resume=self.resume,
            memory=self._memory(emitters) if player is None else None,
            recorder=recorder,
            keep_going=self.keep_going,
            player=player,
            only_closed=self.emit_only_closed_candles,
            emit_trades=self.emit_trades and not from_trades,
            from_trades=from_trades,
            indicators=self.indicators,
            emit_gap=self.emit_gap,
            on_gap=self.on_gap,
            on_error=self.on_error,
            close_grace=self.close_grace,
            drain_timeout=self.drain_timeout,
            verbose=self.verbose,
        )
        self._run = Run(plan, queue)
        return self._run

    def _memory(self, emitters: Sequence[Any]) -> Memory | None:
        if self.remember is False or self._input is None or not Memory.is_of_use(emitters):
            return None
        folder = None if self.remember is True else Path(self.remember).expanduser()
        return Memory(self.adapter, self.urls, self._input, emitters, folder=folder, fresh=self.fresh)

    def _is_folded(self, wanted: DataInput) -> bool:
        """Whether the candles are folded from trades, for the exchange's socket has none of this timeframe."""
        pushed = self.adapter.pushed
        return wanted.kind == "kline" and pushed is not None and wanted.timeframe not in pushed

    def _recorder(self, clock: Clock) -> Recorder | None:
        """What notes everything; the file is made now, so that a name that is taken is told at once."""
        if self.record is None or self._input is None:
            return None
        wanted = self._input
        header = FramesHeader(
            self.adapter.name, self.adapter.market_type, wanted.kind, tuple(wanted.symbols), wanted.timeframe,
            tuple(wanted.aggregate_list), clock.time_ms(),
        )  # fmt: skip
        return Recorder(FrameWriter(Path(self.record).expanduser(), header), clock)

    def _not_running(self) -> None:
        if self._run is not None and not self._run.task.done():
            raise MarketError(f"this {type(self).__name__} is running: close it first, or make another")


class CcxtRunner(Runner):
    """Streams from an exchange that ccxt speaks to (the extra ``[ccxt]``); see Runner.

    ccxt's own loop, limits and reconnects are kept; ledgers, healing, aggregation and sinks are ours. Candles are
    closed by the next one or by time. Where ccxt has no candles on the socket they are folded from its trades.

    Args:
        exchange: ccxt's id of it: "gate". The other arguments are Runner's; symbols are as ccxt writes them.

    Raises:
        MarketError: ccxt is not installed. UnknownExchangeError: it has no such exchange. As Runner.
    """

    def __init__(self, exchange: str, stream_input: DataInput | None = None, *arguments: Any, **options: Any) -> None:
        self.exchange = bridged(exchange)  # type: ignore[misc]
        super().__init__(stream_input, *arguments, **options)


def runner_for(exchange: str, stream_input: DataInput | None = None, **options: Any) -> Runner:
    """The runner of an exchange by its name (any case), e.g. "binance"; ``options`` as for Runner.

    Raises:
        UnknownExchangeError: there is none of this name; the text names the nearest.
    """
    if is_bridged(exchange):
        return CcxtRunner(exchange, stream_input, **options)
    return _RUNNERS[entry_for(exchange).name](stream_input, **options)


def _runner_class(entry: ExchangeEntry) -> type[Runner]:
    """The runner's class of an exchange, as if it stood here: BinanceRunner, OKXRunner, ..."""
    return type(
        entry.runner_class,
        (Runner,),
        {"__module__": __name__, "__doc__": entry.runner_doc, "exchange": entry.name},
    )


_RUNNERS: Final[Mapping[str, type[Runner]]] = {entry.name: _runner_class(entry) for entry in ENTRIES.values()}
globals().update({made.__name__: made for made in _RUNNERS.values()})
__all__ += [made.__name__ for made in _RUNNERS.values()]


def _recorded_input(header: FramesHeader, exchange: str, wanted: DataInput | None) -> tuple[DataInput, Any]:
    """What a runner of a recording streams, and of which market."""
    if exchange != header.exchange:
        raise DataInputError(f"the recording is of {header.exchange}, not of {exchange}: use Runner(frames=...)")
    made = wanted or DataInput(header.type, list(header.symbols), header.timeframe, list(header.aggregate_list))
    if made.kind != header.type or (made.kind == "kline" and made.timeframe != header.timeframe):
        raise DataInputError(
            f"the recording is of {header.type} {header.timeframe or ''}: give that, or no stream_input"
        )
    return made, header.market_type


def _rename(emitter: Any, names: dict[str, str]) -> None:
    """Have an emitter's rows carry the sink's names; behind a transformer that it has already."""
    register = getattr(emitter, "register_map", None)
    if callable(register):
        register(names)
        return
    if not callable(getattr(emitter, "set_transformer", None)):
        raise EmitterError(f"{type(emitter).__name__} takes no map: it has neither register_map nor set_transformer")
    unknown = [name for name in names if not isinstance(name, str) or not isinstance(names[name], str)]
    if unknown:
        raise EmitterError(f"map_object={names!r} is not accepted: give our field's name to the sink's")
    before = getattr(emitter, "transformer", None)

    def renamed(row: dict[str, Any]) -> dict[str, Any] | None:
        made = row if before is None else before(row)
        return None if made is None else {names.get(name, name): value for name, value in made.items()}

    emitter.set_transformer(renamed)
