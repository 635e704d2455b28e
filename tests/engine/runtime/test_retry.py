"""What follows from a failure: waiting in place or in the group's own companion, dead letters, and their way back."""

from __future__ import annotations

import asyncio
import sys
import threading

import anyio
import pytest
from pydantic import BaseModel

from streammachine.errors import WrongTypeError
from streammachine.runtime.delivery.dead_letter import NoLetterError, redrive
from streammachine.runtime.model.message import Message
from streammachine.runtime.model.retry import Reject, Retry, RetryPolicy, Skip
from support.runtime import MakeApp, Probe
from support.valkey import until

pytestmark = pytest.mark.anyio
QUICK = RetryPolicy(max_attempts=3, initial=0.001, maximum=0.002)
DLQ = "{s}:dlq"


async def letters(probe: Probe, count: int = 1) -> list[dict[str, str]]:
    await until(lambda: letters_now(probe, count))
    return await probe.fields(DLQ)


async def letters_now(probe: Probe, count: int) -> bool:
    return bool(await probe.ask("XLEN", DLQ) == count and await probe.pending("s") == 0)


async def test_a_failing_message_is_tried_again_and_then_given_up(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    attempts: list[int] = []

    @app.agent("s", retry=QUICK)
    async def handle(message: Message) -> None:
        attempts.append(message.attempt)
        raise ValueError(f"wrong {message.message['n']}")

    async with app:
        identifier = await app.send("s", {"n": 1, "text": "Zürich", "sm-note": "mine"})
        (letter,) = await letters(probe)
    assert attempts == [1, 2, 3]
    assert (letter["n"], letter["text"], letter["sm-note"]) == ("1", "Zürich", "mine")
    assert letter["sm-reason"] == "retries"
    assert (letter["sm-attempts"], letter["sm-group"]) == ("3", "eventengine")
    assert (letter["sm-origin-stream"], letter["sm-origin-id"]) == ("s", identifier)
    assert (letter["sm-error-type"], letter["sm-error"]) == ("ValueError", "wrong 1")
    assert 'raise ValueError(f"wrong' in letter["sm-traceback"]
    assert letter["sm-consumer"].startswith("test-")
    assert int(letter["sm-failed-at"]) >= int(letter["sm-first-seen"])


async def test_a_message_that_heals_leaves_no_trace(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()

    @app.agent("s", retry=QUICK)
    async def handle(message: Message) -> None:
        if message.attempt < 3:
            raise ValueError("not yet")

    async with app:
        await app.send("s", {"n": 1})
        await until(lambda: probe.done("s", 1))
        metrics = app.consumers[0][1].metrics
        assert (metrics.failed, metrics.retried, metrics.dead, metrics.consumed) == (2, 2, 0, 1)
    assert await probe.ask("EXISTS", DLQ) == 0


class Order(BaseModel):
    price: float


async def test_what_never_heals_is_given_up_at_once(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    calls: list[str] = []

    @app.agent("s", retry=RetryPolicy(max_attempts=5, retry_on=(ValueError, OSError), give_up_on=(FileNotFoundError,)))
    async def handle(message: Message) -> None:
        kind = message.message["kind"]
        calls.append(kind)
        if kind == "type":
            raise TypeError("not in retry_on")
        if kind == "file":
            raise FileNotFoundError("in give_up_on")
        if kind == "reject":
            raise Reject("no thanks")
        if kind == "skip":
            raise Skip

    async with app:
        await app.send_batch("s", [{"kind": kind} for kind in ("type", "file", "reject", "skip", "good")])
        found = {letter["kind"]: letter["sm-reason"] for letter in await letters(probe, 3)}
        await until(lambda: probe.done("s", 5))
    assert found == {"type": "retries", "file": "decode", "reject": "rejected"}
    assert calls == ["type", "file", "reject", "skip", "good"]


async def test_a_message_that_does_not_fit_its_model_is_not_tried_again(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    calls = 0

    @app.agent("s")
    async def handle(message: Message) -> None:
        nonlocal calls
        calls += 1
        message.model(Order)

    async with app:
        await app.send("s", {"price": "dear"})
        (letter,) = await letters(probe)
    assert (calls, letter["sm-reason"], letter["sm-error-type"]) == (1, "decode", "ValidationError")


async def test_a_handler_that_takes_too_long_is_stopped(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()

    @app.agent("s", timeout=0.05, retry=1)
    async def handle(message: Message) -> None:
        await anyio.sleep_forever()

    async with app:
        await app.send("s", {"n": 1})
        (letter,) = await letters(probe)
    assert (letter["sm-reason"], letter["sm-error-type"]) == ("timeout", "HandlerTimeoutError")


async def test_a_timeout_of_the_handlers_own_is_not_taken_for_ours(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()

    @app.agent("s", timeout=60, retry=1)
    async def handle(message: Message) -> None:
        raise TimeoutError("of a socket")

    async with app:
        await app.send("s", {"n": 1})
        (letter,) = await letters(probe)
    assert (letter["sm-reason"], letter["sm-error"]) == ("retries", "of a socket")


async def test_a_thread_that_takes_too_long_is_left_behind(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    gate = threading.Event()

    @app.agent("s", timeout=3.0, retry=1)  # the quick one has it, too
    def handle(message: Message) -> None:
        if message.message["n"] == "slow":
            gate.wait(100)

    async with app:
        await app.send_batch("s", [{"n": "slow"}, {"n": "quick"}])
        (letter,) = await letters(probe)
        assert (letter["n"], letter["sm-reason"]) == ("slow", "timeout")
        await until(lambda: probe.done("s", 2))
    gate.set()


async def test_exits_and_strange_cancellations_are_the_messages_failure(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()

    @app.agent("s", retry=1)
    async def handle(message: Message) -> None:
        kind = message.message["kind"]
        if kind == "exit":
            sys.exit(3)
        if kind == "cancelled":
            task = asyncio.create_task(asyncio.sleep(60))
            task.cancel()
            await task

    @app.agent("s", group="threads", retry=1)
    def in_thread(message: Message) -> None:
        if message.message["kind"] == "exit":
            sys.exit(4)

    async with app:
        await app.send_batch("s", [{"kind": kind} for kind in ("exit", "cancelled", "good")])
        found = await letters(probe, 3)
        await until(lambda: probe.done("s", 3))
        await until(lambda: probe.done("s", 3, "threads"))
        assert (await app.health_check())["status"] == "healthy"
    said = sorted((letter["kind"], letter["sm-group"], letter["sm-error"]) for letter in found)
    assert said == [
        ("cancelled", "eventengine", "The handler awaited something that was cancelled."),
        ("exit", "eventengine", "The handler called sys.exit(3)."),
        ("exit", "threads", "The handler called sys.exit(4)."),
    ]


async def test_without_dead_letters_what_is_given_up_is_dropped(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()

    @app.agent("s", retry=1, dead_letter=False)
    async def handle(message: Message) -> None:
        raise ValueError("wrong")

    async with app:
        await app.send("s", {"n": 1})
        await until(lambda: probe.done("s", 1))
    assert await probe.ask("EXISTS", DLQ) == 0


@pytest.mark.parametrize("batch", [None, 3])
async def test_a_long_wait_goes_through_the_groups_own_companion(
    make_app: MakeApp, probe: Probe, batch: int | None
) -> None:
    """lease / 2 is the longest wait in place, so 0.3 s of a lease of 0.4 s is a long one."""
    app = make_app()
    got: list[tuple[str, str, int, str | None]] = []
    other: list[str] = []

    async def one(message: Message) -> None:
        got.append((message.message["n"], message.topic or "", message.attempt, message.key))
        if message.attempt < 3:
            raise Retry(after=0.3)

    if batch is None:
        app.agent("s", lease=0.4)(one)
    else:

        @app.agent("s", lease=0.4, batch=batch)
        async def several(messages: list[Message]) -> None:
            for message in messages:
                await one(message)

    @app.agent("s", group="other")
    async def bystander(message: Message) -> None:
        other.append(message.message["n"])

    async with app:
        identifier = await app.send("s", {"n": 1})
        await until(lambda: len(got) == 1 and probe.done("s", 1))
        await until(lambda: len(got) == 3)
        await until(lambda: probe.done("{s}:retry:eventengine", 2))
        assert await probe.ask("XLEN", "{s}:retry:eventengine") == 0
    assert got == [("1", "s", attempt, identifier) for attempt in (1, 2, 3)]
    assert other == ["1"]
    assert await probe.ask("XLEN", "s") == 1
    assert await probe.ask("EXISTS", "{s}:retry:eventengine:due") == 0


async def test_a_long_wait_holds_up_nobody_and_outlives_its_process(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    got: list[tuple[str, int]] = []

    @app.agent("s", lease=0.4)
    async def handle(message: Message) -> None:
        got.append((message.message["n"], message.attempt))
        if message.message["n"] == "later" and message.attempt == 1:
            raise Retry(after=1.0)

    async with app:
        await app.send_batch("s", [{"n": "later"}, {"n": "a"}, {"n": "b"}])
        await until(lambda: len(got) == 3)
    assert got == [("later", 1), ("a", 1), ("b", 1)]
    assert await probe.ask("ZCARD", "{s}:retry:eventengine:due") == 1
    async with app:
        await until(lambda: ("later", 2) in got)


async def test_the_end_does_not_wait_for_a_retry(make_app: MakeApp, probe: Probe) -> None:
    """Its attempts are not forgotten: it goes to the companion."""
    app = make_app(grace=300)
    got: list[int] = []

    @app.agent("s")
    async def handle(message: Message) -> None:
        got.append(message.attempt)
        if message.attempt == 1:
            raise Retry(after=4.0)

    @app.agent("k", key="k")
    async def keyed(message: Message) -> None:
        raise Retry(after=200.0)

    with anyio.fail_after(100):
        async with app:
            await app.send("s", {"n": 1})
            await app.send("k", {"n": 1, "k": 1})
            await until(lambda: len(got) == 1 and app.consumers[1][1].metrics.retried == 1)
    assert await probe.pending("s") == 0
    assert await probe.ask("ZCARD", "{s}:retry:eventengine:due") == 1
    assert [row[1:] for row in await probe.rows("k")] == [("sm-handed-back", 0)]  # in its order: in its place
    async with app:
        await until(lambda: got == [1, 2])


async def test_a_redriven_letter_reaches_only_its_group(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    healed = False
    got: list[tuple[int, str | None]] = []
    other: list[str] = []

    @app.agent("s", retry=1)
    async def handle(message: Message) -> None:
        if not healed:
            raise ValueError("broken")
        got.append((message.attempt, message.key))

    @app.agent("s", group="other")
    async def bystander(message: Message) -> None:
        other.append(message.message["n"])

    async with app:
        sent = await app.send("s", {"n": 1})
        await letters(probe)
        healed = True
        ((identifier, flat),) = await probe.ask("XRANGE", DLQ, "-", "+")
        letter = dict(zip(flat[::2], flat[1::2], strict=True))
        assert await redrive(app.redis, "s", identifier.decode(), letter)
        assert await redrive(app.redis, "s", identifier.decode(), letter) is None  # it is gone by now
        with pytest.raises(NoLetterError, match="sm-group"):
            await redrive(app.redis, "s", "1-1", {b"n": b"1"})
        await until(lambda: got)
    assert got == [(1, sent)]
    assert other == ["1"]
    assert await probe.ask("XLEN", DLQ) == 0


async def test_a_letter_that_cannot_be_redriven_stays(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    facts = ("sm-group", "g", "sm-origin-id", "1-1", "sm-origin-stream", "s")
    wide = [part for n in range(5_000) for part in (f"f{n}", "x")]
    async with app:
        for fields, problem, says in (
            (wide, NoLetterError, r"has 5,004 fields; at most 3,500"),
            (["n", "1"], WrongTypeError, "another type"),
        ):
            identifier = (await probe.ask("XADD", DLQ, "*", *facts, *fields)).decode()
            await probe.ask("SET", "{s}:retry:g", "not a stream")
            ((_, flat),) = await probe.ask("XRANGE", DLQ, identifier, identifier)
            with pytest.raises(problem, match=says):
                await redrive(app.redis, "s", identifier, dict(zip(flat[::2], flat[1::2], strict=True)))
            assert await probe.ask("XRANGE", DLQ, identifier, identifier)


async def test_a_wrong_key_at_the_dead_letters_loses_nothing(make_app: MakeApp, probe: Probe) -> None:
    """A commit that cannot be done whole is not done at all."""
    app = make_app()
    await probe.ask("SET", DLQ, "not a stream")

    @app.agent("s", retry=1, lease=0.5)
    async def handle(message: Message) -> None:
        raise ValueError("wrong")

    async with app:
        await app.send("s", {"n": 1})
        await until(lambda: app.consumers[0][1].metrics.failed >= 1)
        assert await probe.pending("s") == 1
        await probe.ask("DEL", DLQ)
        assert len(await letters(probe)) == 1
