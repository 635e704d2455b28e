"""The runners and backfills that a model started, kept in Redis so that they survive every restart.

The hash ``sm:runners`` (``sm:backfills``) holds each one's definition, ``sm:runners:status`` the state that its host
reported last, ``sm:runners:done`` whether its history is written, and the key ``sm:runners:lease:<name>`` belongs to
the host that runs it, so that two servers on one Redis do not run it twice; when a host dies, another takes over after
the lease.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio

from streammachine.errors import MarketError
from streammachine.redis.lease import Lease, is_leased
from streammachine.redis.streams import nearest, pairs

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

LEASE = 6.0  # seconds a runner stays with its host; renewed every third of it
SILENT = 10.0  # seconds without a report of its host after which a runner shows as lost
MOST = 50  # runners, and backfills, that are remembered


class NotRememberedError(MarketError, LookupError):
    """No runner or backfill has this name."""


class TooManyError(MarketError):
    """No more runners or backfills are remembered."""


@dataclass(frozen=True)
class RunnerSpec:
    """A runner. ``emit``: sinks as the MCP tools name them. ``history``: how much of the past it writes first,
    in the words that asked for it, and ``history_from_ms``: from when on. ``every``: see
    ``DataInput``. ``indicators``: see ``Runner``."""

    name: str
    exchange: str
    symbols: list[str]
    timeframe: str | None
    aggregate: list[str] = field(default_factory=list)
    emit: list[str] = field(default_factory=lambda: ["redis"])
    type: str = "kline"
    market_type: str = "SPOT"
    created_ms: int = 0
    history: str = ""
    history_from_ms: int = 0
    every: str | None = None
    indicators: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class BackfillSpec:
    """A backfill of [start_ms, end_ms), epoch milliseconds."""

    name: str
    exchange: str
    symbol: str
    timeframe: str
    start_ms: int
    end_ms: int
    emit: list[str] = field(default_factory=lambda: ["redis"])
    market_type: str = "SPOT"
    created_ms: int = 0


S = TypeVar("S", RunnerSpec, BackfillSpec)


class RememberedJobs(Generic[S]):
    """The specs of one kind, their leases and their states. ``kind``: the word for one, in errors."""

    def __init__(self, kind: str, made: type[S]) -> None:
        self.kind = kind
        self._made: type[S] = made
        self.key = f"sm:{kind}s"
        self.status_key = f"{self.key}:status"
        self.note_key = f"{self.key}:done"

    async def all(self, connection: RedisConnection) -> dict[str, S]:
        """Every one, by name; what another version wrote and this one does not read is left out."""
        found = {}
        reply = await connection.command("HGETALL", self.key, repeatable=True)
        for name, text in zip(reply[::2], reply[1::2], strict=True):
            try:
                found[bytes(name).decode()] = self._made(**json.loads(text))
            except (ValueError, TypeError, RecursionError):
                continue
        return dict(sorted(found.items()))

    async def get(self, connection: RedisConnection, name: str) -> S:
        """The one of this name.

        Raises:
            NotRememberedError: there is none; the text names the nearest.
        """
        known = await self.all(connection)
        if name not in known:
            raise NotRememberedError(f"There is no {self.kind} {name!r}.{nearest(name, list(known))}")
        return known[name]

    async def remember(self, connection: RedisConnection, spec: S) -> bool:
        """Keep one; whether it is new.

        Raises:
            TooManyError: there are too many.
        """
        if await connection.command("HLEN", self.key, repeatable=True) >= MOST:
            raise TooManyError(f"There are {MOST} {self.kind}s already: end some first.")
        return bool(await connection.command("HSETNX", self.key, spec.name, json.dumps(asdict(spec))))

    async def renew(self, connection: RedisConnection, spec: S) -> None:
        """Put one in the place of that of its name, as if there had been none: its host ends that, and begins anew."""
        await connection.command("HSET", self.key, spec.name, json.dumps(asdict(spec)), repeatable=True)
        await connection.command("HDEL", self.status_key, spec.name, repeatable=True)

    async def note(self, connection: RedisConnection, spec: S, what: str) -> None:
        """Keep what is done of one, over restarts, until it is forgotten or renewed."""
        await connection.command("HSET", self.note_key, spec.name, f"{spec.created_ms} {what}", repeatable=True)

    async def noted(self, connection: RedisConnection, spec: S) -> str:
        """What was kept of one; empty: nothing."""
        text = await connection.command("HGET", self.note_key, spec.name, repeatable=True)
        of, _, what = bytes(text or b"").decode().partition(" ")
        return what if of == str(spec.created_ms) else ""

    async def forget(self, connection: RedisConnection, name: str) -> bool:
        """Forget one and its state; its host ends it. Whether there was one."""
        gone = await connection.command("HDEL", self.key, name)
        await connection.command("HDEL", self.status_key, name)
        await connection.command("HDEL", self.note_key, name)
        return bool(gone)

    # -- leases and states --

    async def take(self, connection: RedisConnection, name: str, token: str) -> bool:
        """Take the lease if nobody has it."""
        return await self._lease(connection, name, token).take()

    async def is_taken(self, connection: RedisConnection, name: str) -> bool:
        """Whether a host has the lease."""
        return await is_leased(connection, f"{self.key}:lease:{name}")

    async def released(self, connection: RedisConnection, name: str) -> None:
        """Wait until no host has the lease."""
        while await self.is_taken(connection, name):  # noqa: ASYNC110 - another process has it
            await anyio.sleep(0.05)

    async def hold(self, connection: RedisConnection, name: str, token: str) -> bool:
        """Renew our lease; False when it is another's."""
        return await self._lease(connection, name, token).renew()

    async def release(self, connection: RedisConnection, name: str, token: str) -> None:
        """Give our lease up."""
        await self._lease(connection, name, token).release()

    def _lease(self, connection: RedisConnection, name: str, token: str) -> Lease:
        return Lease(connection, f"{self.key}:lease:{name}", token, LEASE)

    async def report(self, connection: RedisConnection, name: str, status: Mapping[str, Any]) -> None:
        """Report the state of one."""
        text = json.dumps({**status, "said_ms": int(time.time() * 1000)}, default=str)
        await connection.command("HSET", self.status_key, name, text, repeatable=True)

    async def statuses(self, connection: RedisConnection) -> dict[str, dict[str, Any]]:
        """The states that the hosts reported last, by name; ``silent_s``: seconds since then."""
        found = {}
        now = time.time() * 1000
        for name, text in pairs(await connection.command("HGETALL", self.status_key, repeatable=True)).items():
            try:
                status = dict(json.loads(text))
                status["silent_s"] = max(0.0, (now - status.pop("said_ms")) / 1000)
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            found[name] = status
        return found


RUNNERS = RememberedJobs("runner", RunnerSpec)
BACKFILLS = RememberedJobs("backfill", BackfillSpec)


async def unfinished(connection: RedisConnection) -> bool:
    """Whether there is a runner, or a backfill that is not done."""
    if await connection.command("HLEN", RUNNERS.key, repeatable=True):
        return True
    if not await connection.command("HLEN", BACKFILLS.key, repeatable=True):
        return False
    statuses = await BACKFILLS.statuses(connection)
    return any(
        statuses.get(name, {}).get("state") not in ("done", "failed") for name in await BACKFILLS.all(connection)
    )


def name_for(*parts: object) -> str:
    """A short name that the same definition gets again: its first words and a digest of all of it."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=4).hexdigest()
    words = "-".join(str(part) for part in parts[:2] if isinstance(part, str) and part)
    return f"{words}-{digest}".lower()
