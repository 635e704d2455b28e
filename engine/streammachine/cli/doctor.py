"""``streammachine doctor``: what is wrong with this installation, and the mend."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import tempfile
import textwrap
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from importlib.metadata import distributions, packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from rich.console import Console

import streammachine
from streammachine.cli.claude_desktop import installed_command, server_command
from streammachine.cli.json_lines import print_json
from streammachine.cli.peer import call, open_server
from streammachine.errors import RedisPermissionError, SettingsError, StreamMachineError
from streammachine.settings import Settings

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

DISTRIBUTION = "streammachine-mcp"
MARKS = {"ok": "[green]ok  [/]", "note": "[yellow]note[/]", "bad": "[red]bad [/]"}

INDENT = "     "
MARK_SPACE = "____ "  # as wide as a mark and the space behind it


@dataclass(frozen=True)
class Finding:
    """One check: how it went ("ok", "note" or "bad"), what was seen, and the mend where there is one."""

    mark: str
    subject: str
    seen: str
    mend: str = ""


async def run_doctor(as_json: bool = False) -> int:
    """Print all findings as they come, or one JSON object each; 1 when something is bad."""
    console = Console(highlight=False, soft_wrap=True)
    wrong = 0
    async for finding in _checks():
        wrong += finding.mark == "bad"
        if as_json:
            print_json(asdict(finding))
        else:
            _print(console, finding)
    if as_json:
        return 1 if wrong else 0
    console.print(f"[red]{wrong} to mend.[/]" if wrong else "[green]Everything works.[/]")
    return 1 if wrong else 0


def _print(console: Console, finding: Finding) -> None:
    """A finding; a command to run has a line of its own, so that it can be copied whole."""
    start = f"{MARK_SPACE}{finding.subject}: "
    seen = _wrapped(console, start + finding.seen, INDENT)
    console.print(MARKS[finding.mark], f"[bold]{finding.subject}[/]:", end=" ")
    console.print(seen[len(start) :], markup=False)
    if not finding.mend:
        return
    told, colon, command = finding.mend.partition(": ")
    line = f"{INDENT}-> {finding.mend}"
    if console.is_terminal and len(line) > console.width and colon and told.startswith("Run"):
        line = f"{INDENT}-> {told}:\n{INDENT}   {command}"
    else:
        line = _wrapped(console, line, f"{INDENT}   ")
    console.print(line, markup=False)


def _wrapped(console: Console, text: str, indent: str) -> str:
    """The text in lines as wide as the terminal, broken at spaces: a path that is cut in two cannot be copied."""
    if not console.is_terminal:  # what reads it has no width
        return text
    lines = textwrap.wrap(
        text, max(40, console.width), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines)


async def _checks() -> AsyncIterator[Finding]:
    yield _python()
    yield _import_name()
    for finding in _native():
        yield finding
    settings = _settings()
    yield settings
    if settings.mark == "ok":
        yield await _redis()
        yield await _handshake()
    desktop = _claude_desktop()
    if desktop is not None:
        yield desktop


def _python() -> Finding:
    return Finding("ok", "Python", f"{platform.python_version()} on {platform.system()}")


def _import_name() -> Finding:
    """Two distributions that own one import name overwrite each other's files."""
    owners = sorted(
        {re.sub(r"[-_.]+", "-", owner).lower() for owner in packages_distributions().get("streammachine", ())}
    )
    foreign = [owner for owner in owners if owner != DISTRIBUTION]
    place = Path(streammachine.__file__ or "").parent
    if foreign:
        return Finding(
            "bad",
            "Import name",
            f"'streammachine' is also installed by {', '.join(foreign)} (loaded from {place})",
            f"Run: pip uninstall {' '.join(foreign)} && pip install --force-reinstall --no-deps {_source()}",
        )
    if not owners:
        return Finding("ok", "Import name", f"'streammachine' is run from its source, not installed ({place})")
    return Finding("ok", "Import name", f"'streammachine' is {DISTRIBUTION} ({place})")


def _source() -> str:
    """What pip was given when it installed this distribution (PEP 610), for a command line; else its name."""
    for found in distributions(name=DISTRIBUTION):
        recorded = json.loads(found.read_text("direct_url.json") or "{}")
        if url := str(recorded.get("url", "")):
            place = url2pathname(urlsplit(url).path) if url.startswith("file:") else url
            return ("--editable " if recorded.get("dir_info", {}).get("editable") else "") + shlex.quote(place)
    return DISTRIBUTION


