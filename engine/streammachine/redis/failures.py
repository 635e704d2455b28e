"""coredis' and the server's errors in this package's terms: what failed, why, what to do next."""

from __future__ import annotations

from dataclasses import dataclass

import coredis.exceptions as theirs

from streammachine import errors
from streammachine.redis.transport.raw_connection import disk_text, read_only_text, rights_text


@dataclass(frozen=True)
class Failure:
    """A translated error, and what is known of the command that met it."""

    error: errors.StreamMachineError
    unsent: bool = False  # no connection could be opened, or the server refused to look: it did not run
    lost: bool = False  # the connection broke while it was under way
    timed_out: bool = False
    replica: bool = False  # the server takes no writes: another connection may lead to the primary


def translate(error: Exception, url: str, limit: float) -> Failure:
    """Translate ``error`` of a command sent to ``url`` (masked) under a deadline of ``limit`` seconds."""
    if isinstance(error, theirs.AuthenticationError):
        return Failure(
            errors.RedisAuthError(
                f"Redis at {url} refuses the login: {_first_line(error)}. Put user and password into REDIS_URL."
            )
        )
    if isinstance(error, theirs.BusyLoadingError):
        return Failure(
            errors.RedisUnavailableError(f"Redis at {url} is still loading its data; try again."), unsent=True
        )
    if isinstance(error, TimeoutError):
        return Failure(
            errors.RedisTimeoutError(
                f"Redis at {url} did not answer within {limit:g} s; whether the command ran is not known. "
                "Check the server's load and the network, then look before you repeat a write."
            ),
            timed_out=True,
        )
    if isinstance(error, (theirs.ConnectionError, OSError)):
        return _connection_failure(error, url)
    if isinstance(error, (theirs.ClusterDownError, theirs.TryAgainError)):
        return Failure(
            errors.RedisUnavailableError(f"Redis at {url} is not ready: {_first_line(error)}. Try again."), unsent=True
        )
    if isinstance(error, theirs.WrongTypeError):
        return Failure(errors.WrongTypeError("The key holds another type of value than this command works on."))
    if isinstance(error, (theirs.UnknownCommandError, theirs.CommandNotSupportedError)):
        return Failure(
            errors.UnsupportedServerError(
                f"Redis at {url} does not know this command ({_first_line(error)}). Redis 7.0 or Valkey 7.2 is needed."
            )
        )
    if isinstance(error, theirs.AuthorizationError):
        return Failure(errors.RedisPermissionError(rights_text(url, _first_line(error))))
    if isinstance(error, (theirs.ReadOnlyError, theirs.UnblockedError)):
        return Failure(errors.RedisReadOnlyError(read_only_text(url, _first_line(error))), replica=True)
    if isinstance(error, theirs.RedisError):
        text = _first_line(error)
        if text.startswith("MISCONF"):
            return Failure(errors.RedisDiskError(disk_text(url, text)))
        if "OOM command not allowed" in text:
            return Failure(
                errors.RedisFullError(
                    f"Redis at {url} is at its memory limit and refuses writes. Trim or delete streams, "
                    "or raise its maxmemory."
                )
            )
        return Failure(errors.RedisCommandError(f"Redis at {url} refused the command: {text}"))
    return Failure(errors.RedisCommandError(f"The command failed in the client: {type(error).__name__}: {error}"))


def _connection_failure(error: Exception, url: str) -> Failure:
    text = str(error)
    if text == "Connection not usable":  # coredis: it broke before the command was queued
        return Failure(errors.RedisUnavailableError(f"The connection to Redis at {url} broke; try again."), unsent=True)
    # coredis raises this text, and only this, when no connection came about: nothing was sent.
    unsent = text.startswith("Unable to establish a connection")
    cause = error.__cause__
    reason = f" ({cause.strerror or cause})" if isinstance(cause, OSError) and str(cause) else ""
    if unsent:
        return Failure(
            errors.RedisUnavailableError(
                f"Redis at {url} cannot be reached{reason}. Start it, or correct REDIS_URL; "
                "without REDIS_ variables an embedded Valkey is used."
            ),
            unsent=True,
        )
    return Failure(
        errors.RedisUnavailableError(
            f"The connection to Redis at {url} broke before the reply came; whether the command ran is not known. "
            "Look before you repeat a write."
        ),
        lost=True,
    )


def _first_line(error: Exception) -> str:
    """What the server said. coredis puts a pipeline's whole command before it, and with it the user's data."""
    text = str(error).rpartition(" of pipeline caused error: ")[2]
    return text.splitlines()[0] if text else type(error).__name__
