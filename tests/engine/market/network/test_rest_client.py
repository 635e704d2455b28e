"""The REST client: budgets kept, bans obeyed, what may pass tried again, and only two kinds of errors."""

from __future__ import annotations

import asyncio
import gzip
import io
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from streammachine.errors import ExchangeError, ExchangeUnavailableError
from streammachine.market.clock.clock import SystemClock, VirtualClock
from streammachine.market.exchanges import adapter_for
from streammachine.market.exchanges.base import Request, Urls
from streammachine.market.network.rate_budget import Budget, budget_for
from streammachine.market.network.rest_client import MissingFileError, RestClient
from streammachine.market.network.rest_queries import fetch_klines
from streammachine.market.simulator import Fault
from support.backfill import Market, files, market, utc

pytestmark = pytest.mark.anyio
START, END = utc("2024-02-02"), utc("2024-02-03")


# -- against the simulator --


async def _day(here: Market, **options: object) -> RestClient:
    async with here.rest(**options) as rest:
        klines = await fetch_klines(rest, here.symbol, "1m", START, END)
        assert [kline.open_ts for kline in klines] == list(range(START, END, 60_000))
    return rest


@pytest.mark.parametrize(("status", "seconds"), [(429, 7), (418, 130), (429, 0)])
async def test_no_request_is_sent_while_a_ban_lasts(status: int, seconds: int) -> None:
    fault = Fault("status", value=status, seconds=seconds, after=1)
    async with market(faults=[fault]) as here:
        rest = await _day(here, parallel=1)
        struck = here.simulator.log.of("fault")[0].time_ms
        times = [entry.time_ms for entry in here.simulator.log.of("rest")]
        assert [ts for ts in times if struck < ts < struck + seconds * 1000] == []
        assert max(times) >= struck + seconds * 1000
        assert rest.told_to_wait >= seconds


async def test_a_ban_stops_all_clients_of_the_process() -> None:
    async with market(faults=[Fault("status", value=418, seconds=120)]) as here:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(_day, here)
        struck = here.simulator.log.of("fault")[0].time_ms
        at_once = [entry for entry in here.simulator.log.of("rest") if entry.time_ms == struck]
        assert len(at_once) <= 12  # under way when it came: three clients, four requests each
        assert all(
            entry.time_ms == struck or entry.time_ms >= struck + 120_000 for entry in here.simulator.log.of("rest")
        )


async def test_a_ban_longer_than_our_patience_is_said_at_once() -> None:
    async with market(faults=[Fault("status", value=418, seconds=86_400)]) as here:
        for _ in range(2):
            began = here.clock.monotonic()
            with pytest.raises(ExchangeUnavailableError, match="another 86"):
                await _day(here)
            assert here.clock.monotonic() - began < 5
        assert len({entry.time_ms for entry in here.simulator.log.of("rest")}) == 1


@pytest.mark.parametrize("exchange", ["binance", "okx", "bybit", "kraken"])
async def test_we_stay_within_the_budget(exchange: str) -> None:
    """Many more requests than a window holds, and the exchange never has to say so."""
    adapter = adapter_for(exchange)
    limits = adapter.rest = replace(adapter.rest, weight=min(adapter.rest.weight, 60))
    rules = {"weight": limits.weight, "weight_within": limits.within} if exchange != "kraken" else {}
    async with market(exchange, rules=rules) as here, RestClient(adapter, here.urls, clock=here.clock) as rest:
        request = adapter.klines(here.symbol, "1m", START, START + 60_000, now=here.clock.time_ms())
        async with anyio.create_task_group() as tasks:
            for _ in range(int(3.2 * limits.weight / request.weight) + 1):
                tasks.start_soon(rest.get, request)
        assert rest.told_to_wait == 0
        assert {detail[:4] for detail in here.asked()} == {"200 "}
        assert here.clock.monotonic() >= 3 * limits.within


async def test_what_others_of_the_address_spent_counts_too() -> None:
    adapter = adapter_for("binance")
    adapter.rest = replace(adapter.rest, weight=60)
    async with market(rules={"weight": 60}) as here, RestClient(adapter, here.urls, clock=here.clock) as rest:
        request = adapter.klines(here.symbol, "1m", START, END)
        await rest.get(request)
        async with RestClient(adapter, here.urls, clock=SystemClock()) as other:  # as another process would
            for _ in range(27):
                await other.get(request)
        assert here.clock.monotonic() == 0
        for _ in range(10):
            await rest.get(request)
        assert rest.told_to_wait == 0
        assert here.clock.monotonic() > 30


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", value=500),
        Fault("status", value=503, seconds=3),
        Fault("timeout"),
        Fault("slow", seconds=40),
        Fault("half"),
        Fault("garbage"),
        Fault("rest_refuse"),
    ],
    ids=lambda fault: fault.kind,
)
@pytest.mark.parametrize("exchange", ["binance", "okx", "kraken", "bybit"])
async def test_what_may_pass_is_tried_again(exchange: str, fault: Fault) -> None:
    start = START if exchange != "kraken" else utc("2024-02-02T18:00")
    async with market(exchange, faults=[fault]) as here, here.rest() as rest:
        klines = await fetch_klines(rest, here.symbol, "1m", start, END)
        assert [kline.open_ts for kline in klines] == list(range(start, END, 60_000))
        assert here.clock.monotonic() < 30
        assert len(here.simulator.log.of("fault")) == 1