def _native() -> list[Finding]:
    from streammachine import _HAS_FAST_OHLC_CYTHON, _has_cython_decode
    from streammachine.market.exchanges.decode import HAS_NATIVE

    mend = "It gives the same results, slower. "
    if shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"):
        mend += f"There is a C compiler: install {DISTRIBUTION} again, and look for the compiler's error."
    else:
        mend += f"There is no C compiler here. Install one and Python's headers, then {DISTRIBUTION} again."
    return [
        Finding("ok", subject, "compiled") if built else Finding("note", subject, "not compiled: plain Python", mend)
        for subject, built in (
            ("Candle engine", _HAS_FAST_OHLC_CYTHON),
            ("Wire codec", _has_cython_decode),
            ("Frame decoder", HAS_NATIVE),
        )
    ]


def _settings() -> Finding:
    try:
        settings = Settings()
    except SettingsError as error:
        return Finding("bad", "Settings", str(error), "Correct the variable or unset it.")
    shown = settings.describe()
    chosen = [f"{name}={shown[name]}" for name in shown if os.environ.get(name)]
    return Finding("ok", "Settings", ", ".join(chosen) or "all defaults")


async def _redis() -> Finding:
    from streammachine.redis.condition import condition_of
    from streammachine.redis.connection import RedisConnection

    try:
        async with RedisConnection() as redis:
            condition = await condition_of(redis)
            target = redis.target
            assert target is not None
            where = f"{target.url}, {target.origin} because {target.why}; {condition.latency * 1000:.1f} ms"
            seen = f"{await _version(redis)} at {where}"
            return Finding("bad" if condition.problem else "ok", "Redis", seen, condition.problem)
    except StreamMachineError as error:
        return Finding("bad", "Redis", str(error), "The MCP server starts without it, and goes on when it comes.")


async def _version(redis: RedisConnection) -> str:
    """Which server it is, as far as this user may ask."""
    try:
        info = next(iter((await redis.info("server")).values()), {})
    except RedisPermissionError:
        return "A Redis that does not let this user ask for its version (INFO)"
    name = "Valkey" if "valkey_version" in info else "Redis"
    return f"{name} {info.get(f'{name.lower()}_version', '(no version)')}"


async def _handshake() -> Finding:
    """Start the server with the command that ``install claude-desktop`` writes, and greet it as Claude Desktop does."""
    entry = server_command()
    with tempfile.TemporaryDirectory(prefix="sm-doctor-") as folder:
        began = time.perf_counter()
        try:
            async with open_server(
                os.environ,
                Path(folder) / "server.log",
                command=[entry["command"], *entry.get("args", [])],
                mode="legacy",
            ) as client:
                tools = await client.list_tools()
                seconds = time.perf_counter() - began
                health = await call(client, "health_check")
        except StreamMachineError as error:
            return Finding("bad", "MCP handshake", str(error), f"Run it by hand to see more: {_line(entry)}")
    seen = f"{len(tools)} tools after {seconds:.1f} s; health: {health['status']}"
    return Finding("ok", "MCP handshake", seen)


def _claude_desktop() -> Finding | None:
    """Whether the command that Claude Desktop is told to run is there; None when it was told nothing."""
    try:
        found = installed_command()
    except StreamMachineError as error:
        return Finding("bad", "Claude Desktop", str(error), "Correct the file by hand.")
    if found is None:
        return None
    path, command = found
    mend = "Run: streammachine install claude-desktop"
    if Path(command).is_absolute():
        if os.access(command, os.X_OK):
            return Finding("ok", "Claude Desktop", f"runs {command} ({path})")
        return Finding("bad", "Claude Desktop", f"is told to run {command}, which is not there ({path})", mend)
    return Finding(
        "note", "Claude Desktop", f"is told to run {command!r}, which it finds only on its own PATH ({path})", mend
    )


def _line(entry: dict[str, object]) -> str:
    arguments = entry.get("args", [])
    assert isinstance(arguments, list)
    return " ".join([str(entry["command"]), *arguments])
