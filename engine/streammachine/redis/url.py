"""Redis URLs: parse one into what a connection needs, and mask one for people to read."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from streammachine.errors import SettingsError

SCHEMES = ("redis", "rediss", "valkey", "valkeys", "unix")
_TLS = ("rediss", "valkeys")
_OPTIONS = ("db", "ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
_CERT_REQS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


@dataclass(frozen=True)
class Endpoint:
    """One Redis server as a connection sees it. ``repr`` holds no password."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    options: tuple[tuple[str, str], ...] = ()

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS context: certificate and host name are checked unless the URL says otherwise."""
        if not self.tls:
            return None
        options = dict(self.options)
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
        requirement = _CERT_REQS[options.get("ssl_cert_reqs", "required")]
        check = options.get("ssl_check_hostname", "true").lower() not in ("false", "0", "no")
        context.check_hostname = check and requirement is ssl.CERT_REQUIRED
        context.verify_mode = requirement
        return context


def parse_url(url: str) -> Endpoint:
    """Parse ``redis://``, ``rediss://``, ``valkey://``, ``valkeys://`` or ``unix://``.

    Raises:
        SettingsError: another scheme, a wrong port or database, an unknown option, a Cluster or
            Sentinel URL (not supported yet).
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _refused(url, f"it cannot be parsed ({error})") from None
    scheme = parts.scheme.lower()
    if "sentinel" in scheme:
        raise _refused(url, "Sentinel is not supported yet; give the primary's own redis:// URL")
    if scheme not in SCHEMES:
        raise _refused(url, f"its scheme must be one of {', '.join(s + '://' for s in SCHEMES)}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if options.pop("cluster", "false").lower() in ("true", "1", "yes"):
        raise _refused(url, "Redis Cluster is not supported yet; give a single server's URL")
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise _refused(url, f"option {unknown[0]!r} is not known; known are {', '.join(_OPTIONS)}")
    if options.get("ssl_cert_reqs", "none") not in _CERT_REQS:
        raise _refused(url, f"ssl_cert_reqs must be one of {', '.join(_CERT_REQS)}")
    common: dict[str, Any] = {
        "db": _database(url, parts, options, scheme),
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "tls": scheme in _TLS,
        "options": tuple(sorted((k, v) for k, v in options.items() if k != "db")),
    }
    if scheme == "unix":
        if not parts.path:
            raise _refused(url, "it names no socket; write unix:///path/to/valkey.sock")
        return Endpoint(path=unquote(parts.path), **common)
    if port == 0:
        raise _refused(url, "port 0 is not a server's port")
    return Endpoint(host=unquote(parts.hostname or "localhost"), port=port or 6379, **common)


def mask_url(url: str) -> str:
    """The URL with its password (and anything that might be one) replaced by ``***``."""
    head, separator, rest = url.partition("://")
    if not separator:
        head, separator, rest = "", "", url
    authority, slash, tail = rest.partition("/")
    if "@" in rest and "@" not in authority:
        # A password with a bare slash: hide everything up to the last @.
        authority, slash, tail = rest[: rest.rindex("@") + 1], "", rest[rest.rindex("@") + 1 :]
    credentials, at, host = authority.rpartition("@")
    if at:
        user, colon, _ = credentials.partition(":")
        credentials = f"{user}:***" if colon else "***"
    path, question, query = tail.partition("?")
    masked = "&".join(_mask_option(option) for option in query.split("&")) if question else ""
    return f"{head}{separator}{credentials}{at}{host}{slash}{path}{question}{masked}"


def _mask_option(option: str) -> str:
    name, equals, _ = option.partition("=")
    return f"{name}{equals}***" if equals and "pass" in name.lower() else option


def _database(url: str, parts: SplitResult, options: dict[str, str], scheme: str) -> int:
    text = options.get("db") or ("" if scheme == "unix" else parts.path.strip("/"))
    if not text:
        return 0
    if not text.isascii() or not text.isdigit():
        raise _refused(url, f"database {text!r} is not a whole number from 0 up")
    return int(text)


def _refused(url: str, why: str) -> SettingsError:
    return SettingsError(f"Redis URL {mask_url(url)!r} is not accepted: {why}.")
