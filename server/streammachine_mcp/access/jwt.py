"""JSON Web Tokens of an identity provider: checked by its keys, for this issuer and audience only.

The keys are a JWKS document (RFC 7517) at a URL or in a file. Asymmetric algorithms only; a token must say when it
expires. Its scopes are the claim ``scope`` or ``scp``; those that are none of ours are left out.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastmcp.server.auth import AccessToken, TokenVerifier
from fastmcp.server.auth.providers.jwt import JWTVerifier

from streammachine.errors import SettingsError
from streammachine_mcp.access.scopes import KNOWN

log = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
SKEW = 60  # seconds that the provider's clock may be ahead of ours
MOST_CHARS = 16_384  # of a token


class JwtTokens(TokenVerifier):
    """Lets in who has a token of the issuer for the audience.

    Args:
        jwks: the URL (https, or http on this machine) or the path of the keys.

    Raises:
        SettingsError: the keys' place cannot be used.
    """

    def __init__(self, jwks: str, issuer: str, audience: str) -> None:
        super().__init__()
        path = _file(jwks)
        self._by_algorithm = {
            algorithm: _Verifier(path, jwks_uri=jwks, issuer=issuer, audience=audience, algorithm=algorithm)
            for algorithm in ALGORITHMS
        }

    async def verify_token(self, token: str) -> AccessToken | None:
        """Whose token it is; None where it is not good."""
        verifier = self._by_algorithm.get(_algorithm(token))
        found = await verifier.verify_token(token) if verifier is not None else None
        if found is None:
            return None
        begins = found.claims.get("nbf")
        if found.expires_at is None or (isinstance(begins, int | float) and begins > time.time() + SKEW):
            log.info("A token of %s was refused: it %s", found.client_id[:64], _fault(found))
            return None
        name = "".join(char if char.isprintable() and char != "," else "?" for char in found.client_id[:64])
        scopes = [scope for scope in found.scopes if scope in KNOWN]
        return found.model_copy(update={"client_id": name, "scopes": scopes})


class _Verifier(JWTVerifier):
    """FastMCP's, for one algorithm; its keys may be in a file, which is read again when it changes."""

    def __init__(self, path: Path | None, **options: Any) -> None:
        super().__init__(**options)
        self._path = path
        self._seen: tuple[int, int] | None = None

    async def _get_jwks_key(self, kid: str | None) -> str:
        if self._path is not None and (version := _version(self._path)) != self._seen:
            self._seen = version
            self._jwks_cache, self._jwks_last_refresh_attempt = {}, None
        return await super()._get_jwks_key(kid)

    async def _fetch_jwks(self) -> dict[str, Any]:
        if self._path is None:
            found: dict[str, Any] = await super()._fetch_jwks()
            return found
        return _read(self._path)


def _file(jwks: str) -> Path | None:
    """The file of the keys, checked; None for a URL."""
    parts = urlsplit(jwks)
    if parts.scheme in ("http", "https"):
        if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise SettingsError("STREAMMACHINE_JWT_JWKS: give an https URL; http is for keys on this machine only.")
        return None
    path = Path(jwks.removeprefix("file://")).expanduser()
    _read(path)
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if not isinstance(found.get("keys"), list):
            raise ValueError("it has no list of keys")
    except OSError as error:
        raise SettingsError(f"STREAMMACHINE_JWT_JWKS={path} cannot be read: {error.strerror}.") from None
    except (ValueError, AttributeError) as error:
        raise SettingsError(f"STREAMMACHINE_JWT_JWKS={path} is no JWKS document: {error}.") from None
    return found


def _version(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


def _algorithm(token: str) -> str:
    """What the token's head says that it is signed with; it is compared with what is allowed, and then checked."""
    import base64

    if len(token) > MOST_CHARS or token.count(".") != 2:
        return ""
    head = token.partition(".")[0]
    try:
        return str(json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["alg"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _fault(found: AccessToken) -> str:
    return "does not say when it expires" if found.expires_at is None else "is not valid yet"
