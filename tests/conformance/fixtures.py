"""What the conformance suite asks a server to have: tools, resources and prompts, by the names of its scenarios."""

# No ``from __future__ import annotations``: the schemas are made from the annotations.

import base64
import struct
import zlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Any

import anyio
from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.prompts import Message, Prompt
from fastmcp.resources import Resource
from fastmcp.resources.template import ResourceTemplate
from fastmcp.tools import Tool
from fastmcp.tools.base import ToolResult
from fastmcp.utilities.tasks import TaskConfig
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    ImageContent,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
from pydantic import Field

STEP = 0.05  # seconds between two notices of one call, as the scenarios have it


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# One red pixel; a second of nothing, shortened to one sample.
PNG = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(b"\x00\xff\x00\x00"))
    + _chunk(b"IEND", b"")
)
WAV = b"RIFF" + struct.pack("<I", 38) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
WAV += b"data" + struct.pack("<Ih", 2, 0)


def text(value: str) -> TextContent:
    return TextContent(type="text", text=value)


def image() -> ImageContent:
    return ImageContent(type="image", data=base64.b64encode(PNG).decode(), mime_type="image/png")


def embedded(uri: str, mime_type: str, value: str) -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=mime_type, text=value))


# -- what a tool gives ------------------------------------------------------------------------


async def test_simple_text() -> ToolResult:
    """Gives a text."""
    return ToolResult(content=[text("This is a simple text response for testing.")])


async def test_image_content() -> ToolResult:
    """Gives a picture."""
    return ToolResult(content=[image()])


async def test_audio_content() -> ToolResult:
    """Gives a sound."""
    data = base64.b64encode(WAV).decode()
    return ToolResult(content=[AudioContent(type="audio", data=data, mime_type="audio/wav")])


async def test_embedded_resource() -> ToolResult:
    """Gives a resource."""
    return ToolResult(
        content=[embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]
    )


async def test_multiple_content_types() -> ToolResult:
    """Gives a text, a picture and a resource."""
    data = embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
    return ToolResult(content=[text("Multiple content types test:"), image(), data])


async def test_error_handling() -> ToolResult:
    """Fails."""
    raise ToolError("This tool intentionally returns an error for testing")


# -- notices and questions while a call runs (protocol 2025-11-25) ------------------------------


async def test_tool_with_logging(ctx: Context) -> str:
    """Logs three lines to the client."""
    await ctx.info("Tool execution started")
    await anyio.sleep(STEP)
    await ctx.info("Tool processing data")
    await anyio.sleep(STEP)
    await ctx.info("Tool execution completed")
    return "Logged three lines."


async def test_logging_tool(ctx: Context) -> str:
    """Logs a line, which a client that names no level must not see."""
    await ctx.info("A line for who asked for it")
    return "Logged."


async def test_tool_with_progress(ctx: Context) -> str:
    """Tells its progress three times."""
    for done in (0, 50, 100):
        await ctx.report_progress(done, 100)
        await anyio.sleep(STEP)
    return "Told three times."


async def test_sampling(prompt: str, ctx: Context) -> str:
    """Has the client's model answer."""
    answer = await ctx.session.create_message(
        messages=[SamplingMessage(role="user", content=text(prompt))],
        max_tokens=100,
        related_request_id=ctx.request_id,
    )
    return f"LLM response: {getattr(answer.content, 'text', '')}"


async def _elicited(ctx: Context, message: str, properties: dict[str, Any], required: list[str]) -> str:
    schema = {"type": "object", "properties": properties, "required": required}
    answer = await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_id)
    return f"action={answer.action}, content={answer.content}"


async def test_elicitation(message: str, ctx: Context) -> str:
    """Asks the client's user for name and address."""
    fields = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    return f"User response: {await _elicited(ctx, message, fields, ['username', 'email'])}"


async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """Asks with a default for each kind of field (SEP-1034)."""
    fields: dict[str, Any] = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    return f"Elicitation completed: {await _elicited(ctx, 'Please check', fields, [])}"


