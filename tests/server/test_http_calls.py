"""The short road of a tool call over HTTP: what a client sees is what it sees on the SDK's."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from fastmcp import Context, FastMCP
from fastmcp.dependencies import CurrentContext
from fastmcp.exceptions import ToolError

from streammachine_mcp import http_calls
from streammachine_mcp.catalogue import declare_static
from streammachine_mcp.http import PATH, SESSION_IDLE, http_app
from support.mcp import MODERN_META
from support.servers import until

HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "tools/call",
}
SDKS = {"Accept": "application/*, text/*"}  # means the same, and is left to the SDK
LINE_END = "\u2028"


class Waiting:
    """A call that waits until it is let go, or is ended."""

    def __init__(self) -> None:
        self.began, self.ended = threading.Event(), threading.Event()

    async def over(self) -> None:
        self._loop, self._free = asyncio.get_running_loop(), asyncio.Event()
        self.began.set()
        try:
            await self._free.wait()
        except asyncio.CancelledError:
            self.ended.set()
            raise

    def let_go(self) -> None:
        self._loop.call_soon_threadsafe(self._free.set)


class Served:
    """A server of this test's own tools, served over real HTTP in a thread."""

    def __init__(self) -> None:
        self.waiting = Waiting()
        self.path = PATH
        self.opened: list[http.client.HTTPConnection] = []
        app = http_app(self._server(), [], [], SESSION_IDLE)
        self.web = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, http="h11", lifespan="on", ws="none"))
        self._thread = threading.Thread(target=self.web.run, daemon=True)
        self._thread.start()
        until(lambda: self.web.started, "it serves")

    def _server(self) -> FastMCP[Any]:
        server: FastMCP[Any] = FastMCP("calls", mask_error_details=True)

        @server.tool
        async def echo(text: str, number: int = 1) -> dict[str, Any]:
            return {"text": text, "number": number, "nothing": None}

        @server.tool
        async def refuses() -> dict[str, Any]:
            raise ToolError("not so")

        @server.tool
        async def breaks() -> dict[str, Any]:
            raise OSError("secret")

        @server.tool
        async def tells(ctx: Context = CurrentContext()) -> dict[str, Any]:
            await ctx.report_progress(1, 2, f"half{LINE_END}way")
            await ctx.report_progress(2, 2)
            return {"told": 2}

        @server.tool
        async def chats(ctx: Context = CurrentContext()) -> dict[str, Any]:
            self.waiting.began.set()
            end = time.monotonic() + 20
            try:
                while time.monotonic() < end:
                    await ctx.report_progress(1)
            except asyncio.CancelledError:
                self.waiting.ended.set()
                raise
            return {}

        @server.tool
        async def waits() -> dict[str, Any]:
            await self.waiting.over()
            return {"waited": True}

        declare_static(server, [])
        return server

    def close(self) -> None:
        self.web.should_exit = True
        self._thread.join(30)

    def post(self, params: Any, meta: Any = None, **headers: str | None) -> http.client.HTTPConnection:
        """Ask for a call and do not wait; a header that is None is left out."""
        port = self.web.servers[0].sockets[0].getsockname()[1]
        self.opened.append(http.client.HTTPConnection("127.0.0.1", port, timeout=30))
        body = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {**params, "_meta": meta or MODERN_META}}
        given = {**HEADERS, "Mcp-Name": str(params.get("name", "")), **headers}
        shown = {name: value for name, value in given.items() if value is not None}
        self.opened[-1].request("POST", self.path, json.dumps(body).encode(), shown)
        return self.opened[-1]

    def ask(self, params: Any, meta: Any = None, **headers: str | None) -> http.client.HTTPResponse:
        """Ask for a call, and give what comes."""
        return self.post(params, meta, **headers).getresponse()


@pytest.fixture(scope="module")
def serving() -> Iterator[Served]:
    found = Served()
    yield found
    found.close()


