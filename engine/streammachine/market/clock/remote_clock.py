"""The clock to use where none is given: the system's, or that of a simulator in another process.

``streammachine simulate --speed 60`` has a time of its own and serves it at ``/clock``; with
``STREAMMACHINE_CLOCK_URL`` set to that address runners and backfills follow it, so that their timeouts and its candles
go by the same time.
"""

from __future__ import annotations

import os
import time

from streammachine.errors import ExchangeUnavailableError
from streammachine.market.clock.clock import Clock, ScaledClock, SystemClock
from streammachine.market.loopback import is_loopback
from streammachine.masking import mask_url

VARIABLE = "STREAMMACHINE_CLOCK_URL"
WAIT = 5.0  # seconds for the simulator to say its time


def default_clock() -> Clock:
    """The system's clock, or the one that the environment says to follow.

    Raises:
        ExchangeUnavailableError: the simulator does not say its time.
    """
    url = os.environ.get(VARIABLE)
    return SystemClock() if not url else follow(url)


def follow(url: str) -> ScaledClock:
    """A clock that goes as the simulator's at this address does (``{"time_ms": ..., "speed": ...}``)."""
    import httpx2

    try:
        asked = time.monotonic()
        said = httpx2.get(url, timeout=WAIT, trust_env=not is_loopback(url)).raise_for_status().json()
        half = (time.monotonic() - asked) / 2
        speed = float(said["speed"])
        return ScaledClock(speed, int(said["time_ms"] + half * 1000 * speed))
    except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
        raise ExchangeUnavailableError(
            f"{VARIABLE}={mask_url(url)}: no simulator says its time there ({type(error).__name__}). "
            "Is `streammachine simulate` running?"
        ) from None