async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    """Asks with each kind of choice (SEP-1330)."""
    plain = ["option1", "option2", "option3"]
    titled = [{"const": f"value{number}", "title": f"Choice {number}"} for number in (1, 2, 3)]
    old = {"enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]}
    fields: dict[str, Any] = {
        "untitledSingle": {"type": "string", "enum": plain},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {"type": "string", **old},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    return f"Elicitation completed: {await _elicited(ctx, 'Please choose', fields, [])}"


async def test_reconnection(ctx: Context) -> str:
    """Closes its stream before it answers; who comes back with the last event's id gets the answer (SEP-1699)."""
    await ctx.close_sse_stream()
    await anyio.sleep(2 * STEP)
    return "Answered after the stream was closed."


# -- what a client must say and may change (protocol 2026-07-28) --------------------------------


async def test_missing_capability() -> str:
    """Needs sampling, which the client did not declare (SEP-2575)."""
    raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "It needs sampling.", {"requiredCapabilities": {"sampling": {}}})


async def test_custom_header(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Takes an argument that a header repeats (SEP-2243)."""
    return region


# -- input that a call asks for by its result (SEP-2322) -----------------------------------------


def asked(message: str, **fields: str) -> ElicitRequest:
    schema = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in fields.items()},
        "required": list(fields),
    }
    params = ElicitRequestFormParams(message=message, requested_schema=schema)
    return ElicitRequest(method="elicitation/create", params=params)


def sampled(prompt: str, most: int = 100) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=text(prompt))
    return CreateMessageRequest(
        method="sampling/createMessage", params=CreateMessageRequestParams(messages=[message], max_tokens=most)
    )


def required(state: str | None = None, **requests: Any) -> InputRequiredResult:
    return InputRequiredResult(result_type="input_required", input_requests=requests, request_state=state)


def accepted(ctx: Context, name: str) -> dict[str, Any] | None:
    """What the user filled in; None where nothing came."""
    answer = (ctx.input_responses or {}).get(name)
    return (answer.content or {}) if isinstance(answer, ElicitResult) and answer.action == "accept" else None


async def test_input_required_result_elicitation(ctx: Context) -> str | InputRequiredResult:
    """Asks for a name."""
    answer = accepted(ctx, "user_name")
    return required(user_name=asked("What is your name?", name="string")) if answer is None else f"Hello, {answer}!"


async def test_streaming_elicitation(ctx: Context) -> str | InputRequiredResult:
    """Tells its progress, then asks: by its result, not by a request of its own."""
    await ctx.report_progress(1, 2)
    return await test_input_required_result_elicitation(ctx)


async def test_input_required_result_sampling(ctx: Context) -> str | InputRequiredResult:
    """Asks the client's model."""
    answer = (ctx.input_responses or {}).get("capital_question")
    return required(capital_question=sampled("What is the capital of France?")) if answer is None else str(answer)


async def test_input_required_result_list_roots(ctx: Context) -> str | InputRequiredResult:
    """Asks for the client's roots."""
    answer = (ctx.input_responses or {}).get("client_roots")
    if not isinstance(answer, ListRootsResult):
        return required(client_roots=ListRootsRequest(method="roots/list"))
    return ", ".join(str(root.uri) for root in answer.roots)


async def test_input_required_result_request_state(ctx: Context) -> str | InputRequiredResult:
    """Asks, and knows its own state again."""
    if accepted(ctx, "confirm") is None:
        return required("first", confirm=asked("Please confirm", ok="boolean"))
    return "state-ok" if ctx.request_state == "first" else "another state"


async def test_input_required_result_multiple_inputs(ctx: Context) -> str | InputRequiredResult:
    """Asks for three things at once."""
    if len(ctx.input_responses or {}) == 3:
        return "All are here."
    return required(
        "three",
        user_name=asked("What is your name?", name="string"),
        greeting=sampled("Generate a greeting", 50),
        client_roots=ListRootsRequest(method="roots/list"),
    )


async def test_input_required_result_multi_round(ctx: Context) -> str | InputRequiredResult:
    """Asks twice, one after the other."""
    if accepted(ctx, "step2") is not None and ctx.request_state == "round 2":
        return "Both are here."
    if accepted(ctx, "step1") is not None and ctx.request_state == "round 1":
        return required("round 2", step2=asked("Step 2: What is your favorite color?", color="string"))
    return required("round 1", step1=asked("Step 1: What is your name?", name="string"))


async def test_input_required_result_tampered_state(ctx: Context) -> str | InputRequiredResult:
    """Asks; its state comes back as it went, or the server refuses it."""
    if accepted(ctx, "confirm") is None:
        return required("signed", confirm=asked("Please confirm", ok="boolean"))
    return "It came back."


async def test_input_required_result_capabilities(ctx: Context) -> str | InputRequiredResult:
    """Asks for what the client can do, and for nothing else."""
    able = ctx.session.client_capabilities
    requests: dict[str, Any] = {}
    if able is not None and able.sampling is not None:
        requests["question"] = sampled("What is the capital of France?")
    if able is not None and able.elicitation is not None:
        requests["user_name"] = asked("What is your name?", name="string")
    return required(**requests) if requests else "The client can answer nothing."


# -- tasks (SEP-2663) -----------------------------------------------------------------------------


async def greet(name: str) -> ToolResult:
    """Greets at once; never a task."""
    return ToolResult(content=[text(f"Hello, {name}!")])


async def slow_compute(seconds: float, label: str = "") -> str:
    """Takes so many seconds."""
    await anyio.sleep(seconds)
    return f"{label} took {seconds:g} s"


async def failing_job() -> str:
    """Fails after a moment."""
    await anyio.sleep(STEP)
    raise ToolError("This job always fails.")


async def protocol_error_job() -> str:
    """Ends with an error of the protocol."""
    raise MCPError(INTERNAL_ERROR, "This job always breaks.")


async def confirm_delete(filename: str, ctx: Context) -> str | InputRequiredResult:
    """Asks before it would delete."""
    answer = accepted(ctx, "confirm")
    return (
        required(confirm=asked(f"Delete {filename}?", confirm="boolean")) if answer is None else f"{filename}: {answer}"
    )


async def multi_input(ctx: Context) -> str | InputRequiredResult:
    """Asks for two things at once."""
    if len(ctx.input_responses or {}) < 2:
        return required(
            first=asked("What is the first?", name="string"), second=asked("What is the second?", name="string")
        )
    return "Both are here."


async def test_tool_with_task(ctx: Context) -> str | InputRequiredResult:
    """Asks for a name, then works as a task."""
    answer = accepted(ctx, "user_name")
    return required(user_name=asked("What is your name?", name="string")) if answer is None else f"Hello, {answer}!"


# -- resources and prompts ------------------------------------------------------------------------


def static_text() -> str:
    """A text."""
    return "This is the content of the static text resource."


def static_binary() -> bytes:
    """A picture."""
    return PNG


def template_data(id: str) -> str:
    """A text about what the URI names."""
    return f'{{"id":"{id}","templateTest":true,"data":"Data for ID: {id}"}}'


def test_simple_prompt() -> str:
    """A prompt without arguments."""
    return "This is a simple prompt for testing."


def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    """A prompt with two arguments."""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


def test_prompt_with_embedded_resource(resourceUri: str) -> list[Message]:  # noqa: N803 - the suite's name
    """A prompt with a resource."""
    resource = embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
    return [Message(resource), Message("Please process the embedded resource above.")]


def test_prompt_with_image() -> list[Message]:
    """A prompt with a picture."""
    return [Message(image()), Message("Please analyze the image above.")]


async def test_input_required_result_prompt(ctx: Context) -> str | InputRequiredResult:
    """A prompt that asks for what it is about."""
    answer = accepted(ctx, "user_context")
    if answer is None:
        return required(user_context=asked("What context should the prompt use?", context="string"))
    return f"The context is {answer}."


# -- all of them ----------------------------------------------------------------------------------

CALLS: tuple[Callable[..., Awaitable[Any]], ...] = (
    test_simple_text,
    test_image_content,
    test_audio_content,
    test_embedded_resource,
    test_multiple_content_types,
    test_error_handling,
    test_tool_with_logging,
    test_logging_tool,
    test_tool_with_progress,
    test_sampling,
    test_elicitation,
    test_elicitation_sep1034_defaults,
    test_elicitation_sep1330_enums,
    test_reconnection,
    test_missing_capability,
    test_custom_header,
    test_input_required_result_elicitation,
    test_streaming_elicitation,
    test_input_required_result_sampling,
    test_input_required_result_list_roots,
    test_input_required_result_request_state,
    test_input_required_result_multiple_inputs,
    test_input_required_result_multi_round,
    test_input_required_result_tampered_state,
    test_input_required_result_capabilities,
    greet,
)
TASKS: dict[Callable[..., Awaitable[Any]], str] = {
    slow_compute: "optional",
    failing_job: "required",
    protocol_error_job: "optional",
    confirm_delete: "optional",
    multi_input: "optional",
    test_tool_with_task: "required",
}


def tools() -> list[Tool]:
    """The tools that are no tasks."""
    return [*(Tool.from_function(call) for call in CALLS), _schema_tool()]


def _schema_tool() -> Tool:
    """A tool whose input schema uses what JSON Schema 2020-12 has, as the suite has it word for word."""

    async def json_schema_2020_12_tool(name: str = "") -> str:
        """Tool with JSON Schema 2020-12 features"""
        return name

    tool = Tool.from_function(json_schema_2020_12_tool)
    fields = ("street", "city")
    address = {"$anchor": "addressDef", "type": "object", "properties": {name: {"type": "string"} for name in fields}}
    tool.parameters = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"address": address},
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    }
    return tool


def add_tasks(server: FastMCP[Any]) -> None:
    """The tools that are tasks, by FastMCP's own extension, which keeps them in memory."""
    from fastmcp_tasks import TasksExtension

    server.add_extension(TasksExtension(url="memory://"))
    for call, mode in TASKS.items():
        config = TaskConfig(mode=mode, poll_interval=timedelta(seconds=0.2))  # type: ignore[arg-type]
        server.add_tool(Tool.from_function(call, task=config))


def resources() -> list[Resource]:
    """The resources."""
    return [
        Resource.from_function(static_text, uri="test://static-text", mime_type="text/plain"),
        Resource.from_function(static_binary, uri="test://static-binary", mime_type="image/png"),
    ]


def template() -> ResourceTemplate:
    """The template of resources."""
    return ResourceTemplate.from_function(
        template_data, uri_template="test://template/{id}/data", mime_type="application/json"
    )


def prompts() -> list[Prompt]:
    """The prompts."""
    return [
        Prompt.from_function(prompt)
        for prompt in (
            test_simple_prompt,
            test_prompt_with_arguments,
            test_prompt_with_embedded_resource,
            test_prompt_with_image,
            test_input_required_result_prompt,
        )
    ]
