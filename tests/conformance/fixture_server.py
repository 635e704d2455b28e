"""The product's server with what the conformance suite asks for beside it: ``python fixture_server.py OPTIONS``.

Everything is the product's own: the process, ``create_server`` with its middleware, the guards, the HTTP app. The suite
(npm, @modelcontextprotocol/conformance) calls tools, resources and prompts of its own names, which are added here, as
its scenarios describe them; tasks come from FastMCP's own extension. Over HTTP an event store keeps
what a broken stream did not bring: the product has none, since protocol 2026-07-28 has dropped resumption.
"""

from __future__ import annotations

import functools
from typing import Any

from fastmcp.server.event_store import EventStore
from fixtures import add_tasks, prompts, resources, template, tools

import streammachine_mcp.server as factory
from streammachine_mcp.catalogue import declare_static
from streammachine_mcp.entry import main

create = factory.create_server


def create_server(*arguments: Any) -> factory.StreamMachineServer:
    """The product's server, and the fixtures."""
    server = create(*arguments)
    added = tools()
    for tool in added:
        server.add_tool(tool)
    for resource in resources():
        server.add_resource(resource)
    server.add_template(template())
    for prompt in prompts():
        server.add_prompt(prompt)
    add_tasks(server)
    declare_static(server, added)
    server.http_app = functools.partial(server.http_app, event_store=EventStore(), retry_interval=200)  # type: ignore[method-assign]
    return server


if __name__ == "__main__":
    factory.create_server = create_server  # type: ignore[assignment]  # main() takes it from there
    main()