@pytest.mark.parametrize("kind", ["status", "timeout", "slow", "half", "garbage", "rest_refuse"])
async def test_what_does_not_pass_is_given_up(kind: str) -> None:
    fault = Fault(kind, times=-1, value=502 if kind == "status" else None)
    async with market(faults=[fault]) as here, here.rest(attempts=3) as rest:
        with pytest.raises(ExchangeUnavailableError, match="in 3 attempts"):
            await fetch_klines(rest, here.symbol, "1m", START, END)
        assert 3 <= len(here.simulator.log.of("fault")) <= 6  # two pages at once


async def test_a_refusal_is_not_tried_again() -> None:
    for exchange in ("binance", "okx", "kraken", "bybit"):
        async with market(exchange) as here, here.rest() as rest:
            unknown = {"kraken": "ABC/XYZ", "okx": "ABC-XYZ"}.get(exchange, "ABCXYZ")
            with pytest.raises(ExchangeError, match="refused") as raised:
                await rest.get(rest.adapter.klines(unknown, "1m", START, END, now=here.clock.time_ms()))
            assert not isinstance(raised.value, ExchangeUnavailableError)
            assert len(here.asked()) == 1


# -- against a server that does what it likes --

Answering = Callable[[asyncio.StreamWriter, str], Awaitable[None]]


@asynccontextmanager
async def server(answering: Answering, clock: VirtualClock) -> AsyncIterator[tuple[str, list[str]]]:
    """Answers each connection's first request; gives its URL and the request lines so far. Drives the clock."""
    lines: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines.append(head.split(b"\r\n")[0].decode())
            await answering(writer, lines[-1])
            await writer.drain()
            if answering is _begins_only:
                await reader.read()  # until the client has had enough
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with anyio.create_task_group() as tasks, listening:
        tasks.start_soon(clock.drive)
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", lines
        tasks.cancel_scope.cancel()


def _client(url: str, clock: VirtualClock, **options: object) -> RestClient:
    urls = Urls(ws="", rest=url, bulk=url)
    return RestClient(adapter_for("binance"), urls, clock=clock, rng=random.Random(1), **options)  # type: ignore[arg-type]


def _says(*parts: bytes, status: str = "200 OK", headers: str = "") -> Answering:
    async def answering(writer: asyncio.StreamWriter, line: str) -> None:
        body = b"".join(parts)
        head = f"HTTP/1.1 {status}\r\nConnection: close\r\n{headers}"
        if "Content-Length" not in headers and "chunked" not in headers:
            head += f"Content-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"\r\n" + body)

    return answering


PATH = Request("/path", {"a": "b c"})


async def test_a_redirect_is_followed() -> None:
    clock = VirtualClock()

    async def answering(writer: asyncio.StreamWriter, line: str) -> None:
        if "/path" in line:
            await _says(status="302 Found", headers="Location: /there\r\n")(writer, line)
        else:
            await _says(b"found")(writer, line)

    async with server(answering, clock) as (url, lines), _client(url, clock) as rest:
        assert await rest.get(PATH) == b"found"
    assert lines == ["GET /path?a=b+c HTTP/1.1", "GET /there HTTP/1.1"]


@pytest.mark.parametrize(
    ("answering", "said"),
    [
        (_says(status="302 Found", headers="Location: /path\r\n"), "redirects"),
        (_says(status="302 Found", headers="Location: http://example.invalid/\r\n"), "not encrypted"),
        (_says(status="302 Found", headers="Location: ftp://example.invalid/\r\n"), "not encrypted"),
        (_says(b"no", status="401 Unauthorized"), "HTTP 401"),
        (_says(b"no", status="404 Not Found"), "HTTP 404"),
        (_says(status="304 Not Modified"), "HTTP 304"),
    ],
)
async def test_what_will_never_do_is_an_exchange_error(answering: Answering, said: str) -> None:
    clock = VirtualClock()
    async with server(answering, clock) as (url, _), _client(url, clock) as rest:
        with pytest.raises(ExchangeError, match=said) as raised:
            await rest.get(PATH)
    assert not isinstance(raised.value, ExchangeUnavailableError)


async def _begins_only(writer: asyncio.StreamWriter, line: str) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")


