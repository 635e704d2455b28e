"""Timers of one exchange: callbacks by its clock, all of which can be cancelled together."""

from __future__ import annotations

from collections.abc import Callable

from streammachine.market.clock.clock import Clock, Wakeup

SHORTEST = 1e-9  # seconds; less is now


class Timers:
    """Makes timers, and knows those that wait.

    Args:
        fail: gets what a callback raises.
    """

    def __init__(self, clock: Clock, fail: Callable[[Exception], None]) -> None:
        self.clock = clock
        self.fail = fail
        self.waiting: set[ScheduledCall] = set()
        self._stopped = False

    def add(self, left: Callable[[], float], callback: Callable[[], object]) -> ScheduledCall:
        """Call back as soon as ``left()``, the seconds that are left, is 0. After ``stop``: never."""
        timer = ScheduledCall(self, left, callback)
        if not self._stopped:
            timer.start()
        return timer

    def stop(self) -> None:
        """Let none come any more."""
        self._stopped = True
        for timer in list(self.waiting):
            timer.cancel()


class ScheduledCall:
    """A callback that waits for its moment."""

    def __init__(self, owner: Timers, left: Callable[[], float], callback: Callable[[], object]) -> None:
        self._owner = owner
        self._left = left
        self._callback = callback
        self._wakeup: Wakeup | None = None

    @property
    def waits(self) -> bool:
        """Whether it is still to come."""
        return self._wakeup is not None

    def start(self) -> None:
        """Begin to wait."""
        self._owner.waiting.add(self)
        self._wakeup = self._owner.clock.call_later(max(self._left(), 0.0), self._fire)

    def cancel(self) -> None:
        """Do not call back."""
        if self._wakeup is not None:
            self._wakeup.cancel()
            self._wakeup = None
        self._owner.waiting.discard(self)

    def _fire(self) -> None:
        if self._left() > SHORTEST:  # the exchange's time was set back meanwhile
            self.start()
            return
        self._wakeup = None
        self._owner.waiting.discard(self)
        try:
            self._callback()
        except Exception as error:  # noqa: BLE001 - raised by the simulator's task
            self._owner.fail(error)
