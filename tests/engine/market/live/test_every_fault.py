"""Every fault of the simulator on every exchange, and random scripts of them: the candles are the tape's, each once, in
order; what cannot be had is a Gap, and nothing else is."""

from __future__ import annotations

import pytest

from streammachine.market.exchanges import EXCHANGES
from streammachine.market.live.feed_options import FeedOptions
from streammachine.market.model import timeframe as timeframes
from streammachine.market.simulator.faults.scripts import random_script
from support.feed import START, SYMBOLS, Tape, check, check_trades, watch

pytestmark = pytest.mark.anyio

SOCKET = [
    "reset@100",
    "close@100:value=1001",
    "close@100:value=1006",
    "close@100:value=1011",
    "cut@100",
    "notice@100",
    "stall@100",
    "stall@100:lasts=30",
    "freeze@100",
    "freeze@100:lasts=40",
    "mute@100:symbol=BTC/USDT",
    "mute@100:symbol=BTC/USDT,lasts=70",
    "snapshot@100",
    "burst@100",
    "error@100",
    "skew:value=1300",
    "skew:value=-1300",
    "skew@100:value=1300",
    "skew@100:value=-1300",
    "refuse:times=4",
    "reset@90 refuse@90:times=4,value=503",
    "ack_never",
    "ack_never:times=2",
    "reset@100 ack_never@100",
    "reset@100 ack_error@100:times=1",
    "data_first:times=2",
    "duplicate:times=all",
    "reorder@60:times=20",
    "malformed@30:times=20",
    "truncated@30:times=20",
    "unknown@30:times=20",
    "strings@60:times=30",
    "nan@60:times=30",
    "zero@60:times=30",
]
CLOSING = [  # only where candles have a closing frame
    "late_close@60:times=4",
    "late_close@60:times=4,seconds=9",
    "late_close@60:times=4,seconds=70",
    "lost_close@60:times=4",
    "lost_close@60:times=all",
]
REST = [
    "status:value=429,seconds=5,times=3",
    "status:value=418,seconds=20",
    "status:value=503,times=4",
    "timeout:times=3",
    "slow:times=2",
    "half:times=3",
    "garbage:times=3",
    "rest_refuse:times=3",
    "behind:seconds=5",
    "behind:seconds=15",
    "missing@100:lasts=40",
]
LOSSES = [  # the last frames of a candle, on sockets that live: within a silence of ten seconds nothing shows it
    *(f"stall@{at}:lasts=6" for at in (36, 97, 157)),
    *(f"mute@{at}:symbol=BTC/USDT,lasts=4" for at in (37, 98, 158)),
    *(f"reorder@{at}:times=3,value=4" for at in (35, 96, 156)),
]
OUTAGE = "reset@100 refuse@100:times=5,value=503"  # long enough that a close is missed
EVERY = [*SOCKET, *(f"{OUTAGE} {fault}" for fault in REST)]
SCRIPTS = 52


def test_no_fault_of_the_simulator_is_left_out() -> None:
    from streammachine.market.simulator.faults.fault import KINDS

    tried = {part.partition(":")[0].partition("@")[0] for case in EVERY + CLOSING for part in case.split()}
    assert set(KINDS) - tried == {"delist", "off_grid", "listing"}  # which have tests of their own


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("faults", EVERY)
async def test_candles_survive(exchange: str, faults: str) -> None:
    check(await watch(exchange, faults.split(), minutes=6))


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("faults", LOSSES)
async def test_candles_whose_last_frames_are_lost_survive(exchange: str, faults: str) -> None:
    check(await watch(exchange, faults.split(), minutes=4))


@pytest.mark.parametrize("exchange", ["binance", "okx", "bybit"])
@pytest.mark.parametrize("faults", CLOSING)
async def test_candles_survive_without_their_closing_frames(exchange: str, faults: str) -> None:
    check(await watch(exchange, faults.split(), minutes=6))


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("faults", [*SOCKET, f"{OUTAGE} behind:seconds=5", f"{OUTAGE} status:value=429,seconds=5"])
async def test_trades_survive(exchange: str, faults: str) -> None:
    seen = await watch(exchange, faults.split(), minutes=6, kind="trade")
    # Bybit's ids do not tell the order, so that of the socket counts.
    check_trades(seen, in_order=not (exchange == "bybit" and "reorder" in faults))


@pytest.mark.parametrize("exchange", ["binance", "okx", "bybit"])
async def test_a_candle_that_neither_socket_nor_rest_has_is_a_gap_and_nothing_else_is(exchange: str) -> None:
    lost = START + 120_000
    seen = await watch(
        exchange,
        ["lost_close@105:symbol=ETH/USDT", f"missing:symbol=ETH/USDT,value={lost}"],
        minutes=6,
        options=FeedOptions(seed=1, give_up=30),
    )
    check(seen, unobtainable=[("ETH/USDT", lost)])
    [gap] = seen.gaps
    assert (gap.start, gap.end, gap.timeframe) == (lost, lost + 60_000, "1m")
    btc = next(name for name, symbol in seen.names.items() if symbol == "BTC/USDT")
    waited = max(
        at - row.end_ts
        for at, row in zip(seen.times, seen.rows, strict=True)
        if row.symbol == btc and not isinstance(row, type(gap)) and row.is_closed
    )
    assert waited < 3000  # one symbol's healing delays no other


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_a_delisted_symbol_ends_in_gaps_and_the_others_go_on(exchange: str) -> None:
    seen = await watch(
        exchange, ["delist@100:symbol=BTC/USDT"], minutes=8, options=FeedOptions(seed=1, give_up=30), rest_attempts=2
    )
    names = {symbol: name for name, symbol in seen.names.items()}
    full = [kline.open_ts for kline in seen.closed(names["ETH/USDT"])]
    step = timeframes.MILLISECONDS[seen.timeframe]
    assert full == list(range(seen.first, seen.first + step * len(full), step))
    assert len(full) >= (8 if step == timeframes.MINUTE else 3)
    assert not [gap for gap in seen.gaps if gap.symbol != names["BTC/USDT"]]


@pytest.mark.parametrize(
    ("exchange", "seed"), [*((EXCHANGES[seed % len(EXCHANGES)], seed) for seed in range(SCRIPTS)), ("kraken", 43)]
)
async def test_random_scripts(exchange: str, seed: int) -> None:
    tape = Tape.generate(seed, SYMBOLS, START + 20_000, minutes=30, trades_per_minute=30)
    script = random_script(seed, tape, exchange, minutes=10)
    seen = await watch(exchange, script.faults, minutes=12, tape=tape)
    check(seen, unobtainable={(symbol, open_ts) for symbol, _, open_ts in script.unobtainable})


@pytest.mark.parametrize(
    ("exchange", "seed"), [*((EXCHANGES[seed % len(EXCHANGES)], seed) for seed in range(100, 116)), ("kraken", 14)]
)
async def test_random_scripts_with_trades(exchange: str, seed: int) -> None:
    # Bybit's REST has the last 60 trades only
    tape = Tape.generate(seed, SYMBOLS, START + 20_000, minutes=30, trades_per_minute=6 if exchange == "bybit" else 30)
    script = random_script(seed, tape, exchange, minutes=10, harsh=0)
    seen = await watch(exchange, script.faults, minutes=12, tape=tape, kind="trade")
    check_trades(seen, in_order=exchange != "bybit")
