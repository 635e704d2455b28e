"""How a tool family is declared: methods marked with ``tool``, gathered by the server.

Every tool gets a title, all four hints, described parameters and an output schema. The schemas are published without
what no model reads (pydantic's titles, ``null`` for an argument that may be left out), because every client pays for
them in each conversation. What a call gives goes through ``arguments.prepare`` first.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from fastmcp.exceptions import FastMCPError, ToolError
from fastmcp.tools import FunctionTool, Tool
from fastmcp.tools.base import ToolResult
from fastmcp.utilities.types import get_cached_typeadapter
from mcp.shared.exceptions import MCPError
from mcp_types import TextContent, ToolAnnotations
from pydantic import WithJsonSchema
from pydantic_core import PydanticSerializationError, to_json

from streammachine.errors import StreamMachineError
from streammachine_mcp.arguments import ArgumentError, prepare

if TYPE_CHECKING:
    from streammachine_mcp.safety import Confirmer
    from streammachine_mcp.state import ServerState

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])

log = logging.getLogger(__name__)

TOOL_TIMEOUT = 45.0  # seconds; Claude Desktop's Code tab gives up at 60
_NOT_JSON = re.compile(r"[\[:,] ?-?(?:NaN|Infinity)[,\]}]")  # or within a text, where it does no harm
_MARK = "__streammachine_tool__"
# Beside the type of a part of a result: listed without its fields, which the result itself shows.
BRIEF = WithJsonSchema({"type": "object"})


def tool(
    name: str,
    title: str,
    *,
    reads: bool = False,
    destructive: bool = False,
    idempotent: bool = False,
    open_world: bool = False,
    page: str | None = None,
) -> Callable[[F], F]:
    """Mark a method of a family as the tool ``name``. ``reads`` says it changes nothing, ``open_world``
    that it talks to others than Redis; ``page`` is the resource that shows its result in clients with MCP Apps.

    What the engine raises on purpose reaches the model as an error result with its own words; any other exception is
    logged, and only its kind is shown. The module of a family must not use ``from __future__ import annotations``: the
    schemas are made from the annotations.
    """

    def mark(method: F) -> F:
        @functools.wraps(method)
        async def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return await method(*args, **kwargs)
            except (StreamMachineError, ValueError) as error:
                raise ToolError(str(error), log_level=logging.INFO) from error
            except (FastMCPError, MCPError):
                raise
            except Exception as error:
                log.exception("%s failed", name)
                raise ToolError(
                    f"{name} failed inside the server with {type(error).__name__}. That is a fault of StreamMachine, "
                    "not of the call, and its log has the details; health_check says how the server is."
                ) from error

        annotations = ToolAnnotations(
            read_only_hint=reads,
            destructive_hint=destructive,
            idempotent_hint=reads or idempotent,
            open_world_hint=open_world,
        )
        setattr(call, _MARK, (name, title, annotations, page, " ".join((inspect.getdoc(method) or "").split())))
        # FastMCP would look for sections in each docstring, with a library (griffe) that nothing else here loads.
        call.__doc__ = None
        return call  # type: ignore[return-value]

    return mark


class Family:
    """Base of a tool family.

    Attributes:
        toolset: its name in STREAMMACHINE_TOOLSETS (``settings.TOOLSETS``); several families may have one.
        state: what the server holds. confirmer: decides whether a destructive call goes ahead.
    """

    toolset: ClassVar[str]

    def __init__(self, state: ServerState, confirmer: Confirmer) -> None:
        self.state = state
        self.confirmer = confirmer

    @classmethod
    def marked(cls) -> list[tuple[str, ToolAnnotations]]:
        """The names of the family's tools and their hints; no schema is made."""
        found = []
        for _, method in inspect.getmembers(cls, inspect.isfunction):
            if (marked := getattr(method, _MARK, None)) is not None:
                name, _, annotations, _, _ = marked
                found.append((name, annotations))
        return found

    def tools(self, *, read_only: bool) -> list[Tool]:
        """The family's tools; with ``read_only`` those alone that change nothing."""
        found: list[Tool] = []
        for _, method in inspect.getmembers(self, inspect.ismethod):
            marked = getattr(method, _MARK, None)
            if marked is None:
                continue
            name, title, annotations, page, description = marked
            if read_only and not annotations.read_only_hint:
                continue
            built = _Tool.from_function(
                method,
                name=name,
                title=title,
                description=description,
                annotations=annotations,
                timeout=TOOL_TIMEOUT,
                meta=None if page is None else {"ui": {"resourceUri": page}},
            )
            built.parameters = slim(inlined(built.parameters), nullable=False)
            if built.output_schema is not None:
                built.output_schema = slim(open_ended(inlined(built.output_schema)), nullable=True)
            found.append(built)
        return found


