"""What was acknowledged is there after kill -9, of the server and of its Valkey, with appendfsync always."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from streammachine.ohlc.aggregator import create_ohlc_aggregator
from streammachine.redis.embedded.server import EmbeddedServer
from support.mcp import RawClient
from support.servers import embedded_pids, redis_at, running, until

SENT = 10_000
INTERVALS = [60_000, 300_000]
START = 1_700_000_000_000


def kill_valkey(data_dir: Path) -> None:
    [pid] = embedded_pids(data_dir)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not running(pid))


@contextmanager
def embedded(data_dir: Path) -> Iterator[redis.Redis]:
    """A client of the embedded server itself."""
    with EmbeddedServer.acquire(data_dir) as server, redis_at(server.url) as client:
        yield client


def received(client: RawClient) -> dict[int, dict[str, Any]]:
    """The answers that came in until the process died, by request id."""
    answers = {}
    while (message := client.lines.get(timeout=30)) is not None:
        answers[message["id"]] = message
    return answers


def ticks(symbol: str, first: int, count: int, step: int = 997) -> list[dict[str, Any]]:
    return [
        {"symbol": symbol, "price": 100.0 + n % 89, "volume": 1.0 + n % 7, "timestamp_ms": START + n * step}
        for n in range(first, first + count)
    ]


def all_candles(client: RawClient, name: str, symbols: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"stats": client.call("ohlc_stats", name=name)}
    for symbol in symbols:
        for interval in INTERVALS:
            page = client.call(
                "ohlc_get_candles", name=name, symbol=symbol, interval_ms=interval, limit=1000, format="rows"
            )
            assert page["candles"]
            found[f"{symbol} {interval}"] = page
    return found


def test_every_acknowledged_message_survives_kill_9_in_the_middle_of_10000_sends(private_env: dict[str, str]) -> None:
    data_dir = Path(private_env["STREAMMACHINE_DATA_DIR"])
    client = RawClient(env=private_env)
    first = client.send("tools/call", name="stream_send", arguments={"stream": "orders", "message": {"n": 0}})
    assert client.wait(first)["structuredContent"]["message_id"]

    def send() -> None:
        try:
            for n in range(1, SENT):
                client.send("tools/call", name="stream_send", arguments={"stream": "orders", "message": {"n": n}})
        except (BrokenPipeError, ValueError):  # it was killed meanwhile
            pass

    sender = threading.Thread(target=send)
    sender.start()
    until(lambda: client.lines.qsize() > 1500, "1500 acknowledged")
    client.process.kill()
    sender.join(30)
    answers = received(client)
    client.ended()
    kill_valkey(data_dir)

    acknowledged = {
        answer["result"]["structuredContent"]["message_id"]: identifier - first
        for identifier, answer in answers.items()
    }
    assert 1500 < len(acknowledged) < SENT - 1
    with RawClient(env=private_env) as client, embedded(data_dir) as valkey:
        length = client.call("stream_info", stream="orders")["length"]
        found = valkey.xrange("orders")
        assert length == len(found) > len(acknowledged)
        kept = {identifier.decode(): int(fields[b"n"]) for identifier, fields in found}
        assert {identifier: kept.get(identifier) for identifier in acknowledged} == acknowledged
        assert list(kept.values()) == sorted(set(kept.values())), "in the order of the requests, and none twice"


def test_aggregators_come_back_with_the_candles_they_had(private_env: dict[str, str]) -> None:
    """More than 10,000 ticks, so that a snapshot was written and the journal trimmed; then more behind it."""
    data_dir = Path(private_env["STREAMMACHINE_DATA_DIR"])
    with RawClient(env=private_env) as client:
        client.call("ohlc_create", name="btc", intervals=INTERVALS)
        for batch in range(12):
            client.call("ohlc_update", name="btc", ticks=ticks("BTC", batch * 1000, 1000))
        client.call("ohlc_flush", name="btc", symbol="BTC", interval_ms=60_000, before_timestamp_ms=START + 600_000)
        client.call("ohlc_update", name="btc", symbol="BTC", price=1.0, volume=1.0, timestamp_ms=START)  # late
        client.call("ohlc_update", name="btc", symbol="ETH", price=7.0, volume=2.0, timestamp_ms=START)
        before = all_candles(client, "btc", ["BTC", "ETH"])
        assert before["stats"]["tick_count"] > 12_000
        assert before["stats"]["late_count"] == 1
        client.kill()
    kill_valkey(data_dir)
    with RawClient(env=private_env) as client:
        assert all_candles(client, "btc", ["BTC", "ETH"]) == before
        assert not client.call("ohlc_create", name="btc", intervals=INTERVALS)["created"]
        client.call("ohlc_update", name="btc", ticks=ticks("BTC", 12_000, 1))
        client.kill()
    with RawClient(env=private_env) as client, embedded(data_dir) as valkey:
        assert client.call("ohlc_stats", name="btc")["tick_count"] == before["stats"]["tick_count"] + 1
        assert valkey.hexists("sm:ohlc:{btc}", "data")
        assert valkey.xlen("sm:ohlc:{btc}:journal") <= 7


def test_two_servers_that_update_one_aggregator_at_once_agree(private_env: dict[str, str]) -> None:
    """Also with what a plain aggregator in this process makes of the same ticks, and after one of them was killed."""
    batches, size = 70, 100
    oracle = create_ohlc_aggregator(INTERVALS)
    with RawClient(env=private_env) as one, RawClient(env=private_env) as two:
        servers = [one, two]
        for server in servers:
            server.call("ohlc_create", name="both", intervals=INTERVALS)
        sent: list[list[dict[str, Any]]] = [[], []]

        def updates(which: int) -> Callable[[], None]:
            def run() -> None:
                for batch in range(batches):  # the two take turns in time, so every candle has ticks of both
                    part = ticks("BTC", (2 * batch + which) * size, size, step=101)
                    servers[which].call("ohlc_update", name="both", ticks=part)
                    sent[which].extend(part)

            return run

        threads = [threading.Thread(target=updates(which)) for which in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [len(part) for part in sent] == [batches * size] * 2
        for tick in sorted(sent[0] + sent[1], key=lambda tick: int(tick["timestamp_ms"])):
            oracle.update_tick(tick["symbol"], tick["price"], tick["volume"], tick["timestamp_ms"])
        seen = [all_candles(server, "both", ["BTC"]) for server in servers]
        assert seen[0] == seen[1]
        assert seen[0]["stats"]["tick_count"] == 2 * batches * size
        for interval in INTERVALS:
            expected = [candle.to_dict() for candle in oracle.get_candles("BTC", interval)]
            found = seen[0][f"BTC {interval}"]["candles"]
            prices = [{key: value for key, value in candle.items() if key != "volume"} for candle in found]
            assert prices == [{key: value for key, value in candle.items() if key != "volume"} for candle in expected]
            assert [round(candle["volume"], 6) for candle in found] == [round(c["volume"], 6) for c in expected]
        one.kill()
        assert two.call("ohlc_update", name="both", ticks=ticks("ETH", 0, 1))["tick_count"] == 2 * batches * size + 1
    with RawClient(env=private_env) as again:
        assert again.call("ohlc_stats", name="both")["tick_count"] == 2 * batches * size + 1


def test_a_valkey_whose_server_was_killed_stays_and_is_adopted(private_env: dict[str, str]) -> None:
    data_dir = Path(private_env["STREAMMACHINE_DATA_DIR"])
    with RawClient(env=private_env) as client:
        client.call("storage_write", key="k", value={"deep": [1, 2.5, None, "é"]})
        assert client.call("health_check")["embedded"]["adopted"] is False
        [pid] = embedded_pids(data_dir)
        client.kill()
    assert embedded_pids(data_dir) == [pid]
    with RawClient(env=private_env) as client:
        embedded = client.call("health_check")["embedded"]
        assert (embedded["pid"], embedded["adopted"], embedded["fsync"]) == (pid, True, "always")
        assert client.call("storage_read", key="k")["value"] == {"deep": [1, 2.5, None, "é"]}
    assert embedded_pids(data_dir) == [], "the adopter was the last holder"
