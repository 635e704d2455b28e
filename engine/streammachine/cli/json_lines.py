"""What ``--json`` prints: one JSON object a line on stdout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def print_json(line: Mapping[str, Any]) -> None:
    """Print one object; flushed, so that what reads the pipe has it at once."""
    print(json.dumps(line, ensure_ascii=False, default=str), flush=True)  # noqa: T201
