"""Random lines of trade files, and batches of columns of every kind on threads: native code beside its twin."""

from __future__ import annotations

import os
from random import Random
from typing import Any

import numpy as np
import pandas as pd

from fuzz.agree import agree
from streammachine.ohlc import fast, reference, threads
from streammachine.ohlc.reference.trade_csv import trade_lines as plain_lines

T0 = 1_700_000_000_000
FIELDS: tuple[bytes, ...] = (
    b"", b"1.5", b"-2", b"1e400", b"nan", b"1_0", b" 7", b'"8"', b'"', b'"a,b"', b'""', b"\r", b"\xff", b"x" * 40,
    b"9" * 25, b"0." + b"1" * 30, b"%d" % T0, b"%d999" % T0, b"%d000000" % T0, b"1700000000.123456789",
    b"2024-01-01T00:00:00Z", b"True", b"\x00", b".", b"5.", b"-",
)  # fmt: skip
ROLES = ("id", "first", "last", "symbol")
NAMES = ("A", "B", "é", "a name of 16 or 18", "a longer name of many more bytes than that", "12345678", "123456789")


def step(rnd: Random) -> None:
    """One block of lines, or one batch of columns in each of its kinds."""
    (lines if rnd.random() < 0.5 else columns)(rnd)


def lines(rnd: Random) -> None:
    more = {role: 3 + k for k, role in enumerate(rnd.sample(ROLES, rnd.randrange(5)))}
    places = {"price": 1, "volume": 2, "time": 0} | more
    width = max(places.values()) + 1
    rows = []
    for _ in range(rnd.randrange(8)):
        row = [b"%d" % (T0 + rnd.randrange(10**6)), b"%.2f" % (rnd.random() * 9), b"%.8f" % rnd.random()]
        row += [rnd.choice((b"7", b"12", b"S", b"\xc3\xa9")) for _ in range(width - 3 + rnd.randrange(2))]
        if rnd.random() < 0.3:
            row[rnd.randrange(len(row))] = rnd.choice(FIELDS)
        if rnd.random() < 0.1:
            del row[rnd.randrange(len(row)) :]
        rows.append(rnd.choice((b",", b",", b",", b";")).join(row))
    block = rnd.choice((b"\n", b"\r\n", b"\n\n")).join(rows)
    if rnd.random() < 0.2:
        block = block[: rnd.randrange(len(block) + 1)]

    def read(reader: Any) -> list[Any]:
        rows = reader(block, places, 3)
        return [rows.lines, *(None if part is None else [*map(repr, part)] for part in rows[:-1])]

    agree(read, (fast.trade_lines, plain_lines))


def columns(rnd: Random) -> None:
    rows = rnd.choice((0, 1, 7, 60, 5_000))
    rng = np.random.default_rng(rnd.randrange(1 << 30))
    names = np.array(NAMES, dtype=object)[rng.integers(0, len(NAMES), rows)]
    prices, volumes = rng.standard_normal(rows), rng.random(rows)
    times = T0 + rng.integers(0, 400_000 * rnd.choice((1, 10)), rows)
    if rnd.random() < 0.5:
        times.sort()
    if rows and rnd.random() < 0.3:
        rnd.choice((prices, volumes))[rnd.randrange(rows)] = rnd.choice((np.nan, np.inf, -1.0, -0.0))
    if rows and rnd.random() < 0.1:
        times[rnd.randrange(rows)] = rnd.choice((-1, 2**63 - 1, -(2**63), 2**53))
    if rows and rnd.random() < 0.1:
        names[rnd.randrange(rows)] = rnd.choice((None, "", "\ud800", 5, b"A", b"\xff"))
    made: Any = rnd.choice((names, list(names), pd.Series(names, dtype=object)))
    if all(isinstance(name, str) and name.isprintable() for name in names):
        made = rnd.choice((made, names.astype("U"), pd.Categorical(names, NAMES), *_arrow(names, rnd)))
    threads.THREADS_FROM = 0
    threads.MOST_THREADS = rnd.choice((1, 2, 3))
    threads.STRETCH_ROWS = rnd.choice((1, 1_000))
    os.sched_getaffinity = lambda _: set(range(8))  # type: ignore[assignment]  # more threads than cores
    bound = rnd.choice((0, 2))
    twins = [engine.FastOHLC([60_000, 90_000, 180_000], bound) for engine in (fast, reference)]
    for _ in range(2):
        agree(lambda agg: agg.update_batch(made, prices, volumes, times), twins)
        agree(lambda agg: (agg.dump(), agg.tick_count, agg.late_count, agg.dropped_count), twins)
        agree(lambda agg: agg.flush_interval("A", 60_000, T0 + 200_000), twins)


def _arrow(names: Any, rnd: Random) -> tuple[Any, ...]:
    """The same in Arrow's layouts, cut out of a longer column."""
    import pyarrow as pa

    text = pa.array(["x", *names, "y"], rnd.choice((pa.string(), pa.large_string(), pa.string_view())))
    cut = text.slice(1, len(names))
    middle = len(names) // 2
    chunks = pa.chunked_array([cut[:middle], cut[middle:]])
    plain = pa.array(["x", *names, "y"])
    return cut, chunks, plain.dictionary_encode().slice(1, len(names)), pd.Series(list(names), dtype="str")
