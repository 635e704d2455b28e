"""Replies of XREAD as a server writes them, with whatever ticks, and the two roads that read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from streammachine.ohlc.consumer.candle_book import CandleBook, Finished
from streammachine.ohlc.consumer.tick_book import TickBook
from streammachine.redis.transport.codec import NEED_MORE, ReplyParser, parse_stream_reply

Fields = Sequence[bytes] | None  # name, value, name, value; None: the entry was deleted
RawEntry = tuple[bytes, Fields]


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


def encoded_entry(entry: RawEntry, null: bytes = b"*-1\r\n") -> bytes:
    identifier, fields = entry
    body = null if fields is None else b"*%d\r\n%b" % (len(fields), b"".join(map(bulk, fields)))
    return b"*2\r\n" + bulk(identifier) + body


def encoded_reply(entries: Sequence[RawEntry], stream: bytes = b"ticks", resp3: bool = False) -> bytes:
    """What the server sends for XREAD or XREADGROUP of one stream."""
    head = b"%1\r\n" if resp3 else b"*1\r\n*2\r\n"
    null = b"_\r\n" if resp3 else b"*-1\r\n"
    return head + bulk(stream) + b"*%d\r\n" % len(entries) + b"".join(encoded_entry(each, null) for each in entries)


def parsed(reply: bytes) -> list[Any]:
    """The entries as the codec has them."""
    parser = ReplyParser()
    parser.feed(reply)
    found = parser.get()
    assert found is not NEED_MORE
    return next(iter(parse_stream_reply(found).values()), [])


def fed(sink: Any, reply: bytes, sizes: Iterable[int]) -> bool:
    """Feed the reply in pieces of these sizes, over and over; whether it was complete at its end and not before."""
    sizes = list(sizes) or [len(reply)]
    at = turn = 0
    while at < len(reply):
        size = max(1, sizes[turn % len(sizes)])
        complete: bool = sink.feed(reply[at : at + size])
        at, turn = at + size, turn + 1
        if complete:
            return at >= len(reply)
    return False


def told(finished: Finished, intervals: Sequence[int]) -> tuple[Any, ...]:
    """All that a commit would write, byte for byte."""
    refused = [(identifier, fields, str(error)) for identifier, fields, error in finished.refused]
    return finished.entries, refused, finished.encoded_states(), finished.encoded_candles(intervals)


def same_commits(plain: CandleBook, rows: TickBook, intervals: Sequence[int]) -> dict[bytes, bytes]:
    """Check that both books would write the same; gives the states written."""
    assert (plain.folded, plain.closed, plain.counts()) == (rows.folded, rows.closed, rows.counts())
    written = plain.take()
    assert told(written, intervals) == told(rows.take(), intervals)
    return written.states
