"""How a tool family is declared: methods marked with ``tool``, gathered by the server.

Every tool gets a title, all four hints, described parameters and an output schema. The schemas are published without
what no model reads (pydantic's titles, ``null`` for an argument that may be left out), because every client pays for
them in each conversation.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from fastmcp.exceptions import ToolError
from fastmcp.tools import FunctionTool, Tool
from mcp_types import ToolAnnotations

from streammachine.errors import StreamMachineError

if TYPE_CHECKING:
    from streammachine_mcp.state import ServerState

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])

TOOL_TIMEOUT = 45.0  # seconds; Claude Desktop's Code tab gives up at 60
_MARK = "__streammachine_tool__"


def tool(
    name: str,
    title: str,
    *,
    reads: bool = False,
    destructive: bool = False,
    idempotent: bool = False,
    open_world: bool = False,
) -> Callable[[F], F]:
    """Mark a method of a family as the tool ``name``. ``reads`` says it changes nothing, ``open_world``
    that it talks to others than Redis.

    What the engine raises on purpose reaches the model as an error result with its own words. The module of a
    family must not use ``from __future__ import annotations``: the schemas are made from the annotations.
    """

    def mark(method: F) -> F:
        @functools.wraps(method)
        async def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return await method(*args, **kwargs)
            except (StreamMachineError, ValueError) as error:
                raise ToolError(str(error), log_level=logging.INFO) from error

        annotations = ToolAnnotations(
            read_only_hint=reads,
            destructive_hint=destructive,
            idempotent_hint=reads or idempotent,
            open_world_hint=open_world,
        )
        setattr(call, _MARK, (name, title, annotations))
        return call  # type: ignore[return-value]

    return mark


class Family:
    """Base of a tool family. ``toolset`` is its name in STREAMMACHINE_TOOLSETS."""

    toolset: str

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def tools(self, *, read_only: bool) -> list[Tool]:
        """The family's tools; with ``read_only`` those alone that change nothing."""
        found: list[Tool] = []
        for _, method in inspect.getmembers(self, inspect.ismethod):
            marked = getattr(method, _MARK, None)
            if marked is None:
                continue
            name, title, annotations = marked
            if read_only and not annotations.read_only_hint:
                continue
            built = _Tool.from_function(
                method,
                name=name,
                title=title,
                description=_description(method),
                annotations=annotations,
                timeout=TOOL_TIMEOUT,
            )
            built.parameters = slim(built.parameters)
            if built.output_schema is not None:
                built.output_schema = slim(open_ended(built.output_schema))
            found.append(built)
        return found


class _Tool(FunctionTool):
    """A tool whose listing has no ``_meta``: FastMCP's names tags, of which ours have none."""

    def get_meta(self) -> dict[str, Any]:
        return None  # type: ignore[return-value]  # an empty one would be listed


def _description(method: Callable[..., Any]) -> str:
    return " ".join((inspect.getdoc(method) or "").split())


def open_ended(schema: Any, *, names: bool = False, top: bool = True) -> Any:
    """An output schema without what says little and costs much: ``"additionalProperties": true``, which is the default,
    and ``required`` below the top (which keys a row has is in its ``properties``)."""
    if isinstance(schema, list):
        return [open_ended(item, top=False) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if names:
        return {key: open_ended(value, top=False) for key, value in schema.items()}
    return {
        key: open_ended(value, names=key in ("properties", "$defs", "patternProperties"), top=False)
        for key, value in schema.items()
        if not (key == "additionalProperties" and value is True) and (top or key != "required")
    }


def slim(schema: Any, *, names: bool = False) -> Any:
    """The schema without titles, without ``null`` alternatives of arguments that may be left out, and without the
    bounds of texts (pydantic checks them all the same).

    Args:
        names: the mapping's keys are property names, not schema words (a property may be called "title").
    """
    if isinstance(schema, list):
        return [slim(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if names:
        return {key: slim(value) for key, value in schema.items()}
    slimmed = {}
    for key, value in schema.items():
        if key == "title" and isinstance(value, str):
            continue
        if key == "default" and value is None:
            continue
        if key in ("minLength", "maxLength"):
            continue
        slimmed[key] = slim(value, names=key in ("properties", "$defs", "patternProperties"))
    options = slimmed.get("anyOf")
    if isinstance(options, list):
        real = [option for option in options if option != {"type": "null"}]
        if len(real) == 1 and len(real) < len(options):
            del slimmed["anyOf"]
            slimmed = {**real[0], **slimmed}
    return slimmed
