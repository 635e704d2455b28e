"""Proxies that the environment names, and base URLs at which there is no exchange."""

from __future__ import annotations

import subprocess
import sys
from contextlib import aclosing
from typing import Any

import anyio
import pytest

import streammachine as sf
from streammachine.errors import ExchangeError
from streammachine.market.live.runner import Runner, runner_for
from streammachine.market.network.proxies import unusable, websocket_proxy, without_login
from support.market_runs import EXCHANGES, World, world
from support.socks import Socks
from support.valkey import free_port

pytestmark = pytest.mark.anyio
VARIABLES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "WS_PROXY", "WSS_PROXY", "SOCKS_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def runner_elsewhere(there: World, host: str, exchange: str = "binance", **changed: Any) -> Runner:
    """A runner to which the simulator stands on another machine."""
    options = {
        name: value.replace("127.0.0.1", host) if isinstance(value, str) else value
        for name, value in there.options(exchange).items()
    }
    wanted = sf.DataInput("kline", [there.simulator.symbol(exchange, "BTC/USDT")], "1m")
    return runner_for(exchange, wanted, **{**options, **changed})


async def first_row(runner: Runner) -> Any:
    async with aclosing(runner.stream()) as rows:
        return await anext(rows)


@pytest.mark.parametrize("login", [None, ("user", "pass-word")], ids=["open", "login"])
@pytest.mark.parametrize(("scheme", "host"), [("socks5", "192.0.2.7"), ("socks5h", "exchange.test")])
async def test_rest_and_websocket_go_through_a_socks_proxy(
    monkeypatch: pytest.MonkeyPatch, scheme: str, host: str, login: tuple[str, str] | None
) -> None:
    async with world() as there, Socks(login) as socks:
        monkeypatch.setenv("ALL_PROXY", f"{scheme}://{socks.address}")
        runner = runner_elsewhere(there, host)
        assert isinstance(await first_row(runner), sf.Kline)
        assert len(socks.asked) >= 2  # REST, and the WebSocket
        assert {name for name, _ in socks.asked} == {host}


async def test_what_stands_on_this_machine_or_is_excepted_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", f"socks5h://127.0.0.1:{free_port()}")
    assert websocket_proxy("wss://exchange.test/ws") is not None
    assert websocket_proxy("ws://127.0.0.1:1/ws") is websocket_proxy("ws://localhost:1") is None
    async with world() as there:
        assert isinstance(await first_row(there.runner()), sf.Kline)
    monkeypatch.setenv("NO_PROXY", "exchange.test")
    assert websocket_proxy("wss://exchange.test/ws") is None


@pytest.mark.parametrize(
    ("variables", "url", "chosen"),
    [
        ({"HTTPS_PROXY": "http://a:1", "ALL_PROXY": "socks5://b:2"}, "wss://x.test", "http://a:1"),
        ({"WSS_PROXY": "http://c:3", "HTTPS_PROXY": "http://a:1"}, "wss://x.test", "http://c:3"),
        ({"HTTP_PROXY": "http://a:1"}, "wss://x.test", None),
        ({"HTTP_PROXY": "http://a:1"}, "ws://x.test", "http://a:1"),
        ({"ALL_PROXY": "socks5://b:2"}, "wss://x.test", "socks5://b:2"),
    ],
)
def test_the_nearest_variable_is_taken(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, chosen: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert websocket_proxy(url) == chosen


@pytest.mark.parametrize("missing", ["socksio", "python_socks"])
def test_a_socks_proxy_without_the_extra_is_one_line_that_names_it(missing: str) -> None:
    if missing == "socksio":
        command = "from streammachine.cli import main; sys.argv[1:] = ['stream', 'binance', 'BTCUSDT']; main()"
    else:  # the REST side has what it needs
        command = """
import anyio
from streammachine.market.network.session_options import SessionOptions
from streammachine.market.network.websocket_session import WebSocketSession
from streammachine.market.exchanges import adapter_for
from streammachine.market.clock.clock import SystemClock
from streammachine.errors import ExchangeError
async def run():
    clock = SystemClock()
    options = SessionOptions()
    await WebSocketSession(adapter_for("okx", "SPOT"), "wss://x.test", [], None, clock=clock, options=options).run()
try:
    anyio.run(run)
except ExchangeError as error:
    sys.exit(str(error))
"""
    script = f"import sys; sys.modules[{missing!r}] = None\n{command}"
    environment = {"PATH": "/usr/bin:/bin", "ALL_PROXY": "socks5://user:hush@127.0.0.1:1", "COLUMNS": "500"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert done.returncode != 0
    (line,) = done.stderr.strip().splitlines()
    assert "ALL_PROXY=socks5://***@127.0.0.1:1 names a SOCKS proxy" in line
    assert line.endswith('pip install "streammachine-mcp[socks]"')
    assert "hush" not in done.stdout + done.stderr


@pytest.mark.parametrize("proxy", ["socks9://user:hush@127.0.0.1:1", "127.0.0.1:1:2"])
async def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    async with world() as there:
        monkeypatch.setenv("ALL_PROXY", proxy)
        with pytest.raises(
            ExchangeError, match=r"ALL_PROXY=.*127\.0\.0\.1:1.* names a proxy that cannot be used: give"
        ):
            await first_row(runner_elsewhere(there, "exchange.test"))
    assert "hush" not in str(unusable(ValueError()))


async def test_a_proxy_that_does_not_answer_is_named_without_its_login(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as there:
        port = free_port()
        runner = runner_elsewhere(there, "exchange.test", rest_url=there.options("binance")["rest_url"])
        monkeypatch.setenv("ALL_PROXY", f"socks5h://user:hush@127.0.0.1:{port}")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first_row, runner)
            while "connecting again" not in caplog.text:
                await there.clock.sleep(1.0)
            tasks.cancel_scope.cancel()
    assert f"cannot connect through the proxy socks5h://***@127.0.0.1:{port}" in caplog.text
    assert "hush" not in caplog.text


# -- base URLs --------------------------------------------------------------------------------


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_a_rest_base_url_with_a_path_that_is_none_is_named(exchange: str) -> None:
    async with world(*EXCHANGES) as there:
        base = there.options(exchange)["rest_url"] + "/no/such"
        with pytest.raises(ExchangeError) as caught:
            await first_row(runner_elsewhere(there, "127.0.0.1", exchange, rest_url=base))
    assert f"{base}/" in str(caught.value)
    assert f"Check the base URL {base}, which is put before /" in str(caught.value)


@pytest.mark.parametrize(("exchange", "url"), [("binance", "ws_url"), ("okx", "ws_business_url"), ("kraken", "ws_url")])
async def test_a_404_at_the_first_connection_is_an_error_that_names_the_url(exchange: str, url: str) -> None:
    async with world(*EXCHANGES) as there:
        base = there.options(exchange)[url] + "/no/such"
        with pytest.raises(ExchangeError) as caught:
            await first_row(runner_elsewhere(there, "127.0.0.1", exchange, **{url: base}))
    assert f"{base}" in str(caught.value)
    assert "answered HTTP 404. Check its base URL" in str(caught.value)


def test_a_login_is_not_shown() -> None:
    assert without_login("socks5://u:p@h:1/x@y") == "socks5://***@h:1/x@y"
    assert without_login("http://h:1") == "http://h:1"
    assert without_login("u:p@h:1") == "***@h:1"
