"""Where alerts may post to: what patterns allow, and that the post goes nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import anyio
import pytest

from streammachine import Alert, create_alert
from streammachine.errors import SettingsError
from streammachine.redis.connection import RedisConnection
from streammachine.runtime.alerts.alert import OUTBOX
from streammachine.runtime.alerts.host import AlertHost
from streammachine.runtime.alerts.targets import WebhookTargets, is_public
from streammachine.settings import Settings
from support.valkey import until
from support.webhook import Receiver

SOURCE = "kline:binance:BTCUSDT:1m"


@pytest.mark.parametrize(
    ("patterns", "allowed", "refused"),
    [
        ("any", ["https://10.0.0.1/", "http://localhost:1/"], []),
        (
            "public",
            ["https://8.8.8.8/", "https://example.org/x"],
            [
                *("https://10.0.0.1/", "https://127.0.0.1/", "https://localhost/", "https://169.254.169.254/latest"),
                *("https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://100.64.0.1/", "https://0.0.0.0/"),
            ],
        ),
        (
            "hooks.example.org,*.trusted.org:8443",
            ["https://HOOKS.example.org./x", "https://a.trusted.org:8443/"],
            ["https://example.org/", "https://a.trusted.org/", "https://trusted.org:8443/", "https://8.8.8.8/"],
        ),
        ("127.0.0.1:9000", ["http://127.0.0.1:9000/"], ["http://127.0.0.1:9001/", "http://127.0.0.2:9000/"]),
        (
            "10.0.0.0/8,[fd00::1]:80",
            ["https://10.1.2.3/", "http://[fd00::1]/", "https://name/"],
            ["https://11.0.0.1/", "https://[fd00::1]/"],
        ),
    ],
)
def test_patterns_allow_what_they_name(patterns: str, allowed: list[str], refused: list[str]) -> None:
    targets = WebhookTargets(patterns.split(","))
    for url in allowed:
        targets.check(url)
    for url in refused:
        with pytest.raises(SettingsError, match="STREAMMACHINE_ALERT_WEBHOOKS="):
            targets.check(url)


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "127.0.0.1", "169.254.169.254", "192.168.1.1", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
        *("::1", "::", "fe80::1", "fd00::1", "ff02::1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1"),
        *("fec0::1", "64:ff9b:1::a00:1", "::10.0.0.1", "::ffff:0:10.0.0.1", "4000::1"),
    ],
)  # fmt: skip
def test_what_is_no_address_of_the_internet(address: str) -> None:
    assert not is_public(ip_address(address))


def test_addresses_of_the_internet() -> None:
    for address in ("8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"):
        assert is_public(ip_address(address))


@pytest.mark.parametrize("pattern", ["", "http://x", "x:0", "x:99999", "10.0.0.0/99", "*", "a b", "[::1"])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"host|port|give"):
        WebhookTargets([pattern])


# -- posts -------------------------------------------------------------------------------------


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def port(receiver: Receiver) -> str:
    return receiver.url.rpartition(":")[2]


@asynccontextmanager
async def fired(redis: RedisConnection, *alerts: Alert, allowed: str | None = None) -> AsyncIterator[None]:
    """Alerts have fired; the block ends once everything that they told has left the outbox."""
    for alert in alerts:
        await create_alert(redis, alert)
    settings = Settings(redis_url=redis.url, alert_webhooks=allowed)
    async with RedisConnection(settings=settings) as connection, anyio.create_task_group() as tasks:
        host = AlertHost(connection)
        tasks.start_soon(host.run)
        fields = ("open_ts", "1000", "end_ts", "1999", "volume", "1", "is_closed", "true", "symbol", "BTCUSDT")
        prices = [part for name in ("open", "high", "low", "close") for part in (name, "11")]
        await redis.command("XADD", SOURCE, "1000-1", *fields, *prices)
        await until(lambda: _is_told(redis, len(alerts)))
        yield
        host.stop()


async def _is_told(redis: RedisConnection, count: int) -> bool:
    told = await redis.command("XLEN", "{sm:alerts}:fired")
    return int(told) == count and not await redis.command("HLEN", OUTBOX)


@pytest.mark.anyio
async def test_a_name_that_stands_for_this_machine_is_not_posted_to(
    redis: RedisConnection, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """2130706433 is 127.0.0.1 to the resolver, and no address to who reads it."""
    hidden = Alert("hidden", SOURCE, "close > 10", webhook=f"https://2130706433:{port(receiver)}/", reach="public")
    named = Alert("named", SOURCE, "close > 10", webhook=f"{receiver.url}/", reach=f"127.0.0.1:{port(receiver)}")
    async with fired(redis, hidden, named):
        pass
    assert [request.headers["host"] for request in receiver.requests] == [f"127.0.0.1:{port(receiver)}"]
    assert "none that may be posted to here (allowed: public)" in caplog.text


@pytest.mark.anyio
async def test_the_process_that_posts_holds_alerts_to_its_own_setting(
    redis: RedisConnection, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    async with fired(redis, Alert("up", SOURCE, "close > 10", webhook=f"{receiver.url}/"), allowed="public"):
        pass
    assert not receiver.requests
    assert "allowed: public" in caplog.text


@pytest.mark.anyio
async def test_a_network_is_posted_to_at_the_address_that_was_checked(
    redis: RedisConnection, receiver: Receiver
) -> None:
    url = f"http://localhost:{port(receiver)}/path"
    async with fired(redis, Alert("up", SOURCE, "close > 10", webhook=url, reach="127.0.0.0/8,::1")):
        pass
    (request,) = receiver.requests
    assert (request.path, request.headers["host"]) == ("/path", f"localhost:{port(receiver)}")


@pytest.mark.anyio
async def test_an_answer_that_points_elsewhere_is_not_followed(redis: RedisConnection, receiver: Receiver) -> None:
    with Receiver() as other:
        receiver.plan.append((307, {"Location": f"{other.url}/"}))
        async with fired(redis, Alert("up", SOURCE, "close > 10", webhook=f"{receiver.url}/", reach="127.0.0.1")):
            pass
        assert [request.status for request in receiver.requests] == [307, 200]  # tried again, and taken
        assert not other.requests


@pytest.mark.anyio
async def test_an_alert_that_the_settings_do_not_allow_is_not_created(redis: RedisConnection) -> None:
    settings = Settings(redis_url=redis.url, alert_webhooks="hooks.example.org")
    async with RedisConnection(settings=settings) as connection:
        with pytest.raises(SettingsError, match=r"allowed: hooks\.example\.org"):
            await create_alert(connection, Alert("up", SOURCE, "close > 1", webhook="https://example.com/"))
        _, _, created = await create_alert(
            connection, Alert("up", SOURCE, "close > 1", webhook="https://hooks.example.org/")
        )
        assert created
