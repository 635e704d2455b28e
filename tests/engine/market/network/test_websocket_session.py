"""One connection's life, and a line of them, against small real WebSocket servers, by a virtual clock."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import orjson
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from streammachine.errors import ExchangeError
from streammachine.market.clock.clock import VirtualClock
from streammachine.market.exchanges import adapter_for
from streammachine.market.exchanges.base import Ack, Adapter, Alive, BadFrame, Notice, Refused, Subscription
from streammachine.market.model.kline import Kline, Trade
from streammachine.market.network.reconnector import Line, LineOptions
from streammachine.market.network.session_options import SessionOptions
from streammachine.market.network.websocket_session import HEARTBEAT_GAP, State, WebSocketSession

pytestmark = pytest.mark.anyio

Handler = Callable[[ServerConnection, int], Awaitable[None]]
STREAMS = [Subscription("kline", symbol, "1m") for symbol in ("BTCUSDT", "ETHUSDT")]


def candle(symbol: str = "BTCUSDT", volume: int = 1) -> str:
    """A frame of Binance's."""
    return orjson.dumps(
        {
            "e": "kline",
            "E": 1_700_000_041_000,
            "s": symbol,
            "k": {
                "t": 1_700_000_040_000,
                "T": 1_700_000_099_999,
                "s": symbol,
                "i": "1m",
                "o": "1.0",
                "c": "1.5",
                "h": "2.0",
                "l": "0.5",
                "v": str(volume),
                "n": 2,
                "x": False,
                "q": "1.0",
            },
        }
    ).decode()


@dataclass
class Owner:
    """What sessions tell, in a list; what they get of it is as a feed would give it."""

    clock: VirtualClock
    adapter: Adapter
    frames: list[bytes] = field(default_factory=list)
    told: list[tuple[object, ...]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    full: bool = False
    seen: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.emptied = anyio.Event()

    def received(self, session: WebSocketSession, frame: bytes) -> bool:
        self.frames.append(frame)
        self.times.append(self.clock.monotonic())
        for event in self.adapter.decode(frame):
            if isinstance(event, (Kline, Trade)):
                self.seen[event.symbol] = self.clock.time_ms()
                session.note_data(session.last_frame)
            elif isinstance(event, (Ack, Refused, Notice, Alive)):
                session.control(event)
            else:
                assert isinstance(event, BadFrame)
                self.told.append(("bad",))
        return self.full

    async def room(self) -> None:
        await self.emptied.wait()

    def silence(self, session: WebSocketSession) -> None:
        self.told.append(("silence",))

    def acknowledged(self, session: WebSocketSession, subscription: Subscription) -> None:
        self.told.append(("acknowledged", session.number, subscription.symbol))

    def refused(self, session: WebSocketSession, subscription: Subscription, reason: str) -> None:
        self.told.append(("refused", subscription.symbol, reason))

    def has_data_since(self, subscription: Subscription, since_ms: int) -> bool:
        return self.seen.get(subscription.symbol, -1) >= since_ms

    def lost(self, session: WebSocketSession) -> None:
        self.told.append(("lost", session.number, session.reason))


@dataclass
class Place:
    """A server, an owner and a clock."""

    clock: VirtualClock
    url: str
    owner: Owner
    adapter: Adapter
    connections: list[float] = field(default_factory=list)  # when each one came

    def session(self, streams: list[Subscription] = STREAMS, **arguments: object) -> WebSocketSession:
        options = SessionOptions()
        return WebSocketSession(
            self.adapter,
            self.url,
            streams,
            self.owner,
            clock=self.clock,
            options=options,
            **arguments,  # type: ignore[arg-type]
        )


@asynccontextmanager
async def place(handler: Handler, exchange: str = "binance") -> AsyncIterator[Place]:
    clock = VirtualClock()
    adapter = adapter_for(exchange)
    found = Place(clock, "", Owner(clock, adapter), adapter)

    async def handle(socket: ServerConnection) -> None:
        found.connections.append(clock.monotonic())
        await handler(socket, len(found.connections))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.drive)
        async with serve(handle, "127.0.0.1", 0, ping_interval=None, compression=None) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            found.url = f"ws://127.0.0.1:{port}/ws"
            yield found
        tasks.cancel_scope.cancel()


async def acknowledge(socket: ServerConnection) -> None:
    """Answer every command as Binance does."""
    async for message in socket:
        await socket.send(orjson.dumps({"result": None, "id": orjson.loads(message)["id"]}).decode())


async def served(socket: ServerConnection, number: int) -> None:
    await socket.send(candle("BTCUSDT"))
    await acknowledge(socket)


