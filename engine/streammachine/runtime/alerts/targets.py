"""Where an alert's webhook may post to: patterns of hosts (STREAMMACHINE_ALERT_WEBHOOKS).

A host that is no address is looked up when it is posted to, and the post goes to the address that was checked: a name
that points to this machine, today or at the second look, is none that the pattern ``public`` allows.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio

from streammachine.errors import SettingsError
from streammachine.settings import MOST_PATTERNS

if TYPE_CHECKING:
    from ipaddress import IPv4Network

    Address = IPv4Address | IPv6Address

ANY, PUBLIC = "any", "public"
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address is in the last 32 bits
_INTERNET = IPv6Network("2000::/3")  # all that the internet routes of IPv6; Python calls fec0::/10 global, too


@dataclass(frozen=True)
class _Pattern:
    """One pattern: a word, a network or a name; ``port`` 0 stands for every port."""

    word: str
    network: IPv4Network | IPv6Network | None
    port: int

    @classmethod
    def parse(cls, text: str) -> _Pattern:
        host, after = text.strip().lower(), ""
        if host.startswith("["):
            host, end, after = host[1:].partition("]")
            if not end:
                raise ValueError("it is no host")
        elif host.count(":") == 1:
            host, colon, number = host.partition(":")
            after = colon + number
        port = 0
        if after:
            number = after.removeprefix(":")
            if not (after.startswith(":") and number.isascii() and number.isdigit() and 0 < int(number) <= 65535):
                raise ValueError("its port is none")
            port = int(number)
        try:
            return cls("", ip_network(host, strict=False), port)
        except ValueError:
            allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-_.*")
            if not host or set(host) - allowed or set(host) <= set("*."):
                raise ValueError("it is no host") from None
            return cls(host.rstrip("."), None, port)


class WebhookTargets:
    """Hosts that may be posted to.

    Args:
        patterns: each ``any``, ``public`` (addresses that the internet routes), a name (``hooks.example.org``,
            ``*.example.org``), an address or a network (``10.0.0.0/8``); a name, an address or a network with a port
            behind a colon allows that one only.

    Raises:
        ValueError: one is no pattern.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self.texts = tuple(pattern.strip().lower() for pattern in patterns)
        if not self.texts or len(self.texts) > MOST_PATTERNS:
            raise ValueError(f"give 1 to {MOST_PATTERNS} patterns")
        self._patterns = [_Pattern.parse(text) for text in self.texts]

    def names(self, url: str) -> bool:
        """Whether a pattern stands for this very host, by its name or address."""
        host, port = _host_and_port(url)
        address = _address(host)
        return any(_stands_for(each, host, address) for each in self._of_port(port))

    def check(self, url: str) -> None:
        """Refuse what can be seen to be another target, without looking its name up.

        Raises:
            SettingsError: it is.
        """
        host, port = _host_and_port(url)
        address = ip_address("127.0.0.1") if host == "localhost" else _address(host)
        if self.is_open_to(url) or (address is not None and self._takes(address, port)):
            return
        if address is None and any(each.network is not None or each.word == PUBLIC for each in self._of_port(port)):
            return  # its addresses decide, when it is posted to
        raise SettingsError(self._refusal(host, port))

    def check_addresses(self, url: str, addresses: Iterable[str]) -> None:
        """Refuse a host for the addresses that it has, unless it is allowed by its name.

        Raises:
            SettingsError: one of them is none that is allowed.
        """
        host, port = _host_and_port(url)
        if not self.is_open_to(url) and not all(self._takes(ip_address(text), port) for text in addresses):
            raise SettingsError(self._refusal(host, port))

    def is_open_to(self, url: str) -> bool:
        """Whether the host is allowed whatever its addresses are."""
        return self._is_any() or self.names(url)

    def _of_port(self, port: int) -> list[_Pattern]:
        return [each for each in self._patterns if each.port in (0, port)]

    def _is_any(self) -> bool:
        return any(each.word == ANY for each in self._patterns)

    def _takes(self, address: Address, port: int) -> bool:
        return any(
            address in each.network if each.network is not None else each.word == PUBLIC and is_public(address)
            for each in self._of_port(port)
        )

    def _refusal(self, host: str, port: int) -> str:
        shown = f"[{host}]" if ":" in host else host
        return (
            f"webhook: {shown} port {port} is none that may be posted to here (allowed: {', '.join(self.texts)}). "
            f"Who runs the server can allow it: STREAMMACHINE_ALERT_WEBHOOKS={shown}:{port}"
        )


async def checked_addresses(url: str, targets: Sequence[WebhookTargets]) -> Sequence[str]:
    """The host's addresses, which all of them allow; none where they allow the host whatever it stands for.

    Raises:
        SettingsError: one of the host's addresses is not allowed. OSError or UnicodeError: it has none.
    """
    if all(each.is_open_to(url) for each in targets):
        return ()
    host, port = _host_and_port(url)
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
    for each in targets:
        each.check_addresses(url, addresses)
    return addresses


def is_public(address: Address) -> bool:
    """Whether it belongs to the internet: no address of this machine, its network or a group, by itself or within."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            address = inner
        elif address not in _INTERNET:
            return False
    return address.is_global and not address.is_multicast


def _stands_for(pattern: _Pattern, host: str, address: Address | None) -> bool:
    if pattern.network is not None:
        return address is not None and address in pattern.network
    return pattern.word not in (ANY, PUBLIC) and fnmatchcase(host, pattern.word)


def _host_and_port(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        return (parts.hostname or "").rstrip("."), parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return "", 0


def _address(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
