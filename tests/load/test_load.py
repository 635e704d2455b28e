"""The short form of the load; the long one: ``python -m tests.load``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from load.driver import TRANSPORTS, run


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_clients_that_call_at_once_are_all_answered(transport: str, tmp_path: Path) -> None:
    report = run(transport, 3, 100, tmp_path, beside=transport == "http")
    assert report.calls == 300
    assert report.problems() == []
    assert len(report.empty) == (210 if transport == "http" else 0)  # what came once they were warm
