"""CEL in a process of its own, limited in computing time and memory.

Started as ``python -m streammachine.runtime.declared.evaluator``.

While the CEL library works, no other thread of its process runs, and only the kernel can stop it. So expensive
expressions are evaluated in a child: the kernel ends it after ``CPU_LIMIT`` seconds of computing or when it asks for
too much memory, the message becomes a dead letter, and the next one gets a new child. The parent's loop goes on.

Both sides exchange pickles of plain values over pipes that nothing else uses, each after its length in four bytes.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

from streammachine.errors import StreamMachineError
from streammachine.runtime.declared.expressions import Expression, ExpressionError, ExpressionFailed, values_of
from streammachine.runtime.model.message import Message

if TYPE_CHECKING:
    from collections.abc import Mapping

CPU_LIMIT = 1.0  # seconds of computing for one message, or one check of new expressions
WALL_LIMIT = 15.0  # seconds until the answer: where the system has no limit of computing time, or is very busy
START_LIMIT = 60.0  # seconds for the child to load
MEMORY_LIMIT = 1 << 30  # bytes of addresses
MOST_KEPT = 200  # compiled expressions in one child
_LENGTH = 4


@dataclass(frozen=True)
class Sample:
    """The parts of a message that are sent to the child."""

    topic: str
    key: str
    data: dict[bytes, bytes]


class EvaluationStoppedError(StreamMachineError):
    """The evaluation took too long, or too much memory, and was ended."""


class Evaluator:
    """A child process that answers one question at a time; the first starts it, and the next after its end again."""

    def __init__(self) -> None:
        self._process: anyio.abc.Process | None = None
        self._answers: BufferedByteReceiveStream | None = None
        self._turn = anyio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def check(self, filter: str | None, select: str | None, sample: Sample | None = None) -> Any:
        """Check expressions before their first message.

        Args:
            filter, select: the expressions. sample: a message to apply them to.

        Returns:
            As the first value of ``apply``; None without a sample.

        Raises:
            ExpressionError: one is refused. ExpressionFailed: it fails on the sample.
        """
        try:
            return (await self._ask("check", filter, select, sample))[0]
        except EvaluationStoppedError as error:
            raise ExpressionError(f"The expressions cannot be taken: {error}") from None

    async def apply(
        self, filter: str | None, select: str | None, sample: Sample
    ) -> tuple[Mapping[Any, Any] | bool, float]:
        """Apply expressions to one message.

        Returns:
            The fields that the select gives (True without a select, False where the filter drops the message), and the
            seconds of computing that it took.

        Raises:
            ExpressionFailed: an expression fails on this message. EvaluationStoppedError: it would take too much.
        """
        return await self._ask("apply", filter, select, sample)

    async def close(self) -> None:
        """End the child."""
        process, self._process = self._process, None
        if process is None:
            return
        with anyio.CancelScope(shield=True):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await process.aclose()

    async def _ask(self, *question: Any) -> tuple[Any, float]:
        async with self._turn:
            process, answers = await self._running()
            assert process.stdin is not None
            try:
                with anyio.fail_after(WALL_LIMIT):
                    await process.stdin.send(_packed(question))
                    kind, value, seconds = await _received(answers)
            except TimeoutError:
                await self.close()
                raise EvaluationStoppedError(f"it did not answer within {WALL_LIMIT:g} s.") from None
            except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
                status = await process.wait()
                await self.close()
                raise _ended(status) from None
            except BaseException:  # cancelled: the answer to this question must not be taken for the next one's
                await self.close()
                raise
        if kind == "value":
            return value, seconds
        raise ExpressionError(value) if kind == "refused" else ExpressionFailed(value)

    async def _running(self) -> tuple[anyio.abc.Process, BufferedByteReceiveStream]:
        if self._process is not None and self._process.returncode is not None:  # ended between two questions
            await self.close()
        if self._process is None or self._answers is None:
            self._process = await anyio.open_process(
                [sys.executable, "-m", "streammachine.runtime.declared.evaluator"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=2, env=_environment(), start_new_session=True,
            )  # fmt: skip
            assert self._process.stdout is not None
            self._answers = BufferedByteReceiveStream(self._process.stdout)
            try:
                with anyio.fail_after(START_LIMIT):
                    await _received(self._answers)
            except (TimeoutError, anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
                await self.close()
                raise StreamMachineError("The process that evaluates expressions does not start.") from None
            except BaseException:
                await self.close()
                raise
        return self._process, self._answers


def _ended(status: int) -> StreamMachineError:
    if status == -getattr(signal, "SIGPROF", 0):
        return EvaluationStoppedError(f"it takes more than {CPU_LIMIT:g} s of computing.")
    if status in (-signal.SIGKILL, -signal.SIGTERM):  # somebody killed it: not the expression's fault
        return StreamMachineError("The process that evaluates expressions was killed.")
    return EvaluationStoppedError("it takes too much memory, or crashes the CEL library.")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _packed(value: Any) -> bytes:
    data = pickle.dumps(value)
    return len(data).to_bytes(_LENGTH, "big") + data


async def _received(stream: BufferedByteReceiveStream) -> Any:
    size = int.from_bytes(await stream.receive_exactly(_LENGTH), "big")
    return pickle.loads(await stream.receive_exactly(size))  # from our own child, over a private pipe


# -- the child --------------------------------------------------------------------------------


def main() -> None:
    """Answer questions until stdin ends."""
    _limit_memory()
    answers = os.dup(1)
    os.dup2(2, 1)
    import cel  # noqa: F401 - imported now, so that the first question does not wait for it

    os.write(answers, _packed("ready"))
    kept: dict[tuple[str, str], Expression] = {}
    with os.fdopen(answers, "wb", buffering=0) as out:
        while length := sys.stdin.buffer.read(_LENGTH):
            question = pickle.loads(sys.stdin.buffer.read(int.from_bytes(length, "big")))  # from our own parent
            _limit_computing(CPU_LIMIT)
            began = time.process_time()
            kind, value = _answer(question, kept)
            data = _packed((kind, value, time.process_time() - began))
            _limit_computing(0)
            view = memoryview(data)
            while view:
                view = view[out.write(view) or 0 :]


def _answer(question: tuple[Any, ...], kept: dict[tuple[str, str], Expression]) -> tuple[str, Any]:
    what, filter_text, select_text, sample = question
    try:
        filter_ = _expression(filter_text, "filter", kept)
        select = _expression(select_text, "select", kept)
        if sample is None:
            return "value", None
        return "value", applied(filter_, select, Message(sample.topic, sample.key, data=sample.data))
    except ExpressionFailed as error:
        return "failed", str(error)
    except ExpressionError as error:
        return "refused" if what == "check" else "failed", str(error)


def applied(filter_: Expression | None, select: Expression | None, message: Message) -> Mapping[Any, Any] | bool:
    """As the first value of ``Evaluator.apply``, evaluated in this process."""
    values = values_of(message)
    if filter_ is not None and not filter_.evaluate(values):
        return False
    found: Mapping[Any, Any] | bool = select.evaluate(values) if select is not None else True
    return found


def _expression(text: str | None, role: Any, kept: dict[tuple[str, str], Expression]) -> Expression | None:
    if text is None:
        return None
    if (role, text) not in kept:
        if len(kept) >= MOST_KEPT:
            kept.clear()
        kept[role, text] = Expression(text, role)
    return kept[role, text]


def _limit_computing(seconds: float) -> None:
    """Set the kernel's timer, which works while no thread of ours can run; 0 stops it."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory() -> None:
    if sys.platform != "win32":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
        with contextlib.suppress(ValueError, OSError):  # the system has no such limit
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


if __name__ == "__main__":
    main()
