"""FastOHLCConsumer: ticks of a stream to candle streams, each finished candle once.

One instance is active per stream and group; it holds a lease, others stand by. It reads the stream from where the last
commit ended, folds in memory, and commits (``commit.lua``) finished candles, refused ticks, the state of the open
candles and the group's position in one step. So after a crash at any moment the next holder goes on from the last
commit: what was folded since is read again, and nothing was written of it. The lease's value carries a fencing number
that the commit checks; a holder that was paused beyond its lease commits nothing, drops its memory and stands by.

Reading is plain XREAD, since nobody shares: the commit moves the group's position (XGROUP SETID), so nothing is ever
pending and the group's lag is what is not committed.

Keys beside the stream ``ticks``: ``{ticks}:ohlc:<group>`` (state, a hash), ``{ticks}:ohlc:<group>:lease``, and
``{ticks}:dlq``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import secrets
import socket
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import anyio

from streammachine.backoff import Backoff
from streammachine.errors import (
    AggregatorExistsError,
    CrossSlotError,
    RedisCommandError,
    SettingsError,
    StreamMachineError,
    WrongTypeError,
    single,
)
from streammachine.ohlc.aggregator import create_ohlc_aggregator
from streammachine.ohlc.consumer.active_session import (
    BACKOFF_FIRST,
    BACKOFF_LAST,
    READ_COUNT,
    ActiveSession,
    Job,
    LeaseLostError,
)
from streammachine.ohlc.consumer.candle_book import TickFields
from streammachine.ohlc.consumer.tick_book import make_book
from streammachine.redis.connection import RedisConnection
from streammachine.redis.scripts import AHEAD
from streammachine.redis.streams import ensure_group
from streammachine.redis.transport.cluster import slot_of
from streammachine.runtime.app.app import App
from streammachine.runtime.app.current import inside
from streammachine.runtime.delivery.keys import dead_letters, tagged
from streammachine.runtime.model.counters import Rate
from streammachine.runtime.presence import Presence

log = logging.getLogger(__name__)

STANDBY_CHECK = 1.0  # seconds between two tries of a standby, at most: the holder may have given the lease up
_UNITS = (("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))
_ACQUIRE = AHEAD + files(__package__).joinpath("acquire.lua").read_text()


class FastOHLCConsumer:
    """Turn the ticks of ``input_stream`` into candles on ``{output_stream_prefix}_1m``, ``..._5m`` and so on.

    Each finished candle is appended once, with the fields of ``format_candle_for_redis``, whatever crashes. Start it in
    an App's start-up hook, where it uses the App's connection and ends with it, or bare in any loop.

    Args:
        input_stream: the stream of ticks.
        output_stream_prefix: what the names of the candle streams begin with.
        intervals: milliseconds; 60,000 and 300,000 when not given.
        group: instances of one group stand in for each other.
        price_field: the field that holds the price.
        volume_field: the field that holds the volume; None is a volume of 0.
        symbol_field: the field that holds the symbol; None takes the field ``symbol``, and where an entry has none
            the stream's name.
        timestamp_field: the field that holds the time in epoch milliseconds; None takes the entry id's.
        grace: seconds of event time that a tick may come after a newer one of its symbol. A candle is finished when a
            tick that much later than its end has come, or, on a symbol that fell silent, when the clock has gone on so
            far since its last tick. A later tick is counted as late and makes no second candle.
        lease: seconds after which another instance takes over from one that died.
        start: where a new group begins: "0" the stream's beginning, "$" its end, or an id.
        max_candles: most open candles per symbol and interval; the oldest beyond is dropped and counted.
        app: the App to run in; None takes the one that is running, if any.
        connection: the connection to use; None takes the App's, or a new one that ends with ``stop``.

    Raises:
        IntervalError, SettingsError: an argument is refused.

    Example:
        candles = FastOHLCConsumer("ticks", intervals=[60_000], timestamp_field="ts")

        @app.on_startup
        async def begin():
            await candles.start()
    """

    def __init__(
        self,
        input_stream: str,
        output_stream_prefix: str = "candles",
        intervals: Sequence[int] | None = None,
        group: str = "ohlc_workers",
        price_field: str = "price",
        volume_field: str | None = "volume",
        symbol_field: str | None = None,
        timestamp_field: str | None = None,
        grace: float = 5.0,
        *,
        lease: float = 10.0,
        start: str = "0",
        max_candles: int = 10_000,
        app: App | None = None,
        connection: RedisConnection | None = None,
    ) -> None:
        for what, name in (("input_stream", input_stream), ("group", group), ("prefix", output_stream_prefix)):
            if not isinstance(name, str) or not name:
                raise SettingsError(f"{what}={name!r}: give a name that is not empty.")
        if not 0 <= grace < math.inf:
            raise SettingsError(f"grace={grace!r}: give seconds from 0 up.")
        if not 0.1 <= lease < 86_400:
            raise SettingsError(f"lease={lease!r}: give seconds from 0.1 to a day.")
        if max_candles < READ_COUNT:
            raise SettingsError(f"max_candles={max_candles!r}: give {READ_COUNT} or more, what one read can open.")
        self.input_stream = input_stream
        self.output_stream_prefix = output_stream_prefix
        self.intervals = create_ohlc_aggregator(intervals).intervals
        self.group = group
        self.grace = grace
        self.lease = lease
        self._fields = TickFields(price_field, volume_field, symbol_field, timestamp_field)
        self._start_at = start
        self._max_candles = max_candles
        self._app = app
        self._given = connection
        state = f"{tagged(input_stream)}:ohlc:{group}"
        outputs = [self.output_stream(interval) for interval in self.intervals]
        self._job = Job(
            stream=input_stream,
            group=group,
            owner=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(6)}",
            intervals=self.intervals,
            keys=[state, f"{state}:lease", input_stream, dead_letters(input_stream), *outputs],
            lease=lease,
            grace=grace,
        )
        self._task: asyncio.Task[None] | None = None
        self._session: ActiveSession | None = None
        self._stop = anyio.Event()
        self._leave = anyio.Event()  # ends the session: at the stop, or at a pause
        self._paused = False
        self._rate = Rate()
        self._last_error = ""
        self._takeovers = 0

    @property
    def name(self) -> str:
        """What ``agent_list`` and ``streammachine inspect`` call it; the same for all that stand in for each other."""
        return f"FastOHLCConsumer@{self.input_stream}/{self.group}"

    # -- names --------------------------------------------------------------------------------

    @staticmethod
    def interval_name(interval: int) -> str:
        """The interval in the largest unit that divides it: 1m, 5m, 1h, 1d, 1w; 90s, 1500ms. No two are the same.

        Raises:
            IntervalError: it is no positive int.
        """
        create_ohlc_aggregator([interval])
        unit, size = next((unit, size) for unit, size in _UNITS if interval % size == 0)
        return f"{interval // size}{unit}"

    def output_stream(self, interval: int) -> str:
        """The stream that candles of this interval are appended to."""
        return f"{self.output_stream_prefix}_{self.interval_name(interval)}"

    # -- life cycle ---------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether this instance holds the lease; False on standby."""
        return self._session is not None

    def stats(self) -> dict[str, Any]:
        """What this instance knows: whether it is active, and, if so, the counts since the state's beginning.

        ``ticks`` taken, ``late`` ones, ``bad`` ones (in the dead letters), ``candles`` appended, candles ``dropped``,
        ``symbols``, and the ``position``: the id up to which all is committed.
        """
        session = self._session
        found: dict[str, Any] = {"active": session is not None, "takeovers": self._takeovers}
        return found if session is None else found | session.counts()

    # -- as an agent (presence.py) ------------------------------------------------------------

    @property
    def topic(self) -> str:
        """The stream it reads."""
        return self.input_stream

    @property
    def paused_by_name(self) -> bool:
        """Whether it is paused for every process: none of them is active then."""
        return self._paused

    @paused_by_name.setter
    def paused_by_name(self, paused: bool) -> None:
        self._paused = paused
        if paused:
            self._end_session()

    def facts(self, agent: str) -> dict[str, Any]:
        """How it is, under its name."""
        session, counts = self._session, self.stats()
        ticks = counts.get("ticks", 0)
        if session is None:
            self._rate = Rate()
        return {
            "agent": agent,
            "kind": "candles",
            "stream": self.input_stream,
            "group": self.group,
            "state": "active" if session is not None else "paused" if self._paused else "standby",
            "consumed": ticks,
            "dead": counts.get("bad", 0),
            "late": counts.get("late", 0),
            "candles": counts.get("candles", 0),
            "rate": round(self._rate.of(ticks), 1) if session is not None else 0.0,
            "paused": self._paused,
            "stalled": False,
            "problem": self._last_error,
        }

    async def start(self) -> None:
        """Consume from now on; returns when the group exists and this instance is active or stands by.

        Raises:
            RedisUnavailableError: no server answers.
            AggregatorExistsError: the group was begun with other intervals.
            CrossSlotError: on a Cluster, the candle streams are not in the input's slot.
            WrongTypeError: a key holds another type of value.
        """
        if self._task is not None:
            return
        app = self._app if self._app is not None else inside.get()
        connection = self._given or (app.redis if app is not None else RedisConnection())
        if app is not None and self.stop not in app.shutdown_hooks:
            app.on_shutdown(self.stop)
        self._stop = anyio.Event()
        loop = asyncio.get_running_loop()
        started: asyncio.Future[None] = loop.create_future()
        own = self._given is None and app is None
        self._task = loop.create_task(
            self._host(connection, own, started), name=f"streammachine-ohlc-{self.input_stream}"
        )
        try:
            await asyncio.shield(started)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.stop()
            raise

    async def stop(self) -> None:
        """Commit what was folded, give the lease up, and end. Stopping twice is allowed."""
        task, self._task = self._task, None
        if task is not None:
            self._stop.set()
            self._end_session()
            await asyncio.wait([task])

    def _end_session(self) -> None:
        self._leave.set()
        if self._session is not None:
            self._session.wake()

    async def _host(self, connection: RedisConnection, own: bool, started: asyncio.Future[None]) -> None:
        """The task that runs until ``stop`` or the end of its loop."""
        app = self._app if self._app is not None else inside.get()
        presence = Presence(connection, app.name if app is not None else "candles", lambda: [(self.name, self)])

        async def announce() -> None:
            await asyncio.wait([started])
            await presence.run()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(announce)
                await self._run(connection, presence, started)
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            error = single(group)
            if started.done():
                raise error from None
            started.set_exception(error)
        finally:
            if not started.done():
                started.cancel()
            if own:
                await connection.close()

    async def _run(self, connection: RedisConnection, presence: Presence, started: asyncio.Future[None]) -> None:
        backoff = Backoff(BACKOFF_FIRST, BACKOFF_LAST)
        while not self._stop.is_set():
            try:
                wait = await self._run_once(connection, presence, started)
                backoff.reset()
            except Exception as error:
                if not started.done():
                    raise
                self._last_error = f"fails: {error}"
                if isinstance(error, StreamMachineError):
                    log.warning("Candles of %r, group %r: %s", self.input_stream, self.group, error)
                else:
                    log.exception("Candles of %r, group %r: starting again", self.input_stream, self.group)
                wait = backoff.pause()
            with anyio.move_on_after(wait):
                await self._stop.wait()

    async def _run_once(self, connection: RedisConnection, presence: Presence, started: asyncio.Future[None]) -> float:
        """Be active for as long as the lease is held; gives the seconds until the next try."""
        self._leave = leave = anyio.Event()
        await connection.open()
        await presence.apply_pauses()  # one that is paused must not become active first
        if self._paused:
            await ensure_group(connection, self.input_stream, self.group, start=self._start_at)
            session: ActiveSession | float = STANDBY_CHECK
        else:
            session = await self._acquire(connection)
        self._last_error = ""
        if isinstance(session, float):
            if not started.done():
                why = "paused" if self._paused else "another instance is active"
                log.info("Candles of %r, group %r: %s", self.input_stream, self.group, why)
                started.set_result(None)
            return session
        self._session = session
        self._takeovers += 1
        if not started.done():
            started.set_result(None)
        try:
            await session.run(leave)
        except LeaseLostError as error:
            log.warning("Candles of %r, group %r: %s Standing by.", self.input_stream, self.group, error)
        finally:
            self._session = None
        return 0.0

    async def _acquire(self, connection: RedisConnection) -> ActiveSession | float:
        """The session, with its state loaded, or the seconds until the other holder's lease ends."""
        if connection.is_cluster:
            for key in self._job.keys[4:]:
                if slot_of(key) != slot_of(self.input_stream):
                    raise self._cross_slot(key)
        lease = int(self.lease * 1000)
        intervals = json.dumps(sorted(self.intervals))
        try:
            outcome, *found = await connection.command(
                "EVAL", _ACQUIRE, len(self._job.keys), *self._job.keys,
                self._job.owner, lease, self.group, intervals, self._start_at,
            )  # fmt: skip
        except RedisCommandError as error:
            if "CROSSSLOT" in str(error):
                raise self._cross_slot(self._job.keys[4]) from error
            raise
        if outcome == 0:
            return min(STANDBY_CHECK, max(int(found[0]), 0) / 1000 + 0.01)
        if outcome == -1:
            raise AggregatorExistsError(
                f"The group {self.group!r} on {self.input_stream!r} makes candles of {found[0].decode()} ms, not of "
                f"{intervals}. Use those, or another group (and another prefix, or its candles come twice)."
            )
        if outcome == -2:
            raise WrongTypeError(f"The key {found[0].decode()!r} is a {found[1].decode()}; use another name.")
        value, position, _, flat = found
        book = make_book(
            self.input_stream, self.intervals, self._fields,
            grace_ms=int(self.grace * 1000), max_candles=self._max_candles,
        )  # fmt: skip
        state = dict(zip(flat[::2], flat[1::2], strict=True))
        for name, data in state.items():
            if name.startswith(b"s:"):
                book.load(name[2:], data)
        return ActiveSession(self._job, connection, book, bytes(value), bytes(position), state)

    def _cross_slot(self, key: str) -> CrossSlotError:
        tag = tagged(self.input_stream)
        better = "" if tag == self.input_stream else f"input_stream={tag!r} and "
        return CrossSlotError(
            f"On a Cluster the candle stream {key!r} must stand in the slot of {self.input_stream!r}, to be written "
            f"together with the position. Use {better}output_stream_prefix={tag[: tag.index('}') + 1] + ':candles'!r}."
        )
