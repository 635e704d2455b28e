"""Kraken: candles of a stream that lives are confirmed by REST while it has the time, and wait no longer."""

from __future__ import annotations

from collections import Counter

import pytest

from streammachine.market.healing.candle_ledger import CandleLedger
from streammachine.market.live.feed_options import FeedOptions
from streammachine.market.model.kline import Kline
from streammachine.market.model.rows import Row
from support.feed import START, Tape, Watched, check, tape_of, watch

pytestmark = pytest.mark.anyio

MINUTE = 60_000


def candle(minute: int, volume: float, origin: str = "ws") -> Kline:
    """Of a minute after START; the volume tells how much of it."""
    start = START + minute * MINUTE
    return Kline(
        source="X",
        symbol="A",
        timeframe="1m",
        open_ts=start,
        end_ts=start + MINUTE - 1,
        open=100.0,
        high=100.0,
        low=100.0,
        close=100.0,
        volume=volume,
        is_closed=origin == "rest",
        origin=origin,  # type: ignore[arg-type]
    )


def lively(*, may_check: bool) -> tuple[CandleLedger, list[Row]]:
    """A minute whose end the stream shows at once."""
    rows: list[Row] = []
    ledger = CandleLedger("X", "A", "1m", "next", may_verify=lambda: True, may_check=lambda: may_check, open_rows=False)
    ledger.subscribed(START + 20_000)
    for at, kline in ((21_000, candle(0, 1)), (58_000, candle(0, 2)), (60_200, candle(1, 1))):
        ledger.take(kline, START + at, rows)
    ledger.tick(START + 61_200, rows)
    return ledger, rows


def test_where_rest_has_time_a_candle_that_nobody_doubts_waits_for_it() -> None:
    ledger, rows = lively(may_check=True)
    assert (rows, ledger.healing, ledger.confirm_only) == ([], True, True)
    ledger.restore([candle(0, 2, "rest")], START + 61_400, rows)
    assert [(row.volume, row.origin) for row in rows if isinstance(row, Kline)] == [(2, "ws")]


def test_a_frame_that_was_lost_on_a_live_stream_costs_the_candle_nothing_and_the_stream_no_suspicion() -> None:
    ledger, rows = lively(may_check=True)
    ledger.restore([candle(0, 3, "rest")], START + 61_400, rows)
    assert [(row.volume, row.origin) for row in rows if isinstance(row, Kline)] == [(3, "rest")]
    assert (ledger.healed, ledger.stream_may_be_dead) == (1, False)


def test_where_it_has_none_the_socket_is_believed() -> None:
    ledger, rows = lively(may_check=False)
    assert [(row.volume, row.origin) for row in rows if isinstance(row, Kline)] == [(2, "ws")]
    assert not ledger.healing


def waits(seen: Watched) -> list[float]:
    """Seconds from each candle's end until it was there."""
    return [
        (at - row.end_ts) / 1000
        for at, row in zip(seen.times, seen.rows, strict=True)
        if isinstance(row, Kline) and row.is_closed
    ]


async def test_a_rest_that_does_not_answer_holds_up_no_second_candle() -> None:
    tape = tape_of(("BTC/USDT",), trades_per_minute=300)
    seen = await watch("kraken", ["rest_refuse:times=all"], minutes=4, tape=tape, symbols=["BTC/USDT"], rest_attempts=2)
    first, *others = waits(seen)
    assert 15 < first < 30
    assert max(others) < 5
    check(seen)


async def test_confirming_can_be_left_out() -> None:
    seen = await watch("kraken", minutes=4, options=FeedOptions(seed=1, verify=0, confirm=0))
    assert not seen.happened("rest")
    check(seen)


async def test_a_silent_socket_is_not_believed_because_rest_is_slow() -> None:
    """It may be dead, and is, since 36; REST's first answers take longer than it gets."""
    check(await watch("kraken", ["stall@36", "slow@36:times=4,seconds=12"], minutes=5))


async def test_without_rest_a_idle_market_does_not_fall_behind() -> None:
    tape = Tape.generate(5, ["BTC/USDT"], START, minutes=30, trades_per_minute=1)
    seen = await watch(
        "kraken", ["rest_refuse:times=all"], minutes=15, tape=tape, symbols=["BTC/USDT"], rest_attempts=2
    )
    first, second, *others = waits(seen)
    assert 60 < first < 80
    assert second < 50
    assert len(others) > 8
    assert max(others[:3]) < 30
    check(seen, spare=80)


async def test_no_more_candles_are_confirmed_at_a_time_than_are_allowed() -> None:
    """None of them has trades, and all end at the same moment."""
    symbols = [f"C{number}/USDT" for number in range(12)]
    tape = Tape.generate(3, symbols, START, minutes=30, trades_per_minute=1, quiet=0.95)
    options = FeedOptions(seed=1, verify=3)
    seen = await watch("kraken", minutes=3, tape=tape, symbols=symbols, options=options)
    asked = [entry.time_ms // 60_000 for entry in seen.happened("rest")]
    assert Counter(asked).most_common(1)[0][1] <= 6  # each twice where REST lagged
