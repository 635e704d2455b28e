"""Random histories, replies, columns and damaged dumps through the candle engine and its twin: equal bit for bit."""

from __future__ import annotations

import struct
import zlib
from random import Random
from typing import Any

import numpy as np
import pandas as pd

from fuzz.agree import agree
from streammachine.ohlc import fast, reference

WEEK = 604_800_000
SETS = ([1], [2, 3, 6], [60_000, 300_000, 900_000], [60_000, 90_000, 180_000], [WEEK, 43_200_000, 86_400_000])
T0 = 1_700_000_000_000
SYMBOLS: tuple[Any, ...] = ("A", b"A", "B", "é", "", b"\xff", "\ud800", None, 5)
NUMBERS: tuple[Any, ...] = (
    1.0, 0, -1.5, 2**70, 10**400, float("nan"), float("inf"), True, None, "1", "1.5", b"2.25", "1e5", "1_000", " 7 ",
    "x", "", np.float32(1.5), np.int64(3), np.True_, [], {}, 5e-324, "9" * 40,
)  # fmt: skip
TIMES: tuple[Any, ...] = (
    T0, T0 + 1, T0 - 60_000, str(T0), f"{T0}.0", float(T0), b"%d" % T0, T0 // 1000, T0 * 1000, 0, -1, True, "x", "",
    None, 9_000_000_000_000_000, 2**63, np.int64(T0), np.float64(T0),
)  # fmt: skip


class Play:
    """The two aggregators of one run."""

    def __init__(self, rnd: Random) -> None:
        self.rnd = rnd
        self.intervals = rnd.sample(chosen := rnd.choice(SETS), len(chosen))
        bound = rnd.choice((0, 0, 1, 3))
        self.twins = [engine.FastOHLC(self.intervals, bound) for engine in (fast, reference)]

    def step(self) -> None:
        rnd = self.rnd
        getattr(
            self, rnd.choice(("ticks", "ticks", "reply", "reply", "columns", "flush", "look", "reload", "damage"))
        )()
        agree(lambda agg: (agg.dump(), agg.tick_count, agg.late_count, agg.symbols), self.twins)

    def ticks(self) -> None:
        for _ in range(self.rnd.randrange(1, 12)):
            tick = self.symbol(), self.number(), self.number(), self.time()
            agree(lambda agg, tick=tick: agg.update_tick(*tick), self.twins)

    def reply(self) -> None:
        rnd = self.rnd
        entries = [self.entry() for _ in range(rnd.randrange(5))]
        made: Any = rnd.choice(
            (entries, {"A": entries}, [["A", entries]], {b"A": [entries]}, [[[[entries]]]], {"A": None})
        )
        names = rnd.choice(
            (("price", "volume"), ("price", None, "s"), (b"price", "volume", "s", "T"), ("price", "volume", None, b"T"))
        )
        agree(lambda agg: agg.process_stream_batch(made, *names), self.twins)

    def entry(self) -> Any:
        rnd = self.rnd
        if rnd.random() < 0.05:
            return rnd.choice((None, (), [None, None], ("1-0", 5), ("1-0",), 5, [[]]))
        identifier = rnd.choice((f"{self.time()}-0", b"%d-7" % T0, "60000-0", "x", b"\xff-0", None, T0))
        pairs: list[tuple[Any, Any]] = [
            ("price", self.number()),
            ("volume", self.number()),
            ("s", self.symbol()),
            ("T", self.time()),
        ]
        rnd.shuffle(pairs)
        pairs = [(name.encode() if rnd.random() < 0.3 else name, value) for name, value in pairs if rnd.random() < 0.97]
        flat = [part for pair in pairs for part in pair]
        return identifier, rnd.choice((dict(pairs), flat, tuple(flat), flat[:-1] if rnd.random() < 0.1 else flat))

    def columns(self) -> None:
        rnd, rows = self.rnd, self.rnd.randrange(6)
        good = rnd.random() < 0.6
        prices = [rnd.uniform(-5, 5) if good else self.number() for _ in range(rows)]
        volumes = [rnd.random() if good else self.number() for _ in range(rows)]
        times = [T0 + rnd.randrange(200_000) if good else self.time() for _ in range(rows)]
        names = [rnd.choice(("A", "B", "C")) for _ in range(rows)]
        codes = np.array([rnd.randrange(-1, 3) for _ in range(rows)], dtype=rnd.choice(("i1", "i8")))
        symbols = rnd.choice((
            "A", names, np.array(names, dtype="U3"), np.array(names, dtype="S2"), [self.symbol() for _ in range(rows)],
            pd.Categorical.from_codes(codes, ["A", "B", "C"]), pd.Series(names, dtype="category"),
        ))  # fmt: skip
        if good and rnd.random() < 0.7:
            made = np.array(prices, dtype=rnd.choice(("f8", "f4"))), np.array(volumes), np.array(times, dtype="i8")
        else:
            made = prices, volumes, times
        agree(lambda agg: agg.update_batch(symbols, *made), self.twins)

    def flush(self) -> None:
        call = self.symbol(), self.rnd.choice([*self.intervals, 7]), self.rnd.choice((*TIMES, T0 + 600_000))
        if not call[2]:
            return  # 0 is now, and now is another for each of the twins
        agree(lambda agg: agg.flush_interval(*call), self.twins)
        if self.rnd.random() < 0.2:
            agree(lambda agg: agg.reset(call[0]), self.twins)

    def look(self) -> None:
        symbol, interval = self.symbol(), self.rnd.choice(self.intervals)
        agree(lambda agg: [list(candle.values()) for candle in agg.get_candles_as_dicts(symbol, interval)], self.twins)
        agree(lambda agg: [repr(candle) for candle in agg.get_completed_candles(symbol, interval, T0)], self.twins)

    def reload(self) -> None:
        self.twins = [type(agg).load(agg.dump()) for agg in self.twins]

    def damage(self) -> None:
        """A dump with other bytes in it and a checksum that fits."""
        body = bytearray(self.twins[0].dump()[:-4])
        for _ in range(self.rnd.randrange(1, 4)):
            at = self.rnd.randrange(len(body))
            body[at : at + 8] = self.rnd.choice((
                self.rnd.randbytes(1), b"\xff" * 8, b"\x00" * 8, struct.pack("<q", 2**63 - 1),
                struct.pack("<q", 2**53), b"",
            ))  # fmt: skip
        dump = bytes(body) + struct.pack("<I", zlib.crc32(body))
        pairs = [(agg, dump) for agg in self.twins]
        if agree(lambda pair: type(pair[0]).load(pair[1]).dump(), pairs).startswith("gave"):
            self.twins = [type(agg).load(dump) for agg in self.twins]
            self.intervals = self.twins[0].intervals

    def symbol(self) -> Any:
        return self.rnd.choice(SYMBOLS[:3] if self.rnd.random() < 0.9 else SYMBOLS)

    def number(self) -> Any:
        return round(self.rnd.random() * 9, 3) if self.rnd.random() < 0.9 else self.rnd.choice(NUMBERS)

    def time(self) -> Any:
        return T0 + self.rnd.randrange(400_000) if self.rnd.random() < 0.9 else self.rnd.choice(TIMES)


def step(rnd: Random) -> None:
    """One random run."""
    play = Play(rnd)
    for _ in range(rnd.randrange(2, 15)):
        play.step()
