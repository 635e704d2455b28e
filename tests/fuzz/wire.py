"""Random bytes, replies and records through the codec and its twin: the same results, the same errors."""

from __future__ import annotations

from random import Random
from typing import Any

from fuzz.agree import agree
from streammachine.redis.transport import wire, wire_reference

CODECS = (wire, wire_reference)
LINES = (
    b"0",
    b"1",
    b"-1",
    b"2",
    b"3",
    b"",
    b"x",
    b"+5",
    b"007",
    b"9223372036854775807",
    b"9223372036854775808",
    b"9" * 20,
)
NAMES: tuple[Any, ...] = ("a", b"a", "name", "", b"\xff", "\ud800", "é", 5, None, (1,))
VALUES: tuple[Any, ...] = (*NAMES, 1.5, -0.0, float("nan"), True, -(2**63), 2**64, [], {}, "x" * 300, bytearray(b"x"))


def step(rnd: Random) -> None:
    """One random input."""
    kind = rnd.randrange(4)
    if kind == 0:
        received = b"".join(reply(rnd, 0) for _ in range(rnd.randrange(1, 4)))
        received = damaged(rnd, received)
        cuts = sorted(rnd.randrange(len(received) + 1) for _ in range(rnd.randrange(4)))
        portions = [received[a:b] for a, b in zip([0, *cuts], [*cuts, len(received)], strict=True)]
        agree(lambda codec: progress(codec, portions), CODECS)
    elif kind == 1:
        made = shape(rnd, 0)
        agree(lambda codec: codec.parse_entries(made), CODECS)
        agree(lambda codec: codec.parse_stream_reply(made), CODECS)
    elif kind == 2:
        records = [record(rnd) for _ in range(rnd.randrange(4))]
        key, maxlen = rnd.choice(NAMES), rnd.choice((0, 0, 5, -1, 2**63, None))
        agree(lambda codec: codec.encode_xadd_batch(key, records, maxlen), CODECS)
        for one in records:
            agree(lambda codec, one=one: codec.encode_fields(one), CODECS)
    else:
        fields = record(rnd)
        agree(lambda codec: codec.decode_dict_bytes_to_utf8(fields), CODECS)


def progress(codec: Any, portions: list[bytes]) -> list[Any]:
    parser, found = codec.ReplyParser(), []
    for portion in portions:
        try:
            parser.feed(portion)
            while (value := parser.get()) is not codec.NEED_MORE:
                found.append(value)
        except Exception as error:
            found.append((type(error).__name__, str(error)))
    return found


def reply(rnd: Random, depth: int) -> bytes:
    kind = rnd.choice(b"$*:+-_#,(!=%~|>" if depth < 5 else b"$:+_")
    if rnd.random() < 0.1:
        return b"%c%b\r\n" % (kind, rnd.choice(LINES))
    if kind in b"*%~|>":
        count = rnd.randrange(4)
        inside = b"".join(reply(rnd, depth + 1) for _ in range(count * (2 if kind in b"%|" else 1)))
        return b"%c%d\r\n%b" % (kind, count, inside)
    if kind in b"$!=":
        text = rnd.randbytes(rnd.randrange(8)) if kind != 61 else b"txt:" + rnd.randbytes(3)
        return b"%c%d\r\n%b\r\n" % (kind, len(text), text)
    texts = {58: b"-42", 43: b"OK", 45: b"ERR no", 95: b"", 35: b"t", 44: b"1.5e3", 40: b"123456789012345678901234"}
    return b"%c%b\r\n" % (kind, texts[kind])


def damaged(rnd: Random, received: bytes) -> bytes:
    data = bytearray(received)
    while data and rnd.random() < 0.4:
        at = rnd.randrange(len(data))
        if rnd.random() < 0.5:
            data[at] = rnd.choice(b"$*:+-_#,(!=%~|>\r\n0123456789\x00\xff")
        else:
            del data[at : at + rnd.randrange(1, 4)]
    return bytes(data)


def shape(rnd: Random, depth: int) -> Any:
    """Something like a stream reply."""
    if depth == 0 and rnd.random() < 0.2:
        return {b"s": shape(rnd, 1)}
    if depth > 4 or rnd.random() < 0.3:
        return rnd.choice((*VALUES, b"1-0", b"2-0", b"x"))
    return [shape(rnd, depth + 1) for _ in range(rnd.choice((0, 1, 2, 2, 2, 3, 4)))]


def record(rnd: Random) -> Any:
    if rnd.random() < 0.05:
        return rnd.choice(VALUES)
    return {rnd.choice(NAMES): rnd.choice(VALUES) for _ in range(rnd.choice((0, 1, 1, 2, 3, 5)))}
