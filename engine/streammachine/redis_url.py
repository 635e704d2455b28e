"""Redis URLs: parse one into what a connection needs. What errors show of it is masked first (``masking.py``)."""

from __future__ import annotations

import ssl
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from streammachine.errors import SettingsError
from streammachine.masking import HIDDEN, mask_url

__all__ = ["Endpoint", "mask_url", "parse_url", "with_db"]

SCHEMES = ("redis", "rediss", "valkey", "valkeys", "unix")
_TLS = ("rediss", "valkeys")
_OPTIONS = ("db", "ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_YES_NO = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
_CERT_REQS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_CHOICES: dict[str, Collection[str]] = {"ssl_cert_reqs": _CERT_REQS, "ssl_check_hostname": _YES_NO}


@dataclass(frozen=True)
class Endpoint:
    """One Redis server as a connection sees it. ``repr`` holds no credentials."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    db: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    options: tuple[tuple[str, str], ...] = ()
    cluster: bool = False  # host and port are one node of a Redis Cluster
    sentinels: tuple[tuple[str, int], ...] = ()  # who knows where the primary of ``group`` is
    group: str = ""

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS context: certificate and host name are checked unless the URL says otherwise.

        Raises:
            SettingsError: a certificate or key file cannot be loaded.
        """
        if not self.tls:
            return None
        options = dict(self.options)
        try:
            context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
            if "ssl_certfile" in options:
                context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
        except OSError as error:  # ssl.SSLError among them
            files = ", ".join(f"{name}={value}" for name, value in self.options if name in _FILES)
            raise SettingsError(f"The TLS files of the Redis URL cannot be loaded ({files}): {error}") from error
        requirement = _CERT_REQS[options.get("ssl_cert_reqs", "required")]
        context.check_hostname = _YES_NO[options.get("ssl_check_hostname", "true")] and requirement is ssl.CERT_REQUIRED
        context.verify_mode = requirement
        return context


def parse_url(url: str) -> Endpoint:
    """Parse ``redis://``, ``rediss://``, ``valkey://``, ``valkeys://``, ``unix://``; with ``?cluster=true`` a Cluster's
    node; and ``redis+sentinel://host1:26379,host2/group`` (``rediss+sentinel`` with TLS).

    Raises:
        SettingsError: another scheme, a wrong port or database, an unknown option. The message shows no credentials.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _refused(url, "it cannot be parsed") from None
    scheme = parts.scheme.lower()
    sentinel = scheme.endswith("+sentinel")
    scheme = scheme.removesuffix("+sentinel")
    if scheme not in SCHEMES:
        raise _refused(url, f"its scheme must be one of {', '.join(s + '://' for s in SCHEMES)}")
    if scheme != "unix" and not url.partition(":")[2].startswith("//"):
        raise _refused(url, f"two slashes must follow its scheme: {scheme}://")
    # First of all: a / ? or # in a password ends the host part early, and what follows would be shown below.
    if parts.fragment or ("@" in parts.path + parts.query and parts.netloc):
        raise _refused(url, "characters like / ? # @ : % in a user name or password must be percent-encoded")
    options = _options(url, parts, scheme)
    cluster = options.pop("cluster", "false").lower() in ("true", "1", "yes")
    if sentinel:
        return _sentinel(url, parts, scheme, options)
    common: dict[str, Any] = {
        "db": _database(url, parts, options, scheme),
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "tls": scheme in _TLS,
        "options": tuple(sorted((k, v) for k, v in options.items() if k != "db")),
        "cluster": cluster,
    }
    if cluster and (scheme == "unix" or common["db"]):
        raise _refused(url, "a Cluster is reached over TCP and has database 0 alone")
    if scheme == "unix":
        if not parts.path:
            raise _refused(url, "it names no socket; write unix:///path/to/valkey.sock")
        return Endpoint(path=unquote(parts.path), **common)
    return Endpoint(host=unquote(parts.hostname or "localhost"), port=_port(url, parts), **common)


def with_db(url: str, db: int) -> str:
    """The same server's URL with another database."""
    parts = urlsplit(url)
    options = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name != "db"]
    path = f"/{db}"
    if parts.scheme.lower() == "unix":
        path = parts.path
        options.append(("db", str(db)))
    return f"{parts.scheme}://{parts.netloc}{path}{'?' * bool(options)}{urlencode(options)}"


def _options(url: str, parts: SplitResult, scheme: str) -> dict[str, str]:
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, value in options.items():
        if name == "cluster":
            continue
        if name not in _OPTIONS:
            raise _refused(url, f"option {_quoted(url, name)} is not known; known are {', '.join(_OPTIONS)}")
        if name != "db" and scheme not in _TLS:
            raise _refused(url, f"option {_quoted(url, name)} needs TLS; write rediss://")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise _refused(url, f"{name} must be one of {', '.join(_CHOICES[name])}")
    return options


def _sentinel(url: str, parts: SplitResult, scheme: str, options: dict[str, str]) -> Endpoint:
    """``redis+sentinel://[user:password@]host1[:26379],host2/group[/db]``: the credentials are the primary's."""
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, colon, password = credentials.partition(":")
    places: list[tuple[str, int]] = []
    for place in hosts.split(","):
        host, _, port = place.partition(":")
        if not host or (port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
            raise _refused(url, "write redis+sentinel://host1:26379,host2:26379/group")
        places.append((unquote(host), int(port or 26379)))
    group, _, number = parts.path.strip("/").partition("/")
    if not group:
        raise _refused(url, "it names no group; write redis+sentinel://host1:26379,host2:26379/group")
    number = options.get("db") or number
    if number and not (number.isascii() and number.isdigit() and len(number) < 10):
        raise _refused(url, f"database {_quoted(url, number)} is not a whole number from 0 up")
    return Endpoint(
        db=int(number or 0),
        username=unquote(user) or None,
        password=unquote(password) if colon else None,
        tls=scheme in _TLS,
        options=tuple(sorted((k, v) for k, v in options.items() if k != "db")),
        sentinels=tuple(places),
        group=unquote(group),
    )


def _port(url: str, parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise _refused(url, "its port must be a whole number from 1 to 65535")
    return port or 6379


def _database(url: str, parts: SplitResult, options: dict[str, str], scheme: str) -> int:
    text = options.get("db") or ("" if scheme == "unix" else parts.path.strip("/"))
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise _refused(url, f"database {_quoted(url, text)} is not a whole number from 0 up")
    return int(text)


def _refused(url: str, why: str) -> SettingsError:
    return SettingsError(f"Redis URL {mask_url(url)!r} is not accepted: {why}.")


def _quoted(url: str, part: str) -> str:
    """A part of the URL for an error, if the masked URL shows it too: else it may be, or hold, a password."""
    return repr(part) if part in mask_url(url) else repr(HIDDEN)
