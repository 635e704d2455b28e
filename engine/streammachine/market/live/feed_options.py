"""What a feed is told (its times and bounds), and what it tells of itself (its numbers)."""

from __future__ import annotations

from dataclasses import dataclass, field

from streammachine.market.network.reconnector import LineOptions


@dataclass(frozen=True, kw_only=True)
class FeedOptions(LineOptions):
    """How a feed behaves; times in seconds.

    Attributes:
        grace: after a candle's end, until its close is overdue and REST is asked.
        settle: how long frames that were overtaken are waited for (Kraken: also after a later candle was seen).
        give_up: how long REST is asked for what is missing before a Gap takes its place.
        verify: Kraken: how many candles without trades may be waiting for a confirmation by REST at a time; beyond that
            the socket's silence is trusted. confirm: how many of the other candles may: a frame that was lost on a live
            socket is found like that. 0: none.
        open_candles: deliver the states of running candles too.
        queue: rows that may wait to be delivered before the sockets are not read any more.
        seed: of the jitter; None: another one each time.
    """

    grace: float = 5.0
    settle: float = 1.0
    give_up: float = 120.0
    verify: int = 16
    confirm: int = 4
    open_candles: bool = True
    queue: int = 1024
    seed: int | None = None


@dataclass
class FeedStats:
    """What a feed has seen so far.

    Attributes:
        state: "starting", "live" (every stream is served), "interrupted" or "closed".
        connections: open now. reconnects: connections opened beyond the first ones.
        frames, bad_frames, unexpected: all, those not understood, and data of streams nobody asked for.
        healed: candles (trades) that REST gave. gaps: those that nobody gave.
        duplicates, late, conflicts, invalid: dropped, see ``CandleLedger``.
        resubscribed: streams that had died silently.
        healing: symbols that wait for REST now. last_closed: by symbol, open_ts of the last closed candle.
        data_age: seconds since data last came; None: none did yet.
    """

    state: str = "starting"
    connections: int = 0
    reconnects: int = 0
    frames: int = 0
    bad_frames: int = 0
    unexpected: int = 0
    healed: int = 0
    gaps: int = 0
    duplicates: int = 0
    late: int = 0
    conflicts: int = 0
    invalid: int = 0
    resubscribed: int = 0
    healing: int = 0
    last_closed: dict[str, int] = field(default_factory=dict)
    data_age: float | None = None
