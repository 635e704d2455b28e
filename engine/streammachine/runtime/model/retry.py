"""What a handler may say of a message, and what happens to one that fails."""

from __future__ import annotations

import random
from dataclasses import dataclass

from pydantic import ValidationError

from streammachine.errors import SettingsError, StreamMachineError
from streammachine.runtime.model.checks import LONGEST, flag, is_number


class Retry(StreamMachineError):  # noqa: N818 - control flow, not an error
    """Raise it to have the message tried again, after ``after`` seconds (None: by the policy's backoff)."""

    def __init__(self, after: float | None = None, reason: str = "the handler asked for a retry") -> None:
        super().__init__(reason)
        self.after = after


class Reject(StreamMachineError):  # noqa: N818
    """Raise it to send the message to its dead letters at once."""

    def __init__(self, reason: str = "rejected by the handler") -> None:
        super().__init__(reason)


class Unfit(Reject):
    """The message does not fit the type that its handler declares; it is a dead letter at once."""


class Skip(StreamMachineError):  # noqa: N818
    """Raise it to acknowledge the message without doing anything."""


class HandlerTimeoutError(StreamMachineError, TimeoutError):
    """The handler took longer than its ``timeout``."""


@dataclass(frozen=True)
class RetryPolicy:
    """When a failed message is tried again.

    Args:
        max_attempts: attempts in all; then the message is a dead letter.
        initial, factor, maximum: seconds before the second attempt, growth, and the longest wait.
        jitter: the wait is drawn between zero and its full length ("full jitter"), so that many do not come back at
        once.
        retry_on: failures worth another attempt. give_up_on: those that never heal (they win over retry_on).
    """

    max_attempts: int = 5
    initial: float = 0.1
    factor: float = 2.0
    maximum: float = 60.0
    jitter: bool = True
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    give_up_on: tuple[type[BaseException], ...] = (ValidationError, UnicodeDecodeError)

    def __post_init__(self) -> None:
        if type(self.max_attempts) is not int or self.max_attempts < 1:
            raise SettingsError(f"max_attempts={self.max_attempts!r}: a message needs at least one attempt.")
        waits = (self.initial, self.maximum, self.factor)
        numbers = all(map(is_number, waits))
        if not numbers or not (0 <= self.initial <= self.maximum < LONGEST and self.factor >= 1):
            raise SettingsError(
                f"initial={self.initial!r}, factor={self.factor!r}, maximum={self.maximum!r}: "
                "give 0 <= initial <= maximum and factor >= 1."
            )
        flag("jitter", self.jitter)
        for name in ("retry_on", "give_up_on"):
            kinds = getattr(self, name)
            if not isinstance(kinds, tuple) or not all(
                isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds
            ):
                raise SettingsError(f"{name}={kinds!r}: give a tuple of exception classes, such as (KeyError,).")

    def gives_up(self, error: BaseException, attempt: int) -> bool:
        """Whether a message is given up.

        Args:
            error: what its attempt failed with. attempt: which one it was; the first is 1.
        """
        if isinstance(error, Retry):
            return attempt >= self.max_attempts
        if isinstance(error, self.give_up_on) or not isinstance(error, self.retry_on):
            return True
        return attempt >= self.max_attempts

    def delay(self, attempt: int) -> float:
        """Seconds to wait after an attempt.

        Args:
            attempt: which one it was; the first is 1.
        """
        full = min(self.maximum, self.initial * self.factor ** min(attempt - 1, 60))
        return random.uniform(0, full) if self.jitter else full
