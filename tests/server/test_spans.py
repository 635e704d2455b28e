"""FastMCP makes spans where a tracer provider collects them, and where its setting says so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SHOWN = """
import fastmcp, streammachine_mcp.entry as entry
entry.make_no_idle_spans()
print(fastmcp.settings.telemetry_mode)
"""
PROVIDER = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
"""


@pytest.mark.parametrize(
    ("code", "wanted", "mode"),
    [
        (SHOWN, "", "propagation_only"),
        (PROVIDER + SHOWN, "", "native"),
        (SHOWN, "native", "native"),
    ],
)
def test_spans_are_made_where_they_are_wanted(code: str, wanted: str, mode: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    if wanted:
        env["FASTMCP_TELEMETRY_MODE"] = wanted
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == mode
