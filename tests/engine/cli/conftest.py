"""The command line under test: the real command, in a process, a home and a temporary folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.mcp import clean_environment


@dataclass
class CommandLine:
    """Runs ``streammachine`` with a private home, data directory and temporary folder."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        """Where Claude Desktop's configuration is for this home."""
        return self.folder / "config" / "Claude" / "claude_desktop_config.json"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    def environment(self, **extra: str) -> dict[str, str]:
        for name in ("home", "config", "tmp"):
            (self.folder / name).mkdir(exist_ok=True)
        return clean_environment(
            {
                "HOME": str(self.folder / "home"),
                "XDG_CONFIG_HOME": str(self.folder / "config"),
                "XDG_RUNTIME_DIR": "",
                "TMPDIR": str(self.temporary),
                "STREAMMACHINE_DATA_DIR": str(self.folder / "data"),
                "STREAMMACHINE_EMBEDDED": "always",
                "COLUMNS": "80",
                **self.env,
                **extra,
            }
        )

    def __call__(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "streammachine.cli", *arguments]
        return subprocess.run(
            command,
            env=self.environment(**extra),
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def processes(self) -> list[str]:
        """The command lines of living processes that were started from this folder's environment or work in it."""
        mark = str(self.folder).encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                line = (entry / "cmdline").read_bytes()
                if mark in line or mark in (entry / "environ").read_bytes():
                    found.append(line.replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
        return found


@pytest.fixture
def cli() -> Iterator[CommandLine]:
    """The command line; afterwards nothing of it may still run. Its folder is short: a socket's path has 104 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="smt-"))
    try:
        command_line = CommandLine(folder)
        yield command_line
        assert command_line.processes() == []
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def importable(cli: CommandLine) -> Callable[[str, str], None]:
    """Puts a file into a folder at the front of the command's PYTHONPATH."""

    def write(name: str, text: str) -> None:
        folder = cli.folder / "path"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        cli.env["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])

    return write
