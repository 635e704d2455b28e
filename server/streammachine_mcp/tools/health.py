"""Health tools: is Redis there, how is it, what does it say of itself."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

import anyio
from pydantic import Field
from typing_extensions import TypedDict

from streammachine.errors import StreamMachineError
from streammachine_mcp.tools.family import BRIEF, Family, tool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from streammachine_mcp.state import ServerState

ROUTE_WAIT = 5.0  # seconds in which /health answers


class Embedded(TypedDict):
    pid: int
    fsync: str
    adopted: bool
    data_dir: str


class Health(TypedDict):
    status: str
    redis: str
    latency_ms: NotRequired[float]
    url: NotRequired[str]
    origin: NotRequired[str]
    why: NotRequired[str]
    embedded: NotRequired[Annotated[Embedded, BRIEF]]
    problem: NotRequired[str]
    apps: NotRequired[list[dict[str, Any]]]
    uptime_s: float
    read_only: bool


class Pong(TypedDict):
    ping: str


def health_route(state: "ServerState") -> "Callable[[Request], Awaitable[Response]]":
    """What ``/health`` of the HTTP transport answers: status 200, or 503 where Redis is away; no secret and no data."""

    async def health(_: "Request") -> "Response":
        from starlette.responses import JSONResponse

        facts: dict[str, Any] = {"status": "unhealthy", "redis": "disconnected"}
        with anyio.move_on_after(ROUTE_WAIT):
            facts = await state.health()
        shown = {name: facts[name] for name in ("status", "redis")}
        return JSONResponse(shown, status_code=503 if facts["status"] == "unhealthy" else 200)

    return health


class HealthTools(Family):
    toolset = "health"

    @tool("health_check", "Check health", reads=True)
    async def check(self) -> Health:
        """Whether Redis answers, which one it is and why it was chosen. Call it first when another tool fails;
        `problem` says what to mend. `apps`: what this server runs."""
        return await self.state.health()  # type: ignore[return-value]

    @tool("redis_info", "Redis facts", reads=True)
    async def info(
        self,
        section: Annotated[
            Literal[
                "default",
                "server",
                "clients",
                "memory",
                "persistence",
                "stats",
                "replication",
                "cpu",
                "commandstats",
                "cluster",
                "keyspace",
            ],
            Field(description="Part of Redis INFO"),
        ] = "default",
    ) -> dict[str, Any]:
        """What the Redis server says of itself: version, memory, clients, keys, persistence.
        `nodes`: a Cluster's primaries."""
        connection = await self.state.redis()
        found = await connection.info(*(() if section == "default" else (section,)))
        first = dict(next(iter(found.values()), {}))
        return {**first, "nodes": found} if connection.is_cluster else first

    @tool("redis_ping", "Ping Redis", reads=True)
    async def ping(self) -> Pong:
        """Whether Redis answers at all: "pong" or "failed". health_check says more."""
        try:
            connection = await self.state.redis()
        except StreamMachineError:
            return {"ping": "failed"}
        return {"ping": "pong" if await connection.health_check() else "failed"}