class _Tool(FunctionTool):
    """A tool that takes its arguments as clients send them, and whose results are always valid JSON."""

    async def run(self, arguments: dict[str, Any]) -> ToolResult:
        """Put the arguments in order, then call."""
        try:
            prepared = prepare(self.name, self.parameters, arguments)
        except ArgumentError as error:
            raise ToolError(str(error), log_level=logging.INFO) from None
        return await super().run(prepared)

    def convert_result(self, raw_value: Any) -> ToolResult:
        """The result as text and data. What UTF-8 or JSON cannot hold is shown as text: half of a surrogate pair as its
        escape, NaN and infinities as their names."""
        try:
            result = self._converted(raw_value)
        except (PydanticSerializationError, UnicodeError):
            return super().convert_result(_writable(raw_value))
        if any(isinstance(part, TextContent) and _NOT_JSON.search(part.text) for part in result.content):
            return super().convert_result(_writable(raw_value))
        return result

    def _converted(self, raw_value: Any) -> ToolResult:
        """FastMCP's conversion; of an object, which nearly all of ours are, each half is made once and not checked
        again as what it was made as."""
        if type(raw_value) is not dict or self.output_schema is None or "x-fastmcp-wrap-result" in self.output_schema:
            return super().convert_result(raw_value)
        data = get_cached_typeadapter(self.return_type).dump_python(raw_value, mode="json")
        text = to_json(data, fallback=str).decode()
        return ToolResult.model_construct(
            content=[TextContent(type="text", text=text)], structured_content=data, meta=None, is_error=False
        )

    def get_meta(self) -> dict[str, Any]:
        """The page, where there is one, else None: FastMCP's own names tags, of which ours have none."""
        return self.meta  # type: ignore[return-value]  # an empty one would be listed


def name_of_method(built: Tool) -> str:
    """The name of the method that a tool of a family is made of."""
    return cast(FunctionTool, built).fn.__name__


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {_writable(key): _writable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_writable(item) for item in value]
    return value


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with each ``$ref`` replaced by what it names: not every client follows references."""
    named = schema.get("$defs", {})

    def resolve(part: Any) -> Any:
        if isinstance(part, list):
            return [resolve(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            name = part["$ref"].removeprefix("#/$defs/")
            return {**resolve(named[name]), **{key: resolve(value) for key, value in part.items() if key != "$ref"}}
        return {key: resolve(value) for key, value in part.items() if key != "$defs"}

    return cast(dict[str, Any], resolve(schema))


def open_ended(schema: Any, *, names: bool = False, top: bool = True) -> Any:
    """An output schema without what says little and costs much: ``additionalProperties``, and ``required`` below the
    top (which keys a row has is in its ``properties``)."""
    if isinstance(schema, list):
        return [open_ended(item, top=False) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if names:
        return {key: open_ended(value, top=False) for key, value in schema.items()}
    return {
        key: open_ended(value, names=key in ("properties", "$defs", "patternProperties"), top=False)
        for key, value in schema.items()
        if key != "additionalProperties" and (top or key != "required")
    }


def slim(schema: Any, *, nullable: bool, names: bool = False) -> Any:
    """The schema without titles, without bounds that go without saying (a text's length, at least one; pydantic checks
    them all the same), and in inputs without ``null``: what may be null may be left out.

    Args:
        nullable: keep ``null``, as in an output: a client that checks results refuses one that is not announced.
        names: the mapping's keys are property names, not schema words (a property may be called "title").
    """
    if isinstance(schema, list):
        return [slim(item, nullable=nullable) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if names:
        return {key: slim(value, nullable=nullable) for key, value in schema.items()}
    slimmed = {}
    for key, value in schema.items():
        if key == "title" and isinstance(value, str):
            continue
        if key == "default" and value is None:
            continue
        if key in ("minLength", "maxLength", "minItems") or (key == "minimum" and value in (0, 1)):
            continue
        slimmed[key] = slim(value, nullable=nullable, names=key in ("properties", "$defs", "patternProperties"))
    options = slimmed.get("anyOf")
    if isinstance(options, list) and not nullable:
        real = [option for option in options if option != {"type": "null"}]
        if len(real) == 1 and len(real) < len(options):
            del slimmed["anyOf"]
            slimmed = {**real[0], **slimmed}
    return slimmed
