"""Real clients convert every tool and call some, a chart among them: the SDKs of Python (1 and 2) and TypeScript,
FastMCP, AutoGen, LangChain, LlamaIndex, mcp-use, openai-agents, pydantic-ai, smolagents; the Inspector lints the
schemas. (The conformance suite needs no environment of its own: test_conformance.py.)

They are no dependencies of ours: ``make peers`` installs each in an environment of its own. Without them these tests
are skipped; what they showed of the schemas is held by the lint in test_schemas.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streammachine.settings import Settings
from streammachine_mcp.server import create_server
from support.mcp import clean_environment

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = ROOT / "tests" / "peers"
FRAMEWORKS = (
    "autogen",
    "langchain",
    "llama_index",
    "mcp_1",
    "mcp_2",
    "mcp_use",
    "openai_agents",
    "pydantic_ai",
    "smolagents",
    "typescript",
)

SERVER = (sys.executable, "-m", "streammachine.mcp_server")

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(private_env: dict[str, str]) -> Run:
    """Run a peer's script against a server of its own, or with what else it takes; what it prints last."""

    def run_peer(name: str, *arguments: str) -> dict[str, Any]:
        python = ROOT / ".venv-peers" / name / "bin" / "python"
        if not (python.parent.parent / "ready").exists():
            pytest.skip(f"{name} is not installed: make peers")
        ended = subprocess.run(
            [python, SCRIPTS / f"with_{name}.py", *(arguments or SERVER)],
            env={**clean_environment(private_env), "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        return found

    return run_peer


@pytest.fixture
async def names() -> list[str]:
    return sorted(tool.name for tool in await create_server(Settings()).list_tools())


@pytest.mark.anyio
@pytest.mark.parametrize("peer", FRAMEWORKS)
async def test_a_framework_loads_every_tool_and_calls_some(run: Run, names: list[str], peer: str) -> None:
    chart = "A · 1m · peer" if peer == "smolagents" else "image/png"
    told = {"tools": names, "read": {"price": "1.5"}, "accepted": 1, "value": {"a": 1}, "chart": chart}
    assert run(peer) == told


@pytest.mark.anyio
async def test_the_inspector_s_strict_lint_has_no_warnings(run: Run, names: list[str]) -> None:
    assert run("inspector") == {"tools": names, "warnings": [], "status": 0}
