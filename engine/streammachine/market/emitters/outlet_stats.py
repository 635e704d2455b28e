"""How an outlet stands: its numbers, and a time in which its sink takes nothing."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from streammachine.market.emitters.any_emitter import error_text
from streammachine.market.model.rows import named

log = logging.getLogger(__name__.removesuffix("_stats"))

MOST_LOGGED = 9  # refused rows that are logged one by one; then each tenth, hundredth and so on


@dataclass(frozen=True, slots=True)
class OutletStats:
    """Numbers of one outlet since it was opened; all but ``queued`` and ``retried`` count rows that are done with.

    Attributes:
        emitted: taken by the emitter. dropped: by the transformer. skipped: not this emitter's (``wants``).
        failed: refused for good, or left at the end. retried: tries that failed. queued: waiting, or under way.
        state: "away" while the sink cannot be reached. last_error: the newest failure, in words.
    """

    name: str
    emitted: int
    dropped: int
    skipped: int
    failed: int
    retried: int
    queued: int
    state: Literal["ok", "away", "closed"]
    last_error: str | None


@dataclass(eq=False, slots=True)
class Outage:
    """A time in which the emitter took nothing.

    Attributes:
        since: when it began. failed_before: rows given up until then.
    """

    since: float
    failed_before: int
    tries: int = 0

    def log_end(self, name: str, now: float, failed: int) -> None:
        """Say that it is over."""
        lost = failed - self.failed_before
        fate = f"{lost} rows were left out meanwhile (see above)" if lost else "none was lost"
        log.warning("%s takes rows again, after %.1f s and %d tries; %s.", name, now - self.since, self.tries, fate)


def log_away(name: str, error: Exception) -> None:
    """Say that a sink takes nothing now."""
    log.warning("%s takes no rows: %s. They wait, and are tried again.", name, error_text(error).rstrip("."))


def log_refused(name: str, row: object, why: str | None, failed: int) -> None:
    """Say that a row was left out, the ``failed``-th: a sink that refuses everything must not fill the log."""
    if failed <= MOST_LOGGED:
        log.error("%s left out %s: %s", name, named(row), why)
    elif str(failed).strip("0") == "1":
        log.error("%s left out %s rows so far; the last: %s", name, f"{failed:,}", why)
