"""``streammachine simulate --frames FILE``: a recording, played to other processes over real sockets and REST."""

from __future__ import annotations

import json
import signal
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

import anyio
import anyio.abc
import websockets
from rich.console import Console
from rich.text import Text
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from streammachine.errors import DataInputError
from streammachine.market.clock.clock import ScaledClock
from streammachine.market.exchanges.registry import ENTRIES
from streammachine.market.network.opening import NotOpenedError
from streammachine.market.network.replaying import Player, ReplayedSocket

HOST = "127.0.0.1"


class FramesServer:
    """Serves one recording; its time begins with the first client.

    Args:
        player: the recording. speed: of its seconds in one of ours.
    """

    def __init__(self, player: Player, speed: float) -> None:
        self.player = player
        self.speed = speed
        self.clock: ScaledClock | None = None
        self.begun = anyio.Event()

    def begin(self) -> ScaledClock:
        """The clock, started with the first who asks for anything."""
        if self.clock is None:
            self.clock = ScaledClock(self.speed, self.player.header.began)
            self.begun.set()
        return self.clock

    async def play(self) -> None:
        """Let the recording happen, from the first client on."""
        await self.begun.wait()
        assert self.clock is not None
        await self.player.run(self.clock)

    async def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """REST, and the time; None where a WebSocket is asked for."""
        clock = self.begin()
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return None
        parts = urlsplit(request.path)
        if parts.path == "/clock":
            return _json(json.dumps({"time_ms": clock.time_ms(), "speed": self.speed}).encode())
        from streammachine.market.exchanges.base import Request as Question

        found = await self.player.answers(Question(parts.path, dict(parse_qsl(parts.query))), clock)
        if not found:
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "the recording holds no answer to this\n")
        return _json(found[-1])

    async def socket(self, connection: ServerConnection) -> None:
        """Play the next recorded connection to a client."""
        try:
            replayed = await self.player.next_socket()
        except NotOpenedError as error:
            await connection.close(1011, str(error))
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_listen, connection, replayed)
            try:
                while True:
                    frame = await replayed.recv()
                    await connection.send(frame, text=True)
            except websockets.ConnectionClosed:  # the recorded one, or the client's
                replayed.abort()
            tasks.cancel_scope.cancel()

    def environment(self, port: int) -> dict[str, str]:
        """The variables that point every client of this package at it."""
        variables = ENTRIES[self.player.header.exchange].url_variables
        found = {"STREAMMACHINE_CLOCK_URL": f"http://{HOST}:{port}/clock"}
        for part, variable in variables.items():
            if part != "bulk":
                found[variable] = f"{'http' if part == 'rest' else 'ws'}://{HOST}:{port}"
        return found


async def serve_frames(console: Console, path: str, speed: float, port: int) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    frames = FramesServer(Player(path), speed)
    header = frames.player.header
    try:
        server = serve(frames.socket, HOST, port, process_request=frames.answer, compression=None, ping_interval=None)
        async with server as listening, anyio.create_task_group() as tasks:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                bound = next(iter(listening.sockets)).getsockname()[1]
                what = f"{header.type} {header.timeframe or ''}".strip()
                console.print(f"playing {path}: {what} of {', '.join(header.symbols)} from {header.exchange}")
                console.print("\nin the shell of the client:")
                for variable, value in frames.environment(bound).items():
                    console.print(Text(f"export {variable}={value}"))
                console.print("\nCtrl-C ends it. It begins with the first client.")
                tasks.start_soon(frames.play)
                async for _ in signals:
                    break
            tasks.cancel_scope.cancel()
    except OSError as error:
        raise DataInputError(f"the port {port} cannot be used: {error.strerror or error}") from None
    console.print("ended")
    return 0


async def _listen(connection: ServerConnection, replayed: ReplayedSocket) -> None:
    """Take what the client says: the answers to it are in the recording."""
    try:
        async for said in connection:
            await replayed.send(str(said))
    except websockets.ConnectionClosed:
        return


def _json(body: bytes) -> Response:
    headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"})
    return Response(HTTPStatus.OK.value, "OK", headers, body)
