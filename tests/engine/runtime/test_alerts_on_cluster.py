"""Alerts on a Redis Cluster: sources on three nodes, one evaluator, outputs in other slots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from streammachine import Alert, create_alert
from streammachine.redis import streams
from streammachine.redis.connection import RedisConnection
from streammachine.redis.transport.cluster import slot_of
from streammachine.runtime.alerts.alert import FIRED, OUTBOX
from streammachine.runtime.alerts.host import AlertHost
from streammachine.settings import Settings
from support.cluster import cluster, serving
from support.valkey import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]
SOURCES = ("a", "b", "c")  # on three different nodes


async def test_alerts_over_three_nodes(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        assert len({serving(nodes, stream).port for stream in SOURCES}) == 3
        settings = Settings(redis_url=f"{nodes[0].url}?cluster=true", data_dir=tmp_path / "data")
        async with RedisConnection(settings=settings) as redis, anyio.create_task_group() as tasks:
            for source in SOURCES:
                await create_alert(redis, Alert(source, source, "price > 10", on="tick", stream="heard"))
            assert slot_of(FIRED) != slot_of("heard")
            hosts = [AlertHost(redis) for _ in range(2)]
            for host in hosts:
                tasks.start_soon(host.run)
            await until(lambda: any(host.running == 3 for host in hosts))
            for price in (9, 11, 9, 12):
                for source in SOURCES:
                    await redis.command("XADD", source, "*", "price", str(price), "volume", "1")

            async def sent() -> Any:
                done = not await redis.command("HLEN", OUTBOX)
                return done and await streams.length(redis, "heard") == 6

            await until(sent)
            told = [entry.data for entry in await streams.read_from(redis, FIRED)]
            assert sorted((each["alert"], each["price"]) for each in told) == [
                (source, price) for source in SOURCES for price in ("11.0", "12.0")
            ]
            for host in hosts:
                host.stop()
