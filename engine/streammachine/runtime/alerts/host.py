"""The process that evaluates the alerts: of all servers and Apps on one Redis, the one that holds the lease.

It reads each source from where each alert stands, keeps as many rows as the condition looks back, and moves the alert
on in one step with its firing (``alert.move``). A host that dies is replaced once its lease has run out; the next one
goes on from the states in Redis and reaches the same conclusions, so nothing fires twice and nothing is left out.
"""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING

import anyio

from streammachine.errors import RedisCommandError, StreamMachineError, WrongTypeError, single
from streammachine.redis import streams
from streammachine.redis.lease import Lease
from streammachine.redis.stream_watch import StreamWatch, id_parts
from streammachine.runtime.alerts.alert import (
    DEFINED,
    LEASE_KEY,
    PAGE,
    STATE,
    Alert,
    AlertState,
    evaluated,
    fields_of_firing,
    fill,
    move,
    state_of,
)
from streammachine.runtime.alerts.condition import AlertCondition
from streammachine.runtime.alerts.delivery import Deliveries
from streammachine.runtime.alerts.rows import Row, Window, row_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from streammachine.redis.connection import RedisConnection

log = logging.getLogger(__name__)

LEASE = 6.0  # seconds that the alerts belong to a host; renewed every third of it
LOOK_PERIOD = 0.5  # seconds between two reads of which alerts there are
MOST_TEXT = 300  # characters of a problem
OF_THE_SOURCE = (WrongTypeError, RedisCommandError)  # it is no stream any more, or not ours to read


class AlertHost:
    """Evaluates the alerts that no other host evaluates, until stopped.

    Args:
        connection: where the alerts and their streams are.

    Attributes:
        problems: why an alert is not evaluated, by its name. holding: whether this host evaluates them now.

    Example:
        >>> host = AlertHost(connection)
        >>> await host.run()  # or App(alerts=True)
    """

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._lease = Lease(connection, LEASE_KEY, uuid.uuid4().hex, LEASE)
        self._stop = anyio.Event()
        self._runs: dict[str, _Run] = {}
        self._watch = StreamWatch(self._connected)
        self.holding = False
        self.problems: dict[str, str] = {}
        self._refused: dict[str, str] = {}  # alerts as they stand in Redis, by name

    @property
    def running(self) -> int:
        """How many alerts are evaluated here."""
        return len(self._runs)

    def stop(self) -> None:
        """End; ``run`` returns then."""
        self._stop.set()

    async def run(self) -> None:
        """Evaluate until ``stop``."""
        while not self._stop.is_set():
            try:
                if await self._lease.take():
                    self.holding = True
                    await self._hold()
            except Exception as group:
                error = single(group) if isinstance(group, BaseExceptionGroup) else group
                known = isinstance(error, StreamMachineError)
                log.log(logging.WARNING if known else logging.ERROR, "Evaluating alerts: %s", error, exc_info=not known)
            finally:
                self._forget()
                await self._release()
            with anyio.move_on_after(LOOK_PERIOD):
                await self._stop.wait()

    async def _connected(self) -> RedisConnection:
        return self._connection

    async def _hold(self) -> None:
        """Evaluate as long as the lease is ours."""
        deliveries = Deliveries(self._connection)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_lease, tasks.cancel_scope)
            tasks.start_soon(self._watch.run)
            tasks.start_soon(deliveries.run)
            await self._evaluate(deliveries)
            tasks.cancel_scope.cancel()

    async def _release(self) -> None:
        """Let another host go on at once."""
        if not self.holding:
            return
        self.holding = False
        with anyio.CancelScope(shield=True), anyio.move_on_after(1):
            try:
                await self._lease.release()
            except StreamMachineError as error:
                log.debug("Releasing the lease of the alerts: %s", error)

    async def _keep_lease(self, scope: anyio.CancelScope) -> None:
        while True:
            await anyio.sleep(LEASE / 3)
            try:
                held = await self._lease.renew()
            except StreamMachineError as error:
                log.warning("Renewing the lease of the alerts: %s", error)
                continue
            if not held and not await self._lease.take():
                log.warning("The alerts were taken over by another host")
                scope.cancel()
                return

    async def _evaluate(self, deliveries: Deliveries) -> None:
        with self._watch.waiting([]) as waiter:
            due = 0.0
            waiting: set[str] = set()
            while not self._stop.is_set():
                if anyio.current_time() >= due:
                    waiting |= await self._load(waiter.wake)
                    due = anyio.current_time() + LOOK_PERIOD
                waiting |= waiter.take()
                for source in list(waiting):
                    if not await self._read(source, deliveries):
                        waiting.discard(source)
                if not waiting:
                    with anyio.move_on_at(due):
                        waiting |= await waiter.wait()

    async def _load(self, wake: Callable[[str], None]) -> set[str]:
        """Begin with what is new, end what is gone; gives the sources to read."""
        flat = await self._connection.command("HGETALL", DEFINED, repeatable=True)
        stored = {bytes(name).decode(): bytes(text).decode() for name, text in zip(flat[::2], flat[1::2], strict=True)}
        for name, run in list(self._runs.items()):
            if stored.get(name) != run.stored:
                self._drop(name)
        begun = set()
        for name, text in stored.items():
            if name in self._runs or self._refused.get(name) == text:
                continue
            new = await self._begin(name, text)
            if new is not None:
                new.end = self._watch.listen(new.alert.source, new.state.at, wake)
                self._runs[name] = new
                begun.add(new.alert.source)
        for name in self.problems.keys() - stored.keys():
            del self.problems[name]
            self._refused.pop(name, None)
        return begun

    async def _begin(self, name: str, text: str) -> _Run | None:
        """An alert from where it stands in Redis; None where it cannot be evaluated."""
        before = await self._connection.command("HGET", STATE, name, repeatable=True)
        try:
            alert = Alert.read(text)
            condition = AlertCondition(alert.condition)
        except (TypeError, ValueError, RecursionError, StreamMachineError) as error:
            log.error("The alert %s cannot be evaluated: %s", name, error)
            self._refused[name] = text
            self.problems[name] = str(error)[:MOST_TEXT]
            return None
        state = state_of(before) or AlertState()
        run = _Run(alert, text, bytes(before or b"").decode(), state, condition)
        try:
            await fill(self._connection, alert, run.window, state.at)
        except OF_THE_SOURCE as error:
            self._put_off(name, error)
            return None
        self.problems.pop(name, None)
        return run

    def _put_off(self, name: str, error: Exception) -> None:
        """An alert whose source cannot be read, which is no fault of the others: it is tried again at each look."""
        text = str(error)[:MOST_TEXT]
        if self.problems.get(name) != text:
            log.warning("The alert %s cannot be evaluated: %s", name, error)
        self.problems[name] = text

    async def _read(self, source: str, deliveries: Deliveries) -> bool:
        """Evaluate what came into a source; whether there is more."""
        runs = [run for run in self._runs.values() if run.alert.source == source]
        if not runs:
            return False
        first = min((run.state.at for run in runs), key=id_parts)
        try:
            entries = await streams.read_from(self._connection, source, f"({first}", count=PAGE)
        except OF_THE_SOURCE as error:
            for run in runs:
                self._put_off(run.alert.name, error)
                self._drop(run.alert.name)
            return False
        for run in runs:
            if not await run.take(self._connection, entries, deliveries):
                self._drop(run.alert.name)
        return len(entries) == PAGE

    def _drop(self, name: str) -> None:
        run = self._runs.pop(name, None)
        if run is not None and run.end is not None:
            run.end()

    def _forget(self) -> None:
        for name in list(self._runs):
            self._drop(name)