async def silent(socket: ServerConnection, number: int) -> None:
    await socket.wait_closed()


# -- subscriptions --


async def test_streams_are_subscribed_and_their_acknowledgements_told() -> None:
    async with place(served) as it:
        session = it.session()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.run)
            await session.ready.wait()
            assert session.state is State.OPEN
            assert {symbol for _, _, symbol in it.owner.told} == {"BTCUSDT", "ETHUSDT"}
            session.close()
        assert session.state is State.ENDED
        assert session.reason == "closed by us"


async def test_commands_keep_under_the_message_rate() -> None:
    times: list[float] = []

    async def handler(socket: ServerConnection, number: int) -> None:
        async for _ in socket:
            times.append(it.clock.monotonic())

    async with place(handler) as it:
        streams = [Subscription("kline", f"S{number}USDT", "1m") for number in range(1024)]
        it.adapter.socket = type(it.adapter.socket)(
            **{**{name: getattr(it.adapter.socket, name) for name in it.adapter.socket.__slots__}, "args": 50}
        )
        session = it.session(streams)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.run)
            await it.clock.sleep(8)
            session.close()
    assert len(times) == 21
    most = it.adapter.socket.messages
    for first, behind in zip(times, times[most:], strict=False):
        assert behind - first >= it.adapter.socket.messages_within


async def test_a_missing_acknowledgement_is_asked_for_again_and_then_the_connection_is_given_up() -> None:
    asked: list[float] = []

    async def handler(socket: ServerConnection, number: int) -> None:
        async for _ in socket:
            asked.append(it.clock.monotonic())

    async with place(handler) as it:
        session = it.session()
        await session.run()
        assert asked == [0.0, 10.0]
        assert "were not acknowledged" in session.reason
        assert it.clock.monotonic() == pytest.approx(20.0)


async def test_data_stands_in_for_an_acknowledgement() -> None:
    async def handler(socket: ServerConnection, number: int) -> None:
        await socket.send(candle("BTCUSDT"))
        await socket.send(candle("ETHUSDT"))
        await socket.wait_closed()

    async with place(handler) as it:
        session = it.session()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.run)
            await session.ready.wait()
            assert [each[0] for each in it.owner.told] == ["acknowledged"] * 2
            session.close()


async def test_of_streams_refused_together_the_guilty_one_is_found() -> None:
    async def handler(socket: ServerConnection, number: int) -> None:
        async for message in socket:
            command = orjson.loads(message)
            if "badusdt@kline_1m" in command["params"]:
                answer: dict[str, object] = {"code": 2, "msg": "Invalid request: no such stream", "id": command["id"]}
            else:
                answer = {"result": None, "id": command["id"]}
            await socket.send(orjson.dumps(answer).decode())

    async with place(handler) as it:
        streams = [Subscription("kline", symbol, "1m") for symbol in ("AUSDT", "BADUSDT", "CUSDT", "DUSDT", "EUSDT")]
        session = it.session(streams)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.run)
            await it.clock.sleep(9)
            session.close()
        refused = [each for each in it.owner.told if each[0] == "refused"]
        assert [each[1] for each in refused] == ["BADUSDT"]
        assert "no such stream" in str(refused[0][2])
        acknowledged = {str(each[2]) for each in it.owner.told if each[0] == "acknowledged"}
        assert acknowledged == {"AUSDT", "CUSDT", "DUSDT", "EUSDT"}


async def test_a_dead_stream_is_unsubscribed_and_subscribed_again() -> None:
    commands: list[str] = []

    async def handler(socket: ServerConnection, number: int) -> None:
        async for message in socket:
            command = orjson.loads(message)
            commands.append(f"{command['method']} {','.join(command['params'])}")
            await socket.send(orjson.dumps({"result": None, "id": command["id"]}).decode())

    async with place(handler) as it:
        session = it.session()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.run)
            await it.clock.sleep(1)
            session.resubscribe(STREAMS[:1])
            await it.clock.sleep(15)
            session.close()
    assert commands[1:] == ["UNSUBSCRIBE btcusdt@kline_1m", "SUBSCRIBE btcusdt@kline_1m"]


# -- watchdogs --


async def test_a_server_that_does_not_shake_hands_is_given_up() -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with place(silent) as it:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        async with server:
            it.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
            session = it.session()
            await session.run()
            assert session.reason == "no handshake within 10 s"
            assert it.clock.monotonic() == pytest.approx(10.0)


