"""Every door to the server: the console script, ``python -m``, ``mcp run|dev``, ``fastmcp run|inspect|dev``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, entry_points
from pathlib import Path

import pytest

from streammachine_mcp.prompts import read_skills
from support.golden import golden
from support.mcp import RawClient, clean_environment

BIN = Path(sys.executable).parent
DEV = str(Path(__file__).parents[2] / "server" / "streammachine_mcp" / "dev.py")
# What a fresh `pip install` puts into bin/streammachine-mcp.
CONSOLE = [sys.executable, "-c", "from streammachine.mcp_server import main; main()"]

NPX = """#!{python}
import json, os, sys
with open({record!r}, "w") as record:
    json.dump(sys.argv[1:], record)
"""


@pytest.fixture
def npx(tmp_path: Path) -> Iterator[Path]:
    """Where a stub ``npx``, first on the PATH that the test hands on, writes its arguments."""
    record = tmp_path / "npx.json"
    stub = tmp_path / "bin" / "npx"
    stub.parent.mkdir()
    stub.write_text(NPX.format(python=sys.executable, record=str(record)))
    stub.chmod(0o755)
    yield record


def run(env: dict[str, str], *command: str, stub: Path | None = None) -> subprocess.CompletedProcess[str]:
    first = [str(stub.parent / "bin")] if stub is not None else []
    path = os.pathsep.join([*first, str(BIN), os.environ["PATH"]])
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=clean_environment({**env, "PATH": path, "COLUMNS": "200"}),
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "streammachine"],
        [sys.executable, "-m", "streammachine.mcp_server"],
        CONSOLE,
        [str(BIN / "mcp"), "run", f"{DEV}:server"],
        [str(BIN / "fastmcp"), "run", f"{DEV}:mcp", "--no-banner"],
    ],
    ids=["streammachine", "mcp_server", "console", "mcp run", "fastmcp run"],
)
def test_it_speaks_mcp_over_stdio(command: list[str], server_env: dict[str, str], tmp_path: Path) -> None:
    with RawClient(command=command, env=server_env, log=tmp_path / "log") as client:
        assert client.server_info["serverInfo"]["name"] == "streammachine"
        assert set(client.tools()) == set(golden())
        assert client.call("health_check")["status"] == "healthy"
        assert client.close() == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_the_console_scripts_name_these_doors() -> None:
    try:
        scripts = {script.name: script.value for script in entry_points(group="console_scripts")}
    except PackageNotFoundError:  # pragma: no cover
        scripts = {}
    if "streammachine-mcp" not in scripts:
        pytest.skip("the project is not installed here")
    assert scripts["streammachine-mcp"] == "streammachine.mcp_server:main"
    assert (BIN / "streammachine-mcp").exists()


def test_mcp_dev_opens_the_inspector_on_it(server_env: dict[str, str], npx: Path) -> None:
    done = run(server_env, "mcp", "dev", f"{DEV}:server", stub=npx)
    assert done.returncode == 0, done.stderr
    arguments = json.loads(npx.read_text())
    assert arguments[0] == "@modelcontextprotocol/inspector"
    assert arguments[-3:] == ["mcp", "run", f"{DEV}:server"]
    assert arguments.count("--with") == 1, "uv would fetch our name from an index; `uv run` has the checkout itself"


def test_fastmcp_dev_opens_the_inspector_on_it(server_env: dict[str, str], npx: Path) -> None:
    done = run(server_env, "fastmcp", "dev", "inspector", f"{DEV}:mcp", "--no-reload", stub=npx)
    assert done.returncode == 0, done.stderr
    arguments = json.loads(npx.read_text())
    assert arguments[0].startswith("@modelcontextprotocol/inspector")
    assert "fastmcp" in arguments
    assert f"{DEV}:mcp" in arguments


def test_fastmcp_inspect_describes_it(server_env: dict[str, str]) -> None:
    done = run(server_env, "fastmcp", "inspect", f"{DEV}:mcp", "--format", "mcp")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {tool["name"] for tool in found["tools"]} == set(golden())
    assert {prompt["name"] for prompt in found["prompts"]} == {skill.prompt for skill in read_skills()}


def test_help_and_wrong_options_say_so_and_start_nothing(server_env: dict[str, str]) -> None:
    shown = run(server_env, sys.executable, "-m", "streammachine", "--help")
    assert shown.returncode == 0
    assert "--transport" in shown.stdout
    wrong = run(server_env, sys.executable, "-m", "streammachine", "--nonsense")
    assert wrong.returncode == 2
    assert "--nonsense" in wrong.stderr
    assert wrong.stdout == ""
