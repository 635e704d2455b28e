"""What is listed never changes: no call makes the SDK list the tools, and clients are told how long a list holds."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
import uvicorn
from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.tools import Tool

from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.settings import Settings
from streammachine_mcp.catalogue import LIST_TTL_MS, with_headers
from streammachine_mcp.http import SESSION_IDLE, http_app
from streammachine_mcp.server import create_server
from support.mcp import LEGACY, MODERN_META, RawClient, clean_environment
from support.servers import until

Mode = Literal["auto", "legacy"]
LISTS = ("tools/list", "prompts/list", "resources/list", "resources/templates/list")


@dataclass
class Counted(Middleware):
    """Counts the requests that reach the handlers, by method."""

    methods: Counter[str] = field(default_factory=Counter)

    async def on_message(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
        self.methods[str(context.method)] += 1
        return await call_next(context)


@dataclass
class Served:
    """A server of this process on a port of its own, with its handlers counted."""

    url: str
    methods: Counter[str]


@pytest.fixture(scope="module")
def served(shared_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(shared_server, tmp_path_factory.mktemp("data"), lambda _: None) as found:
        yield found


class serving:  # noqa: N801 - used as a function
    """Serve over real HTTP in a thread; ``change`` may change the server first."""

    def __init__(self, shared: EmbeddedServer, folder: Path, change: Callable[[Any], None]) -> None:
        self._counted = Counted()
        server = create_server(Settings(redis_url=shared.url, data_dir=folder))
        server.add_middleware(self._counted)
        change(server)
        app = http_app(server, [], [], SESSION_IDLE)
        self._web = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on", ws="none"))
        self._thread = threading.Thread(target=self._web.run, daemon=True)

    def __enter__(self) -> Served:
        self._thread.start()
        until(lambda: self._web.started, "it serves")
        port = self._web.servers[0].sockets[0].getsockname()[1]
        return Served(f"http://127.0.0.1:{port}/mcp", self._counted.methods)

    def __exit__(self, *_: object) -> None:
        self._web.should_exit = True
        self._thread.join(30)


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_calls_over_http_run_no_list(served: Served, mode: Mode) -> None:
    async with Client(served.url, mode=mode) as client:
        await client.list_tools()  # the client's own, for the output schemas
        before = Counter(served.methods)
        stream = f"static-{mode}"
        for number in range(5):
            await client.call_tool_mcp("stream_send", {"stream": stream, "message": {"n": str(number)}})
        read = await client.call_tool_mcp("stream_read", {"stream": stream})
        refused = await client.call_tool_mcp("stream_read", {"stream": stream, "no": 1})
        ran = served.methods - before
        unknown = await client.call_tool_mcp("no_such_tool", {"a": 1})
    assert ran["tools/call"] == 7
    assert not any(ran[method] for method in LISTS)
    assert read.structured_content is not None
    assert [entry["data"] for entry in read.structured_content["messages"]] == [{"n": str(n)} for n in range(5)]
    assert refused.is_error and "no argument 'no'" in refused.content[0].text  # type: ignore[union-attr]
    assert unknown.is_error and "no tool 'no_such_tool'" in unknown.content[0].text  # type: ignore[union-attr]


@pytest.mark.anyio
async def test_a_client_that_keeps_lists_fetches_each_once(served: Served) -> None:
    async with Client(served.url, cache=True) as client:
        before = Counter(served.methods)
        for _ in range(3):
            await client.list_tools()
            await client.list_prompts()
            await client.list_resources()
            await client.list_resource_templates()
            await client.read_resource("streammachine://status")
    ran = served.methods - before
    assert {method: ran[method] for method in LISTS} == dict.fromkeys(LISTS, 1)
    assert ran["resources/read"] == 3  # what it holds is of the moment


@pytest.mark.anyio
async def test_results_are_those_of_a_server_that_lists_before_each_call(
    served: Served, shared_server: EmbeddedServer, tmp_path: Path
) -> None:
    def listing(server: Any) -> None:
        server._mcp_server.get_tool_input_schema = None
        server._mcp_server.cache_hints = {}

    calls: list[tuple[str, dict[str, Any]]] = [
        ("stream_send", {"stream": "same", "message": {"a": "1"}}),
        ("stream_info", {"stream": "none-such"}),
        ("stream_read", {"stream": "same", "count": "x"}),
        ("storage_write", {"key": "same", "value": '{"a": 1}'}),
        ("storage_read", {"key": "same"}),
        ("storage_read", {"key": ""}),
        ("no_such_tool", {"a": 1}),
        ("redis_ping", {}),
    ]
    with serving(shared_server, tmp_path, listing) as plain:
        async with Client(served.url) as ours, Client(plain.url) as theirs:
            for tool, arguments in calls:
                mine, other = [await each.call_tool_mcp(tool, arguments) for each in (ours, theirs)]
                assert steady(mine.model_dump()) == steady(other.model_dump())
            with_arguments = sum(bool(arguments) for _, arguments in calls)
            assert plain.methods["tools/list"] >= with_arguments  # the SDK still does it: there is something to save


def steady(value: Any) -> Any:
    """The result without what differs between two calls: ids of messages and times taken."""
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items() if key not in ("message_id", "latency_ms", "text")}
    return [steady(item) for item in value] if isinstance(value, list) else value


def test_lists_over_stdio_say_how_long_they_hold_in_the_modern_era_alone(server_env: dict[str, str]) -> None:
    with RawClient(env=server_env, initialize=False) as client:
        for method in (*LISTS, "server/discover"):
            result = client.request(method, _meta=MODERN_META)
            assert (result["ttlMs"], result["cacheScope"]) == (LIST_TTL_MS, "public"), method
        read = client.request("resources/read", uri="streammachine://status", _meta=MODERN_META)
        assert read.get("ttlMs", 0) == 0
    with RawClient(env=server_env) as client:
        assert client.server_info["protocolVersion"] == LEGACY
        for method in LISTS:
            assert not {"ttlMs", "cacheScope"} & set(client.request(method)), method


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_calls_over_stdio_answer_in_both_eras(server_env: dict[str, str], mode: Mode) -> None:
    transport = StdioTransport(sys.executable, ["-m", "streammachine.mcp_server"], env=clean_environment(server_env))
    with anyio.fail_after(60):
        async with Client(transport, mode=mode, cache=True) as client:
            assert await client.list_tools() == await client.list_tools()
            await client.call_tool("storage_write", {"key": f"static-{mode}", "value": 1})
            read = await client.call_tool("storage_read", {"key": f"static-{mode}"})
            assert read.structured_content is not None and read.structured_content["value"] == 1


def test_a_schema_that_ties_an_argument_to_a_header_is_handed_over() -> None:
    def routed(region: str) -> str:
        return region

    plain = Tool.from_function(routed, name="plain")
    tied = Tool.from_function(routed, name="tied")
    tied.parameters = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    assert with_headers([plain, tied]) == {"tied": tied.parameters}
