"""Chapter 1: a stream, which keeps what was appended, and a consumer group, which shares it.

A Redis stream is a list of entries in the order in which they came. An entry has an id, ``milliseconds-number``, and
fields. Reading takes nothing away: any number of groups read the same stream, each to its own end.
"""

from __future__ import annotations

import pytest

from streammachine import RedisConnection
from streammachine.errors import FieldError
from streammachine.redis import streams

pytestmark = pytest.mark.anyio


async def test_what_is_appended_stays_in_order(redis: RedisConnection) -> None:
    await redis.pipeline_xadd("trades", [{"symbol": "BTCUSDT", "price": price} for price in (61837.63, 61840)])
    entries = await streams.read_from(redis, "trades")
    assert [entry.data for entry in entries] == [
        {"symbol": "BTCUSDT", "price": "61837.63"},  # fields are text when they are read
        {"symbol": "BTCUSDT", "price": "61840"},
    ]
    assert entries[0].id < entries[1].id


async def test_a_group_goes_on_where_it_stopped_and_another_one_begins_at_the_beginning(redis: RedisConnection) -> None:
    await redis.pipeline_xadd("trades", [{"number": number} for number in range(3)])
    seen = []
    async for _, entry in redis.consumer("trades", consumer="reader-1", group="readers", timeout=100):
        seen.append(entry.field_values[b"number"])
        if seen[-1] == b"1":
            break  # an entry is acknowledged when the body is through with it: this one is not
    assert seen == [b"0", b"1"]
    async for _, entry in redis.consumer("trades", consumer="reader-2", group="readers", timeout=100):
        assert entry.field_values[b"number"] == b"1"  # the consumers of a group share what is left
        break
    async for _, entry in redis.consumer("trades", consumer="reader-1", group="others", timeout=100):
        assert entry.field_values[b"number"] == b"0"
        break


async def test_a_value_that_is_no_text_or_number_is_refused_before_anything_is_sent(redis: RedisConnection) -> None:
    with pytest.raises(FieldError, match="nested"):
        await redis.pipeline_xadd("trades", [{"price": 1}, {"nested": {"price": 2}}])
    assert await streams.read_from(redis, "trades") == []
