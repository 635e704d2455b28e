"""How many requests an exchange still allows this address: one budget for one process and base URL."""

from __future__ import annotations

import threading
from bisect import insort
from collections import deque
from weakref import WeakKeyDictionary

from streammachine.market.clock.clock import Clock, SystemClock


class Budget:
    """At most ``weight`` in any ``within`` seconds, first come, first served. Plain arithmetic on moments
    (``Clock.monotonic``); who asks does the waiting. Safe in threads.

    A window that slides is stricter than the exchanges' own, whose windows begin at fixed moments, so it holds
    wherever theirs begin.

    Args:
        weight: what may be spent; None: as much as one likes (only ``hold`` stops it).
    """

    def __init__(self, weight: int | None, within: float) -> None:
        self.weight = weight
        self.within = within
        self._spent: deque[tuple[float, int]] = deque()  # moment, weight; sorted, reservations to come included
        self._held_until = float("-inf")
        self._lock = threading.Lock()

    def reserve(self, weight: int, now: float) -> float:
        """Spend it; the moment at which it may be spent, ``now`` or later."""
        if self.weight is None:
            return now
        weight = min(weight, self.weight)
        with self._lock:
            self._forget(now)
            moment = max(now, self._spent[-1][0]) if self._spent else now
            total = sum(cost for _, cost in self._spent)
            for begun, cost in self._spent:
                if begun + self.within <= moment:
                    total -= cost
                elif total + weight > self.weight:
                    moment = max(moment, begun + self.within)
                    total -= cost
                else:
                    break
            self._spent.append((moment, weight))
            return moment

    def learn(self, used: int, now: float) -> None:
        """The exchange says how much it has counted; what we did not spend ourselves, others of this address did."""
        if self.weight is None:
            return
        with self._lock:
            self._forget(now)
            others = min(used, self.weight) - sum(cost for moment, cost in self._spent if moment <= now)
            if others > 0:
                insort(self._spent, (now, others))

    def hold(self, until: float) -> None:
        """Let nobody ask anything before that moment."""
        self._held_until = max(self._held_until, until)

    def held(self, now: float) -> float:
        """For how many seconds nobody may ask."""
        return max(self._held_until - now, 0.0)

    def _forget(self, now: float) -> None:
        while self._spent and self._spent[0][0] + self.within <= now:
            self._spent.popleft()


# One process has one address: all its clients of a base URL share a budget, whichever runner made them.
_BUDGETS: WeakKeyDictionary[object, dict[str, Budget]] = WeakKeyDictionary()
_BUDGETS_LOCK = threading.Lock()


def budget_for(clock: Clock, base_url: str, weight: int | None, within: float) -> Budget:
    """The budget of a base URL. System clocks are all one; any other clock is a world with budgets of its own."""
    world: object = SystemClock if type(clock) is SystemClock else clock
    with _BUDGETS_LOCK:
        return _BUDGETS.setdefault(world, {}).setdefault(base_url, Budget(weight, within))
