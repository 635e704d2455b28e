"""Names of the keys that stand beside a stream, in one Cluster slot with it."""

from __future__ import annotations

from dataclasses import dataclass


def tagged(stream: str) -> str:
    """``{orders}`` for ``orders``; a name that has a hash tag keeps it (as the Redis Cluster specification has it)."""
    return stream if has_tag(stream) else f"{{{stream}}}"


def has_tag(name: str) -> bool:
    """Whether the name holds a hash tag: something between its first ``{`` and the next ``}``."""
    start = name.find("{")
    return start >= 0 and name.find("}", start + 2) > start


def dead_letters(stream: str) -> str:
    """The dead-letter stream of ``stream``.

    Example:
        >>> dead_letters("orders")
        '{orders}:dlq'
    """
    return f"{tagged(stream)}:dlq"


def dedup_key(stream: str, key: str) -> str:
    """The deduplication key ``key`` of ``stream``."""
    return f"{tagged(stream)}:dedup:{key}"


@dataclass(frozen=True)
class Companions:
    """The keys of one group on one stream.

    Example:
        >>> Companions("orders", "billing").retry
        '{orders}:retry:billing'
    """

    stream: str
    group: str

    @property
    def dead_letters(self) -> str:
        """Messages that were given up."""
        return dead_letters(self.stream)

    @property
    def retry(self) -> str:
        """Messages to be tried again now: a stream that only this group reads."""
        return f"{tagged(self.stream)}:retry:{self.group}"

    @property
    def delayed(self) -> str:
        """Messages to be tried again later: a sorted set by due time."""
        return f"{self.retry}:due"

    @property
    def mark(self) -> str:
        """The id up to which the group has acknowledged everything: where a lost group begins again."""
        return f"{self.retry}:mark"
