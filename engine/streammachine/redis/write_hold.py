"""WriteHold: where a storage's writes wait for a commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class WriteHold(Protocol):
    """Where writes are held back until a commit (a transactional handler's; the runtime supplies it).

    Values are stored bytes; None is "deleted" or "none there".
    """

    @property
    def plain_sums(self) -> bool:
        """Whether ``incr`` is to give plain numbers, each of which the commit checks."""

    def get(self, field: str) -> tuple[bool, bytes | None]:
        """Whether the field was written here, and what."""

    def put(self, field: str, value: bytes | None, ttl_ms: int | None = None, *, keep_ttl: bool = False) -> None:
        """Hold back a write, or with None a deletion."""

    def add(self, field: str, by: float, value: bytes | None) -> Callable[[], None]:
        """Hold back an addition to ``value``, which stands there now. Gives what is to be called when the sum is read:
        the commit must find the value unchanged then."""

    def added(self, field: str) -> float | None:
        """What was added to the field here and stands in no ``put``; None when nothing was."""

    def check(self, field: str, value: bytes | None) -> None:
        """The commit must find this value unchanged."""

    def written(self) -> dict[str, bytes | None]:
        """All fields written here."""
