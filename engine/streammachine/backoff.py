"""Growing, jittered pauses between tries of what failed."""

from __future__ import annotations

import random


class Backoff:
    """Pauses that double from ``first`` to ``last`` seconds, each drawn at random from its upper half.

    The jitter keeps many processes that lost the same server from coming back at the same moment.

    Args:
        first, last: seconds of the shortest and of the longest pause, before jitter.

    Attributes:
        seconds: the next pause before jitter, for log lines.

    Example:
        >>> backoff = Backoff(0.5, 30.0)
        >>> 0.25 <= backoff.pause() <= 0.5
        True
        >>> backoff.seconds
        1.0
        >>> backoff.reset()
        >>> backoff.seconds
        0.5
    """

    __slots__ = ("_first", "_last", "seconds")

    def __init__(self, first: float, last: float) -> None:
        self._first, self._last = first, last
        self.seconds = first

    def pause(self) -> float:
        """Seconds to wait now; the next pause is twice as long, ``last`` at most."""
        seconds = random.uniform(self.seconds / 2, self.seconds)
        self.seconds = min(self.seconds * 2, self._last)
        return seconds

    def reset(self) -> None:
        """Begin anew with the first pause: what failed has worked."""
        self.seconds = self._first
