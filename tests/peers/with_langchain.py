# /// script
# dependencies = [
#     "langchain-mcp-adapters==0.3.2", "langchain-google-genai==4.4.3", "langchain-openai==1.7.4", "mcp<2",
# ]
# ///
"""LangChain: its converters to Gemini's function declarations and to OpenAI's strict mode."""

import asyncio
import json
import os
import sys
from typing import Any

from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_google_genai._function_utils import convert_to_genai_function_declarations
from langchain_mcp_adapters.client import MultiServerMCPClient


def check_gemini(tools: list[Any]) -> None:
    """Every property keeps its type; one that has none becomes another or is dropped."""
    converted = convert_to_genai_function_declarations(tools)
    groups = converted if isinstance(converted, list) else [converted]
    declared = {one.name: one for group in groups for one in group.function_declarations}
    assert set(declared) == {tool.name for tool in tools}
    for tool in tools:
        wanted = tool.args_schema["properties"]
        found = declared[tool.name].parameters
        properties = (found.properties if found else None) or {}
        assert set(properties) == set(wanted), tool.name
        for name, schema in wanted.items():
            assert properties[name].type.value.lower() == schema["type"], (tool.name, name)
            if schema["type"] == "array":
                assert properties[name].items.type.value.lower() == schema["items"]["type"], (tool.name, name)


def check_strict(schema: dict[str, Any], where: str) -> None:
    """OpenAI's strict mode: each part has one type, each object names all its members as required."""
    assert isinstance(schema.get("type"), str), where
    if schema["type"] == "object":
        members = schema.get("properties", {})
        assert schema.get("additionalProperties") is False, where
        assert set(schema.get("required", ())) == set(members), where
        for name, member in members.items():
            check_strict(member, f"{where}.{name}")
    if schema["type"] == "array":
        check_strict(schema["items"], f"{where}[]")


async def main() -> None:
    server = {"transport": "stdio", "command": sys.argv[1], "args": sys.argv[2:], "env": dict(os.environ)}
    found = await MultiServerMCPClient({"streammachine": server}).get_tools()
    tools = {tool.name: tool for tool in found}
    check_gemini(found)
    for tool in found:
        strict = convert_to_openai_tool(tool, strict=True)["function"]
        assert strict["strict"] is True
        check_strict(strict["parameters"], tool.name)

    async def call(tool: str, **arguments: Any) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((await tools[tool].ainvoke(arguments))[0]["text"])
        return data

    await call("stream_send", stream="peer", message={"price": "1.5"})
    await call("storage_write", key="peer", value='{"a": 1}', ttl_s=None, as_json=None)
    await call("ohlc_create", name="peer", intervals=None)
    accepted = await call("ohlc_update", name="peer", symbol="A", price=1.0, volume=1.0, timestamp_ms=None, ticks=None)
    read = await call("stream_read", stream="peer", count=None, start=None)
    value = await call("storage_read", key="peer", default=None)
    chart = await tools["candles_chart"].ainvoke({"name": "peer", "symbol": "A", "interval": 60000})
    print(
        json.dumps(
            {
                "tools": sorted(tools),
                "read": read["messages"][0]["data"],
                "accepted": accepted["accepted"],
                "value": value["value"],
                "chart": chart[1]["mime_type"],
            }
        )
    )


asyncio.run(main())
