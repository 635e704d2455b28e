"""Alerts as they are kept in Redis: create, list, delete, and the step that fires one."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from streammachine.errors import SettingsError, StreamMachineError, StreamNotFoundError, text_of
from streammachine.masking import HIDDEN
from streammachine.redis import streams
from streammachine.redis.lease import is_leased
from streammachine.redis.scripts import LuaScript
from streammachine.runtime.alerts.condition import AlertCondition, ConditionError
from streammachine.runtime.alerts.rows import ONS, On, Row, Window, row_of
from streammachine.runtime.alerts.targets import WebhookTargets

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

log = logging.getLogger(__name__)

# One slot of a Cluster, so that one script changes all of them.
DEFINED = "{sm:alerts}:defined"  # a hash: each alert as JSON, by its name
STATE = "{sm:alerts}:state"  # a hash: how far it was evaluated, by its name
FIRED = "{sm:alerts}:fired"  # a stream: each time that one fired
OUTBOX = "{sm:alerts}:outbox"  # a hash: what is to be sent on, by the id in FIRED
LEASE_KEY = "{sm:alerts}:lease"
MOST_ALERTS = 200
KEPT = 10_000  # entries of FIRED
MOST_WAITING = 10_000  # of the outbox; further ones are in FIRED alone
LOOK_BACK = 20  # pages of a stream that are read for the rows before an alert begins
PAGE = 500
LONGEST_COOLDOWN = 30 * 86_400.0  # seconds

# Keep a new alert with its first state. KEYS[1] DEFINED, KEYS[2] STATE; ARGV[1] its name, ARGV[2] the alert, ARGV[3]
# its state, ARGV[4] most alerts. Gives 1; 0 where the name is taken; -1 where there are too many.
_CREATE = LuaScript(
    """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 0 end
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then return -1 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
""",
    keys=("defined", "state"),
    args=("name", "alert", "first", "most"),
)
# Move an alert on, and fire it. KEYS: DEFINED, STATE, FIRED, OUTBOX. ARGV[1] its name, ARGV[2] the alert as the caller
# knows it, ARGV[3] the state that the caller went on from, ARGV[4] the new state, ARGV[5] how many entries of FIRED
# stay, ARGV[6] what is to be sent on ("" nothing), ARGV[7] most entries of the outbox; then fields, where it fires.
# Gives the id in FIRED ("" where it does not fire), or nil: the alert is another, or was moved on by somebody else.
# Invariant: from one state an alert is moved on once, so it fires once for what lies between the two.
_MOVE = LuaScript(
    """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return nil end
