"""The numbers that an exchange has: each gives its own, as its documents say; a simulator can be given others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """Numbers of one exchange; times in seconds.

    Attributes:
        push_every: between two pushes of a running candle (Kraken pushes on trades only). push_unchanged: also when
            there was no trade since. first_push: the running candle is pushed at once after the acknowledgement.
        close_delays: how long after a candle's end its closing frame comes; which one is drawn by symbol and candle.
        trade_delay: how long after a trade it is pushed.
        ping_every: the server sends ping frames; a client that shows no pong within pong_within is cut.
        heartbeat: a heartbeat message after so long without another.
        idle: without any message for so long the connection is cut. lifetime: it is cut anyway.
        messages, messages_within: how many frames a client may send; more and the connection is killed.
        requests, requests_within: how many subscribe and unsubscribe requests a connection may send; more are refused.
        streams: most streams of a connection. args: most in one request.
        connects, connects_within: most handshakes.
        weight, weight_within: the REST budget; more is refused, after ``refusals`` refusals comes a ban of ``ban``.
        page, history_page, trades_page: most rows of an answer; default_page: where the request does not say.
        instruments_page: most rows of a list of instruments, where that comes in pages.
        coarse_times: trades of one millisecond share their nanosecond (Kraken).
        recent: how many candles back the endpoint (OKX candles, Kraken OHLC) goes.
        bulk_delay: how long after a day (or month) its files are there.
        latency: how long REST takes to answer.
    """

    push_every: float = 1.0
    push_unchanged: bool = True
    first_push: bool = True
    close_delays: tuple[float, ...] = (0.05, 0.2, 0.6)
    trade_delay: float = 0.02
    ping_every: float | None = None
    pong_within: float = 60.0
    heartbeat: float | None = None
    idle: float | None = None
    lifetime: float | None = None
    messages: int | None = None
    messages_within: float = 1.0
    requests: int | None = None
    requests_within: float = 3600.0
    streams: int | None = None
    args: int | None = None
    connects: int | None = None
    connects_within: float = 300.0
    weight: int = 6000
    weight_within: float = 60.0
    refusals: int = 10
    ban: float = 120.0
    page: int = 1000
    history_page: int = 1000
    trades_page: int = 1000
    default_page: int = 500
    instruments_page: int = 1000
    coarse_times: bool = False
    recent: int | None = None
    bulk_delay: float = 10 * 3600.0
    latency: float = 0.0
