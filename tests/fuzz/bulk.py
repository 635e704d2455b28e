"""Random lines of bulk files, read in columns and the plain way; and columns made lines, natively and not."""

from __future__ import annotations

from random import Random

import numpy as np

from fuzz.agree import agree
from streammachine.market.backfill import bulk_columns
from streammachine.market.backfill import bulk_files as bulk
from streammachine.market.exchanges import adapter_for
from streammachine.market.model import kline_columns
from streammachine.market.model.fast_columns import joined, read_lines
from support.bulk import MINUTE, ODD_CELLS, ODD_LINES, line, zipped

BINANCE = adapter_for("binance")


def step(random: Random) -> None:
    """One file, and bytes that are none."""
    lines = [line(number) for number in range(random.randrange(40))]
    for _ in range(random.choice((0, 1, 1, 3))):
        at = random.randrange(len(lines) + 1)
        lines[at : at + random.randrange(2)] = [_odd(random)]
    bulk.ROWS = random.choice((1, 3, 7, 20))  # type: ignore[misc]
    sizes = {"most": bulk.ROWS * random.randrange(1, 4), "block": random.choice((1, 60, 1000, 1 << 16))}

    def read(how: str) -> object:
        file = zipped(lines, random_end, last)
        if how == "plain":
            return [row for rows in bulk.read(file, BINANCE, "BTCUSDT", "1m") for row in rows]
        batches = bulk_columns.read(file, BINANCE, "BTCUSDT", "1m", **sizes)
        return [row for batch in batches for row in (batch if isinstance(batch, list) else batch.rows())]

    random_end, last = random.choice(("\n", "\r\n")), random.choice(("\n", ""))
    agree(read, ("plain", "columns"))
    _any_bytes(random)
    _any_columns(random)


def _odd(random: Random) -> str:
    if random.random() < 0.3:
        return random.choice(ODD_LINES)
    return line(random.randrange(40), **{f"c{random.randrange(12)}": random.choice(ODD_CELLS)})


def _any_bytes(random: Random) -> None:
    data = bytes(random.choice(b"0123456789.,,,\n\n\x00\xff") for _ in range(random.randrange(400)))
    room = random.randrange(4)
    starts, trades, places = (np.empty(room, np.int64) for _ in range(3))
    numbers = np.empty((6, room))
    at = random.randrange(len(data) + 1)
    count, end, _ = read_lines(data, at, MINUTE, 5, 7, starts, numbers, trades, places)
    assert 0 <= count <= room
    assert at <= end <= len(data)


def _any_columns(random: Random) -> None:
    count = random.randrange(1, 6)
    columns: list[kline_columns.Text] = [
        (random.choice((b"", b"x", b"a,b")),)
        if random.random() < 0.4
        else b",".join([random.choice((b"", b"1.5"))] * count)
        for _ in range(random.randrange(1, 9))
    ]
    native = joined(columns, count, b"\t", b"\r\n")
    cells = [[text[0]] * count if isinstance(text, tuple) else text.split(b",") for text in columns]
    assert native == b"".join(b"\t".join(row) + b"\r\n" for row in zip(*cells, strict=True))
