"""What the fast roads of frames and of the RESP codec bring: medians of one run, and the ratios between them.

Run ``python -m benchmarks.frames`` (``--json`` for a list of rows; ``--large 10000000`` measures only ``read_frame``,
on a stream of so many entries, beside its bare bytes: minutes, and some 3 GB of memory, for 10 million). Ratios carry
over to other machines; rates do not.
Each pair is measured in turns, so a busy moment hits both. Reading needs a server: an embedded one in a folder of its
own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from coredis._packer import Packer  # what a coredis pipeline spends on encoding alone, without its bookkeeping
from coredis.response.types import StreamEntry

from benchmarks.measuring import keep
from benchmarks.published import PEER, published_models
from streammachine.frames import TimeSeriesBuffer, read_frame, streams_to_dataframe, streams_to_dataframe_fast
from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.redis.transport import codec, wire_reference
from streammachine.redis.transport.raw_connection import encode_command
from streammachine.settings import Settings

ROUNDS = 7
ROWS = 100_000
ENTRIES = 20_000
READ_COUNT = 1000
PAGE = 10_000
START_MS = 1_700_000_000_000


class Row(NamedTuple):
    """One comparison. ``rate`` and ``baseline_rate`` are items per second, ``ratio`` the first by the second."""

    what: str
    baseline: str
    items: int
    rate: float
    baseline_rate: float
    ratio: float


def compare(
    what: str,
    baseline: str,
    items: int,
    candidate: Callable[[], object],
    reference: Callable[[], object],
    rounds: int = ROUNDS,
) -> Row:
    candidate()
    reference()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for kept, function in zip(times, (candidate, reference), strict=True):
            started = time.perf_counter()
            function()
            kept.append(time.perf_counter() - started)
    taken, reference_taken = map(statistics.median, times)
    return Row(what, baseline, items, items / taken, items / reference_taken, reference_taken / taken)


def frames() -> list[Row]:
    """Replies to frames: three fields, as the clients give them."""
    entries = [
        (
            b"%d-%d" % (START_MS + n // 3, n % 3),
            {b"symbol": b"BTCUSDT", b"price": b"%.2f" % (50_000 + n / 4), b"volume": b"%d" % n},
        )
        for n in range(ROWS)
    ]
    flat = [[entry_id, [part for pair in fields.items() for part in pair]] for entry_id, fields in entries]
    uneven = [
        (entry_id, fields if n % 2 else fields | {b"side": b"buy"}) for n, (entry_id, fields) in enumerate(entries)
    ]
    replies: dict[str, Any] = {
        "coredis": {b"s": tuple(StreamEntry(entry_id, OrderedDict[Any, Any](fields)) for entry_id, fields in entries)},
        "redis-py": [[b"s", entries]],
        "raw": [[b"s", flat]],
        "redis-py, two kinds of entries": [[b"s", uneven]],
    }
    rows = [
        compare(
            f"streams_to_dataframe_fast, {client}",
            "streams_to_dataframe",
            ROWS,
            partial(streams_to_dataframe_fast, reply),
            partial(streams_to_dataframe, reply),
        )
        for client, reply in replies.items()
    ]
    return rows + beside_published(replies["redis-py"])


def beside_published(reply: Any) -> list[Row]:
    """The same function of the published streammachine. redis-py's replies only: it takes pairs of an id and a dict,
    and coredis' entries have become longer than that."""
    with tempfile.TemporaryDirectory() as folder:
        models = published_models(Path(folder))
    if models is None:
        return []
    return [
        compare(
            "streams_to_dataframe_fast, redis-py",
            PEER,
            ROWS,
            partial(streams_to_dataframe_fast, reply),
            partial(models.streams_to_dataframe_fast, reply),
        )
    ]


