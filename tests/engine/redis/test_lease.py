"""A lease: one holder at a time, renewed and released by its holder only."""

from __future__ import annotations

import pytest

from streammachine.redis.connection import RedisConnection
from streammachine.redis.lease import Lease, is_leased

pytestmark = pytest.mark.anyio

KEY = "sm:test:lease"


def lease_of(redis: RedisConnection, token: str, seconds: float = 60.0) -> Lease:
    return Lease(redis, KEY, token, seconds)


async def test_of_two_holders_one_takes_it(redis: RedisConnection) -> None:
    assert [await lease_of(redis, token).take() for token in ("first", "second")] == [True, False]
    assert await redis.command("GET", KEY) == b"first"


async def test_it_lasts_as_long_as_said_and_begins_anew_when_renewed(redis: RedisConnection) -> None:
    lease = lease_of(redis, "first", 20.0)
    await lease.take()
    await redis.command("PEXPIRE", KEY, 1000)
    assert await lease.renew()
    assert 19_000 < await redis.command("PTTL", KEY) <= 20_000


async def test_anothers_lease_is_neither_renewed_nor_released(redis: RedisConnection) -> None:
    await lease_of(redis, "first").take()
    other = lease_of(redis, "second")
    assert not await other.renew()
    await other.release()
    assert await redis.command("GET", KEY) == b"first"


async def test_a_lease_that_has_run_out_is_not_renewed(redis: RedisConnection) -> None:
    assert not await lease_of(redis, "first").renew()
    assert not await is_leased(redis, KEY)


async def test_a_released_lease_is_anybodys(redis: RedisConnection) -> None:
    lease = lease_of(redis, "first")
    await lease.take()
    assert await is_leased(redis, KEY)
    await lease.release()
    assert not await is_leased(redis, KEY)
    assert await lease_of(redis, "second").take()


async def test_it_never_lasts_for_ever(redis: RedisConnection) -> None:
    assert await lease_of(redis, "first", 0.0001).take()  # less than the server's millisecond
