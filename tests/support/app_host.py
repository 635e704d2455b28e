"""A host of MCP Apps in Chromium: a page with a sandboxed frame, which speaks the protocol and calls tools."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.mcp import RawClient

CHROMIUM = Path("/usr/bin/chromium")
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_HOST = """<!doctype html><meta charset="utf-8">
<style>:root{color-scheme:THEME}body{margin:0;background:BACKGROUND}iframe{border:0;width:100%}</style>
<iframe id="app" sandbox="allow-scripts allow-downloads"></iframe>
<script>
const frame = document.getElementById("app");
window.seen = [];
const post = (message) => frame.contentWindow.postMessage({jsonrpc: "2.0", ...message}, "*");
window.tell = (method, params) => post({method, params});
window.ask = (method, params) => new Promise((resolve) => {
  const id = "host-" + Math.random();
  const listen = (event) => {
    if (event.data && event.data.id === id) { window.removeEventListener("message", listen); resolve(event.data); }
  };
  window.addEventListener("message", listen);
  post({id, method, params});
});
window.addEventListener("message", async (event) => {
  const message = event.data;
  if (event.source !== frame.contentWindow || !message.method) return;
  window.seen.push(message);
  if (message.method === "ui/notifications/size-changed") frame.style.height = message.params.height + "px";
  if (message.id === undefined) return;
  if (message.method === "ui/initialize") post({id: message.id, result: {protocolVersion: "2026-01-26",
    hostInfo: {name: "test", version: "1"}, hostCapabilities: CAPABILITIES, hostContext: {theme: "THEME"}}});
  else if (message.method === "tools/call") {
    const answer = await window.callTool(message.params);
    if (answer.error) post({id: message.id, error: answer.error}); else post({id: message.id, result: answer});
  }
  else if (message.method === "ui/download-file") post({id: message.id, result: {}});
  else post({id: message.id, error: {code: -32601, message: "no such method"}});
});
window.load = (html) => { frame.srcdoc = html; };
</script>"""


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser; skips the test where there is none."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


class AppHost:
    """One page of a browser that shows an app.

    Args:
        call: what answers the app's tools/call: name and arguments to a result.
        capabilities: of the host.
    """

    def __init__(
        self,
        browser: Any,
        html: str,
        call: Callable[[str, dict[str, Any]], dict[str, Any]],
        *,
        theme: str = "light",
        width: int = 800,
        height: int = 620,
        capabilities: dict[str, Any] | None = None,
    ) -> None:
        self.calls: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._call = call
        self.page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
        self.page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.expose_function("callTool", self._called)
        shown = {"tools": {}, **(capabilities or {})}
        host = _HOST.replace("CAPABILITIES", json.dumps(shown)).replace("THEME", theme)
        self.page.set_content(host.replace("BACKGROUND", "#ffffff" if theme == "light" else "#131722"))
        self.page.evaluate("html => window.load(html)", html)
        self.frame = self.page.frame_locator("#app")
        self.until("window.seen.some(each => each.method === 'ui/notifications/initialized')")

    def close(self) -> None:
        self.page.close()

    def until(self, condition: str, timeout: float = 30.0) -> None:
        """Wait until an expression of the host's page is true."""
        self.page.wait_for_function(condition, timeout=timeout * 1000)

    def give(self, arguments: dict[str, Any], result: dict[str, Any]) -> None:
        """The tool's arguments and its result, as a host passes them on."""
        self.tell("ui/notifications/tool-input", {"arguments": arguments})
        self.tell("ui/notifications/tool-result", result)

    def tell(self, method: str, params: dict[str, Any]) -> None:
        self.page.evaluate("([method, params]) => window.tell(method, params)", [method, params])

    def ask(self, method: str) -> dict[str, Any]:
        """A request to the app; gives its answer."""
        answer: dict[str, Any] = self.page.evaluate("method => window.ask(method, {})", method)
        return answer

    def inside(self, expression: str) -> Any:
        """What an expression is in the app's page."""
        return self.frame.locator("body").evaluate(f"() => {expression}")

    def sent(self, method: str) -> list[dict[str, Any]]:
        """The parameters of what the app sent."""
        seen: list[dict[str, Any]] = self.page.evaluate("window.seen")
        return [each.get("params", {}) for each in seen if each["method"] == method]

    def _called(self, params: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(params)
        return self._call(params["name"], params.get("arguments", {}))


def of_server(client: RawClient) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """Calls go to a server, their results back as they are."""

    def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return client.request("tools/call", name=name, arguments=arguments)

    return call
