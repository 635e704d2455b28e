"""What the server lists is made once: the SDK is told so, and clients are.

A call over HTTP (protocol 2026-07-28) costs the SDK a whole ``tools/list`` to find the tool's input schema, unless the
server hands the schemas over. A client that honours ``ttlMs`` (SEP-2549) keeps a list for that long.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mcp.server.caching import CacheHint
from mcp.shared.inbound import X_MCP_HEADER_KEY

if TYPE_CHECKING:
    from fastmcp import FastMCP
    from fastmcp.tools import Tool
    from mcp.server.caching import CacheableMethod

LIST_TTL_MS = 3_600_000  # as long as a client may miss what a newer version lists, where it outlives the server
# All that is cacheable but ``resources/read``: what a resource holds is of the moment.
STATIC: tuple[CacheableMethod, ...] = (
    "server/discover",
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
)


def declare_static(server: FastMCP[Any], tools: Iterable[Tool]) -> None:
    """Hand the SDK the tools' input schemas, and how long clients may keep the lists.

    No constructor of FastMCP takes either by method, so this writes to two public attributes of the SDK's server below
    it. FastMCP 4.2 hands over the schemas by itself; ours are the same and spare it the walk through them.
    """
    sdk = server._mcp_server
    sdk.get_tool_input_schema = with_headers(tools).get
    # The lists are the same for every caller.
    sdk.cache_hints = dict.fromkeys(STATIC, CacheHint(ttl_ms=LIST_TTL_MS, scope="public"))


def with_headers(tools: Iterable[Tool]) -> Mapping[str, dict[str, Any]]:
    """The input schemas, by tool, that tie an argument to a header.

    The SDK asks for a schema to compare such headers with the arguments (SEP-2243). A schema without one allows every
    call, as no schema does, and the SDK would walk through all of it to find that out.
    """
    return {tool.name: tool.parameters for tool in tools if f'"{X_MCP_HEADER_KEY}"' in json.dumps(tool.parameters)}
