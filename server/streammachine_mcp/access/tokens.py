"""Tokens in a file: a line each, ``token,name,scope scope``; read again when it changes.

The file must be its owner's alone (mode 0600). Where it cannot be used nobody is let in until it can. Tokens are
compared in constant time, each with all of them.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from fastmcp.server.auth import AccessToken, TokenVerifier

from streammachine.errors import SettingsError
from streammachine_mcp.access.scopes import KNOWN

log = logging.getLogger(__name__)

LEAST_CHARS = 20  # of a token
MOST_BYTES = 1 << 20  # of the file
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class NamedToken:
    """A token of the file: only its hash is kept."""

    digest: bytes
    name: str
    scopes: tuple[str, ...]


class FileTokens(TokenVerifier):
    """Lets in who has one of the tokens of a file.

    Raises:
        SettingsError: the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._version: tuple[int, ...] | None = None
        self._tokens: tuple[NamedToken, ...] = ()
        self._tokens = self._load()

    async def verify_token(self, token: str) -> AccessToken | None:
        """Whose token it is; None where it is nobody's."""
        self._refresh()
        digest = _digest(token)
        found = None
        for known in self._tokens:
            if hmac.compare_digest(known.digest, digest):
                found = known
        if found is None:
            return None
        return AccessToken(token=token, client_id=found.name, scopes=list(found.scopes), subject=found.name)

    def _refresh(self) -> None:
        try:
            if _version(self._path) != self._version:
                self._tokens = self._load()
                log.info("The tokens were read again: %d", len(self._tokens))
        except (OSError, SettingsError) as error:
            if self._tokens:
                log.error("Nobody is let in until the file of tokens is right: %s", error)
            self._tokens, self._version = (), None

    def _load(self) -> tuple[NamedToken, ...]:
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                _check_mode(self._path, status)
                data = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise SettingsError(f"STREAMMACHINE_HTTP_TOKENS={self._path} cannot be read: {error.strerror}.") from None
        if len(data) > MOST_BYTES:
            raise SettingsError(f"STREAMMACHINE_HTTP_TOKENS={self._path} has more than {MOST_BYTES >> 20} MB.")
        tokens = parse(data.decode("utf-8", "replace"), str(self._path))
        self._version = _facts(status)
        return tokens


def parse(text: str, where: str) -> tuple[NamedToken, ...]:
    """The tokens of a file's text. Empty lines, and those that begin with #, are left out.

    Args:
        where: the file's name, for errors; they never show a token.

    Raises:
        SettingsError: a line is not ``token,name,scope scope``, names an unknown scope, or there is no token.
    """
    found: dict[bytes, NamedToken] = {}
    names: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        place = f"{where}, line {number}"
        parts = [part.strip() for part in line.split(",")]
        if len(parts) != 3:
            raise SettingsError(f"{place}: a line is token,name,scope scope.")
        token, name, scopes = parts[0], parts[1], tuple(parts[2].split())
        if len(token) < LEAST_CHARS or any(char.isspace() for char in token):
            raise SettingsError(
                f"{place}: a token has at least {LEAST_CHARS} characters and no space: use a random one."
            )
        if not _NAME.fullmatch(name) or name in names:
            raise SettingsError(f"{place}: a name is letters, digits or . _ @ -, and stands once.")
        if unknown := [scope for scope in scopes if scope not in KNOWN]:
            raise SettingsError(
                f"{place}: unknown scope {unknown[0]!r}. There are read, write, delete, a toolset (market) and both "
                "(market:read)."
            )
        if not scopes:
            raise SettingsError(f"{place}: name at least one scope, e.g. read.")
        digest = _digest(token)
        if digest in found:
            raise SettingsError(f"{place}: the token stands there twice.")
        names.add(name)
        found[digest] = NamedToken(digest, name, scopes)
    if not found:
        raise SettingsError(f"{where} has no token: a line is token,name,scope scope.")
    return tuple(found.values())


def _check_mode(path: Path, status: os.stat_result) -> None:
    if sys.platform == "win32":
        return
    if not stat.S_ISREG(status.st_mode):
        raise SettingsError(f"STREAMMACHINE_HTTP_TOKENS={path} is no file.")
    if status.st_mode & 0o077:
        raise SettingsError(
            f"STREAMMACHINE_HTTP_TOKENS={path} has mode {stat.S_IMODE(status.st_mode):04o}, so others may read it: "
            f"chmod 600 {path}"
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise SettingsError(f"STREAMMACHINE_HTTP_TOKENS={path} belongs to another user.")


def _version(path: Path) -> tuple[int, ...]:
    return _facts(path.stat())


def _facts(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
