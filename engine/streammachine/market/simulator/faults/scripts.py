"""Random fault scripts for property tests: whatever they do, a good client gets every candle that can be had."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from streammachine.market.exchanges.registry import ENTRIES
from streammachine.market.simulator.faults.fault import Fault
from streammachine.market.simulator.tape.candles import UTC
from streammachine.market.simulator.tape.tape import Tape

RECOVERY: Final = 90.0  # seconds at the end without a new fault, to recover in
AFTER_START: Final = 5.0  # seconds into a candle: behind the closing frame of the one before

Maker = Callable[[random.Random, float, str], list[Fault]]


def random_script(
    seed: int,
    tape: Tape,
    exchange: str = "binance",
    timeframe: str = "1m",
    *,
    minutes: int = 10,
    count: int = 4,
    harsh: float = 0.3,
) -> Script:
    """``count`` faults of random kinds at random moments; the same arguments give the same script.

    The simulator is taken to start at ``tape.start_ms`` and to run for ``minutes`` (3 or more).

    Args:
        harsh: how likely it is that a candle is made unobtainable: its closing frame is lost, and REST lacks it for
            ever. Never where nothing says that a candle is closed: such sockets show old candles when they open.

    Returns:
        The faults, and the candles that cannot be had. Of those a client must say so, or make them from the trades.
    """
    source = random.Random(f"{seed} {exchange} {timeframe}")
    has_closing = ENTRIES[exchange].closes == "flag"
    symbols = list(tape.markets)
    faults: list[Fault] = []
    for _ in range(count):
        make = source.choice(ALL + WITH_CLOSING if has_closing else ALL)
        moment = round(source.uniform(0, max(minutes * 60 - RECOVERY, 1)), 1)
        faults += make(source, moment, source.choice(symbols))
    lost: set[tuple[str, str, int]] = set()
    grid = UTC[timeframe]
    last = tape.start_ms + minutes * 60_000 - int(RECOVERY * 1000)
    candles = grid.starts(tape.start_ms, last)
    if has_closing and candles and source.random() < harsh:
        symbol, start = source.choice(symbols), source.choice(candles)
        moment = (start - tape.start_ms) / 1000 + AFTER_START
        faults.append(Fault("lost_close", moment, symbol=symbol, timeframe=timeframe))
        faults.append(Fault("missing", symbol=symbol, timeframe=timeframe, value=start))
        lost.add((symbol, timeframe, start))
    return Script(tuple(sorted(faults, key=lambda fault: fault.at)), frozenset(lost))


def _close(source: random.Random, at: float, symbol: str) -> list[Fault]:
    return [Fault("close", at, value=source.choice((1001, 1006, 1011, 1012)))]


def _notice(source: random.Random, at: float, symbol: str) -> list[Fault]:
    return [Fault("notice", at, seconds=source.uniform(3, 20))]


def _freeze(source: random.Random, at: float, symbol: str) -> list[Fault]:
    return [Fault("freeze", at, lasts=source.choice((None, 8.0, 70.0)))]


def _refused_connections(source: random.Random, at: float, symbol: str) -> list[Fault]:
    refusal = source.choice(("reset", 429, 503))
    return [Fault("reset", at), Fault("refuse", at, times=source.randint(1, 4), value=refusal)]


def _unacknowledged(source: random.Random, at: float, symbol: str) -> list[Fault]:
    return [Fault("reset", at), Fault("ack_never", at, times=1)]


def _early(source: random.Random, at: float, symbol: str) -> list[Fault]:
    return [Fault("reset", at), Fault("data_first", at, times=source.randint(1, 3))]


def _refused_rest(source: random.Random, at: float, symbol: str) -> list[Fault]:
    status = source.choice((429, 429, 418, 500, 502, 503))
    return [
        Fault("reset", at),
        Fault("status", at, value=status, seconds=source.randint(1, 5), times=source.randint(1, 3)),
    ]


def _broken_rest(source: random.Random, at: float, symbol: str) -> list[Fault]:
    kind = source.choice(("timeout", "slow", "half", "garbage", "rest_refuse"))
    seconds = source.uniform(5, 30) if kind in ("timeout", "slow") else None
    return [Fault("reset", at), Fault(kind, at, seconds=seconds, times=source.randint(1, 2))]


def _late_rest(source: random.Random, at: float, symbol: str) -> list[Fault]:
    return [Fault("behind", max(at - 30, 0), seconds=source.uniform(1, 8), lasts=90), Fault("reset", at)]


def _lacking_rest(source: random.Random, at: float, symbol: str) -> list[Fault]:
    return [Fault("missing", at, symbol=symbol, lasts=source.uniform(5, 20)), Fault("reset", at)]


def _stalled(source: random.Random, at: float, symbol: str) -> list[Fault]:
    return [Fault("stall", at)]


def _muted(source: random.Random, at: float, symbol: str) -> list[Fault]:
    return [Fault("mute", at, symbol=symbol)]


def _burst(source: random.Random, at: float, symbol: str) -> list[Fault]:
    return [Fault("burst", at, value=source.choice((20, 200, 1000)))]


def _broken_frames(source: random.Random, at: float, symbol: str) -> list[Fault]:
    kind = source.choice(("malformed", "truncated", "unknown", "nan", "zero", "strings", "duplicate"))
    return [Fault(kind, at, times=source.randint(1, 5))]


def _reordered(source: random.Random, at: float, symbol: str) -> list[Fault]:
    return [Fault("reorder", at, value=source.randint(1, 4), times=source.randint(1, 4))]


def _plain(kind: str) -> Maker:
    return lambda source, at, symbol: [Fault(kind, at)]


def _late_closing(source: random.Random, at: float, symbol: str) -> list[Fault]:
    return [Fault("late_close", at, symbol=symbol, seconds=source.uniform(1, 20), times=source.randint(1, 2))]


def _lost_closing(source: random.Random, at: float, symbol: str) -> list[Fault]:
    return [Fault("lost_close", at, symbol=symbol, times=source.randint(1, 2))]


ALL: Final[tuple[Maker, ...]] = (
    _plain("reset"),
    _plain("cut"),
    _plain("snapshot"),
    _plain("error"),
    _close,
    _notice,
    _freeze,
    _refused_connections,
    _unacknowledged,
    _early,
    _refused_rest,
    _broken_rest,
    _late_rest,
    _lacking_rest,
    _stalled,
    _muted,
    _burst,
    _broken_frames,
    _reordered,
)
WITH_CLOSING: Final[tuple[Maker, ...]] = (_late_closing, _lost_closing)


@dataclass(frozen=True)
class Script:
    """Faults, and what nobody can get under them: (symbol, timeframe, open_ts) of closed candles."""

    faults: tuple[Fault, ...]
    unobtainable: frozenset[tuple[str, str, int]] = frozenset()

    def __iter__(self) -> Iterator[Fault]:
        return iter(self.faults)


Fault.script = staticmethod(random_script)
