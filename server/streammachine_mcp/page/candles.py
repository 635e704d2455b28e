"""``ui://streammachine/candles``: the page put together of its parts.

Where the build could not fetch the library (``lightweight-charts.js`` in the engine's charts room), the page says so
and shows the picture. Its policy allows its own two scripts, by their hashes, and nothing from outside.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastmcp.resources import Resource

CANDLES_URI = "ui://streammachine/candles"
LIBRARY = "lightweight-charts.js"
MIME_TYPE = "text/html;profile=mcp-app"  # MCP Apps, protocol 2026-01-26
# What the page may reach: nothing. A host that knows these builds its own policy of them; the page has one as well.
META: dict[str, Any] = {"ui": {"csp": {"connectDomains": [], "resourceDomains": []}, "prefersBorder": True}}


def candles_resource() -> Resource:
    """The page as a resource."""
    from fastmcp.resources import Resource, ResourceContent, ResourceResult

    def candles() -> ResourceResult:
        return ResourceResult([ResourceContent(candles_html(), mime_type=MIME_TYPE, meta=META)])

    return Resource.from_function(
        candles,
        uri=CANDLES_URI,
        name="candles",
        title="Interactive chart",
        description="The page that shows candles_chart in clients with MCP Apps.",
        mime_type=MIME_TYPE,
        meta=META,
    )


@functools.cache
def candles_html() -> str:
    """The whole page as one text."""
    folder = files(__package__)
    library = _text(files("streammachine.charts") / LIBRARY)
    script, style = _text(folder / "candles.js"), _text(folder / "candles.css")
    hashes = " ".join(f"'sha256-{_sha256(part)}'" for part in (library, script))
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    parts = {"POLICY": policy, "STYLE": style, "LIBRARY": library, "SCRIPT": script}
    html = _text(folder / "candles.html")
    for name, part in parts.items():
        html = html.replace(f"<!--{name}-->" if name != "POLICY" else "POLICY", part, 1)
    return html


def _text(place: Traversable) -> str:
    """A file's text, as it may stand within a script; empty where there is none."""
    if not place.is_file():
        return ""
    return place.read_text("utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