@pytest.fixture
def served(serving: Served) -> Iterator[Served]:
    yield serving
    while serving.opened:
        serving.opened.pop().close()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each request was served by the short road."""
    taken: list[bool] = []
    serve = http_calls.ShortRoad.serve

    async def noted(*arguments: Any) -> bool:
        taken.append(await serve(*arguments))
        return taken[-1]

    monkeypatch.setattr(http_calls.ShortRoad, "serve", noted)
    return taken


@pytest.mark.parametrize(
    "params",
    [
        {"name": "echo", "arguments": {"text": f"a{LINE_END}é\U0001f600", "number": 2}},
        {"name": "echo", "arguments": {"text": "x", "number": "many"}},
        {"name": "echo", "arguments": {"other": 1}},
        {"name": "echo", "arguments": [1]},
        {"name": "refuses"},
        {"name": "breaks", "arguments": {}},
        {"name": "unknown", "arguments": {}},
        {"arguments": {}},
        {"name": "tells", "arguments": {}},
    ],
)
def test_both_roads_answer_alike(served: Served, short: list[bool], params: dict[str, Any]) -> None:
    answers = []
    for headers in ({}, SDKS):
        answer = served.ask(params, **headers)
        answers.append((answer.status, answer.headers["content-type"], json.loads(answer.read())))
    assert answers[0] == answers[1]
    assert short == [True, False]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Mcp-Method": None}, 400),
        ({"Mcp-Name": "refuses"}, 400),
        ({"MCP-Protocol-Version": "2027-01-01"}, 400),
        ({"mcp-method": "tools/call"}, 400),  # once more
        ({"Accept": "application/json"}, 406),
        ({"Content-Type": "text/plain"}, 400),
    ],
)
def test_what_is_not_as_it_should_be_is_left_to_the_sdk(
    served: Served, short: list[bool], headers: dict[str, str | None], status: int
) -> None:
    answer = served.ask({"name": "echo", "arguments": {"text": "x"}}, **headers)
    assert (answer.status, short) == (status, [False])


def test_progress_comes_as_events_before_the_result(served: Served, short: list[bool]) -> None:
    answer = served.ask({"name": "tells"}, {**MODERN_META, "progressToken": "p"})
    text = answer.read().decode()
    events = [json.loads(part.partition("data: ")[2]) for part in text.split("\r\n\r\n") if part]
    assert answer.headers["content-type"] == "text/event-stream"
    assert [event.get("method", event.get("id")) for event in events] == [*["notifications/progress"] * 2, 7]
    assert events[0]["params"] == {"progressToken": "p", "progress": 1, "total": 2, "message": f"half{LINE_END}way"}
    assert events[-1]["result"]["structuredContent"] == {"told": 2}
    assert LINE_END not in text
    assert short == [True]


def test_a_long_call_is_kept_open_by_comments(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_calls, "QUIET", 0.0)
    monkeypatch.setattr(http_calls, "PING_EVERY", 0.01)
    served.waiting = Waiting()
    answer = served.ask({"name": "waits"})
    assert [answer.readline() for _ in range(4)] == [b": ping\r\n", b"\r\n"] * 2
    served.waiting.let_go()
    last = answer.read().decode().rpartition("data: ")[2]
    assert json.loads(last)["result"]["structuredContent"] == {"waited": True}


def test_a_client_that_goes_ends_its_call(served: Served) -> None:
    served.waiting = Waiting()
    client = served.post({"name": "waits"})
    assert served.waiting.began.wait(30)
    client.close()
    assert served.waiting.ended.wait(30)


def test_a_call_that_tells_without_end_leaves_others_their_turn(served: Served) -> None:
    served.waiting = Waiting()
    client = served.post({"name": "chats"}, {**MODERN_META, "progressToken": "p"})
    assert served.waiting.began.wait(30)
    assert served.ask({"name": "echo", "arguments": {"text": "x"}}).status == 200
    assert not served.waiting.ended.is_set()
    client.close()
    assert served.waiting.ended.wait(10)


def test_another_path_is_left_to_the_sdk(served: Served, short: list[bool]) -> None:
    served.path = f"{PATH}/"
    try:
        assert served.ask({"name": "echo", "arguments": {"text": "x"}}).status == 307
    finally:
        served.path = PATH
    assert short == [False]