def reading(rows: int = ROWS, rounds: int = ROUNDS) -> list[Row]:
    """A stream of the server into a frame: beside its bare bytes and, where it is not large, beside reading it and
    converting the replies."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer.acquire(Path(folder) / "valkey", fsync="everysec") as server,
        asyncio.Runner() as runner,
    ):
        redis = RedisConnection(settings=Settings(redis_url=server.url, data_dir=Path(folder) / "data"))
        runner.run(redis.open())
        for at in range(0, rows, READ_COUNT):
            entries = [
                {"symbol": "BTCUSDT", "price": f"{50_000 + n / 4:.2f}", "volume": n} for n in range(at, at + READ_COUNT)
            ]
            runner.run(redis.pipeline_xadd("s", entries, maxlen=0))
        firsts = list(runner.run(read_frame("s", columns=["id"], redis=redis))["id"][::PAGE])
        asked = b"".join(encode_command(["XRANGE", "s", first, "+", "COUNT", PAGE]) for first in firsts)

        async def convert() -> object:
            pages, start = [], "-"
            while page := await redis.command("XRANGE", "s", start, "+", "COUNT", PAGE):
                pages += page
                start = f"({page[-1][0].decode()}"
            return streams_to_dataframe_fast({"s": pages})

        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(server.socket_path))
            taken = memoryview(bytearray(1 << 20))
            size = _bytes_of(raw, asked)

            def only_bytes() -> None:
                raw.sendall(asked)
                left = size
                while left:
                    left -= raw.recv_into(taken)

            frame_of_all = lambda: runner.run(read_frame("s", redis=redis))  # noqa: E731
            bare = compare("read_frame", "raw XRANGE, bytes unparsed", rows, frame_of_all, only_bytes, rounds)
            found = (
                [bare]
                if rows > ROWS
                else [
                    compare(
                        "read_frame",
                        "XRANGE, then to_dataframe_fast",
                        rows,
                        frame_of_all,
                        lambda: runner.run(convert()),
                    ),
                    bare,
                ]
            )
        runner.run(redis.close())
        return found


def _bytes_of(raw: socket.socket, asked: bytes) -> int:
    """How many bytes the replies to these commands have."""
    end = b"+PONG\r\n"
    raw.sendall(asked + encode_command(["PING"]))
    size, tail = 0, b""
    while not tail.endswith(end):
        piece = raw.recv(1 << 20)
        size += len(piece)
        tail = (tail + piece)[-len(end) :]
    return size - len(end)


def buffer() -> list[Row]:
    """Many small frames into a buffer, against putting them together each time."""
    import pandas as pd

    small = streams_to_dataframe_fast({"s": [(f"{START_MS}-{n}", {"price": "1"}) for n in range(10)]})
    frames_of_ten = 1000

    def collected() -> None:
        held = TimeSeriesBuffer(60, now=lambda: START_MS / 1000)
        for _ in range(frames_of_ten):
            held.append(small)
        held.get()

    def each_time() -> None:
        held = small
        for _ in range(frames_of_ten - 1):
            held = pd.concat([held, small], ignore_index=True)

    return [compare("TimeSeriesBuffer.append", "pandas.concat each time", frames_of_ten * 10, collected, each_time)]


def wire() -> list[Row]:
    """RESP out and in, one entry of three fields at a time: native against twin, and against coredis' encoder."""
    numbers: list[dict[str, Any]] = [
        {"symbol": "BTCUSDT", "price": 50_000 + n / 4, "volume": n} for n in range(ENTRIES)
    ]
    texts = [{name: str(value) for name, value in record.items()} for record in numbers]
    fields = list(map(codec.encode_fields, numbers))
    reply = b"*%d\r\n" % READ_COUNT + b"".join(
        b"*2\r\n$15\r\n%d-0\r\n*6\r\n" % (START_MS + n)
        + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for pair in entry.items() for part in pair)
        for n, entry in enumerate(fields[:READ_COUNT])
    )

    def packed(records: list[dict[str, Any]]) -> object:
        return Packer("utf-8").pack_commands(
            [("XADD", "s", "*", *(part for pair in record.items() for part in pair)) for record in records]
        )

    def parsed(room: Any) -> None:
        parser = room.ReplyParser()
        for _ in range(ENTRIES // READ_COUNT):
            parser.feed(reply)
            room.parse_entries(parser.get())

    twin = wire_reference
    rows = [
        compare(
            f"encode_xadd_batch, {kind}",
            "coredis packer",
            ENTRIES,
            partial(codec.encode_xadd_batch, b"s", records),
            partial(packed, records),
        )
        for kind, records in {"text": texts, "numbers": numbers}.items()
    ]
    if not codec.HAS_NATIVE:
        return rows
    return [
        *rows,
        compare(
            "encode_xadd_batch, numbers",
            "plain-Python twin",
            ENTRIES,
            lambda: codec.encode_xadd_batch(b"s", numbers),
            lambda: twin.encode_xadd_batch(b"s", numbers),
        ),
        compare(
            "encode_fields, numbers",
            "plain-Python twin",
            ENTRIES,
            lambda: list(map(codec.encode_fields, numbers)),
            lambda: list(map(twin.encode_fields, numbers)),
        ),
        compare(
            "decode_dict_bytes_to_utf8",
            "plain-Python twin",
            ENTRIES,
            lambda: list(map(codec.decode_dict_bytes_to_utf8, fields)),
            lambda: list(map(twin.decode_dict_bytes_to_utf8, fields)),
        ),
        compare(
            "ReplyParser and parse_entries", "plain-Python twin", ENTRIES, lambda: parsed(codec), lambda: parsed(twin)
        ),
    ]


def main() -> None:
    """Measures everything and prints it, as a table or with ``--json`` as a list of rows."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", action="store_true", help="print a list of rows")
    arguments.add_argument("--large", type=int, metavar="ENTRIES", help="only read_frame, of so many entries")
    arguments.add_argument("--rounds", type=int, default=3, help="with --large")
    options = arguments.parse_args()
    as_json = options.json
    large = options.large
    rows = reading(large, options.rounds) if large else [*frames(), *reading(), *buffer(), *wire()]
    keep([row._asdict() for row in rows])
    if as_json:
        print(json.dumps([row._asdict() for row in rows]))
        return
    print(f"{'what':<60}{'against':<32}{'per second':>12}{'against':>12}{'ratio':>8}")
    for row in rows:
        print(f"{row.what:<60}{row.baseline:<32}{row.rate:>12,.0f}{row.baseline_rate:>12,.0f}{row.ratio:>7.2f}x")


if __name__ == "__main__":
    main()
