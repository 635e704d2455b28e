"""streamforge 0.1.3 beside the market benchmarks: in an environment and a process of its own.

It is a child that does what it is told, so that its turns lie between ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGES = ("streamforge==0.1.3", "greenlet")  # it needs greenlet and does not say so
ROLE = Path(__file__).parent / "consumers" / "streamforge_peer.py"


class StreamForge:
    """The running child."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One command; its answer.

        Raises:
            RuntimeError: the child ended instead.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"streamforge ended with status {self._process.wait()} while it was to {do}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def streamforge(folder: Path, python: str | None = None) -> Iterator[StreamForge | None]:
    """The child; None, with a word, where it cannot be installed.

    Args:
        folder: where the environment is made. python: an interpreter that has it already.
    """
    python = python or _installed(folder)
    if python is None:
        yield None
        return
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        [python, str(ROLE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=folder,
        env=environment,
    )
    with process:
        try:
            yield StreamForge(process)
        finally:
            process.kill()


def _installed(folder: Path) -> str | None:
    place = folder / "streamforge"
    venv.create(place, with_pip=True)
    python = str(place / "bin" / "python")
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *PACKAGES], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"streamforge cannot be installed, and is left out: {done.stderr.strip()[-200:]}", file=sys.stderr)
        return None
    return python
