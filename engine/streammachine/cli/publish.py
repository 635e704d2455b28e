"""``streammachine publish``: append records to a stream, from the command line or as JSON lines from stdin."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import anyio

from streammachine.errors import FieldError, StreamMachineError
from streammachine.redis import streams
from streammachine.redis.connection import RedisConnection
from streammachine.runtime.delivery.send_once import checked_stream
from streammachine.runtime.delivery.transaction import fields_of

MOST_LINE = 1 << 20  # bytes of one line; a longer one is no record
CHUNK = 1 << 16  # bytes read at once, and sent before the next
TOO_LONG = f"it is longer than {MOST_LINE:,} bytes"


class LineError(StreamMachineError):
    """A line of stdin that is no record; what stands before it was sent."""


def publish(stream: str, fields: Sequence[str], maxlen: int | None) -> int:
    """Append one record made of ``name=value`` parts, or each line of stdin; prints the id, or how many.

    Raises:
        FieldError: a part is no ``name=value``, or a value cannot be sent. LineError: names the line of stdin.
    """
    checked_stream(stream)
    if fields:
        record = _record_of(fields)
        identifiers = anyio.run(_append, stream, [record], maxlen)
        print(identifiers[0])  # noqa: T201
        return 0
    if sys.stdin is None or sys.stdin.isatty():
        raise FieldError("Give the record as field=value ..., or JSON objects, one a line, on stdin.")
    sent = anyio.run(_append_lines, stream, sys.stdin.fileno(), maxlen)
    print(f"{sent} {'entry' if sent == 1 else 'entries'} appended to {stream}")  # noqa: T201
    return 0


def _record_of(parts: Sequence[str]) -> dict[str, str]:
    record: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise FieldError(f"{part!r} is no field: write it as name=value (a JSON object goes to stdin).")
        if name in record:
            raise FieldError(f"The field {name!r} is given twice.")
        record[name] = value
    return record


async def _append(stream: str, records: Sequence[Mapping[str, Any]], maxlen: int | None) -> list[str]:
    async with RedisConnection() as connection:
        return await _sent(connection, stream, records, maxlen)


async def _append_lines(stream: str, source: int, maxlen: int | None) -> int:
    """Append each line as soon as it is there; a program may write one now and then."""
    sent, number, rest = 0, 0, b""
    async with RedisConnection() as connection:
        while True:
            chunk = await _read(source)
            *lines, rest = (rest + chunk).split(b"\n")
            if not chunk:
                lines, rest = [rest], b""
            problem = None
            records: list[dict[str, Any]] = []
            try:
                for line in lines:
                    number += 1
                    if line.strip():
                        records.append(_parsed(line))
                if len(rest) > MOST_LINE:
                    number += 1
                    raise ValueError(TOO_LONG)
            except ValueError as error:
                problem = f"Line {number} is no record: {error}."
            try:
                sent += len(await _sent(connection, stream, records, maxlen))
            except StreamMachineError as error:
                raise LineError(f"{error} {_before(sent)}") from error
            if problem is not None:
                raise LineError(f"{problem} {_before(sent)}")
            if not chunk:
                return sent


async def _read(source: int) -> bytes:
    """What stands in a file or a pipe next; b"" at its end. Ctrl-C ends the wait."""
    with contextlib.suppress(OSError, NotImplementedError):  # a file: it has no wait
        await anyio.wait_readable(source)
    return os.read(source, CHUNK)


async def _sent(
    connection: RedisConnection, stream: str, records: Sequence[Mapping[str, Any]], maxlen: int | None
) -> list[str]:
    now = time.time_ns() // 1_000_000
    return await streams.append_many(connection, stream, [fields_of(each, now) for each in records], maxlen=maxlen)


def _parsed(line: bytes) -> dict[str, Any]:
    if len(line) > MOST_LINE:
        raise ValueError(TOO_LONG)
    try:
        # Numbers keep their digits: 0.10 stays 0.10.
        record = json.loads(line.decode(), parse_float=str, parse_int=str, parse_constant=_no_number)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(record, dict) or not record:
        raise ValueError("a record is a JSON object with at least one field")
    for name, value in record.items():
        if not isinstance(value, (str, bool)):
            kind = "null" if value is None else "a list" if isinstance(value, list) else "an object"
            raise ValueError(f"the field {name!r} is {kind}; give a text, a number, true or false")
    return record


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _before(sent: int) -> str:
    return f"{sent:,} {'record was' if sent == 1 else 'records were'} appended before."
