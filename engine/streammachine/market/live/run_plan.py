"""What a run does, and the numbers that it has to show."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from streammachine.market.live import warmup
from streammachine.market.live.memory import Memory
from streammachine.market.model.kline import Gap
from streammachine.market.model.rows import Lane
from streammachine.market.network.recording import Recorder, RecordingRest
from streammachine.market.network.replaying import Player, ReplayedRest
from streammachine.market.network.rest_client import RestClient, client_for

if TYPE_CHECKING:
    from streammachine.indicators import Indicator
    from streammachine.market.clock.clock import Clock
    from streammachine.market.exchanges.base import Adapter, Urls
    from streammachine.market.live.feed_options import FeedOptions
    from streammachine.market.model.data_input import DataInput

State = Literal["new", "checking", "connecting", "warming up", "running", "draining", "closed", "failed"]
OnGap = Callable[[Gap], object]
OnError = Callable[[Any, Exception], object]


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run does; see ``Runner`` for the arguments of the same names. ``from_trades``: candles were asked for, and
    are folded from trades; those of the candle that is running are loaded first, so that it is complete too."""

    adapter: Adapter
    urls: Urls
    clock: Clock
    data_input: DataInput
    emitters: Sequence[Any]
    gaps: deque[Gap]
    feed_options: FeedOptions
    outlet_options: Mapping[str, Any]
    active_warmup: bool = False
    emit_warmup: bool = False
    resume: warmup.Resume = field(default_factory=dict)
    from_trades: bool = False
    only_closed: bool = True
    emit_trades: bool = False
    indicators: Sequence[Indicator] = ()
    emit_gap: bool = False
    on_gap: OnGap | None = None
    on_error: OnError | None = None
    close_grace: float = 2.0
    drain_timeout: float = 10.0
    verbose: bool = False
    memory: Memory | None = None
    recorder: Recorder | None = None
    keep_going: bool = False
    player: Player | None = None


@dataclass(frozen=True, slots=True)
class RunnerStats:
    """Numbers of a run, plain values.

    Attributes:
        state: new, checking, connecting, warming up, running, draining, closed, or failed.
        error: why it failed. seconds: since it was started.
        rows, rate: rows that went to the sinks; per second over the last minute.
        duplicates: candles left out. late: trades that came behind their candle. gap_count: Gaps so far.
        last: the last closed candle of each symbol and timeframe: symbol, timeframe, open_ts, close, is_complete.
        unrecorded: why nothing more is recorded, where something was to be.
        feed: the feed's own numbers (connections, frames, bad frames, reconnects, healed, gaps).
        emitters: each outlet's.
    """

    exchange: str
    market_type: str
    state: State = "new"
    error: str | None = None
    symbols: Sequence[str] = ()
    seconds: float = 0.0
    rows: int = 0
    rate: float = 0.0
    duplicates: int = 0
    late: int = 0
    gap_count: int = 0
    last: Sequence[Mapping[str, Any]] = ()
    unrecorded: str | None = None
    feed: Mapping[str, Any] = field(default_factory=dict)
    emitters: Sequence[Mapping[str, Any]] = ()


def rest_client(plan: RunPlan) -> RestClient:
    """The run's REST client: of the exchange, one that is recorded too, or one that a recording answers."""
    if plan.player is not None:
        replayed = ReplayedRest(plan.adapter, plan.urls, clock=plan.clock)
        replayed.player = plan.player
        return replayed
    if plan.recorder is not None:
        recording = RecordingRest(plan.adapter, plan.urls, clock=plan.clock)
        recording.writer = plan.recorder.writer
        return recording
    return client_for(plan.adapter, plan.urls, clock=plan.clock)


def lanes(plan: RunPlan) -> list[Lane]:
    """What is going to come to the emitters."""
    wanted = plan.data_input
    kinds: list[str | None] = [wanted.timeframe, *wanted.aggregate_list] if wanted.kind != "quote" else ["quote"]
    if plan.emit_trades and wanted.kind == "trade":
        kinds.append(None)
    kinds = list(dict.fromkeys(kinds))
    return [Lane(plan.adapter.source, symbol, kind) for symbol in wanted.symbols for kind in kinds]
