"""The code that documents show, run as a reader would run it: processes of their own on one embedded Valkey."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from streammachine.redis.embedded.server import EmbeddedServer
from support.mcp import clean_environment

_BLOCK = re.compile(r"(?:^<!-- ([a-z ]+): ([^\n]*) -->\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# (\w+\.py)\n")


@dataclass(frozen=True)
class Block:
    """One block of a page. ``file`` is the name in its first line, where it is a file to be saved.

    Attributes:
        mark: of the comment in the line before the block, ``<!-- MARK: SAID -->``; "" without one.
    """

    page: str
    line: int
    language: str
    code: str
    mark: str = ""
    said: str = ""

    @property
    def file(self) -> str | None:
        found = _FILE.match(self.code)
        return found[1] if found and self.language == "python" else None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """A page's blocks, of one language if it is given."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(page.name, text.count("\n", 0, match.start()) + 1, match[3], match[4], match[1] or "", match[2] or "")
        for match in _BLOCK.finditer(text)
    ]
    return [block for block in found if language in (None, block.language)]


@contextmanager
def environment(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of code that is to use an embedded server; holding that one saves each process a start."""
    with EmbeddedServer.acquire(folder, fsync="everysec"):
        yield clean_environment(
            {
                "STREAMMACHINE_EMBEDDED": "always",
                "STREAMMACHINE_EMBEDDED_FSYNC": "everysec",
                "STREAMMACHINE_DATA_DIR": str(folder),
            }
        )


def run_python(
    arguments: Sequence[str], env: dict[str, str], cwd: Path | None = None, logs: str = "is given up after"
) -> str:
    """Run Python; its output. It must succeed and log nothing but lines with ``logs`` in them."""
    done = subprocess.run(
        [sys.executable, *arguments], env=env, cwd=cwd, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stderr.splitlines() if logs not in line] == [], done.stderr
    return done.stdout
