"""A receiver of webhooks of our own: it keeps what it took, and fails, stalls and refuses as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass
class Received:
    """One request: when it came and was answered (monotonic seconds), and with what."""

    path: str
    key: str
    headers: dict[str, str]
    body: bytes
    status: int
    began: float
    ended: float = 0.0

    @property
    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.body)["rows"]
        return found


@dataclass
class Receiver:
    """Serves on 127.0.0.1. ``plan`` holds what to do with the next requests, one each; afterwards all are taken.

    A step is a status, a status with headers, "reset" (the connection ends without an answer), or "stall" (no answer
    until the receiver closes); "late" takes the request and then ends the connection.
    """

    plan: deque[int | str | tuple[int, dict[str, str]]] = field(default_factory=deque)
    requests: list[Received] = field(default_factory=list)
    refuses: Any = None  # a function of a request's body: a status, or None

    def __enter__(self) -> Self:
        self._end = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver._take(self)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def taken(self) -> list[dict[str, Any]]:
        """The rows as a receiver keeps them that leaves out what has a key it knows."""
        seen: set[str] = set()
        rows: list[dict[str, Any]] = []
        for request in list(self.requests):
            if request.status < 300 and request.key not in seen:
                seen.add(request.key)
                rows += request.rows
        return rows

    def _take(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        step = self.plan.popleft() if self.plan else 200
        if isinstance(step, int) and step == 200 and self.refuses is not None:
            step = self.refuses(body) or 200
        status, headers = step if isinstance(step, tuple) else (step, {})
        kept = 200 if status == "late" else status if isinstance(status, int) else 0
        headers_in = {name.lower(): value for name, value in handler.headers.items()}
        key = headers_in.get("idempotency-key", "")
        found = Received(handler.path, key, headers_in, body, kept or 999, time.monotonic())
        self.requests.append(found)
        if status == "stall":
            self._end.wait(60)
        if not isinstance(status, int):
            handler.close_connection = True
            handler.connection.close()
            return
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        found.ended = time.monotonic()
        handler.end_headers()
