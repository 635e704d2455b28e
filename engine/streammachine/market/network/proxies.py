"""Proxies, as the environment names them: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, WSS_PROXY, and NO_PROXY for exceptions.

REST requests are httpx2's, which reads them itself. websockets reads all but ALL_PROXY (17.4), so that the proxy of a
WebSocket is chosen here. Nothing on this machine is asked through a proxy.
"""

from __future__ import annotations

import urllib.request
from urllib.parse import urlsplit

from streammachine.errors import ExchangeError
from streammachine.market.loopback import is_loopback


def websocket_proxy(url: str) -> str | None:
    """The proxy for a WebSocket's URL; None: it is asked directly."""
    address = urlsplit(url)
    is_secure = address.scheme == "wss"
    port = address.port or (443 if is_secure else 80)
    if is_loopback(url) or urllib.request.proxy_bypass(f"{address.hostname}:{port}"):
        return None
    proxies = urllib.request.getproxies()
    names = ("wss", "socks", "https", "all") if is_secure else ("ws", "socks", "https", "http", "all")
    found = next((proxies[name] for name in names if proxies.get(name)), None)
    # macOS names a SOCKS proxy so in its settings.
    return found.replace("http://", "socks5h://", 1) if found is not None and found == proxies.get("socks") else found


def http_proxy(url: str) -> str | None:
    """The proxy for a request to a URL; None: it is asked directly."""
    address = urlsplit(url)
    port = address.port or (443 if address.scheme == "https" else 80)
    if is_loopback(url) or urllib.request.proxy_bypass(f"{address.hostname}:{port}"):
        return None
    proxies = urllib.request.getproxies()
    return next((proxies[name] for name in (address.scheme, "all") if proxies.get(name)), None)


def unusable(error: Exception) -> ExchangeError:
    """Why no connection can be made through the proxy that the environment names, and what to do."""
    named = {name: url for name, url in urllib.request.getproxies().items() if name != "no"}
    shown = ", ".join(f"{name.upper()}_PROXY={without_login(url)}" for name, url in sorted(named.items()))
    if isinstance(error, ImportError):
        return ExchangeError(
            f"{shown} names a SOCKS proxy, and what speaks with one is not installed: "
            'pip install "streammachine-mcp[socks]"'
        )
    return ExchangeError(
        f"{shown} names a proxy that cannot be used: give http://host:port, https://host:port or socks5h://host:port"
    )


def without_login(url: str) -> str:
    """The URL with *** in place of user and password."""
    scheme, mark, rest = url.rpartition("://")
    host, slash, path = rest.partition("/")
    login, at, host = host.rpartition("@")
    return f"{scheme}{mark}{'***' if login else ''}{at}{host}{slash}{path}"
