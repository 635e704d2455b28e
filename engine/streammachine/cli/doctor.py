"""``streammachine doctor``: what is wrong with this installation, and the mend."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

import anyio
from rich.console import Console

import streammachine
from streammachine.cli.peer import call, server_client
from streammachine.errors import SettingsError, StreamMachineError
from streammachine.settings import Settings

DISTRIBUTION = "streammachine-mcp"


@dataclass(frozen=True)
class Finding:
    """One check: how it went, what was seen, and the mend where it went wrong."""

    ok: bool
    subject: str
    seen: str
    mend: str = ""
    warning: bool = False


def run_doctor() -> int:
    """Print all findings; 1 when something is wrong."""
    console = Console(highlight=False, soft_wrap=True)
    return anyio.run(_run, console)


async def _run(console: Console) -> int:
    wrong = 0
    async for finding in _checks():
        wrong += not finding.ok and not finding.warning
        mark = "[green]ok  [/]" if finding.ok else "[yellow]note[/]" if finding.warning else "[red]bad [/]"
        console.print(mark, f"[bold]{finding.subject}[/]:", end=" ")
        console.print(finding.seen, markup=False)
        if not finding.ok:
            console.print("     ->", finding.mend, markup=False)
    console.print("Everything works." if not wrong else f"{wrong} to mend.")
    return 1 if wrong else 0


async def _checks() -> AsyncIterator[Finding]:
    yield _python()
    yield _import_name()
    for finding in _native():
        yield finding
    settings = _settings()
    yield settings
    if settings.ok:
        yield await _redis()
        yield await _handshake()


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding(ok, "Python", f"{platform.python_version()} on {platform.system()}", "Use Python 3.11 or later.")


def _import_name() -> Finding:
    owners = sorted(set(packages_distributions().get("streammachine", ())))
    foreign = [owner for owner in owners if owner != DISTRIBUTION]
    place = Path(streammachine.__file__ or "").parent
    if foreign:
        return Finding(
            False,
            "Import name",
            f"'streammachine' is also installed by {', '.join(foreign)} ({place})",
            f"Run: pip uninstall {' '.join(foreign)} && pip install --force-reinstall --no-deps {DISTRIBUTION}",
        )
    return Finding(True, "Import name", f"'streammachine' is {DISTRIBUTION} ({place})")


def _native() -> list[Finding]:
    from streammachine import _HAS_FAST_OHLC_CYTHON, _has_cython_decode

    mend = "Everything works, slower. Install a C compiler and Python's headers, then install streammachine-mcp again."
    return [
        Finding(built, subject, "compiled" if built else "the plain-Python twin", mend, warning=True)
        for subject, built in (("Candle engine", _HAS_FAST_OHLC_CYTHON), ("Wire codec", _has_cython_decode))
    ]


def _settings() -> Finding:
    try:
        settings = Settings()
    except SettingsError as error:
        return Finding(False, "Settings", str(error), "Correct or unset the variable.")
    shown = settings.describe()
    chosen = [f"{name}={shown[name]}" for name in shown if os.environ.get(name)]
    return Finding(True, "Settings", ", ".join(chosen) or "all defaults")


async def _redis() -> Finding:
    from streammachine.redis.connection import RedisConnection

    try:
        async with RedisConnection() as redis:
            began = time.perf_counter()
            info = await redis.run(lambda client: client.info("server"), repeatable=True)
            milliseconds = (time.perf_counter() - began) * 1000
            target = redis.target
            assert target is not None
            name = "Valkey" if "valkey_version" in info else "Redis"
            version = str(info[f"{name.lower()}_version"])
            seen = f"{name} {version} at {target.url}, {target.origin} because {target.why}; {milliseconds:.1f} ms"
            return Finding(True, "Redis", seen)
    except StreamMachineError as error:
        return Finding(False, "Redis", str(error), "See above; the server starts without Redis and waits for it.")


async def _handshake() -> Finding:
    with tempfile.TemporaryDirectory(prefix="sm-doctor-") as folder:
        log = Path(folder) / "server.log"
        began = time.perf_counter()
        try:
            with anyio.fail_after(30):
                async with server_client(os.environ, log) as client:
                    tools = await client.list_tools()
                    seconds = time.perf_counter() - began
                    health = await call(client, "health_check")
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is the finding
            tail = log.read_text(errors="replace").strip().splitlines()[-3:] if log.exists() else []
            seen = f"{type(error).__name__}: {error}"
            return Finding(False, "MCP handshake", seen, "The server's last lines: " + " | ".join(tail))
    seen = f"{len(tools)} tools after {seconds:.2f} s; health: {health['status']}"
    return Finding(True, "MCP handshake", seen)