async def test_a_dead_transport_is_noticed_within_its_silence() -> None:
    async def handler(socket: ServerConnection, number: int) -> None:
        await socket.send(candle())
        socket.transport.pause_reading()  # neither our pings nor anything else is seen any more
        await it.owner.emptied.wait()
        socket.transport.abort()

    async with place(handler) as it:
        it.owner.seen = {"ETHUSDT": 2**60, "BTCUSDT": 2**60}
        session = it.session(stale_after=1000)
        await session.run()
        it.owner.emptied.set()
        assert session.reason == "no frame for 60 s"
        assert it.clock.monotonic() == pytest.approx(it.adapter.socket.silent, abs=1)
        assert not session.stale


async def test_an_open_socket_without_data_is_noticed_within_the_data_age() -> None:
    async def handler(socket: ServerConnection, number: int) -> None:
        await socket.send(candle("BTCUSDT"))
        await acknowledge(socket)  # and pings are answered

    async with place(handler) as it:
        session = it.session()
        await session.run()
        assert session.stale
        assert it.clock.monotonic() == pytest.approx(60.0, abs=1)


async def test_heartbeats_count_as_data() -> None:
    async def handler(socket: ServerConnection, number: int) -> None:
        for _ in range(200):
            await socket.send('{"channel":"heartbeat"}')
            await it.clock.sleep(1)
        await socket.wait_closed()

    async with place(handler, "kraken") as it:
        it.owner.seen = {"BTC/USD": 2**60}
        session = it.session([Subscription("kline", "BTC/USD", "1m")])
        await session.run()
        assert it.clock.monotonic() == pytest.approx(199 + it.adapter.socket.silent, abs=2)


async def test_text_pings_are_sent_where_the_exchange_wants_them() -> None:
    said: list[tuple[float, str | bytes]] = []

    async def handler(socket: ServerConnection, number: int) -> None:
        async for message in socket:
            said.append((it.clock.monotonic(), message))
            if message == "ping":
                await socket.send("pong")
            else:
                await socket.send('{"event":"subscribe","arg":{"channel":"candle1m","instId":"BTC-USDT"}}')

    async with place(handler, "okx") as it:
        session = it.session([Subscription("kline", "BTC-USDT", "1m")])
        await session.run()
        pings = [at for at, text in said if text == "ping"]
        assert pings[:3] == pytest.approx([15, 30, 45])
        assert session.stale  # pongs alone are no data


async def test_a_silence_is_told_before_the_frame_that_ends_it() -> None:
    async def handler(socket: ServerConnection, number: int) -> None:
        await socket.send(candle())
        await it.clock.sleep(HEARTBEAT_GAP + 1)
        await socket.send(candle())
        await socket.wait_closed()

    async with place(handler) as it:
        session = it.session()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.run)
            await it.clock.sleep(HEARTBEAT_GAP + 2)
            assert ("silence",) in it.owner.told
            session.close()


async def test_a_server_that_closes_ends_it_with_its_reason() -> None:
    async def handler(socket: ServerConnection, number: int) -> None:
        await socket.close(1001, "maintenance")

    async with place(handler) as it:
        session = it.session()
        await session.run()
        assert "1001" in session.reason
        assert "maintenance" in session.reason


async def test_a_full_owner_stops_the_reading_and_no_watchdog_minds() -> None:
    sent = 0

    async def handler(socket: ServerConnection, number: int) -> None:
        nonlocal sent
        text = candle() + " " * 20_000
        for _ in range(1000):
            await socket.send(text)
            sent += 1
        await socket.wait_closed()

    async with place(handler) as it:
        it.owner.full = True
        session = it.session()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.run)
            await it.clock.sleep(500)
            assert len(it.owner.frames) == 1
            before = sent
            await it.clock.sleep(500)
            assert sent == before < 1000  # the server feels it
            assert session.state is State.OPEN
            it.owner.full = False
            it.owner.emptied.set()
            await it.clock.sleep(0.1)
            assert len(it.owner.frames) == 1000
            tasks.cancel_scope.cancel()


async def test_frames_that_are_no_text_do_not_end_it() -> None:
    async def handler(socket: ServerConnection, number: int) -> None:
        await socket.send(b"\xff\xfe\x00")
        await socket.send('{"e":"kline"')
        await socket.send(b"\xe2\x82", text=True)  # half a character
        await socket.send(candle())
        await acknowledge(socket)

    async with place(handler) as it:
        session = it.session()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.run)
            await session.ready.wait()
            assert [each for each in it.owner.told if each[0] == "bad"] == [("bad",)] * 3
            assert session.state is State.OPEN
            session.close()


