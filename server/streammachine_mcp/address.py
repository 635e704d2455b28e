"""The address that HTTP is served on: loopback for everybody, any other for known callers only; TLS by two files."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence

log = logging.getLogger(__name__)

_EVERY = ("0.0.0.0", "::", "*")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, *, known: bool) -> None:
    """Refuse to open the server to the network where nobody's token is known.

    Args:
        known: callers must have a token.

    Raises:
        SettingsError: it would be open.
    """
    from streammachine.errors import SettingsError

    if not is_loopback(host) and not known:
        raise SettingsError(
            f"--host {host} would open the server to the network without authentication. Set "
            "STREAMMACHINE_HTTP_TOKENS to a file of lines token,name,scope scope (mode 0600), or "
            "STREAMMACHINE_JWT_JWKS, STREAMMACHINE_JWT_ISSUER and STREAMMACHINE_JWT_AUDIENCE; or use --host 127.0.0.1."
        )


def own_names(host: str) -> list[str]:
    """The names that may stand in the header Host because the server is bound to them."""
    return [] if is_loopback(host) or host in _EVERY else [host]


def warn_of_address(host: str, hosts: Sequence[str], *, tls: bool) -> None:
    """Say in the log what an open address lacks: names by which it is called, and TLS."""
    if is_loopback(host):
        return
    if host in _EVERY and not hosts:
        log.warning("Requests by another name than localhost are refused: give the names in --allowed-hosts.")
    if not tls:
        log.warning("Tokens travel unencrypted: use --tls-cert and --tls-key, or a proxy with TLS before the server.")


def checked_tls(cert: str, key: str) -> tuple[str, str] | None:
    """The two files, which fit together; None where there are none.

    Raises:
        SettingsError: one is missing, cannot be read, or they do not belong together.
    """
    if not cert and not key:
        return None
    import ssl

    from streammachine.errors import SettingsError

    if not cert or not key:
        raise SettingsError("--tls-cert and --tls-key are given together: the certificate and its key, PEM files.")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key, password="")
    except (OSError, ssl.SSLError, ValueError) as error:
        raise SettingsError(f"--tls-cert {cert} --tls-key {key} cannot be used: {error}.") from None
    return cert, key