if (redis.call('HGET', KEYS[2], ARGV[1]) or '') ~= ARGV[3] then return nil end
local id = ''
if #ARGV > 7 then
  local call = {'XADD', KEYS[3], 'MAXLEN', '~', ARGV[5], '*'}
  for at = 8, #ARGV do call[#call + 1] = ARGV[at] end
  id = redis.call(unpack(call))
  if ARGV[6] ~= '' and redis.call('HLEN', KEYS[4]) < tonumber(ARGV[7]) then
    redis.call('HSET', KEYS[4], id, ARGV[6])
  end
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[4])
return id
""",
    keys=("defined", "state", "fired", "outbox"),
    args=("name", "alert", "before", "after", "kept", "send", "waiting", "*fields"),
)


class AlertExistsError(StreamMachineError):
    """An alert of this name waits for something else."""


class AlertNotFoundError(StreamMachineError, LookupError):
    """No alert has this name."""


@dataclass(frozen=True)
class Alert:
    """What an alert waits for, and whom it tells.

    Args:
        name: 1 to 64 letters, digits, ``_``, ``-`` or ``.``; a letter or digit first.
        source: the stream of candles or ticks.
        condition: as ``AlertCondition`` takes it.
        on: "closed" candles, "running" ones (each state of a candle), or "tick".
        cooldown_s: seconds, by the candles' time, for which it does not fire again after it fired.
        stream: where it also sends what it tells; "" nowhere. webhook: a URL that it is posted to.
        insecure: take a webhook that is neither https nor on this machine.
        reach: patterns of hosts with commas (``WebhookTargets``), the only ones that it is posted to; "" leaves that to
            the settings of the process that posts.
        about: what it tells of the source, e.g. its exchange and symbol.
        created_ms: epoch milliseconds.

    Raises:
        SettingsError: an argument is refused. ConditionError: the condition is.
    """

    name: str
    source: str
    condition: str
    on: On = "closed"
    cooldown_s: float = 0.0
    stream: str = ""
    webhook: str = ""
    insecure: bool = False
    about: Mapping[str, str] | None = None
    created_ms: int = 0
    reach: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", self.name):
            raise SettingsError(
                f"The name {self.name!r} is not accepted: give 1 to 64 letters, digits, '_', '-' or '.', "
                "a letter or digit first."
            )
        if not self.source:
            raise SettingsError("source needs the name of a stream.")
        if self.on not in ONS:
            raise SettingsError(f"on={self.on!r} is not accepted: give {', '.join(ONS)}.")
        if not 0 <= self.cooldown_s <= LONGEST_COOLDOWN:
            raise SettingsError(f"cooldown_s={self.cooldown_s!r}: give 0 to {LONGEST_COOLDOWN:g} seconds.")
        if self.stream:
            streams.refuse_own(self.stream)
            if self.stream == self.source:
                raise SettingsError("stream and source are the same: the alert would read what it sends.")
        if self.webhook:
            targets = targets_of(self.reach)
            insecure = self.insecure or any(each.names(self.webhook) for each in targets)
            check_webhook(self.webhook, insecure=insecure)
            for each in targets:
                each.check(self.webhook)

    @property
    def work(self) -> tuple[object, ...]:
        """What makes two alerts the same."""
        return (self.name, self.source, self.condition, self.on, self.cooldown_s, self.stream, self.webhook)

    @property
    def stored(self) -> str:
        """As it is kept; without what an older version would not know, where that says nothing."""
        return json.dumps({name: value for name, value in asdict(self).items() if name != "reach" or value})

    @classmethod
    def read(cls, text: str | bytes) -> Self:
        """One that was kept.

        Raises:
            ValueError or TypeError: it is none that this version knows.
        """
        return cls(**json.loads(text))


@dataclass
class AlertState:
    """How far an alert was evaluated.

    Attributes:
        at: the last entry's id. holds: whether the condition held there. fired: how often it fired.
        last_ms: when it fired last, by the candles' time; 0 never. row: the beginning of the last row where it held.
        problem: why it could not be evaluated there.
    """

    at: str = "0-0"
    holds: bool = False
    fired: int = 0
    last_ms: int = 0
    row: int = -1
    problem: str = ""

    @property
    def stored(self) -> str:
        """As it is kept."""
        return json.dumps(asdict(self))


def targets_of(reach: str, allowed: Sequence[str] | None = None) -> list[WebhookTargets]:
    """What a webhook's host is measured by: the alert's own patterns, and those of the settings where there are any.

    Raises:
        SettingsError: one is no pattern.
    """
    try:
        return [WebhookTargets(patterns) for patterns in (reach.split(",") if reach else (), allowed) if patterns]
    except ValueError as error:
        raise SettingsError(f"{reach or ','.join(allowed or ())!r} names no hosts for webhooks: {error}.") from None


def check_webhook(url: str, *, insecure: bool) -> None:
    """Refuse a URL that is no webhook.

    Raises:
        SettingsError: it is neither https nor on this machine, or no URL at all.
    """
    import httpx2

    host = ""
    if len(url) <= 2000 and url.isprintable() and " " not in url:
        with contextlib.suppress(ValueError, httpx2.InvalidURL):
            parts = urlsplit(url)
            if parts.scheme in ("http", "https") and parts.port != 0 and not (parts.username or parts.password):
                httpx2.URL(url)  # what will post it must understand it too
                host = parts.hostname or ""
    if not host:
        raise SettingsError("webhook is not accepted: give https://HOST/PATH, without a user and password.")
    if parts.scheme == "http" and not insecure and not _is_loopback(host):
        raise SettingsError(
            f"webhook: http to {host!r} could be read and changed on its way. Give https, or http to this machine."
        )


def shown_webhook(url: str) -> str:
    """A webhook for people: its path may be a secret, as that of a chat's webhook is."""
    parts = urlsplit(url)
    bare = parts.path in ("", "/") and not parts.query
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" + ("" if bare else f"/{HIDDEN}")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def create_alert(connection: RedisConnection, alert: Alert) -> tuple[Alert, AlertState, bool]:
    """Keep an alert for hosts to evaluate. What stands in its source already sets where it begins and does not fire it.

    Returns:
        The alert as it is kept, its state, and whether it is new.

    Raises:
        ConditionError: the condition is refused. AlertExistsError: the name is taken by another. SettingsError: there
        are too many, or the settings do not allow its webhook.
    """
    condition = AlertCondition(alert.condition)
    if alert.webhook:
        for targets in targets_of("", connection.settings.alert_webhooks):
            targets.check(alert.webhook)
    alert = Alert(**{**asdict(alert), "created_ms": alert.created_ms or time.time_ns() // 1_000_000})
    state = await _first_state(connection, alert, condition)
    made = await _CREATE(
        connection,
        defined=DEFINED,
        state=STATE,
        name=alert.name,
        alert=alert.stored,
        first=state.stored,
        most=MOST_ALERTS,
    )
    if made == 1:
        return alert, state, True
    if made == -1:
        raise SettingsError(f"There are {MOST_ALERTS} alerts already; delete some.")
    standing = (await all_alerts(connection)).get(alert.name)
    if standing is None or standing.work != alert.work:
        raise AlertExistsError(
            f"There is an alert {alert.name!r} that waits for something else. Delete it first, or take another name."
        )
    return standing, (await alert_states(connection)).get(alert.name, AlertState()), False


async def all_alerts(connection: RedisConnection) -> dict[str, Alert]:
    """All alerts by name; one that this version does not understand is logged and left out."""
    found = {}
    flat = await connection.command("HGETALL", DEFINED, repeatable=True)
    for name, text in zip(flat[::2], flat[1::2], strict=True):
        try:
            alert = Alert.read(text)
        except (TypeError, ValueError, RecursionError, StreamMachineError) as error:
            log.error("The alert %s cannot be read: %s", bytes(name).decode(errors="replace"), error)
        else:
            found[alert.name] = alert
    return dict(sorted(found.items()))


async def alert_states(connection: RedisConnection) -> dict[str, AlertState]:
    """How far each was evaluated, by name."""
    found = {}
    flat = await connection.command("HGETALL", STATE, repeatable=True)
    for name, text in zip(flat[::2], flat[1::2], strict=True):
        if (state := state_of(text)) is not None:
            found[bytes(name).decode(errors="replace")] = state
    return found


def state_of(text: bytes | None) -> AlertState | None:
    """A state that was kept; None where there is none."""
    try:
        return AlertState(**json.loads(text or b""))
    except (TypeError, ValueError, RecursionError):
        return None


async def delete_alert(connection: RedisConnection, name: str) -> bool:
    """Delete an alert; whether there was one. What it told stays."""
    gone = await connection.command("HDEL", DEFINED, name)
    await connection.command("HDEL", STATE, name)
    return bool(gone)


async def is_evaluated(connection: RedisConnection) -> bool:
    """Whether a host evaluates the alerts now."""
    return await is_leased(connection, LEASE_KEY)


async def any_alert(connection: RedisConnection) -> bool:
    """Whether a host has anything to do."""
    for key in (DEFINED, OUTBOX):
        if await connection.command("HLEN", key, repeatable=True):
            return True
    return False


async def move(
    connection: RedisConnection,
    alert: Alert,
    stored: str,
    before: str,
    after: AlertState,
    fields: Mapping[str, str] | None = None,
) -> str | None:
    """Move an alert on, in one step with its firing.

    Args:
        stored: the alert as it stands in Redis. before: the state that the caller went on from, as it stands there.
        fields: what it tells, where it fires.

    Returns:
        The id in FIRED, "" where it does not fire; None: it was deleted, or moved on by another host.
    """
    send = ""
    if fields and (alert.stream or alert.webhook):
        told = {"alert": alert.name, "stream": alert.stream, "webhook": alert.webhook, "fields": dict(fields)}
        send = json.dumps(told | ({"reach": alert.reach} if alert.reach else {}))
    reply = await _MOVE(
        connection,
        defined=DEFINED,
        state=STATE,
        fired=FIRED,
        outbox=OUTBOX,
        name=alert.name,
        alert=stored,
        before=before,
        after=after.stored,
        kept=KEPT,
        send=send,
        waiting=MOST_WAITING,
        fields=[part for pair in (fields or {}).items() for part in pair],
    )
    return None if reply is None else bytes(reply).decode()


async def fill(connection: RedisConnection, alert: Alert, window: Window, end: str) -> None:
    """Read the rows up to an entry into a window, as many as it holds."""
    pages: list[list[Row]] = []
    begun: set[int] = set()  # the states of one running candle are one row
    while len(begun) < window.size and len(pages) < LOOK_BACK:
        entries = await streams.read_newest(connection, alert.source, PAGE, end=end)
        if not entries:
            break
        rows = [row for entry in entries if (row := row_of(entry.data, alert.on)) is not None]
        begun.update(range(len(begun), len(begun) + len(rows)) if alert.on == "tick" else (row[0] for row in rows))
        pages.append(rows)
        end = f"({entries[0].id}"
    for rows in reversed(pages):
        for row in rows:
            window.add(row)


def evaluated(condition: AlertCondition, window: Window) -> tuple[bool, dict[str, float], str]:
    """Whether the condition holds at the newest row, its numbers, and what went wrong.

    What cannot be computed yet does not hold.
    """
    try:
        values = window.values()
        return (values is not None and condition.holds(values)), values or {}, ""
    except ConditionError as error:
        return False, {}, str(error)
    except Exception as error:
        log.exception("A condition cannot be evaluated")  # of a library: it stops no other alert
        return False, {}, text_of(error)


async def _first_state(connection: RedisConnection, alert: Alert, condition: AlertCondition) -> AlertState:
    try:
        last = (await streams.describe(connection, alert.source)).last_generated_id
    except StreamNotFoundError:
        return AlertState()
    window = Window(condition, alert.on)
    await fill(connection, alert, window, last)
    holds, _, problem = evaluated(condition, window)
    return AlertState(at=last, holds=holds, row=window.newest if holds else -1, problem=problem)


def fields_of_firing(alert: Alert, row: Row, values: Mapping[str, float], count: int, entry: str) -> dict[str, Any]:
    """What an alert tells when it fires, as text."""
    told: dict[str, Any] = {
        "alert": alert.name,
        "condition": alert.condition,
        "source": alert.source,
        **(alert.about or {}),
        "on": alert.on,
        "entry": entry,
        "ts": row[1],
        "price": row[2].get("price"),
        "fired": count,
    }
    told |= {name: value for name, value in values.items() if name not in told}
    return {name: str(value) for name, value in told.items() if value is not None}
