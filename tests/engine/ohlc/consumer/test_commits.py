"""FastOHLCConsumer: folding goes on while a commit is under way, as far as the next one may write."""

from __future__ import annotations

import pytest

from streammachine.ohlc.consumer import active_session
from streammachine.redis.connection import RedisConnection
from streammachine.redis.transport.codec import encode_xadd_batch
from streammachine.redis.transport.raw_connection import encode_command
from support.candles import caught_up, emitted, make_ticks, maker, oracle, records, same
from support.valkey import until

pytestmark = pytest.mark.anyio
A_COMMIT = 100  # entries
MOST_PAUSE_MS = 10_000
UNPAUSE = encode_command(("CLIENT", "UNPAUSE"))


async def test_folding_goes_on_while_a_commit_waits(redis: RedisConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(active_session, "READ_COUNT", 10)
    monkeypatch.setattr(active_session, "READ_MORE", 1)
    monkeypatch.setattr(active_session, "COMMIT_ENTRIES", A_COMMIT)
    ticks = make_ticks(1_000)
    consumer = maker(redis)()
    await consumer.start()
    raw = await redis.open_connection("ticks")
    try:
        # In one step, so that no commit comes between: all ticks, and then the server holds writes back.
        parts = [encode_command(("MULTI",)), encode_xadd_batch("ticks", records(ticks))]
        parts += [encode_command(("CLIENT", "PAUSE", MOST_PAUSE_MS, "WRITE")), encode_command(("EXEC",))]
        await raw.exchange(b"".join(parts), len(ticks) + 3, 5)

        async def folded() -> bool:
            return int(consumer.stats().get("ticks", 0)) >= 2 * A_COMMIT

        await until(folded, MOST_PAUSE_MS / 2000)
        assert consumer.stats()["ticks"] == 2 * A_COMMIT
        assert consumer.stats()["position"] == "0-0"
        await raw.exchange(UNPAUSE, 1, 5)
        await caught_up(redis, len(ticks))
        await consumer.stop()
    finally:
        await raw.exchange(UNPAUSE, 1, 5)
        await raw.aclose()
    same(await emitted(redis), oracle(ticks)[0])
