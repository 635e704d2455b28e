"""Run calls in parallel, take their results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

import anyio

T = TypeVar("T")


async def in_order(
    calls: Iterable[Callable[[], Awaitable[T]]], ahead: int, deliver: Callable[[T], Awaitable[None]]
) -> None:
    """Await the calls, at most ``ahead`` begun and not yet delivered, and deliver each result in the calls' order.

    The first error, by that order, ends all of them and is raised as it is, not in a group.
    """
    waiting: deque[_Result[T]] = deque()
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as group:
            for call in calls:
                if len(waiting) >= ahead:
                    await deliver(await waiting.popleft().value())
                result = _Result(call)
                waiting.append(result)
                group.start_soon(result.run)
            while waiting:
                await deliver(await waiting.popleft().value())
    except BaseExceptionGroup as several:
        failure = _first(several)
    if failure is not None:
        raise failure


class _Result(Generic[T]):
    def __init__(self, call: Callable[[], Awaitable[T]]) -> None:
        self._call = call
        self._done = anyio.Event()
        self._value: list[T] = []
        self._error: Exception | None = None

    async def run(self) -> None:
        try:
            self._value.append(await self._call())
        except Exception as error:  # noqa: BLE001 - raised where its turn comes
            self._error = error
        self._done.set()

    async def value(self) -> T:
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value[0]


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
