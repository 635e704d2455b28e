"""Passwords are kept out of what people read: masked before anything is parsed, by one function for all."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streammachine.errors import EmitterError, ExchangeError, SettingsError
from streammachine.market.clock.clock import SystemClock
from streammachine.market.emitters import sink_text as targets
from streammachine.market.emitters.kafka import KafkaEmitter
from streammachine.market.exchanges import adapter_for
from streammachine.market.exchanges.base import Request
from streammachine.market.network.rest_client import RestClient
from streammachine.masking import mask_text, mask_url
from streammachine.redis_url import parse_url
from streammachine.settings import Settings
from support.mcp import RawClient, ToolFailure

SECRET = "hunter2"
WRONG = [
    "redis:/default:hunter2@host",
    "redis:u:hunter2@h",
    "redis:hunter2@h",
    "redis:///hunter2@h",
    "redis:///:hunter2@h",
    "redis://h:hunter2",
    "redis://:hunter2",
    "redis://u:hunter2",
    "redis://hunter2:@h:x",
    "redis://h?auth=hunter2",
    "redis://h?token=hunter2",
    "redis://h?db=hunter2",
    "redis://h?hunter2",
    "redis://h?%61uth=hunter2",
    "redis://h?db=1;password=hunter2",
    "redis://h/0;password=hunter2",
    "redis://h#hunter2",
    "redis://h/0#hunter2",
    "redis://u%3Ahunter2%40h:x",
    "redis//u:hunter2@h",
    "u:hunter2@h",
    "rediss://u:p/hunter2@h",
    "redis+sentinel://h1:hunter2,h2/group",
    "redis+sentinel:/u:hunter2@h1,h2/group",
    "unix:/:hunter2@/run/v.sock?db=x",
    "redis://h:6379/hunter2",
    "redis://h/0/hunter2",
    "h:6380,password=hunter2,ssl=True",
    "host=h user=u password=hunter2",
    "http://u:hunter2@h",
]


@pytest.mark.parametrize("url", WRONG)
def test_a_url_that_is_written_wrongly_shows_no_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_url(url)
    assert SECRET not in str(caught.value)
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert SECRET not in str(caught.value)
    assert SECRET not in mask_text(f"it failed: {url}, then again")


@pytest.mark.parametrize("variable", ["REDIS_HOST", "REDIS_PORT", "STREAMMACHINE_TOOLSETS", "STREAMMACHINE_EMBEDDED"])
def test_a_url_in_the_wrong_variable_shows_no_password(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "redis://u:hunter2@h:6379/0")
    with pytest.raises(SettingsError, match=variable) as caught:
        Settings()
    assert SECRET not in str(caught.value)


@given(
    before=st.text(alphabet="ab@:/?#;,&= %", max_size=6),
    slashes=st.sampled_from(["", "/", "//", "///"]),
    user=st.sampled_from(["", "me", ":", "me:"]),
)
def test_what_stands_before_the_last_at_sign_is_never_shown(before: str, slashes: str, user: str) -> None:
    if user.rstrip(":") == user and user:
        user += ":"
    url = f"redis:{slashes}{user}{before}{SECRET}@host:1/0"
    assert SECRET not in mask_url(url)
    try:
        endpoint = parse_url(url)
    except SettingsError as error:
        assert SECRET not in str(error)
    else:
        assert SECRET not in repr(endpoint)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("localhost:6379", "localhost:6379"),
        ("h1:9092,h2:9092", "h1:9092,h2:9092"),
        ("u:p@h1:9092,u:q@h2:9092", "***@h2:9092"),
        ("u:a,b@h:9092", "***@h:9092"),
        ("redis://[::1]:7000/2", "redis://[::1]:7000/2"),
        ("::1", "::1"),
        ("redis+sentinel://:pw@h1:26379,h2/group/0", "redis+sentinel://:***@h1:26379,h2/group/0"),
        ("rediss://h?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=none", "rediss://h?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=none"),
        ("unix:///run/me@home/a=b.sock?db=2", "unix:///run/me@home/a=b.sock?db=2"),
        ("https://me:pw@proxy:8443/binance", "https://me:***@proxy:8443/binance"),
        ("postgresql://me:pw@h/db#candles", "postgresql://me:***@h/db#candles"),
        ("postgresql://h/db?sslmode=require&password=x", "postgresql://h/db?sslmode=require&password=***"),
    ],
)  # fmt: skip
def test_the_rest_stays_readable(url: str, masked: str) -> None:
    assert mask_url(url) == masked
    assert mask_url(masked) == masked


def test_a_text_is_masked_where_it_holds_a_url() -> None:
    text = "GET https://me:hunter2@proxy:8/x failed (see 'wss://h/ws?key=hunter2', me:hunter2@k:9092) at 12:30, a@b.org"
    assert mask_text(text) == (
        "GET https://me:***@proxy:8/x failed (see 'wss://h/ws?key=***', me:***@k:9092) at 12:30, a@b.org"
    )


def test_a_text_is_masked_where_it_assigns_a_password() -> None:
    text = "Connection string h:6380,password=hunter2,ssl=True; host=h Password = 'hunter2 x' user=u, confirm_token=12"
    assert mask_text(text) == (
        "Connection string h:6380,password=***,ssl=True; host=h Password = *** user=u, confirm_token=12"
    )


# --- sinks and exchanges ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sink",
    [
        "kafka:u:hunter2@h:9092/t",
        "kafka:u:hunter2@h:9092",
        "kafka://u:hunter2@h:9092/t",
        "postgres:u:hunter2@h/db",
        "postgresql://u:hunter2@h/db#1;2",
        "redis:/u:hunter2@h",
        "redis://h:hunter2",
        "u:hunter2@h:9092",
        "hunter2@kafka:x",
    ],
)
def test_a_sink_that_is_written_wrongly_shows_no_password(sink: str) -> None:
    with pytest.raises((EmitterError, SettingsError)) as caught:
        targets.emitter_for(sink)
    assert SECRET not in str(caught.value)
    assert SECRET not in targets.shown(sink)


def test_kafka_servers_with_a_login_are_refused_before_its_client_logs_them() -> None:
    for servers in ("me:hunter2@h:9092", ["h:9092", "me:hunter2@h:9092"]):
        with pytest.raises(EmitterError, match="give HOST:PORT alone, and the login as options") as caught:
            KafkaEmitter(topic="t", bootstrap_servers=servers)
        assert SECRET not in str(caught.value)


@pytest.mark.anyio
async def test_the_login_of_an_exchange_url_is_sent_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    """As a proxy with a login before the exchange would be asked."""
    import asyncio
    import base64

    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]")
        await writer.drain()
        writer.close()

    caplog.set_level(logging.DEBUG)
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    adapter = adapter_for("binance")
    urls = adapter.urls(rest_url=f"http://me:hunter2@127.0.0.1:{port}/base")
    try:
        async with RestClient(adapter, urls, clock=SystemClock(), attempts=1) as rest:
            assert await rest.get(Request("/api/v3/klines")) == b"[]"
    finally:
        server.close()
    (request,) = heard
    assert b"Authorization: Basic " + base64.b64encode(b"me:hunter2") in request
    assert request.startswith(b"GET /base/api/v3/klines ")
    assert SECRET not in caplog.text
    with pytest.raises(ExchangeError, match="no base URL of Binance") as caught:
        RestClient(adapter, adapter.urls(rest_url="ftp://me:hunter2@h"), clock=SystemClock())
    assert SECRET not in str(caught.value)


@pytest.mark.anyio
async def test_tools_logs_resources_and_redis_hold_no_password_of_the_environment(
    tmp_path: Path, settings: Settings
) -> None:
    import anyio.to_thread

    await anyio.to_thread.run_sync(_session, tmp_path, settings)


def _session(folder: Path, settings: Settings) -> None:
    import json
    import time

    import redis as redis_py

    database = 9  # of the run's shared server; no other test uses it
    url = settings.explicit_url()
    env = {
        "REDIS_URL": f"{url}?db={database}",
        "STREAMMACHINE_DATA_DIR": str(folder / "data"),
        "STREAMMACHINE_KAFKA_SERVERS": "me:hunter2@127.0.0.1:1",
        "STREAMMACHINE_POSTGRES_URL": "postgresql://me:hunter2@127.0.0.1:1/db?token=hunter2",
        "STREAMMACHINE_BINANCE_REST": "http://me:hunter2@127.0.0.1:1",
        "STREAMMACHINE_BINANCE_WS": "ws://me:hunter2@127.0.0.1:1",
        "STREAMMACHINE_KRAKEN_REST": "ftp://me:hunter2@127.0.0.1:1",
        "STREAMMACHINE_KRAKEN_WS": "ws://me:hunter2@127.0.0.1:1",
        "STREAMMACHINE_LOG_LEVEL": "DEBUG",
    }
    log = folder / "log"
    said: list[str] = []
    with redis_py.Redis(unix_socket_path=url.removeprefix("unix://"), db=database) as admin:
        admin.flushdb()
        try:
            with RawClient(env=env, log=log) as client:
                with pytest.raises(ToolFailure, match="hold a login"):
                    client.call(
                        "runner_start", exchange="binance", symbols=["BTCUSDT"], timeframe="1m", emit=["kafka:t"]
                    )
                with pytest.raises(ToolFailure, match=r"'ftp://me:\*\*\*@127.0.0.1:1' is no base URL of Kraken"):
                    client.call("runner_start", exchange="kraken", symbols=["BTC/USD"], timeframe="1m")
                answer = client.call(
                    "runner_start",
                    exchange="binance",
                    symbols=["BTCUSDT"],
                    timeframe="1m",
                    emit=["redis", "postgres:t"],
                )
                said.append(json.dumps(answer))
                span = {"start": "2024-01-01", "end": "2024-01-02"}
                answer = client.call("backfill_start", exchange="binance", symbol="BTCUSDT", timeframe="1m", **span)
                said.append(json.dumps(answer))
                end = time.monotonic() + 30
                while time.monotonic() < end and not admin.hlen("sm:runners:status"):
                    time.sleep(0.1)
                time.sleep(3)  # a few failures, to be said in every place
                said += [json.dumps(client.call(tool)) for tool in ("runner_list", "backfill_status", "health_check")]
                for uri in ("streammachine://config", "streammachine://status"):
                    said.append(json.dumps(client.request("resources/read", uri=uri)))
            stored = [str(admin.hgetall(key)) for key in admin.keys("sm:*") if admin.type(key) == b"hash"]
        finally:
            admin.flushdb()
    texts = [*said, *stored, log.read_text("utf-8", "replace")]
    assert any("127.0.0.1" in text for text in texts)
    for text in texts:
        assert SECRET not in text, text[max(0, text.index(SECRET) - 300) : text.index(SECRET) + 100]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("motherduck_token=abcd", "motherduck_token=***"),
        ("{'api_key': 'abcd', 'n': 1}", "{'api_key': ***, 'n': 1}"),
        ("apiKey=abcd", "apiKey=***"),
        ("Authorization: Bearer abcd.efgh-ijkl", "Authorization: Bearer ***"),
        ("call again with confirm_token=abcd", "call again with confirm_token=abcd"),
        ("(me:abcd@h)", "(me:***@h)"),
    ],
)
def test_secrets_in_the_midst_of_a_text(text: str, shown: str) -> None:
    assert mask_text(text) == shown


@pytest.mark.parametrize("part", ["x", "a-", "a:", "(a:b", "password", "pass ", "http://", "@:", "x=:/", "bearer "])
def test_masking_a_long_text_takes_time_that_grows_with_it_only(part: str) -> None:
    """Were it the square of its length, this would take ten minutes and meet the time limit of a test."""
    assert mask_text(part * (300_000 // len(part)))
