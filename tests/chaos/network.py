"""The network between the workers and the server: a proxy in a thread of the driver's, whose links can be cut."""

from __future__ import annotations

import asyncio
import random
import threading

from support.proxy import CUTS, Proxy

PATIENCE = 30.0  # seconds for the proxy's loop to do what it is asked


class Network:
    """Forwards to the server's port until ``close``."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._proxy = Proxy(("127.0.0.1", port))
        asyncio.run_coroutine_threadsafe(self._proxy.__aenter__(), self._loop).result(PATIENCE)

    @property
    def url(self) -> str:
        return self._proxy.url

    @property
    def cuts(self) -> int:
        """Links that were cut."""
        return self._proxy.cuts

    def cut(self, source: random.Random) -> None:
        """Cut one link in one of the ways there are; some of them wait for what comes next on it."""
        how, which = source.choice(CUTS), source.random()
        self._loop.call_soon_threadsafe(self._proxy.cut, how, which)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._proxy.__aexit__(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()
