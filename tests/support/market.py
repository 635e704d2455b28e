"""Recorded market data, where it is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def shared_data(name: str) -> Path:
    """A file of recorded data: beside the project (``../shared/data``), or in STREAMMACHINE_SHARED_DATA. Else: skip."""
    project = Path(__file__).parents[1]
    folders = [project.parent / "shared" / "data", project / "shared" / "data"]
    given = os.environ.get("STREAMMACHINE_SHARED_DATA")
    for folder in [Path(given)] if given else folders:
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"the recorded data is not here: {name}")
