"""What a child process takes over from its parent before it imports the App: arguments, import path, interpreter flags.

As multiprocessing's spawn does it, so that a script reads the same ``sys.argv`` in every process. The working directory
is inherited. ``PYTHONPATH`` stays as it is: what a handler starts must not see our import path.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

# -P: the working directory is not on the path before ours is; a file in it may be named as a standard module is.
_BOOT = (
    "import json, sys; line = open(0, 'rb', 0, closefd=False).readline() or sys.exit(); parent = json.loads(line); "
    "sys.path[:] = parent['path']; import {module}; {module}.main(parent['argv'])"
)


def child_command(module: str, arguments: Sequence[str]) -> list[str]:
    """The command of a child that calls ``main(argv)`` of ``module`` once it has read ``preparation()`` from stdin."""
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing takes them
    return [sys.executable, *flags, "-P", "-c", _BOOT.format(module=module), *arguments]


def preparation() -> bytes:
    """The first line for the child's stdin: this process's arguments and import path."""
    path = [entry or os.getcwd() for entry in sys.path if isinstance(entry, str)]  # noqa: PTH109 - as Python reads ""
    return json.dumps({"argv": [str(argument) for argument in sys.argv], "path": path}).encode() + b"\n"


def take_stdin() -> int:
    """Move stdin to a descriptor of our own, and give that; whoever reads stdin from then on reads its end."""
    own = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return own
