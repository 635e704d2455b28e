"""Nothing but the protocol reaches the client, whoever prints: hooks, tools, C code, children, logging, warnings."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from support.mcp import RawClient

BUFFERED = {"PYTHONUNBUFFERED": ""}  # Python's default for a pipe, whatever the test run has set

MODULE = """
import ctypes, os
print("noise: print at import", flush=True)
os.write(1, b"noise: os.write at import\\n")
ctypes.CDLL(None).puts(b"noise: C at import")
"""

SCRIPT = """
print("noise: buffered before the wire was taken")
from streammachine_mcp import entry

wire = entry.Wire.take()
import noisy_module  # noqa
import asyncio, ctypes, logging, os, subprocess, sys, warnings
from contextlib import asynccontextmanager
import anyio
from fastmcp import FastMCP
from streammachine_mcp.server import create_server

entry.configure_logging("DEBUG")

@asynccontextmanager
async def lifespan(_):
    print("noise: a start-up hook", flush=True)
    subprocess.run(["echo", "noise: a start-up hook's child"])
    yield {}
    print("noise: a shutdown hook", flush=True)

server = FastMCP("noisy", lifespan=lifespan)
server.mount(create_server())

@server.tool
async def shout() -> dict:
    print("noise: print in a tool", flush=True)
    print("noise: unflushed print in a tool")
    sys.__stdout__.write("noise: sys.__stdout__ in a tool\\n")
    os.write(1, b"noise: os.write in a tool\\n")
    libc = ctypes.CDLL(None)
    libc.puts(b"noise: C in a tool")
    libc.fflush(None)
    libc.puts(b"noise: unflushed C in a tool")
    logging.getLogger("streammachine").debug("noise: logging at DEBUG")
    warnings.warn("noise: a warning")
    return {"result": "ok"}

@server.tool
async def spawn() -> dict:
    child = "import os, sys; print('noise: a child'); print('stdin of the child:', repr(sys.stdin.read()))"
    subprocess.run([sys.executable, "-c", child], check=True)
    os.system("echo noise: a shell")
    process = await asyncio.create_subprocess_exec("echo", "noise: an asyncio child")
    await process.wait()
    pid = os.fork()
    if pid == 0:
        os.write(1, b"noise: a forked child\\n")
        os._exit(0)
    os.waitpid(pid, 0)
    held = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, stdout=subprocess.PIPE, text=True).stdout
    return {"ours": [os.readlink(f"/proc/self/fd/{fd}") for fd in (wire.read_fd, wire.write_fd)], "held": held}

entry.serve_stdio(server, wire)
"""

SOURCES = (
    "noise: buffered before the wire was taken",
    "noise: print at import",
    "noise: os.write at import",
    "noise: C at import",
    "noise: a start-up hook",
    "noise: a start-up hook's child",
    "noise: print in a tool",
    "noise: unflushed print in a tool",
    "noise: sys.__stdout__ in a tool",
    "noise: os.write in a tool",
    "noise: C in a tool",
    "noise: unflushed C in a tool",
    "noise: a child",
    "noise: a shell",
    "noise: an asyncio child",
    "noise: a forked child",
    "noise: a shutdown hook",
)


class Noise(NamedTuple):
    garbage: list[bytes]
    stderr: str
    spawned: dict[str, object]
    status: int


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Noise:
    folder = tmp_path_factory.mktemp("noisy")
    (folder / "noisy_module.py").write_text(MODULE)
    (folder / "noisy.py").write_text(SCRIPT)
    env = {**BUFFERED, "STREAMMACHINE_EMBEDDED": "never", "STREAMMACHINE_DATA_DIR": str(folder / "data")}
    with RawClient(command=[sys.executable, str(folder / "noisy.py")], env=env, log=folder / "log") as client:
        assert client.call("shout") == {"result": "ok"}
        spawned = client.call("spawn")
        assert client.call("health_check")["read_only"] is False
        status = client.close()
    return Noise(client.garbage, (folder / "log").read_text(), spawned, status)


def test_the_client_sees_nothing_of_it(noise: Noise) -> None:
    assert noise.garbage == []
    assert noise.status == 0


@pytest.mark.parametrize("source", SOURCES)
def test_it_is_on_stderr(noise: Noise, source: str) -> None:
    assert noise.stderr.splitlines().count(source) == 1


def test_log_records_and_warnings_are_on_stderr(noise: Noise) -> None:
    assert "DEBUG streammachine: noise: logging at DEBUG" in noise.stderr
    assert "UserWarning: noise: a warning" in noise.stderr


def test_a_child_reads_nothing_from_the_client_and_holds_none_of_its_pipes(noise: Noise) -> None:
    assert "stdin of the child: ''" in noise.stderr
    ours = noise.spawned["ours"]
    assert isinstance(ours, list)
    assert all(str(pipe).startswith("pipe:") for pipe in ours)
    assert not [pipe for pipe in ours if str(pipe) in str(noise.spawned["held"])]


def test_the_servers_own_logging_at_debug_stays_on_stderr(server_env: dict[str, str], tmp_path: Path) -> None:
    with RawClient("--log-level", "DEBUG", env=server_env, log=tmp_path / "log") as client:
        assert client.call("health_check")["status"] == "healthy"
        client.request("resources/read", uri="streammachine://status")
    assert client.garbage == []
    assert (tmp_path / "log").read_text()


def test_what_an_interpreters_start_up_printed_is_kept_from_the_client(
    server_env: dict[str, str], tmp_path: Path
) -> None:
    """A sitecustomize or a .pth file runs before anything of ours, into a buffer that the wire must not inherit."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("print('noise: sitecustomize')")
    env = {**server_env, **BUFFERED, "PYTHONPATH": f"{tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}"}
    with RawClient(env=env, log=tmp_path / "log") as client:
        client.tools()
    assert client.garbage == []
    assert "noise: sitecustomize" in (tmp_path / "log").read_text()
