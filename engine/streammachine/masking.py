"""Passwords, kept out of what people read: of a URL or a list of servers, and of a text that holds some.

A text is masked before anything parses it, since what is written wrongly is what gets printed
(``redis:/me:secret@h``, ``redis://h:secret``). So what is not known to be harmless is not shown: what stands before the
last ``@`` but the user's name, a port that is no number, the value of an option that is not on the list below.
"""

from __future__ import annotations

import re

HIDDEN = "***"
# Options whose values people need to see, and which hold no secret.
_SHOWN_OPTIONS = {
    "db", "cluster", "ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname",
    "timeout", "sslmode", "sslrootcert", "application_name", "connect_timeout", "target_session_attrs", "host", "port",
    "symbol", "interval", "limit", "starttime", "endtime",
}  # fmt: skip
_NUMBERED = {"redis", "rediss", "valkey", "valkeys"}  # schemes whose path is a database's number and nothing else
_SHORT = 6  # characters of a path that is none and shown all the same: a slip of the pen, too short for a password
_AUTHORITY_END = re.compile("[/?#]")
_QUERY = re.compile("[?#]")
_PLAIN_USER = re.compile(r"[^/@?#]*")
_PLAIN = re.compile(r"[\w./:+-]*")
_FOREIGN = re.compile(r"[=;]")  # in no host's name: "h:6379,password=secret", "host=h password=secret"
_IPV6 = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_TABLE = re.compile(r"[A-Za-z_]\w*")
_SECRET_NAME = re.compile("pass|pw|auth|token|secret|key|user", re.IGNORECASE)
# In the midst of a text: what is assigned to a password, and what may be a URL, or user:password@host. Each takes time
# that grows with the text and no faster, since texts of strangers are logged. A confirm_token is no secret.
_PASSWORD = re.compile(
    r"((?<![a-z0-9])(?:password|passwd|pwd|pass|secret|(?<!confirm_)token|api[_-]?key|secret[_-]access[_-]key)"
    r"(?:\s*=|[\"']\s*:)\s*)('[^']*'|\"[^\"]*\"|[^\s,;&'\"]+)",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer\s+)[\w.~+/=-]{12,}", re.IGNORECASE)
_PLACE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}:/[^\s'\"<>]+|(?<![^\s'\"<>])[^\s'\"<>:]*:[^\s'\"<>]*@[^\s'\"<>]+")


def mask_url(text: str) -> str:
    """A URL, or servers with commas, without what is, or may be, a password. The text need not be well formed."""
    scheme, separator, rest = text.partition("://") if "://" in text else ("", "", text)
    head = scheme + separator
    is_socket = scheme == "unix" and rest.startswith("/")
    # A / that is not encoded may stand in a password, so what precedes the last @ belongs to it.
    credentials, at, place = ("", "", rest) if is_socket else rest.rpartition("@")
    if not is_socket and (_QUERY.search(credentials) or "%40" in place):
        return f"{head}{HIDDEN}"  # where the password ends cannot be told
    if at:
        credentials = _user(credentials, scheme)
    hosts = _AUTHORITY_END.split(place, maxsplit=1)[0]
    tail = place[len(hosts) :]
    path, question, query = tail.partition("?")
    path, number_sign, fragment = path.partition("#")
    if question and not number_sign:
        query, number_sign, fragment = query.partition("#")
    elif question:
        fragment, question, query = f"{fragment}?{query}", "", ""
    if number_sign and not (scheme.startswith("postgres") and _TABLE.fullmatch(fragment)):
        fragment = HIDDEN
    numbered = scheme.lower() in _NUMBERED and not path.removeprefix("/").isdigit()
    if not is_socket and (any(sign in path for sign in "=;") or (numbered and len(path) > 1 + _SHORT)):
        path = f"/{HIDDEN}"
    options = "&".join(_option(option) for option in query.split("&"))
    shown = ",".join(_host(host) for host in hosts.split(","))
    return f"{head}{credentials}{at}{shown}{path}{question}{options}{number_sign}{fragment}"


def mask_text(text: str) -> str:
    """A text (an error of a library, a log line) with the passwords in it masked: in URLs, and in ``password=...``."""
    return _BEARER.sub(rf"\1{HIDDEN}", _PASSWORD.sub(rf"\1{HIDDEN}", _PLACE.sub(_masked, text)))


def _masked(found: re.Match[str]) -> str:
    place = found[0].rstrip(".,;:!?)]")
    return mask_url(place) + found[0][len(place) :]


def _user(credentials: str, scheme: str) -> str:
    """The user's name and a mask. A token stands as a user without a password, but in PostgreSQL's URLs."""
    user, _, password = credentials.partition(":")
    if not _PLAIN_USER.fullmatch(user) or "," in credentials:
        return HIDDEN
    if password:
        return f"{user}:{HIDDEN}"
    return user if scheme.startswith("postgres") else HIDDEN


def _host(host: str) -> str:
    """One host and its port; what stands in the port's place and is none may be a password."""
    if host.startswith("[") or _IPV6.fullmatch(host):
        name, bracket, port = host.partition("]")
        return host if not port or _is_port(port.removeprefix(":")) else f"{name}{bracket}:{HIDDEN}"
    if _FOREIGN.search(host):
        return HIDDEN
    name, colon, port = host.partition(":")
    return host if not colon or _is_port(port) else f"{name}:{HIDDEN}"


def _is_port(text: str) -> bool:
    return not text or (text.isascii() and text.isdigit() and len(text) <= 5)


def _option(option: str) -> str:
    name, equals, value = option.partition("=")
    plain = _PLAIN.fullmatch(value) if name != "db" else value.isdigit()
    shown = name.lower() in _SHOWN_OPTIONS or (len(value) < 3 and not _SECRET_NAME.search(name))
    if not option or (equals and shown and plain and _TABLE.fullmatch(name)):
        return option
    return f"{name if equals and _TABLE.fullmatch(name) else ''}{equals}{HIDDEN}"
