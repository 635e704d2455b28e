"""The simulator itself: determinism, addresses, its time, its end."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import warnings

import anyio
import httpx2
import pytest
import websockets

from streammachine.errors import UnknownExchangeError
from streammachine.market.clock.clock import ScaledClock, VirtualClock
from streammachine.market.exchanges.base import Urls
from streammachine.market.simulator import Fault, Simulator, Tape
from support.exchange import START, simulated

pytestmark = pytest.mark.anyio

ALL = ("binance", "okx", "kraken", "bybit")


async def test_the_same_seed_gives_the_same_frames_at_the_same_moments() -> None:
    runs = []
    for _ in range(2):
        async with simulated("binance", ["duplicate#20", "late_close@20:seconds=3"]) as market:
            line = await market.connect("/stream?streams=btcusdt@kline_1m/ethusdt@trade")
            await market.pass_time(130)
            runs.append(line.heard)
    assert runs[0] == runs[1]
    async with simulated("binance", seed=4) as market:
        line = await market.connect("/stream?streams=btcusdt@kline_1m/ethusdt@trade")
        await market.pass_time(130)
        assert line.heard != runs[0]


async def test_two_sockets_of_a_stream_hear_the_same() -> None:
    async with simulated("bybit", start=START + 30_000) as market:
        lines = [await market.connect("/v5/public/spot") for _ in range(2)]
        for line in lines:
            await line.say({"op": "subscribe", "args": ["kline.1.BTCUSDT"]})
        await market.pass_time(50)
        first, second = ([frame for frame in line.heard if b"kline.1" in frame[1]][1:] for line in lines)
        assert first[-40:] == second[-40:]


async def test_urls_symbols_and_environment_lead_to_it() -> None:
    tape = Tape.generate(1, start_ms=START)
    async with Simulator(tape, ALL, ScaledClock(1.0, START)) as simulator:
        for name in ALL:
            urls = simulator.urls(name)
            assert isinstance(urls, Urls)
            assert not urls.ws.endswith("/")
            async with httpx2.AsyncClient() as web:
                told = (await web.get(f"{urls.rest}/clock")).json()
            assert abs(told["time_ms"] - simulator.clock.time_ms()) < 60_000
            assert told["speed"] == 1.0
        assert [simulator.symbol(name, "BTC/USDT") for name in ALL] == ["BTCUSDT", "BTC-USDT", "BTC/USDT", "BTCUSDT"]
        assert simulator.symbol("binance", "BTC/USDT", "COINM") == "BTCUSD_PERP"
        assert simulator.symbol("okx", "BTC/USDT", "LINEAR") == "BTC-USDT-SWAP"
        assert simulator.symbol("okx", "BTC/USDT", "INVERSE") == "BTC-USD-SWAP"
        assert simulator.symbol("bybit", "BTC/USDT", "INVERSE") == "BTCUSD"
        environment = simulator.environment()
        assert environment["STREAMMACHINE_OKX_WS_BUSINESS"] == simulator.urls("okx").ws_business
        assert environment["STREAMMACHINE_BINANCE_BULK"] == simulator.urls("binance").bulk
        assert environment["STREAMMACHINE_CLOCK_URL"].endswith("/clock")
        assert set(environment) >= {f"STREAMMACHINE_{name.upper()}_{part}" for name in ALL for part in ("WS", "REST")}


async def test_it_works_by_real_time_too() -> None:
    tape = Tape.generate(1, start_ms=START)
    async with (
        Simulator(tape, ("bybit",), ScaledClock(100.0, START)) as simulator,
        websockets.connect(f"{simulator.urls('bybit').ws}/spot", compression=None) as line,
    ):
        await line.send('{"op":"subscribe","args":["kline.1.BTCUSDT"]}')
        confirmed = 0
        while confirmed < 2:
            confirmed += '"confirm":true' in str(await line.recv())


async def test_an_unknown_exchange_is_refused() -> None:
    with pytest.raises(UnknownExchangeError, match="give some of binance, okx, kraken, bybit"):
        Simulator(Tape.generate(1, start_ms=START), ("bitstamp",))


async def test_a_taken_port_is_refused_and_leaves_nothing_behind() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        simulator = Simulator(
            Tape.generate(1, start_ms=START), ("okx", "binance"), VirtualClock(START),
            ports={"binance": taken.getsockname()[1]},
        )  # fmt: skip
        before = asyncio.all_tasks()
        with pytest.raises(OSError, match="in use"):
            async with simulator:
                pass
        assert asyncio.all_tasks() == before
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            gc.collect()


async def test_it_ends_cleanly_with_clients_connected() -> None:
    before = asyncio.all_tasks()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        async with simulated("binance", ["freeze@20:connection=2", "slow:seconds=1000"]) as market:
            line = await market.connect("/ws/btcusdt@kline_1m")
            await market.connect("/ws/btcusdt@trade")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(market.get, "/api/v3/time")
                await market.pass_time(30)
                tasks.cancel_scope.cancel()
            urls = market.simulator.urls("binance")
        assert line.closed is not None or line.socket.transport.is_closing()
        gc.collect()
    assert asyncio.all_tasks() == before
    port = int(urls.rest.rpartition(":")[2])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


async def test_clients_hear_1001_when_it_ends() -> None:
    tape = Tape.generate(1, start_ms=START)
    async with Simulator(tape, ("okx",), ScaledClock(1.0, START)) as simulator:
        line = await websockets.connect(simulator.urls("okx").ws, compression=None)
    with pytest.raises(websockets.ConnectionClosed) as ended:
        await line.recv()
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1001
    await line.close()


async def test_an_error_inside_is_raised_where_it_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    from streammachine.market.simulator.protocols.bybit import BybitExchange

    def broken(*_: object, **__: object) -> str:
        raise ArithmeticError("broken on purpose")

    monkeypatch.setattr(BybitExchange, "candle_frame", broken)
    with pytest.raises(ArithmeticError, match="on purpose"):
        async with (
            Simulator(Tape.generate(1, start_ms=START), ("bybit",), ScaledClock(50.0, START)) as simulator,
            websockets.connect(f"{simulator.urls('bybit').ws}/spot", compression=None) as line,
        ):
            await line.send('{"op":"subscribe","args":["kline.1.BTCUSDT"]}')
            await anyio.sleep_forever()


async def test_the_bodys_own_error_passes_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with Simulator(Tape.generate(1, start_ms=START), ("bybit",), ScaledClock(1.0, START)):
            raise ZeroDivisionError


async def test_one_connection_serves_many_requests() -> None:
    async with simulated("bybit") as market:
        for _ in range(5):
            assert (await market.get("/v5/market/time")).json()["retCode"] == 0
        assert len(market.simulator.log.of("rest")) == 5


async def test_only_get_is_taken() -> None:
    async with simulated("bybit") as market:
        port = int(market.simulator.urls("bybit").rest.rpartition(":")[2])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"POST /v5/market/time HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
            assert (await stream.receive()).startswith(b"HTTP/1.1 405")


@pytest.mark.parametrize(
    "sent", [b"GARBAGE\r\n\r\n", b"GET /x HTTP/1.1\r\nbroken\r\n\r\n", b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"]
)
async def test_what_is_no_http_is_answered_with_400(sent: bytes) -> None:
    async with simulated("binance") as market:
        port = int(market.simulator.urls("binance").rest.rpartition(":")[2])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(sent if b"/ HTTP" not in sent else sent.replace(b"/ ", b"/ws "))
            assert (await stream.receive()).startswith(b"HTTP/1.1 4")


async def test_pipelined_requests_and_a_request_in_pieces_are_answered_in_order() -> None:
    async with simulated("bybit") as market:
        port = int(market.simulator.urls("bybit").rest.rpartition(":")[2])
        one = b"GET /v5/market/time HTTP/1.1\r\nHost: x\r\n\r\n"
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(one + one + one[:10])
            got = b""
            while got.count(b"HTTP/1.1 200") < 2:
                got += await stream.receive()
            await stream.send(one[10:].replace(b"Host", b"Connection: close\r\nHost"))
            while True:
                try:
                    got += await stream.receive()
                except anyio.EndOfStream:
                    break
        assert got.count(b"HTTP/1.1 200") == 3


async def test_a_client_that_resets_is_forgotten() -> None:
    async with simulated("binance") as market:
        line = await market.connect("/ws/btcusdt@kline_1m")
        line.socket.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        line.socket.transport.abort()
        await market.pass_time(5)
        assert market.simulator.sockets("binance") == 0
        assert len(market.simulator.log.of("lost")) == 1


async def test_five_hundred_symbols_on_one_socket() -> None:
    tape = Tape.generate(1, [f"C{number}/USDT" for number in range(500)], START, trades_per_minute=5)
    async with simulated("binance", tape=tape) as market:
        names = [f"c{number}usdt@kline_1m" for number in range(500)]
        with pytest.raises(websockets.InvalidStatus) as refused:
            await market.connect("/stream?streams=" + "/".join(names))
        assert refused.value.response.status_code == 414
        line = await market.connect("/stream")
        await line.say({"method": "SUBSCRIBE", "params": names, "id": 1})
        await market.pass_time(123)
        rows = [message["data"]["k"] for message in line.messages if "data" in message]
        closed = [row["s"] for row in rows if row["x"] and row["t"] >= START]
        assert len(closed) == 1000
        assert len(set(closed)) == 500


async def test_the_log_tells_a_listener() -> None:
    async with simulated("okx") as market:
        heard: list[str] = []
        market.simulator.log.listener = lambda entry: heard.append(entry.what)
        line = await market.connect("/ws/v5/public")
        await line.say("ping")
        await market.get("/api/v5/public/time")
        market.simulator.inject(Fault("reset"))
        await market.pass_time(0.1)
        assert heard == ["connect", "ping", "rest", "fault", "close", "lost"]
