"""What a handler may be, and what it may end by: no message is lost by it, and no other one waits for it."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from streammachine.errors import SettingsError
from streammachine.runtime.model.message import Message
from streammachine.runtime.model.retry import RetryPolicy
from support.runtime import MakeApp, Probe, Script
from support.valkey import until

pytestmark = pytest.mark.anyio
TWICE = RetryPolicy(max_attempts=2, initial=0.001, maximum=0.002)
DLQ = "{s}:dlq"


class OddError(BaseException):
    """Not an Exception, as pytest's outcomes and other libraries' signals are not."""


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class TestWhatItMayBe:
    @pytest.mark.parametrize("shape", ["lambda", "decorator", "returned"])
    async def test_what_gives_a_coroutine_is_awaited(self, make_app: MakeApp, probe: Probe, shape: str) -> None:
        app, seen = make_app(), []

        async def handle(message: Message) -> None:
            await asyncio.sleep(0)
            seen.append(message.message["n"])

        @functools.wraps(handle)
        def decorated(message: Message) -> Any:
            return handle(message)

        async def returning(message: Message) -> Any:
            return handle(message)

        shapes: dict[str, Callable[[Message], Any]] = {
            "lambda": lambda message: handle(message),  # noqa: PLW0108
            "decorator": decorated,
            "returned": returning,
        }
        app.agent("s")(shapes[shape])
        async with app:
            await app.send_batch("s", [{"n": 1}, {"n": 2}])
            await until(lambda: probe.done("s", 2))
        assert seen == ["1", "2"]

    async def test_a_transaction_holds_what_such_a_coroutine_sends(self, make_app: MakeApp, probe: Probe) -> None:
        app = make_app()

        async def handle(message: Message) -> None:
            await app.send("out", {"n": 1})
            raise ValueError("after the send")

        app.agent("s", transactional=True, retry=1)(lambda message: handle(message))  # noqa: PLW0108
        async with app:
            await app.send("s", {"n": 1})
            await until(lambda: probe.done("s", 1))
        assert await probe.ask("XLEN", DLQ) == 1
        assert await probe.ask("EXISTS", "out") == 0

    def test_what_yields_is_refused(self, make_app: MakeApp) -> None:
        async def of_async(message: Message) -> AsyncIterator[int]:
            yield 1

        def of_sync(message: Message) -> Iterator[int]:
            yield 1

        app = make_app()
        for handler in (of_async, of_sync, functools.partial(of_sync)):
            with pytest.raises(SettingsError, match="yield"):
                app.agent("s")(handler)
            with pytest.raises(SettingsError, match="yield"):
                app.timer(1)(handler)

    def test_what_cannot_be_called_is_refused(self, make_app: MakeApp) -> None:
        app = make_app()
        for handler in (None, 5, "handle"):
            with pytest.raises(SettingsError, match="no function"):
                app.agent("s")(handler)  # type: ignore[type-var]
            with pytest.raises(SettingsError, match="no function"):
                app.timer(1)(handler)  # type: ignore[type-var]

    def test_what_cannot_be_called_with_what_it_will_be_given_is_refused(self, make_app: MakeApp) -> None:
        app = make_app()
        takes_none: Any = lambda: None  # noqa: E731
        takes_one: Any = lambda message: None  # noqa: E731
        takes_two: Any = lambda message, other: None  # noqa: E731

        def by_name(*, message: Message) -> None: ...

        for handler in (takes_none, takes_two, by_name, functools.partial(takes_one, 1)):
            with pytest.raises(
                SettingsError, match=r"one argument, the messages?\. Write it as 'async def (handle|tick)"
            ):
                app.agent("s")(handler)
            with pytest.raises(SettingsError, match="one argument, the messages"):
                app.agent("s", batch=5)(handler)
        for handler in (takes_one, takes_two, by_name):
            with pytest.raises(SettingsError, match=r"no arguments\. Write it as 'async def (handle|tick)"):
                app.timer(1)(handler)
            for hook in (app.on_startup, app.on_shutdown):
                with pytest.raises(SettingsError, match="no arguments"):
                    hook(handler)
        for function in (takes_none, takes_two):
            for option in ({"key": function}, {"dedup": function}):
                with pytest.raises(SettingsError, match="one argument, the message"):
                    app.agent("s", **option)
            with pytest.raises(SettingsError, match="one argument, the record"):
                app.topic("t", key=function)
        assert not app.agents
        assert not app.timers

    def test_what_can_be_called_with_it_is_taken(self, make_app: MakeApp) -> None:
        app = make_app()

        class Holder:
            def method(self, message: Message) -> None: ...

            def __call__(self, message: Message, retries: int = 3) -> None: ...

        def of_two(first: int, message: Message) -> None: ...

        @functools.wraps(of_two)
        def gives_the_first(message: Message) -> None:
            of_two(1, message)

        for number, handler in enumerate(
            (Holder().method, Holder(), functools.partial(of_two, 1), gives_the_first, lambda *all: None, print)
        ):
            app.agent("s", group=str(number))(handler)
        app.timer(1)(lambda *all: None)
        assert len(app.agents) == 6

    async def test_a_generator_that_is_given_is_a_failure(self, make_app: MakeApp, probe: Probe) -> None:
        app = make_app()
        app.agent("s", retry=1)(lambda message: (each for each in [message]))
        async with app:
            await app.send("s", {"n": 1})
            await until(lambda: probe.done("s", 1))
        (letter,) = await probe.fields(DLQ)
        assert "generator" in letter["sm-error"]


def cancel_myself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def fail_with(error: BaseException) -> None:
    raise error


class TestWhatItMayEndBy:
    @pytest.mark.parametrize(
        ("end", "said"),
        [
            (lambda: fail_with(OddError("odd")), "OddError: odd"),
            (lambda: fail_with(BaseExceptionGroup("two", [OddError(), SystemExit(3)])), "two (2 sub-exceptions)"),
            (lambda: fail_with(MuteError()), "MuteError, whose text cannot be told"),
            (cancel_myself, "cancelled"),
        ],
        ids=["base-exception", "group", "mute", "cancels-itself"],
    )
    async def test_it_is_that_messages_failure_and_the_next_is_handled(
        self, make_app: MakeApp, probe: Probe, end: Callable[[], None], said: str
    ) -> None:
        app, seen = make_app(), []

        @app.agent("s", retry=TWICE)
        async def handle(message: Message) -> None:
            seen.append((message.message["n"], message.attempt))
            if message.message["n"] == "bad":
                end()
                await asyncio.sleep(0)

        async with app:
            await app.send_batch("s", [{"n": "bad"}, {"n": "good"}])
            await until(lambda: probe.done("s", 2))
            assert (await app.health_check())["status"] == "healthy"
        assert seen == [("bad", 1), ("bad", 2), ("good", 1)]
        (letter,) = await probe.fields(DLQ)
        assert said in letter["sm-error"]

    async def test_a_thread_and_a_batch_may_end_by_it_too(self, make_app: MakeApp, probe: Probe) -> None:
        app = make_app()

        @app.agent("s", group="threads", retry=TWICE)
        def in_thread(message: Message) -> None:
            if message.message["n"] == "bad":
                raise OddError("in a thread")

        @app.agent("s", group="batches", retry=TWICE, batch=3)
        async def in_batch(batch: list[Message]) -> None:
            if any(message.message["n"] == "bad" for message in batch):
                raise OddError("in a batch")

        async with app:
            await app.send_batch("s", [{"n": "bad"}, {"n": "good"}])
            for group in ("threads", "batches"):
                await until(lambda group=group: probe.done("s", 2, group))
        found = sorted((letter["n"], letter["sm-group"]) for letter in await probe.fields(DLQ))
        assert found == [("bad", "batches"), ("bad", "threads")]

    async def test_a_timer_goes_on_with_its_next_tick(self, make_app: MakeApp) -> None:
        app, ticks, third = make_app(), [], asyncio.Event()

        @app.timer(0.01)
        async def tick() -> None:
            ticks.append(1)
            if len(ticks) == 3:
                third.set()
            if len(ticks) == 2:
                cancel_myself()
                await asyncio.sleep(0)
            raise OddError("a tick")

        async with app, asyncio.timeout(10):
            await third.wait()

    async def test_the_loops_end_is_no_failure_of_the_message(
        self, script: Callable[..., Script], probe: Probe
    ) -> None:
        """asyncio.run cancels every task by itself when its main one has ended."""
        runs = script("""
            app = App("test", to_scan=False)
            began = asyncio.Event()

            @app.agent("s", retry=1)
            async def handle(message):
                began.set()
                await asyncio.sleep(60)

            async def main():
                running = asyncio.create_task(app.run_async())
                await app.send("s", {"n": 1})
                await began.wait()

            asyncio.run(main())
            sys.exit(0)
        """)
        process = runs.start()
        await until(lambda: process.poll() is not None)
        assert process.returncode == 0, runs.log
        assert await probe.ask("EXISTS", DLQ) == 0
        assert await probe.pending("s") == 1


async def test_waiting_for_a_thread_does_not_count_as_running(make_app: MakeApp, probe: Probe) -> None:
    app = make_app(max_threads=1)
    first, release = threading.Event(), threading.Event()
    attempts: list[int] = []

    @app.agent("long", lease=60)
    def hold_the_thread(message: Message) -> None:
        first.set()
        release.wait(10)

    @app.agent("s", timeout=0.05, retry=TWICE)
    def handle(message: Message) -> None:
        attempts.append(message.attempt)

    async with app:
        await app.send("long", {"n": 1})
        await until(first.is_set)
        await app.send("s", {"n": 1})
        await until(lambda: probe.pending("s"))
        await asyncio.sleep(0.2)  # four times as long as it may run
        release.set()
        await until(lambda: probe.done("s", 1))
    assert attempts == [1]
    assert await probe.ask("EXISTS", DLQ) == 0


async def test_a_message_of_many_fields_is_tried_again_and_given_up_like_any(make_app: MakeApp, probe: Probe) -> None:
    app, seen = make_app(), []
    wide = {f"field{number}": number for number in range(5000)}

    @app.agent("s", retry=RetryPolicy(max_attempts=2, initial=0.3, maximum=0.3, jitter=False), lease=0.5)
    async def handle(message: Message) -> None:
        seen.append((len(message.message), message.attempt))
        raise ValueError("no")

    async with app:
        await app.send("s", wide)
        await until(lambda: probe.done("s", 1))
    assert seen == [(5000, 1), (5000, 2)]
    (letter,) = await probe.fields(DLQ)
    assert {name: letter[name] for name in wide} == {name: str(value) for name, value in wide.items()}
    assert (letter["sm-reason"], letter["sm-attempts"]) == ("retries", "2")