async def test_an_address_that_is_none_is_an_error_that_says_so() -> None:
    async with place(silent) as it:
        it.url = "http://127.0.0.1:1/ws"
        with pytest.raises(ExchangeError, match="no address of a WebSocket"):
            await it.session().run()


# -- lines --


def line(it: Place, **options: float) -> Line:
    return Line(
        it.adapter,
        it.url,
        STREAMS,
        it.owner,
        clock=it.clock,
        options=LineOptions(**options),  # type: ignore[arg-type]
        rng=random.Random(5),
        numbers=itertools.count(1),
    )


async def test_the_first_retry_is_made_at_once_and_later_ones_wait_under_a_doubling_bound() -> None:
    async def handler(socket: ServerConnection, number: int) -> None:
        await socket.close(1011)

    async with place(handler) as it:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(line(it).run)
            await it.clock.sleep(300)
            tasks.cancel_scope.cancel()
        waits = [behind - before for before, behind in itertools.pairwise(it.connections)]
        assert waits[0] == 0
        for count, wait in enumerate(waits[1:]):
            assert 0 <= wait <= min(2.0**count, 30)
        assert max(waits) > 10
        assert len(set(waits)) == len(waits)  # jitter


async def test_backoff_begins_anew_only_after_data_has_flowed_for_a_while() -> None:
    async def handler(socket: ServerConnection, number: int) -> None:
        if number % 4 == 0:  # every fourth one delivers for 12 s
            for _ in range(13):
                await socket.send(candle())
                await it.clock.sleep(1)
        elif number % 4 == 1:  # data, but not for long
            await socket.send(candle())
        await socket.close(1011)

    async with place(handler) as it:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(line(it).run)
            await it.clock.sleep(100)
            tasks.cancel_scope.cancel()
        waits = [behind - before for before, behind in itertools.pairwise(it.connections)]
        assert len(waits) > 8
        for number, wait in enumerate(waits, 1):
            if number % 4 == 0:
                assert wait == pytest.approx(13)  # at once, after the 13 s that it lived
            elif number > 1 and number % 4 != 1:
                assert wait > 0


async def test_before_its_life_ends_the_next_connection_delivers_before_the_old_one_is_closed() -> None:
    open_now: list[int] = []
    most: list[int] = []

    async def handler(socket: ServerConnection, number: int) -> None:
        open_now.append(number)
        most.append(len(open_now))
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(acknowledge, socket)
                while True:
                    await it.clock.sleep(1)
                    await socket.send(candle())
        except* ConnectionClosed:
            pass  # the client has left
        open_now.remove(number)

    async with place(handler) as it:
        it.adapter.socket = type(it.adapter.socket)(
            **{**{name: getattr(it.adapter.socket, name) for name in it.adapter.socket.__slots__}, "lifetime": 1000.0}
        )
        kept = line(it)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kept.run)
            await it.clock.sleep(1500)
            assert len(it.connections) == 2
            assert 900 <= it.connections[1] <= 970
            assert max(most) == 2
            assert kept.replaced == 1
            lost = next(index for index, each in enumerate(it.owner.told) if each[0] == "lost")
            second = [index for index, each in enumerate(it.owner.told) if each[:2] == ("acknowledged", 2)]
            assert max(second) < lost
            await kept.close()
            tasks.cancel_scope.cancel()


async def test_a_notice_brings_a_successor_and_the_old_one_serves_until_then() -> None:
    async def handler(socket: ServerConnection, number: int) -> None:
        if number == 1:
            await socket.send(candle())
            await it.clock.sleep(20)
            await socket.send('{"e":"serverShutdown","E":1770123456789}')
            await acknowledge(socket)
        elif number < 4:
            await socket.close(1013)
        else:
            await served(socket, number)

    async with place(handler) as it:
        kept = line(it)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kept.run)
            await it.clock.sleep(40)
            lost = [each[1] for each in it.owner.told if each[0] == "lost"]
            assert lost == [2, 3, 1]
            await kept.close()
            tasks.cancel_scope.cancel()


async def test_connection_attempts_of_all_lines_share_the_exchanges_limit() -> None:
    async def handler(socket: ServerConnection, number: int) -> None:
        await served(socket, number)

    async with place(handler, "okx") as it:
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(line(it).run)
            await it.clock.sleep(20)
            tasks.cancel_scope.cancel()
        assert len(it.connections) >= 10
        times = sorted(it.connections)
        most = it.adapter.socket.connects
        for first, behind in zip(times, times[most:], strict=False):
            assert behind - first >= it.adapter.socket.connects_within
