"""What live things look like in the protocol: subscriptions, completion, the Events extension."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mcp_types import (
    CompletionArgument,
    CompletionContext,
    ResourceTemplateReference,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    UnsubscribeRequestParams,
)

from streammachine.errors import StreamMachineError
from streammachine_mcp.live.extension import EventsExtension
from streammachine_mcp.live.resources import complete

if TYPE_CHECKING:
    from fastmcp import FastMCP
    from mcp.server.context import CallNext, ServerRequestContext

    from streammachine_mcp.live.hub import Live


def declare_live(server: FastMCP[Any], live: Live) -> Callable[[], None]:
    """Have the server serve subscriptions in both protocol eras, completion and events.

    FastMCP 4.1 has no place for the methods of a specification, so they are given to the SDK's server below it, which
    then declares the capability by itself.

    Returns:
        What ends the requests that stay open.
    """
    sdk = server._mcp_server
    subscriptions = live.subscriptions
    sdk.add_request_handler("resources/subscribe", SubscribeRequestParams, subscriptions.subscribe)
    sdk.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, subscriptions.unsubscribe)
    sdk.add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, subscriptions.listen)
    events = EventsExtension(live)
    server.add_extension(events)
    sdk.middleware.append(_with_capability)

    @server.completion
    async def completed(ref: Any, argument: CompletionArgument, context: CompletionContext | None) -> list[str] | None:
        uri = ref.uri if isinstance(ref, ResourceTemplateReference) else ""
        given = dict(context.arguments or {}) if context is not None else {}
        try:
            return await complete(await live.connect(), argument.name, argument.value, given, uri)
        except StreamMachineError:
            return None

    def close() -> None:
        subscriptions.close()
        events.close()

    return close


async def _with_capability(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> Any:
    """Declare the events to every client.

    The SDK leaves extensions out of what the handshake of 2025-11-25 says, and the plain name ``events``, which clients
    read that came before the extension was final.
    """
    result = await call_next(ctx)
    if ctx.method in ("initialize", "server/discover") and isinstance(result, dict) and "capabilities" in result:
        declared = dict(result["capabilities"])
        extensions = declared.get("extensions") or {}
        declared["extensions"] = {**extensions, EventsExtension.identifier: {"listChanged": False}}
        declared["events"] = {"listChanged": False}
        return {**result, "capabilities": declared}
    return result