@pytest.mark.parametrize(
    "answering",
    [
        _says(b"short", headers="Content-Length: 100\r\n"),
        _says(b"5\r\nabc", headers="Transfer-Encoding: chunked\r\n"),
        _says(b"no gzip", headers="Content-Encoding: gzip\r\n"),
        _says(b"", status="599 Unknown"),
        _begins_only,
    ],
    ids=["short", "chunks", "no gzip", "599", "never"],
)
async def test_broken_answers_are_unavailable(answering: Answering) -> None:
    clock = VirtualClock()
    async with server(answering, clock) as (url, lines), _client(url, clock, attempts=2, timeout=3) as rest:
        with pytest.raises(ExchangeUnavailableError, match="in 2 attempts"):
            await rest.get(PATH)
        if answering is _begins_only:
            assert clock.monotonic() >= 6
    assert len(lines) == 2


async def test_an_answer_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streammachine.market.network.rest_client.MAX_BODY", 10_000_000)
    clock = VirtualClock()

    async def bomb(writer: asyncio.StreamWriter, line: str) -> None:
        packed = gzip.compress(bytes(100_000_000))
        await _says(packed, headers="Content-Encoding: gzip\r\n")(writer, line)

    async with server(bomb, clock) as (url, _), _client(url, clock) as rest:
        with pytest.raises(ExchangeError, match="above 10000000 bytes"):
            await rest.get(PATH)


async def test_a_bulk_file_goes_to_disk_with_its_hash(tmp_path: Path) -> None:
    clock = VirtualClock()
    body = random.Random(0).randbytes(3_000_000)
    tries = 0

    async def answering(writer: asyncio.StreamWriter, line: str) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            await _says(body[:1_000_000], headers=f"Content-Length: {len(body)}\r\n")(writer, line)
        elif tries == 2:
            await _says(b"<html>busy</html>", status="503 Busy")(writer, line)
        else:
            await _says(body)(writer, line)

    file = io.BytesIO()
    async with server(answering, clock) as (url, _), _client(url, clock) as rest:
        import hashlib

        assert await rest.download(PATH, file) == hashlib.sha256(body).hexdigest()
    assert file.getvalue() == body
    assert files(tmp_path) == []


async def test_a_bulk_file_that_is_not_there_is_an_error_of_its_own() -> None:
    clock = VirtualClock()
    async with server(_says(b"<Error/>", status="404 Not Found"), clock) as (url, _), _client(url, clock) as rest:
        with pytest.raises(MissingFileError, match="/path"):
            await rest.get(PATH, bulk=True)


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://host", "http://", "", "http://[half", "wss://stream"])
async def test_what_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(ExchangeError, match="base URL"):
        _client(url, VirtualClock())


async def test_being_told_to_wait_without_end_is_unavailable() -> None:
    clock = VirtualClock()
    async with server(_says(status="429 Slow"), clock) as (url, lines), _client(url, clock) as rest:
        with pytest.raises(ExchangeUnavailableError, match="in 12 attempts"):
            await rest.get(PATH)
    assert len(lines) == 12


async def test_nobody_there_is_unavailable() -> None:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        port = made.getsockname()[1]
    clock = VirtualClock()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.drive)
        async with _client(f"http://127.0.0.1:{port}", clock) as rest:
            with pytest.raises(ExchangeUnavailableError, match=r"attempts.*status page"):
                await rest.get(PATH)
        tasks.cancel_scope.cancel()
    assert clock.monotonic() > 0  # with pauses


async def test_a_client_that_is_not_open_says_so() -> None:
    with pytest.raises(ExchangeError, match="async with"):
        await _client("http://127.0.0.1:9", VirtualClock()).get(PATH)


# -- the budget alone --


def test_a_budget_lets_no_window_have_more() -> None:
    chance = random.Random(5)
    for _ in range(50):
        weight, within = chance.randint(1, 30), chance.uniform(0.5, 60)
        budget, now, spent = Budget(weight, within), 0.0, []
        for _ in range(200):
            now += chance.choice([0.0, 0.0, chance.uniform(0, within / 3)])
            cost = chance.randint(1, weight)
            spent.append((budget.reserve(cost, now), cost))
            assert spent[-1][0] >= now
        assert [moment for moment, _ in spent] == sorted(moment for moment, _ in spent)
        for moment, _ in spent:
            assert sum(cost for at, cost in spent if moment - within + 1e-9 < at <= moment) <= weight


def test_what_costs_more_than_there_ever_is_costs_all() -> None:
    budget = Budget(10, 60)
    assert budget.reserve(25, 0) == 0
    assert budget.reserve(1, 1) == 60


def test_a_budget_is_of_a_base_url_and_a_world_of_clocks() -> None:
    one, other = VirtualClock(), VirtualClock()
    assert budget_for(one, "http://a", 1, 1) is budget_for(one, "http://a", 1, 1)
    assert budget_for(one, "http://a", 1, 1) is not budget_for(one, "http://b", 1, 1)
    assert budget_for(one, "http://a", 1, 1) is not budget_for(other, "http://a", 1, 1)
    assert budget_for(SystemClock(), "http://a.invalid", 1, 1) is budget_for(SystemClock(), "http://a.invalid", 1, 1)
