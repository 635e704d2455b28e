"""What the resources with a name in their address are made of, and which names there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from streammachine.market.exchanges.registry import EXCHANGES
from streammachine.market.model.timeframe import TIMEFRAMES
from streammachine.redis import streams
from streammachine_mcp.live.names import candles_stream

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

STREAM_URI = "streammachine://streams/{name}"
CANDLES_URI = "streammachine://candles/{exchange}/{symbol}/{timeframe}"
AGENT_URI = "streammachine://agents/{name}"
MOST_VALUES = 100  # of one completion


async def streams_of(connection: RedisConnection, uri: str) -> Sequence[tuple[str, str]]:
    """The streams whose growth changes a resource, each with its last id; none for a resource that does not change so.

    Raises:
        MarketError: the address names no candles. AgentNotFoundError: it names no agent.
    """
    return [(name, await _last_id(connection, name)) for name in await _names_of(connection, uri)]


async def _names_of(connection: RedisConnection, uri: str) -> list[str]:
    parts = urlsplit(uri)
    path = [unquote(part) for part in parts.path.removeprefix("/").split("/")]
    if parts.scheme != "streammachine" or not all(path):
        return []
    if parts.netloc == "streams" and len(path) == 1:
        return path
    if parts.netloc == "candles" and len(path) == 3:
        return [candles_stream(path[0].lower(), path[1], path[2])]
    if parts.netloc == "agents" and len(path) == 1:
        from streammachine.runtime.admin.agents import find_entry, list_agents
        from streammachine.runtime.delivery.keys import dead_letters

        entry = find_entry(await list_agents(connection), path[0])
        return [name for stream in entry.streams for name in (stream, dead_letters(stream))]
    return []


async def _last_id(connection: RedisConnection, name: str) -> str:
    newest = await streams.read_newest(connection, name, 1)
    return newest[0].id if newest else "0-0"


async def complete(
    connection: RedisConnection, argument: str, begun: str, given: Mapping[str, str], uri: str = ""
) -> list[str]:
    """The values that an argument may have, sorted, of those that begin with what is typed.

    Args:
        argument: its name: of a resource's address, or of a prompt. begun: what is typed. given: the other arguments.
        uri: the resource's address, of which the argument is a part; "" for a prompt.
    """
    if uri == AGENT_URI or (not uri and argument in ("agent", "agent_name")):
        from streammachine.runtime.admin.agents import list_agents

        return _beginning([entry.name for entry in await list_agents(connection)], begun)
    if uri == STREAM_URI or (not uri and argument in ("stream", "input_stream")):
        found, _ = await streams.find_streams(connection, _glob(begun), limit=MOST_VALUES)
        return found
    if argument == "exchange":
        return _beginning({*EXCHANGES, *await _parts_of_candles(connection, "*", 1)}, begun.lower())
    exchange = given.get("exchange", "").lower() or "*"
    if argument == "symbol":
        return _beginning(await _parts_of_candles(connection, f"{exchange}:{_glob(begun)}", 2), begun)
    if argument == "timeframe":
        symbol = given.get("symbol", "*") or "*"
        return _beginning(await _parts_of_candles(connection, f"{exchange}:{symbol}:*", 3) or set(TIMEFRAMES), begun)
    return []


async def _parts_of_candles(connection: RedisConnection, pattern: str, place: int) -> set[str]:
    """What stands at a place in the names of the streams of candles."""
    found, _ = await streams.find_streams(connection, f"kline:{pattern}", limit=10_000)
    names = [name.split(":") for name in found]
    return {
        ":".join(parts[2:-1]) if place == 2 else parts[-1 if place == 3 else 1] for parts in names if len(parts) >= 4
    }


def _beginning(names: set[str] | list[str], begun: str) -> list[str]:
    return sorted(name for name in names if name.lower().startswith(begun.lower()))[:MOST_VALUES]


def _glob(begun: str) -> str:
    """A glob pattern of the names that begin so."""
    return "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in begun) + "*"
