"""A raw MCP client over stdio: JSON-RPC lines and nothing else, as Claude Desktop speaks it.

It declares what Claude Desktop declares (protocol 2025-11-25, the UI extension, no elicitation) unless told
otherwise, and keeps every line of stdout that is no JSON-RPC message, to fail on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jsonschema

LEGACY = "2025-11-25"
DEADLINE = 60.0
MODERN_META = {  # what each request carries in protocol 2026-07-28
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
CLAUDE_DESKTOP: dict[str, Any] = {
    "extensions": {"io.modelcontextprotocol/ui": {"mimeTypes": ["text/html;profile=mcp-app"]}}
}


class ToolFailure(Exception):  # noqa: N818 - an answer, not a fault
    """The tool answered with isError; the text is what the model reads."""


class RawClient:
    """One server process and the wire to it. Leaving its block closes stdin and waits for the end."""

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
        capabilities: Mapping[str, Any] = CLAUDE_DESKTOP,
        initialize: bool = True,
        log: Path | None = None,
        stderr: int = subprocess.DEVNULL,
    ) -> None:
        self.capabilities = dict(capabilities)
        self.lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.garbage: list[bytes] = []
        self.requests: list[dict[str, Any]] = []  # what the server asked the client
        self._answers: dict[int | str | None, dict[str, Any]] = {}
        self._next = 0
        self._schemas: dict[str, jsonschema.Draft202012Validator] | None = None
        self._log = log.open("wb") if log is not None else None
        self.process = subprocess.Popen(
            [*(command or (sys.executable, "-m", "streammachine.mcp_server")), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log or stderr,
            env=clean_environment(env or {}),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.server_info: dict[str, Any] = {}
        if initialize:
            self.initialize()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the protocol -------------------------------------------------------------------------

    def initialize(self) -> dict[str, Any]:
        """The legacy handshake; gives the server's answer."""
        result = self.request(
            "initialize",
            protocolVersion=LEGACY,
            capabilities=self.capabilities,
            clientInfo={"name": "claude-ai", "version": "0.1.0"},
        )
        self.server_info = result
        self.notify("notifications/initialized")
        return result

    def request(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a request and give its result; raises AssertionError with the error's text."""
        return self.wait(self.send(method, **params))

    def send(self, method: str, **params: Any) -> int:
        """Send a request without waiting; gives its id."""
        self._next += 1
        self.write({"jsonrpc": "2.0", "id": self._next, "method": method, "params": params})
        return self._next

    def notify(self, method: str, **params: Any) -> None:
        """Send a notification."""
        self.write({"jsonrpc": "2.0", "method": method, "params": params})

    def write(self, message: dict[str, Any]) -> None:
        """Write one JSON line."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self, identifier: int | str | None, timeout: float = DEADLINE) -> dict[str, Any]:
        """The whole response to a request, result or error. Server-side requests that come meanwhile are kept."""
        while identifier not in self._answers:
            message = self.lines.get(timeout=timeout)
            if message is None:
                raise AssertionError(f"the server closed its stdout before answering {identifier}")
            if "method" in message:
                if "id" in message:
                    self.requests.append(message)
                continue
            self._answers[message["id"]] = message
        return self._answers.pop(identifier)

    def wait(self, identifier: int | str, timeout: float = DEADLINE) -> dict[str, Any]:
        """The result of a request; raises AssertionError with the error's text."""
        message = self.answer(identifier, timeout)
        assert "error" not in message, message["error"]
        result: dict[str, Any] = message["result"]
        return result

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool; its structured result, which the text must equal and the output schema allow.

        Raises ToolFailure with the error's text.
        """
        shown = checked(self.request("tools/call", name=tool, arguments=arguments))
        if self._schemas is None:
            self._schemas = {
                name: jsonschema.Draft202012Validator(listed["outputSchema"]) for name, listed in self.tools().items()
            }
        self._schemas[tool].validate(shown)
        return shown

    def tools(self) -> dict[str, dict[str, Any]]:
        """All tools by name."""
        return {tool["name"]: tool for tool in self.request("tools/list")["tools"]}

    # -- the process --------------------------------------------------------------------------

    def close(self, timeout: float = DEADLINE) -> int:
        """Close stdin and wait for the end; gives the exit status. Nothing but protocol may have come."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        status = self.ended(timeout)
        assert not self.garbage, f"not protocol: {self.garbage[:3]}"
        return status

    def ended(self, timeout: float = DEADLINE) -> int:
        """Wait for the process to end by itself; gives its exit status."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            raise AssertionError(f"the server did not end within {timeout} s") from None
        finally:
            self._reader.join(timeout)
            for pipe in (self.process.stdin, self.process.stdout, self._log):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        return status

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.ended()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                message = json.loads(line)
                assert message["jsonrpc"] == "2.0"
            except (ValueError, KeyError, TypeError, AssertionError):
                self.garbage.append(line)
            else:
                self.lines.put(message)
        self.lines.put(None)


def checked(result: dict[str, Any]) -> dict[str, Any]:
    """The structured content of a tool's result, after checking that the text carries the same data."""
    texts = [part["text"] for part in result["content"] if part["type"] == "text"]
    if result.get("isError"):
        raise ToolFailure(" ".join(texts))
    structured: dict[str, Any] = result["structuredContent"]
    assert json.loads(texts[0], parse_constant=_no_json) == structured
    return structured


def _no_json(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This environment without any Redis or StreamMachine setting, and ``extra``."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("REDIS_", "STREAMMACHINE_"))}
    return {**env, "PYTHONWARNINGS": "default", **extra}
