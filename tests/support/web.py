"""An MCP server process that serves HTTP on a free port of this machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Self

from support.mcp import clean_environment
from support.servers import until

COMMAND = (sys.executable, "-m", "streammachine.mcp_server", "--transport", "http", "--port", "0")


class WebServer:
    """One process. ``url``: where MCP is. Leaving the block kills it if it still runs."""

    def __init__(self, env: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=clean_environment(env),
            )

    def __enter__(self) -> Self:
        found = until(lambda: re.search(r"listening on (http://(.*):(\d+)/mcp)", self.log), "it listens")
        self.url, self.host, self.port = found[1], found[2], int(found[3])
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def log(self) -> str:
        """What it logged so far."""
        return self._log.read_text()