class _Run:
    """One alert that is evaluated here."""

    def __init__(self, alert: Alert, stored: str, before: str, state: AlertState, condition: AlertCondition) -> None:
        self.alert = alert
        self.stored = stored
        self.state = state
        self.window = Window(condition, alert.on)
        self.end: Callable[[], None] | None = None
        self._before = before
        self._condition = condition

    async def take(self, connection: RedisConnection, entries: list[streams.Entry], deliveries: Deliveries) -> bool:
        """Evaluate the entries behind where it stands; False where the alert is no longer ours to move."""
        after = id_parts(self.state.at)
        moved = False
        for entry in entries:
            if id_parts(entry.id) <= after:
                continue
            self.state.at = entry.id
            moved = True
            row = row_of(entry.data, self.alert.on)
            if row is None or not self.window.add(row):
                continue
            row = (row[0], row[1] or id_parts(entry.id)[0], row[2])
            values = self._evaluate(row)
            if values is not None and self._is_cool(row):
                self.state.fired += 1
                self.state.last_ms = row[1]
                fields = fields_of_firing(self.alert, row, values, self.state.fired, entry.id)
                if not await self._move(connection, fields):
                    return False
                deliveries.wake()
                moved = False
            await anyio.lowlevel.checkpoint()
        return await self._move(connection) if moved else True

    def _evaluate(self, row: Row) -> dict[str, float] | None:
        """The condition's numbers where it became true at this row, else None."""
        state = self.state
        anew = not state.holds or (self._condition.crosses and (self.alert.on == "tick" or row[0] != state.row))
        state.holds, values, state.problem = evaluated(self._condition, self.window)
        if not state.holds:
            return None
        state.row = row[0]
        return values if anew else None

    def _is_cool(self, row: Row) -> bool:
        last = self.state.last_ms
        return not last or not self.alert.cooldown_s or row[1] - last >= self.alert.cooldown_s * 1000

    async def _move(self, connection: RedisConnection, fields: dict[str, str] | None = None) -> bool:
        reply = await move(connection, self.alert, self.stored, self._before, self.state, fields)
        self._before = self.state.stored
        return reply is not None
